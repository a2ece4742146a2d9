//! A cgroup of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use podd_shim::wire::CgroupSpec;

use crate::harness::eventually;

/// A group of one v1 controller, or of the v2 tree beside them (`unified`), removed at the end with all that is in it.
pub(crate) struct Group(PathBuf);

impl Group {
    pub(crate) fn new(controller: &str) -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("podd-shim-test-{}-{number}", std::process::id());
        let path = Path::new("/sys/fs/cgroup").join(controller).join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn set(&self, file: &str, value: &str) {
        fs::write(self.0.join(file), value).unwrap();
    }

    /// As a runtime would tell it.
    pub(crate) fn spec(&self) -> CgroupSpec {
        if self.0.join("cgroup.controllers").exists() {
            return CgroupSpec { v2_dir: Some(self.0.clone()), ..CgroupSpec::default() };
        }
        let oom_counter = self.0.join("memory.oom_control");
        CgroupSpec { join: self.join(), v2_dir: None, oom_counter: oom_counter.exists().then_some(oom_counter) }
    }

    pub(crate) fn join(&self) -> Vec<PathBuf> {
        vec![self.0.join("tasks")]
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.0.join("cgroup.procs")).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Only a freezer's group has this file, and what is frozen can't be killed.
        let _other_controller = fs::OpenOptions::new()
            .write(true)
            .open(self.0.join("freezer.state"))
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"THAWED"));
        let gone = || {
            for pid in fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
                if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                    let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            fs::remove_dir(&self.0).is_ok().then_some(())
        };
        if eventually(Duration::from_secs(10), gone).is_none() {
            eprintln!("{} is left behind", self.0.display());
        }
    }
}
