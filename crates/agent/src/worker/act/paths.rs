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

/// The masked paths of a container; a privileged one has none.
pub(super) fn masked(privileged: bool) -> Vec<String> {
    if privileged { Vec::new() } else { MASKED.iter().map(|path| (*path).to_owned()).collect() }
}

/// The read-only paths of a container; a privileged one has none.
pub(super) fn read_only(privileged: bool) -> Vec<String> {
    if privileged { Vec::new() } else { READ_ONLY.iter().map(|path| (*path).to_owned()).collect() }
}
