//! What is left of the node's memory, disk and process ids, as the kubelet counts it.

use std::path::Path;

use podd_core::eviction::{Condition, Observations, Observed, Signal};

use crate::machine::disk;

/// Measures all signals; what cannot be measured is left out. `root` lies on the node's file system, `images` on that of
/// images. Blocking, but short.
pub(super) fn observe(root: &Path, images: &Path) -> Observations {
    let mut found = Observations::new();
    let read = |path: &str| std::fs::read_to_string(path).ok();
    if let Some(memory) = read("/proc/meminfo").and_then(|text| memory(&text)) {
        found.insert(Signal::MemoryAvailable, memory);
    }
    let disks = [
        (root, Signal::NodefsAvailable, Signal::NodefsInodesFree),
        (images, Signal::ImagefsAvailable, Signal::ImagefsInodesFree),
    ];
    for (path, space, inodes) in disks {
        let Ok((bytes, files)) = disk(path) else { continue };
        found.insert(space, bytes);
        // File systems that make inodes as they need them tell of none.
        if files.capacity > 0 {
            found.insert(inodes, files);
        }
    }
    let number = |path| read(path)?.trim().parse::<i64>().ok();
    let most = [number("/proc/sys/kernel/pid_max"), number("/proc/sys/kernel/threads-max")].into_iter().flatten().min();
    if let (Some(capacity), Some(tasks)) = (most, read("/proc/loadavg").and_then(|text| tasks(&text))) {
        found.insert(Signal::PidAvailable, Observed { available: capacity - tasks, capacity });
    }
    found
}

/// All memory without the working set: free pages, and those of files that nobody has used lately.
fn memory(meminfo: &str) -> Option<Observed> {
    let kilobytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok()
    };
    let available = kilobytes("MemFree")? + kilobytes("Inactive(file)")?;
    Some(Observed { available: available * 1024, capacity: kilobytes("MemTotal")? * 1024 })
}

/// `0.20 0.18 0.12 1/80 11206`: the number behind the slash.
fn tasks(loadavg: &str) -> Option<i64> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

/// How long tasks stood still for want of this lately, where the kernel keeps count (PSI).
pub(super) fn stalled(condition: Condition) -> Option<String> {
    let what = match condition {
        Condition::MemoryPressure => "memory",
        Condition::DiskPressure => "io",
        Condition::PidPressure => return None,
    };
    let text = std::fs::read_to_string(format!("/proc/pressure/{what}")).ok()?;
    let share = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        line.split_whitespace().find_map(|word| word.strip_prefix("avg10=")).map(str::to_owned)
    };
    Some(format!(
        "in the last 10 s tasks waited for {what} {} % of the time, all of them {} %",
        share("some")?,
        share("full")?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_can_go_at_once_is_available() {
        let text =
            "MemTotal:       1000 kB\nMemFree:         100 kB\nInactive:        400 kB\nInactive(file):  300 kB\n";
        assert_eq!(memory(text), Some(Observed { available: 400 << 10, capacity: 1000 << 10 }));
        assert_eq!(memory("MemTotal: 1 kB"), None);
        assert_eq!(tasks("0.20 0.18 0.12 1/80 11206\n"), Some(80));
    }

    #[test]
    fn every_signal_of_this_machine_is_measured() {
        let found = observe(Path::new("/"), Path::new("/"));
        for signal in [Signal::MemoryAvailable, Signal::NodefsAvailable, Signal::ImagefsAvailable, Signal::PidAvailable]
        {
            let Observed { available, capacity } = found[&signal];
            assert!(0 < available && available <= capacity, "{signal:?}: {available} of {capacity}");
        }
        assert!(!observe(Path::new("/nowhere"), Path::new("/")).contains_key(&Signal::NodefsAvailable));
    }
}
