//! Numbers into metrics. Nothing is read here.

use podd_cgroup::{Details, PressureLine, Stats};
use podd_cri::v1::{Metric, UInt64Value};

use super::processes::Processes;
use super::table::ROWS;
use crate::records::Resources;
use crate::stats::interfaces::Interface;
use crate::stats::layers::Usage;

const SECOND: u64 = 1_000_000_000;
/// What the kernel takes when nobody says (Documentation/scheduler/sched-bwc.rst, cgroup v1's `cpu.shares`).
const DEFAULT_PERIOD: u64 = 100_000;
const DEFAULT_SHARES: u64 = 1024;

/// Everything that was read of one running container. Times are in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    pub(super) now: i64,
    pub(super) started_at: i64,
    pub(super) stats: Stats,
    pub(super) details: Details,
    pub(super) processes: Processes,
    pub(super) layer: Usage,
    pub(super) filesystem_bytes: u64,
    pub(super) filesystem_inodes: u64,
    pub(super) filesystem_inodes_free: u64,
    pub(super) resources: Resources,
}

/// Values of one object, which share their first labels and their time.
pub(super) struct Samples {
    labels: Vec<String>,
    timestamp: i64,
    metrics: Vec<Metric>,
}

impl Samples {
    pub(super) fn new(labels: [&str; 5], timestamp: i64) -> Self {
        Self { labels: labels.map(str::to_owned).to_vec(), timestamp, metrics: Vec::new() }
    }

    pub(super) fn finish(self) -> Vec<Metric> {
        self.metrics
    }

    fn put(&mut self, name: &str, labels: &[&str], value: u64) {
        let row =
            ROWS.iter().find(|row| row.name == name).expect("every name here is in the table; a test goes over all");
        debug_assert_eq!(row.labels.len(), labels.len(), "{name}");
        self.metrics.push(Metric {
            name: name.to_owned(),
            timestamp: self.timestamp,
            metric_type: row.kind as i32,
            label_values: self.labels.iter().cloned().chain(labels.iter().map(|label| (*label).to_owned())).collect(),
            value: Some(UInt64Value { value }),
        });
    }

    /// A pod's interfaces.
    pub(super) fn network(&mut self, interfaces: &[Interface]) {
        for interface in interfaces {
            let of = [interface.name.as_str()];
            self.put("container_network_receive_bytes_total", &of, interface.received.bytes);
            self.put("container_network_receive_errors_total", &of, interface.received.errors);
            self.put("container_network_receive_packets_dropped_total", &of, interface.received.dropped);
            self.put("container_network_receive_packets_total", &of, interface.received.packets);
            self.put("container_network_transmit_bytes_total", &of, interface.sent.bytes);
            self.put("container_network_transmit_errors_total", &of, interface.sent.errors);
            self.put("container_network_transmit_packets_dropped_total", &of, interface.sent.dropped);
            self.put("container_network_transmit_packets_total", &of, interface.sent.packets);
        }
    }

    /// Everything of a container.
    pub(super) fn container(&mut self, measured: &Measured) {
        self.put("container_last_seen", &[], seconds(measured.now));
        self.put("container_start_time_seconds", &[], seconds(measured.started_at));
        self.cpu(measured);
        self.memory(measured);
        self.disks(measured);
        self.processes(measured);
        self.limits(&measured.resources);
        self.pressure(measured);
    }

    fn cpu(&mut self, measured: &Measured) {
        let cpu = measured.stats.cpu.unwrap_or_default();
        self.put("container_cpu_usage_seconds_total", &[], cpu.usage_ns / SECOND);
        self.put("container_cpu_user_seconds_total", &[], cpu.user_ns / SECOND);
        self.put("container_cpu_system_seconds_total", &[], cpu.system_ns / SECOND);
        self.put("container_cpu_cfs_periods_total", &[], cpu.periods);
        self.put("container_cpu_cfs_throttled_periods_total", &[], cpu.throttled_periods);
        self.put("container_cpu_cfs_throttled_seconds_total", &[], cpu.throttled_ns / SECOND);
    }

