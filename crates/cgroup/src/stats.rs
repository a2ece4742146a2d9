//! What a group uses, in one shape for v1 and v2. cgroups-rs reads and parses the files of cpu,
//! memory and pids; it answers 0 for whatever it cannot read, so the group is looked for first.
//!
//! `io.stat` and the pressure files are read here: the library's parser of the former panics on
//! minor numbers above 32767, and it knows nothing of the latter.

use std::fs;
use std::path::{Path, PathBuf};

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuacct::CpuAcctController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;

use crate::error::{Error, Result};
use crate::group::Group;
use crate::hierarchy::{Controller, Version};

/// What a group and the groups beneath it use. A part is `None` where no controller counts it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// CPU time.
    pub cpu: Option<CpuStats>,
    /// Memory.
    pub memory: Option<MemoryStats>,
    /// Number of tasks.
    pub pids: Option<u64>,
    /// Block I/O (v2).
    pub io: Option<IoStats>,
    /// Pressure by resource, where the kernel keeps it (v2 with PSI).
    pub pressure: Pressure,
}

/// CPU time since the group was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// All CPU time, in nanoseconds.
    pub usage_ns: u64,
    /// Of that in user space, in nanoseconds.
    pub user_ns: u64,
    /// Of that in the kernel, in nanoseconds.
    pub system_ns: u64,
    /// Periods in which a quota was in force.
    pub periods: u64,
    /// Periods in which the quota ran out.
    pub throttled_periods: u64,
    /// How long tasks were held back, in nanoseconds.
    pub throttled_ns: u64,
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Everything charged.
    pub usage: u64,
    /// `usage` without the file pages that can go at once: what evictions decide by.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Swap.
    pub swap: u64,
    /// The limit; `None` for none.
    pub limit: Option<u64>,
    /// Page faults, a count.
    pub page_faults: u64,
    /// Page faults that had to read, a count.
    pub major_page_faults: u64,
}

/// Bytes read from and written to block devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoStats {
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
}

/// Pressure stall information (Documentation/accounting/psi.rst): (some, full) by resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// CPU.
    pub cpu: Option<(PressureLine, PressureLine)>,
    /// Memory.
    pub memory: Option<(PressureLine, PressureLine)>,
    /// Block I/O.
    pub io: Option<(PressureLine, PressureLine)>,
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PressureLine {
    /// Percent of the last 10 s.
    pub avg10: f64,
    /// Percent of the last 60 s.
    pub avg60: f64,
    /// Percent of the last 300 s.
    pub avg300: f64,
    /// Microseconds in all.
    pub total_us: u64,
}

/// Limits from here upwards are the kernel's way to say "none" (v1: the largest page count).
const NO_LIMIT: u64 = i64::MAX as u64 - 0xffff;

impl Group {
    /// What the group uses now.
    pub fn stats(&self) -> Result<Stats> {
        let home = self.dir(Controller::Memory).unwrap_or_default();
        fs::metadata(&home).map_err(|e| Error::io("read statistics of", &home, e))?;
        let v2 = self.version() == Version::V2;
        Ok(Stats {
            cpu: self.cpu_stats(v2),
            memory: self.dir(Controller::Memory).map(|dir| memory_stats(dir, v2)),
            pids: self
                .dir(Controller::Pids)
                .and_then(|dir| PidController::new(dir, PathBuf::new(), v2).get_pid_current().ok()),
            io: if v2 { read_io(&home.join("io.stat")) } else { None },
            pressure: if v2 { read_pressure(&home) } else { Pressure::default() },
        })
    }

    fn cpu_stats(&self, v2: bool) -> Option<CpuStats> {
        let stat = self
            .dir(Controller::Cpu)
            .map(|dir| CpuController::new(dir, PathBuf::new(), v2).cpu().stat)
            .unwrap_or_default();
        if v2 {
            return Some(cpu_of_v2(&stat));
        }
        let used = CpuAcctController::new(self.dir(Controller::Cpuacct)?, PathBuf::new()).cpuacct();
        Some(CpuStats {
            usage_ns: used.usage,
            user_ns: used.usage_user,
            system_ns: used.usage_sys,
            periods: field(&stat, "nr_periods"),
            throttled_periods: field(&stat, "nr_throttled"),
            throttled_ns: field(&stat, "throttled_time"),
        })
    }
}

