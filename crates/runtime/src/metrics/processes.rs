//! What only the processes themselves tell, by procfs. One that ends while it is looked at counts as nothing.

use std::fs;

/// Counts over the processes of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Processes {
    pub(super) count: u64,
    pub(super) threads: u64,
    pub(super) descriptors: u64,
    pub(super) sockets: u64,
    /// The soft limit of descriptors of the first process; `None` without one.
    pub(super) open_files: Option<u64>,
}

impl Processes {
    /// Looks at the processes; `first` is the container's own.
    pub(super) fn look(pids: &[u32], first: u32) -> Self {
        let mut found = Self { count: pids.len() as u64, open_files: open_files(first), ..Self::default() };
        for pid in pids {
            found.threads += fs::read_dir(format!("/proc/{pid}/task")).map_or(0, |threads| threads.count() as u64);
            for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
                found.descriptors += 1;
                let target = fs::read_link(descriptor.path()).unwrap_or_default();
                found.sockets += u64::from(target.to_string_lossy().starts_with("socket:"));
            }
        }
        found
    }
}

/// `proc_pid_limits(5)`: name, soft limit, hard limit, unit.
fn open_files(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_process_has_threads_descriptors_and_a_limit() {
        let before = Processes::look(&[std::process::id()], std::process::id());
        assert!(before.count == 1 && before.threads >= 1 && before.open_files > Some(2), "{before:?}");
        let pair: Vec<_> = (0..64).map(|_| std::os::unix::net::UnixStream::pair().expect("sockets")).collect();
        let after = Processes::look(&[std::process::id()], std::process::id());
        assert!(after.sockets >= 128 && after.descriptors >= after.sockets, "{after:?}");
        drop(pair);
        assert_eq!(Processes::look(&[], 0), Processes::default());
    }
}
