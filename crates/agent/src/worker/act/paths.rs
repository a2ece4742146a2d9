//! The parts of `/proc` and `/sys` that a container does not see, or sees but cannot change: Kubernetes 1.36's lists.

/// Not seen.
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Seen only.
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The masked paths of a container; none where all of them are shown.
pub(super) fn masked(shown: bool) -> Vec<String> {
    if shown { Vec::new() } else { MASKED.iter().map(|path| (*path).to_owned()).collect() }
}

/// The read-only paths of a container; none where all of them are shown.
pub(super) fn read_only(shown: bool) -> Vec<String> {
    if shown { Vec::new() } else { READ_ONLY.iter().map(|path| (*path).to_owned()).collect() }
}
