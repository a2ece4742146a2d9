//! A process and what it has started, held still so that nobody slips away, then killed together.
//!
//! A process of the container itself is never among them: only children of those that were found before are looked at.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// More rounds than this are needed only by something that forks faster than it is stopped; it is killed as far as seen.
const ROUNDS: usize = 16;

/// The processes, by pid. The descriptors keep each number theirs.
pub(super) struct Family(BTreeMap<u32, OwnedFd>);

impl Family {
    /// Stops a process and all that descend from it: first the parents, so that they start no more children.
    /// Whoever is not `ours` is left alone.
    pub(super) fn stop(first: u32, ours: impl Fn(u32) -> bool) -> Self {
        let mut family = Self(BTreeMap::new());
        family.add(first, &ours);
        for _ in 0..ROUNDS {
            let children: Vec<u32> = family.0.keys().flat_map(|pid| children_of(*pid)).collect();
            let news = children.into_iter().filter(|pid| family.add(*pid, &ours)).count();
            if news == 0 {
                break;
            }
        }
        family
    }

    /// True for one that is new and still there.
    fn add(&mut self, pid: u32, ours: &impl Fn(u32) -> bool) -> bool {
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
        if self.0.contains_key(&pid) {
            return false;
        }
        let Ok(process) = pidfd_open(number, PidfdFlags::empty()) else { return false };
        // Asked once the descriptor holds the number. One that has ended leaves nobody: its children are somebody else's.
        if !ours(pid) || pidfd_send_signal(&process, Signal::STOP).is_err() {
            return false;
        }
        self.0.insert(pid, process);
        true
    }

    /// Kills them all.
    pub(super) fn kill(&self) {
        for process in self.0.values() {
            // It may have ended by itself.
            let _ended = pidfd_send_signal(process, Signal::KILL);
        }
    }
}

/// `proc_pid_task_children(5)`, which is exact for a process that stands still.
fn children_of(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    fn sleeps(script: &str) -> std::process::Child {
        Command::new("sh").args(["-c", script]).stdout(Stdio::null()).spawn().expect("start sh")
    }

    #[test]
    fn a_process_goes_with_all_that_it_has_started_and_nobody_else_does() {
        let mut other = sleeps("sleep 1000 & wait");
        let mut root = sleeps("(sleep 1000 & sleep 1000) & setsid sleep 1000 & wait");
        let deadline = Instant::now() + Duration::from_secs(20);
        let family = loop {
            let family = Family::stop(root.id(), |_| true);
            if family.0.len() >= 4 {
                break family;
            }
            for process in family.0.values() {
                pidfd_send_signal(process, Signal::CONT).expect("go on");
            }
            assert!(Instant::now() < deadline, "{:?}", family.0.keys());
            std::thread::yield_now();
        };
        family.kill();
        root.wait().expect("ended");
        for pid in family.0.keys().filter(|pid| **pid != root.id()) {
            while fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
                assert!(Instant::now() < deadline, "{pid} is still there");
                std::thread::yield_now();
            }
        }
        assert!(other.try_wait().expect("asked").is_none(), "somebody else was killed");
        assert!(Family::stop(other.id(), |_| false).0.is_empty());
        Family::stop(other.id(), |_| true).kill();
        other.wait().expect("ended");
    }
}
