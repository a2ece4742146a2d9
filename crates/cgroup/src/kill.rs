//! Ending everything in a group, forks in flight included: the way to clean up when no shim is
//! left to do it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{Error, Result};
use crate::group::{Group, children, write_file};
use crate::hierarchy::{Controller, Version};

/// How long freezing may take before the processes are signalled unfrozen.
const FREEZE_PATIENCE: Duration = Duration::from_millis(200);
/// Rounds of signalling before giving up on a group that keeps growing.
const ROUNDS: usize = 20;

impl Group {
    /// The processes of this group and the groups beneath it. A group that is gone has none.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        if let Some(dir) = self.process_dir() {
            collect_pids(&dir, &mut pids)?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Sends SIGKILL to every process of the group and the groups beneath it, leaving none that
    /// was forked meanwhile. Returns before they are gone: [`Group::remove`] waits for that.
    ///
    /// v2 has `cgroup.kill`. On v1 the group is frozen, so that nothing forks and no pid is used
    /// again between listing and killing, then signalled through pidfds and thawed.
    pub fn kill(&self) -> Result<()> {
        match (self.version(), self.dir(Controller::Freezer)) {
            (Version::V2, Some(dir)) => match write_file(&dir.join("cgroup.kill"), "1") {
                Err(e) if e.kind() == crate::ErrorKind::NotFound => Ok(()),
                other => other,
            },
            (Version::V1, Some(dir)) if dir.is_dir() => {
                let frozen = freeze(&dir);
                let killed = self.kill_rounds(if frozen { 1 } else { ROUNDS });
                // Also after a failure: a frozen process cannot even die.
                match write_file(&dir.join("freezer.state"), "THAWED") {
                    Err(e) if e.kind() == crate::ErrorKind::NotFound => killed,
                    thawed => killed.and(thawed),
                }
            }
            _ => self.kill_rounds(ROUNDS),
        }
    }

    /// Signals what is there, again until nothing new turns up.
    fn kill_rounds(&self, rounds: usize) -> Result<()> {
        let mut signalled = Vec::new();
        for _ in 0..rounds {
            let pids = self.pids()?;
            if pids.iter().all(|pid| signalled.contains(pid)) {
                break;
            }
            pids.iter().try_for_each(|pid| self.kill_one(*pid))?;
            signalled = pids;
        }
        Ok(())
    }

    fn kill_one(&self, pid: u32) -> Result<()> {
        let error = |e: rustix::io::Errno| match e {
            rustix::io::Errno::SRCH => Ok(()),
            e => Err(Error::io("kill a process of", self.path(), e.into())),
        };
        let Some(pid) = Pid::from_raw(pid as i32) else {
            return Ok(());
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => pidfd_send_signal(fd, Signal::KILL).or_else(error),
            Err(e) => error(e),
        }
    }

    /// The hierarchy in which processes are looked up.
    fn process_dir(&self) -> Option<std::path::PathBuf> {
        [Controller::Freezer, Controller::Pids, Controller::Memory]
            .into_iter()
            .find_map(|controller| self.dir(controller))
    }
}

/// Freezes a v1 group and says whether it came to rest.
fn freeze(dir: &Path) -> bool {
    let state = dir.join("freezer.state");
    if write_file(&state, "FROZEN").is_err() {
        return false;
    }
    let deadline = Instant::now() + FREEZE_PATIENCE;
    let mut pause = Duration::from_micros(50);
    loop {
        // Reading is what moves the state from FREEZING to FROZEN.
        match fs::read_to_string(&state) {
            Ok(text) if text.trim() == "FROZEN" => return true,
            Ok(_) if Instant::now() < deadline => std::thread::sleep(pause),
            _ => return false,
        }
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

fn collect_pids(dir: &Path, pids: &mut Vec<u32>) -> Result<()> {
    let file = dir.join("cgroup.procs");
    match fs::read_to_string(&file).map_err(|e| Error::io("read", &file, e)) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
        Err(e) if e.kind() == crate::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    }
    children(dir).iter().try_for_each(|child| collect_pids(child, pids))
}
