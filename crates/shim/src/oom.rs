//! How often the kernel has killed a process of a cgroup for want of memory.

use std::path::Path;

/// The number behind `oom_kill` in a group's `memory.oom_control` (v1) or `memory.events` (v2); 0 when there is none.
pub(crate) fn kills(file: Option<&Path>) -> u64 {
    file.and_then(|path| std::fs::read_to_string(path).ok()).map_or(0, |text| parse(&text))
}

/// Whether an end is one for want of memory: the kernel has killed in the group, and the process did not end well.
pub(crate) fn is_kill(before: u64, after: u64, code: i32) -> bool {
    after > before && code != 0
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
        for (before, after, code, expected) in
            [(0, 1, 137, true), (1, 1, 137, false), (0, 1, 0, false), (0, 1, 1, true)]
        {
            assert_eq!(is_kill(before, after, code), expected, "{before} {after} {code}");
        }
    }
}
