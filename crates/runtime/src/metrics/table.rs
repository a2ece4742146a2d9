//! The metrics: names and meanings as cAdvisor has them, labels as CRI's other runtimes do.

use podd_cri::v1::MetricType::{self, Counter, Gauge};

/// The labels of every metric. What is the whole pod's has no container and no image, and the sandbox's id.
pub(super) const BASE: [&str; 5] = ["pod", "namespace", "container", "id", "image"];

/// One metric.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    /// Beside [`BASE`].
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

const fn row(name: &'static str, kind: MetricType, labels: &'static [&'static str], help: &'static str) -> Row {
    Row { name, kind, labels, help }
}

const NONE: &[&str] = &[];
const DEVICE: &[&str] = &["device"];
const BLOCK: &[&str] = &["device", "major", "minor", "operation"];
const INTERFACE: &[&str] = &["interface"];
const PAGES: &[&str] = &["pagesize"];

pub(super) const ROWS: &[Row] = &[
    row("container_blkio_device_usage_total", Counter, BLOCK, "Bytes read from and written to block devices."),
    row("container_cpu_cfs_periods_total", Counter, NONE, "Periods in which a CPU quota was in force."),
    row("container_cpu_cfs_throttled_periods_total", Counter, NONE, "Periods in which the CPU quota ran out."),
    row("container_cpu_cfs_throttled_seconds_total", Counter, NONE, "How long tasks were held back by the CPU quota."),
    row("container_cpu_system_seconds_total", Counter, NONE, "CPU time in the kernel."),
    row("container_cpu_usage_seconds_total", Counter, NONE, "CPU time in all."),
    row("container_cpu_user_seconds_total", Counter, NONE, "CPU time in user space."),
    row("container_file_descriptors", Gauge, NONE, "Open file descriptors."),
    row("container_fs_inodes_free", Gauge, DEVICE, "Free inodes of the file system with the writable layer."),
    row("container_fs_inodes_total", Gauge, DEVICE, "Inodes of the file system with the writable layer."),
    row("container_fs_limit_bytes", Gauge, DEVICE, "Size of the file system with the writable layer."),
    row("container_fs_reads_bytes_total", Counter, DEVICE, "Bytes read from a device."),
    row("container_fs_reads_total", Counter, DEVICE, "Reads from a device."),
    row("container_fs_usage_bytes", Gauge, DEVICE, "Size of the writable layer."),
    row("container_fs_writes_bytes_total", Counter, DEVICE, "Bytes written to a device."),
    row("container_fs_writes_total", Counter, DEVICE, "Writes to a device."),
    row("container_hugetlb_max_usage_bytes", Gauge, PAGES, "The most huge pages that were in use (cgroup v1)."),
    row("container_hugetlb_usage_bytes", Gauge, PAGES, "Huge pages in use."),
    row("container_last_seen", Gauge, NONE, "When the container was last seen, since the Unix epoch."),
    row("container_memory_cache", Gauge, NONE, "Page cache."),
    row("container_memory_failcnt", Counter, NONE, "How often the memory limit was hit."),
    row("container_memory_failures_total", Counter, &["failure_type", "scope"], "Page faults."),
    row("container_memory_kernel_usage", Gauge, NONE, "Memory of the kernel's own for the container."),
    row("container_memory_mapped_file", Gauge, NONE, "Files that are mapped into memory."),
    row("container_memory_max_usage_bytes", Gauge, NONE, "The most memory that was in use."),
    row("container_memory_rss", Gauge, NONE, "Anonymous memory."),
    row("container_memory_swap", Gauge, NONE, "Swap in use."),
    row("container_memory_total_active_file_bytes", Gauge, NONE, "Page cache in use of late."),
    row("container_memory_total_inactive_file_bytes", Gauge, NONE, "Page cache not in use of late."),
    row("container_memory_usage_bytes", Gauge, NONE, "Memory in use, page cache and all."),
    row("container_memory_working_set_bytes", Gauge, NONE, "Memory in use but for what the kernel can drop at once."),
    row("container_network_receive_bytes_total", Counter, INTERFACE, "Bytes received."),
    row("container_network_receive_errors_total", Counter, INTERFACE, "Errors while receiving."),
    row("container_network_receive_packets_dropped_total", Counter, INTERFACE, "Packets dropped while receiving."),
    row("container_network_receive_packets_total", Counter, INTERFACE, "Packets received."),
    row("container_network_transmit_bytes_total", Counter, INTERFACE, "Bytes sent."),
    row("container_network_transmit_errors_total", Counter, INTERFACE, "Errors while sending."),
    row("container_network_transmit_packets_dropped_total", Counter, INTERFACE, "Packets dropped while sending."),
    row("container_network_transmit_packets_total", Counter, INTERFACE, "Packets sent."),
    row("container_oom_events_total", Counter, NONE, "Processes that the kernel killed for want of memory."),
    row("container_pressure_cpu_stalled_seconds_total", Counter, NONE, "How long all tasks waited for a CPU."),
    row("container_pressure_cpu_waiting_seconds_total", Counter, NONE, "How long at least one task waited for a CPU."),
    row("container_pressure_io_stalled_seconds_total", Counter, NONE, "How long all tasks waited for I/O."),
    row("container_pressure_io_waiting_seconds_total", Counter, NONE, "How long at least one task waited for I/O."),
    row("container_pressure_memory_stalled_seconds_total", Counter, NONE, "How long all tasks waited for memory."),
    row(
        "container_pressure_memory_waiting_seconds_total",
        Counter,
        NONE,
        "How long at least one task waited for memory.",
    ),
    row("container_processes", Gauge, NONE, "Processes."),
    row("container_sockets", Gauge, NONE, "Open sockets."),
    row("container_spec_cpu_period", Gauge, NONE, "Period of the CPU quota, in microseconds."),
    row("container_spec_cpu_quota", Gauge, NONE, "CPU quota, in microseconds; none without one."),
    row("container_spec_cpu_shares", Gauge, NONE, "CPU shares."),
    row("container_spec_memory_limit_bytes", Gauge, NONE, "Memory limit; 0 without one."),
    row(
        "container_spec_memory_reservation_limit_bytes",
        Gauge,
        NONE,
        "Memory that reclaim spares; 0 without such a wish.",
    ),
    row("container_spec_memory_swap_limit_bytes", Gauge, NONE, "Limit of memory and swap together; 0 without one."),
    row("container_start_time_seconds", Gauge, NONE, "When the container was started, since the Unix epoch."),
    row("container_threads", Gauge, NONE, "Threads."),
    row("container_threads_max", Gauge, NONE, "The most threads; 0 without a limit."),
    row("container_ulimits_soft", Gauge, &["ulimit"], "Soft limits of the first process, where it has one."),
];