    fn memory(&mut self, measured: &Measured) {
        let (memory, details) = (measured.stats.memory.unwrap_or_default(), &measured.details);
        self.put("container_memory_usage_bytes", &[], memory.usage);
        self.put("container_memory_working_set_bytes", &[], memory.working_set);
        self.put("container_memory_rss", &[], memory.rss);
        self.put("container_memory_swap", &[], memory.swap);
        self.put("container_memory_cache", &[], details.cache);
        self.put("container_memory_mapped_file", &[], details.mapped_file);
        self.put("container_memory_total_active_file_bytes", &[], details.active_file);
        self.put("container_memory_total_inactive_file_bytes", &[], details.inactive_file);
        self.put("container_memory_kernel_usage", &[], details.kernel);
        self.put("container_memory_max_usage_bytes", &[], details.max_usage);
        self.put("container_memory_failcnt", &[], details.limit_hits);
        self.put("container_memory_failures_total", &["pgfault", "container"], memory.page_faults);
        self.put("container_memory_failures_total", &["pgmajfault", "container"], memory.major_page_faults);
        self.put("container_oom_events_total", &[], details.oom_kills);
        for pages in &details.hugepages {
            self.put("container_hugetlb_usage_bytes", &[&pages.page_size], pages.usage);
            self.put("container_hugetlb_max_usage_bytes", &[&pages.page_size], pages.max_usage);
        }
    }

    fn disks(&mut self, measured: &Measured) {
        // The writable layer is no device of its own; what it is called is what containerd calls it.
        self.put("container_fs_usage_bytes", &["/"], measured.layer.bytes);
        self.put("container_fs_limit_bytes", &["/"], measured.filesystem_bytes);
        self.put("container_fs_inodes_total", &["/"], measured.filesystem_inodes);
        self.put("container_fs_inodes_free", &["/"], measured.filesystem_inodes_free);
        for device in &measured.details.devices {
            let (major, minor) = (device.major.to_string(), device.minor.to_string());
            let name = format!("{major}:{minor}");
            self.put("container_fs_reads_bytes_total", &[&name], device.read_bytes);
            self.put("container_fs_reads_total", &[&name], device.reads);
            self.put("container_fs_writes_bytes_total", &[&name], device.written_bytes);
            self.put("container_fs_writes_total", &[&name], device.writes);
            for (operation, bytes) in [("Read", device.read_bytes), ("Write", device.written_bytes)] {
                self.put("container_blkio_device_usage_total", &[&name, &major, &minor, operation], bytes);
            }
        }
    }

    fn processes(&mut self, measured: &Measured) {
        let processes = &measured.processes;
        self.put("container_processes", &[], processes.count);
        self.put("container_threads", &[], processes.threads);
        self.put("container_threads_max", &[], measured.details.pids_limit.unwrap_or(0));
        self.put("container_file_descriptors", &[], processes.descriptors);
        self.put("container_sockets", &[], processes.sockets);
        if let Some(limit) = processes.open_files {
            self.put("container_ulimits_soft", &["max_open_files"], limit);
        }
    }

    fn limits(&mut self, resources: &Resources) {
        let or = |value: i64, default: u64| u64::try_from(value).ok().filter(|value| *value > 0).unwrap_or(default);
        let reservation = resources.unified.get("memory.low").and_then(|value| value.parse().ok()).unwrap_or(0);
        self.put("container_spec_cpu_period", &[], or(resources.cpu_period, DEFAULT_PERIOD));
        self.put("container_spec_cpu_shares", &[], or(resources.cpu_shares, DEFAULT_SHARES));
        if resources.cpu_quota > 0 {
            self.put("container_spec_cpu_quota", &[], or(resources.cpu_quota, 0));
        }
        self.put("container_spec_memory_limit_bytes", &[], or(resources.memory_limit, 0));
        self.put("container_spec_memory_swap_limit_bytes", &[], or(resources.memory_swap_limit, 0));
        self.put("container_spec_memory_reservation_limit_bytes", &[], reservation);
    }

