//! How often the kernel has killed a process of a cgroup for want of memory.
//!
//! Where systemd keeps the groups, it removes a container's as soon as its last process has ended, and the count with it. The
//! pod's group stays and has counted along (v2 counts upwards): what its containers' own counts do not explain is the
//! count of the one that has just ended.

use std::path::{Path, PathBuf};

/// The counter of v2; that of v1 counts its own group only, which nobody but the runtime removes.
const COUNTS_UPWARDS: &str = "memory.events";

/// The number behind `oom_kill` in a group's `memory.oom_control` (v1) or `memory.events` (v2); none where there is no file.
pub(crate) fn kills(file: Option<&Path>) -> Option<u64> {
    file.and_then(|path| std::fs::read_to_string(path).ok()).map(|text| parse(&text))
}

/// Whether an end is one for want of memory: the kernel has killed in the group, and the process did not end well.
pub(crate) fn is_kill(kills: u64, code: i32) -> bool {
    kills > 0 && code != 0
}

/// The kills of a pod's group.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Before the first container of this shim.
    before: Option<u64>,
    /// Of containers that are forgotten.
    gone: u64,
}

impl Ledger {
    /// A container with this counter is made.
    pub(crate) fn open(&mut self, counter: Option<&Path>) {
        if self.before.is_none() {
            self.before = above(counter).and_then(|file| kills(Some(&file)));
        }
    }

    /// A container with so many kills is forgotten.
    pub(crate) fn close(&mut self, kills: u64) {
        self.gone += kills;
    }

    /// The kills of a container whose own counter is gone; the other containers that are known have had `others`.
    pub(crate) fn unexplained(&self, counter: Option<&Path>, others: u64) -> u64 {
        let now = above(counter).and_then(|file| kills(Some(&file)));
        now.unwrap_or(0).saturating_sub(self.before.unwrap_or(0) + self.gone + others)
    }
}

/// The same counter of the group above.
fn above(counter: Option<&Path>) -> Option<PathBuf> {
    let counter = counter.filter(|file| file.file_name().is_some_and(|name| name == COUNTS_UPWARDS))?;
    Some(counter.parent()?.parent()?.join(COUNTS_UPWARDS))
}

fn parse(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_found_in_both_files() {
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(parse("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(parse(""), 0);
    }

    #[test]
    fn an_exit_is_an_oom_kill_only_with_both_signs() {
        for (kills, code, expected) in [(1, 137, true), (0, 137, false), (1, 0, false), (1, 1, true)] {
            assert_eq!(is_kill(kills, code), expected, "{kills} {code}");
        }
    }

    #[test]
    fn what_a_removed_group_had_counted_is_what_the_pods_group_has_more() {
        let pod = tempfile::tempdir().expect("a directory");
        let counter = pod.path().join("a.scope/memory.events");
        let count = |kills: u64| {
            let text = format!("oom 9\noom_kill {kills}\n");
            std::fs::write(pod.path().join("memory.events"), text).expect("written");
        };
        count(2);
        let mut ledger = Ledger::default();
        ledger.open(Some(&counter));
        assert_eq!(ledger.unexplained(Some(&counter), 0), 0);
        count(7);
        assert_eq!(ledger.unexplained(Some(&counter), 1), 4);
        ledger.close(4);
        ledger.open(Some(&counter));
        assert_eq!(ledger.unexplained(Some(&counter), 1), 0, "nothing is counted twice");
        let of_v1 = pod.path().join("a/memory.oom_control");
        assert_eq!(ledger.unexplained(Some(&of_v1), 0), 0);
    }
}
