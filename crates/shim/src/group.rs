//! Signals to every process of a container's cgroup.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use podd_shim::wire::CgroupSpec;
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use crate::process::signal_unless_gone;

/// How often the list is read again for processes that came meanwhile. A group that forks faster than this is the
/// runtime's to freeze; the shim's loop must not stand still for it.
const ROUNDS: usize = 16;

/// The list of the group's processes, if it has a group of its own.
fn list_file(group: &CgroupSpec) -> Option<PathBuf> {
    let directory = group.v2_dir.as_deref().or_else(|| group.join.first()?.parent())?;
    Some(directory.join("cgroup.procs"))
}

/// Signals every process of the group once, those that come meanwhile included. `false` when there is no group (any
/// more). A group that the shim itself is in is nobody's own, and refused.
pub(crate) fn signal_all(group: &CgroupSpec, signal: i32) -> io::Result<bool> {
    let Some(file) = list_file(group) else { return Ok(false) };
    let mut done = BTreeSet::new();
    for _ in 0..ROUNDS {
        let Some(listed) = list(&file)? else { return Ok(false) };
        if listed.contains(&getpid().as_raw_nonzero().get()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the shim itself is in this group"));
        }
        let mut held = Vec::new();
        for number in listed.difference(&done) {
            if let Some(pid) = Pid::from_raw(*number)
                && let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
            {
                held.push((*number, pidfd));
            }
        }
        if held.is_empty() {
            break;
        }
        // A number in the list now that was held before is the process that is held: it can't have been reused.
        let still = list(&file)?.unwrap_or_default();
        for (number, pidfd) in held {
            done.insert(number);
            if still.contains(&number) {
                signal_unless_gone(pidfd.as_fd(), signal)?;
            }
        }
    }
    Ok(true)
}

/// The pids in a list; 0 stands for one of a PID namespace that is not below this one. `None` when the group is gone.
fn list(file: &Path) -> io::Result<Option<BTreeSet<i32>>> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text.lines().filter_map(|line| line.parse().ok()).collect())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // A v1 list of a group that is being removed.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(directory: &Path) -> CgroupSpec {
        CgroupSpec { join: vec![directory.join("tasks")], ..CgroupSpec::default() }
    }

    #[test]
    fn a_group_with_the_shim_in_it_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let text = format!("{}\n{}\n", other.id(), std::process::id());
        std::fs::write(directory.path().join("cgroup.procs"), text).unwrap();
        let refused = signal_all(&group(directory.path()), 9).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        assert!(other.try_wait().unwrap().is_none(), "nobody was signalled");
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_group_that_is_gone_has_no_processes() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!signal_all(&group(&directory.path().join("gone")), 9).unwrap());
        assert!(!signal_all(&CgroupSpec::default(), 9).unwrap());
    }

    #[test]
    fn every_process_of_a_group_is_signalled() {
        use std::os::unix::process::ExitStatusExt;
        let directory = tempfile::tempdir().unwrap();
        let mut others = [(); 2].map(|()| std::process::Command::new("sleep").arg("60").spawn().unwrap());
        let text: String = others.iter().map(|other| format!("{}\n", other.id())).collect();
        std::fs::write(directory.path().join("cgroup.procs"), text).unwrap();
        assert!(signal_all(&group(directory.path()), 15).unwrap());
        for other in &mut others {
            assert_eq!(other.wait().unwrap().signal(), Some(15));
        }
    }
}