    fn pressure(&mut self, measured: &Measured) {
        let pressure = &measured.stats.pressure;
        let total = |line: PressureLine| line.total_us / 1_000_000;
        for (waiting, stalled, lines) in [
            (
                "container_pressure_cpu_waiting_seconds_total",
                "container_pressure_cpu_stalled_seconds_total",
                pressure.cpu,
            ),
            (
                "container_pressure_memory_waiting_seconds_total",
                "container_pressure_memory_stalled_seconds_total",
                pressure.memory,
            ),
            ("container_pressure_io_waiting_seconds_total", "container_pressure_io_stalled_seconds_total", pressure.io),
        ] {
            if let Some((some, full)) = lines {
                self.put(waiting, &[], total(some));
                self.put(stalled, &[], total(full));
            }
        }
    }
}

fn seconds(nanoseconds: i64) -> u64 {
    u64::try_from(nanoseconds).unwrap_or(0) / SECOND
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use podd_cgroup::{CpuStats, DeviceIo, HugepageUse, MemoryStats, Pressure};

    use super::super::table::BASE;
    use super::*;

    /// A container of which everything is known, and its pod's interface.
    fn all() -> Vec<Metric> {
        let lines = Some((
            PressureLine { total_us: 7_500_000, ..Default::default() },
            PressureLine { total_us: 3_000_000, ..Default::default() },
        ));
        let measured = Measured {
            now: 5_999_999_999,
            started_at: 2_000_000_000,
            stats: Stats {
                cpu: Some(CpuStats { usage_ns: 3_900_000_000, throttled_ns: 1_000_000_000, ..Default::default() }),
                memory: Some(MemoryStats { usage: 100, working_set: 60, page_faults: 9, ..Default::default() }),
                pressure: Pressure { cpu: lines, memory: lines, io: lines },
                ..Stats::default()
            },
            details: Details {
                pids_limit: Some(77),
                devices: vec![DeviceIo { major: 8, minor: 1, read_bytes: 5, writes: 2, ..Default::default() }],
                hugepages: vec![HugepageUse { page_size: "2MB".into(), usage: 4, max_usage: 6 }],
                ..Details::default()
            },
            processes: Processes { count: 3, open_files: Some(1024), ..Default::default() },
            resources: Resources { cpu_quota: 20_000, memory_limit: 64, ..Resources::default() },
            ..Measured::default()
        };
        let mut samples = Samples::new(["p", "n", "c", "i", "m"], 1);
        samples.container(&measured);
        samples.network(&[Interface { name: "eth0".into(), ..Interface::default() }]);
        samples.finish()
    }

    #[test]
    fn every_metric_of_the_table_has_a_value_and_as_many_labels_as_it_says() {
        let metrics = all();
        let found: BTreeSet<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
        let named: BTreeSet<&str> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(found, named);
        assert_eq!(named.len(), ROWS.len(), "a name stands twice");
        for metric in &metrics {
            let row = ROWS.iter().find(|row| row.name == metric.name).expect("in the table");
            assert_eq!(metric.label_values.len(), BASE.len() + row.labels.len(), "{}", row.name);
            assert!(!row.help.is_empty());
        }
    }

    #[test]
    fn numbers_come_in_seconds_and_bytes() {
        let metrics = all();
        let check = |name: &str, label: &str, expected: u64| {
            let has = |metric: &&Metric| metric.name == name && metric.label_values.iter().any(|value| value == label);
            let value = metrics.iter().find(has).and_then(|metric| metric.value.as_ref()).map(|value| value.value);
            assert_eq!(value, Some(expected), "{name}");
        };
        check("container_last_seen", "i", 5);
        check("container_start_time_seconds", "i", 2);
        check("container_cpu_usage_seconds_total", "c", 3);
        check("container_memory_working_set_bytes", "p", 60);
        check("container_memory_failures_total", "pgfault", 9);
        check("container_fs_reads_bytes_total", "8:1", 5);
        check("container_blkio_device_usage_total", "Write", 0);
        check("container_hugetlb_max_usage_bytes", "2MB", 6);
        check("container_threads_max", "n", 77);
        check("container_ulimits_soft", "max_open_files", 1024);
        check("container_spec_cpu_quota", "m", 20_000);
        check("container_spec_cpu_shares", "m", 1024);
        check("container_pressure_io_stalled_seconds_total", "i", 3);
        check("container_pressure_io_waiting_seconds_total", "i", 7);
    }
}