fn cpu_of_v2(stat: &str) -> CpuStats {
    let ns = |key| field(stat, key).saturating_mul(1000);
    CpuStats {
        usage_ns: ns("usage_usec"),
        user_ns: ns("user_usec"),
        system_ns: ns("system_usec"),
        periods: field(stat, "nr_periods"),
        throttled_periods: field(stat, "nr_throttled"),
        throttled_ns: ns("throttled_usec"),
    }
}

fn memory_stats(dir: PathBuf, v2: bool) -> MemoryStats {
    let memory = MemController::new(dir, PathBuf::new(), v2).memory_stat();
    let raw = |key: &str| memory.stat.raw.get(key).copied().unwrap_or(0);
    let limit = u64::try_from(memory.limit_in_bytes).ok().filter(|limit| *limit < NO_LIMIT);
    let usage = memory.usage_in_bytes;
    let (inactive, rss, swap, prefix) = if v2 {
        // The library keeps memory.swap.current in this field.
        (raw("inactive_file"), raw("anon"), memory.swappiness, "")
    } else {
        (raw("total_inactive_file"), raw("total_rss"), raw("total_swap"), "total_")
    };
    MemoryStats {
        usage,
        working_set: usage.saturating_sub(inactive),
        rss,
        swap,
        limit,
        page_faults: raw(&format!("{prefix}pgfault")),
        major_page_faults: raw(&format!("{prefix}pgmajfault")),
    }
}

/// The number behind `key` in a flat keyed file; 0 where the kernel does not have it.
fn field(text: &str, key: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0)
}

fn read_io(path: &Path) -> Option<IoStats> {
    Some(io_of(&fs::read_to_string(path).ok()?))
}

fn io_of(text: &str) -> IoStats {
    let sum = |key: &str| {
        let values = text.split_whitespace().filter_map(|word| word.strip_prefix(key));
        values.filter_map(|value| value.parse::<u64>().ok()).sum()
    };
    IoStats { read: sum("rbytes="), written: sum("wbytes=") }
}

fn read_pressure(dir: &Path) -> Pressure {
    let read = |file: &str| pressure_of(&fs::read_to_string(dir.join(file)).ok()?);
    Pressure { cpu: read("cpu.pressure"), memory: read("memory.pressure"), io: read("io.pressure") }
}

fn pressure_of(text: &str) -> Option<(PressureLine, PressureLine)> {
    let line = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let value = |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key));
        Some(PressureLine {
            avg10: value("avg10=")?.parse().ok()?,
            avg60: value("avg60=")?.parse().ok()?,
            avg300: value("avg300=")?.parse().ok()?,
            total_us: value("total=")?.parse().ok()?,
        })
    };
    // Older kernels have no "full" line for the CPU.
    Some((line("some ")?, line("full ").unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_microseconds_become_nanoseconds() {
        let stat =
            "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\nnr_periods 4\nnr_throttled 2\nthrottled_usec 7\n";
        let cpu = cpu_of_v2(stat);
        assert_eq!((cpu.usage_ns, cpu.user_ns, cpu.throttled_ns), (3_000_000, 2_000_000, 7_000));
        assert_eq!((cpu.periods, cpu.throttled_periods), (4, 2));
    }

    #[test]
    fn io_is_summed_over_devices() {
        let text = "8:0 rbytes=10 wbytes=1 rios=1 wios=1 dbytes=0 dios=0\n253:99999 rbytes=5 wbytes=2 rios=1 wios=1 dbytes=0 dios=0\n7:0\n";
        assert_eq!(io_of(text), IoStats { read: 15, written: 3 });
    }

    #[test]
    fn pressure_lines_are_read_with_and_without_full() {
        let both = "some avg10=1.50 avg60=0.10 avg300=0.00 total=77\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=7\n";
        let (some, full) = pressure_of(both).unwrap();
        assert_eq!((some.avg10, some.total_us, full.total_us), (1.5, 77, 7));
        let some_only = both.lines().next().unwrap();
        assert_eq!(pressure_of(some_only).unwrap().1, PressureLine::default());
        assert_eq!(pressure_of(""), None);
    }
}
