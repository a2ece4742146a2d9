//! The table of limits: what each limit is called and how its value is written in v1 and in v2.
//! Deciding only: a [`Plan`] is a list of file writes that `group` carries out.

use std::collections::BTreeMap;

use crate::devices::DeviceRule;
use crate::error::{Error, Result};
use crate::hierarchy::{Controller, Version};

/// The limits of one group. `None` leaves a limit as it is (at creation: the kernel's default).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPU shares in v1's scale (2..=262144, 1024 is the kernel's default).
    pub cpu_shares: Option<u64>,
    /// CPU time per period in microseconds; negative: unlimited.
    pub cpu_quota: Option<i64>,
    /// Length of the period in microseconds.
    pub cpu_period: Option<u64>,
    /// Memory in bytes; negative: unlimited.
    pub memory: Option<i64>,
    /// Memory *plus* swap in bytes, as OCI counts it; negative: unlimited. Equal to `memory`: no
    /// swap.
    pub memory_swap: Option<i64>,
    /// Kill the whole group when one of its processes is killed for want of memory (v2; v1 cannot).
    pub memory_oom_group: Option<bool>,
    /// Number of tasks; zero or negative: unlimited.
    pub pids: Option<i64>,
    /// CPUs, in the kernel's list format ("0-3,7").
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, in the same format.
    pub cpuset_mems: Option<String>,
    /// Huge pages by page size.
    pub hugepages: Vec<HugepageLimit>,
    /// v2 files by name, written as they are (OCI `unified`); refused on v1.
    pub unified: BTreeMap<String, String>,
    /// The device allow-list, from "nothing" upwards, later rules win. `None`: all that the parent
    /// may. Honoured at creation only: v1 cannot narrow a group that has children.
    pub devices: Option<Vec<DeviceRule>>,
}

/// A limit on huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugepageLimit {
    /// The kernel's name of the size: "2MB", "1GB".
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}

/// One write to one file of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) controller: Controller,
    pub(crate) file: String,
    pub(crate) value: String,
    pub(crate) missing: Missing,
}

/// What a missing file means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The limit cannot be kept: an error.
    Fail,
    /// The kernel cannot do what the limit forbids (no swap accounting, no such page size).
    Skip,
}

pub(crate) type Plan = Vec<Write>;

type Format = fn(&Limits) -> Result<Option<String>>;

/// A file of one version and how its value is written.
struct Knob {
    file: &'static str,
    format: Format,
    missing: Missing,
}

/// One limit in both versions; `None` where a version has no such file of its own.
struct Row {
    limit: &'static str,
    controller: Controller,
    v1: Option<Knob>,
    v2: Option<Knob>,
}

const fn must(file: &'static str, format: Format) -> Option<Knob> {
    Some(Knob { file, format, missing: Missing::Fail })
}

const fn may(file: &'static str, format: Format) -> Option<Knob> {
    Some(Knob { file, format, missing: Missing::Skip })
}

/// Order matters: v1 wants the period before the quota, and the memory limit before memory+swap.
const TABLE: &[Row] = &[
    Row {
        limit: "cpu_shares",
        controller: Controller::Cpu,
        v1: must("cpu.shares", |l| Ok(l.cpu_shares.map(|s| s.to_string()))),
        v2: must("cpu.weight", |l| Ok(l.cpu_shares.map(|s| weight_of_shares(s).to_string()))),
    },
    Row {
        limit: "cpu_period",
        controller: Controller::Cpu,
        v1: must("cpu.cfs_period_us", |l| Ok(l.cpu_period.map(|p| p.to_string()))),
        v2: None,
    },
    Row {
        limit: "cpu_quota",
        controller: Controller::Cpu,
        v1: must("cpu.cfs_quota_us", |l| Ok(l.cpu_quota.map(|q| q.max(-1).to_string()))),
        v2: must("cpu.max", |l| Ok(cpu_max(l))),
    },
    Row {
        limit: "memory",
        controller: Controller::Memory,
        v1: must("memory.limit_in_bytes", |l| Ok(l.memory.map(|m| m.max(-1).to_string()))),
        v2: must("memory.max", |l| Ok(l.memory.map(or_max))),
    },
    Row {
        limit: "memory_swap",
        controller: Controller::Memory,
        v1: may("memory.memsw.limit_in_bytes", |l| Ok(swap(l)?.and(l.memory_swap).map(|s| s.max(-1).to_string()))),
        v2: may("memory.swap.max", |l| Ok(swap(l)?.map(or_max))),
    },
    Row {
        limit: "memory_oom_group",
        controller: Controller::Memory,
        v1: None,
        v2: must("memory.oom.group", |l| Ok(l.memory_oom_group.map(|g| u8::from(g).to_string()))),
    },
    Row {
        limit: "pids",
        controller: Controller::Pids,
        v1: must("pids.max", |l| Ok(l.pids.map(|p| or_max(if p == 0 { -1 } else { p })))),
        v2: must("pids.max", |l| Ok(l.pids.map(|p| or_max(if p == 0 { -1 } else { p })))),
    },
    Row {
        limit: "cpuset_cpus",
        controller: Controller::Cpuset,
        v1: must("cpuset.cpus", |l| list(&l.cpuset_cpus, "cpuset.cpus")),
        v2: must("cpuset.cpus", |l| list(&l.cpuset_cpus, "cpuset.cpus")),
    },
    Row {
        limit: "cpuset_mems",
        controller: Controller::Cpuset,
        v1: must("cpuset.mems", |l| list(&l.cpuset_mems, "cpuset.mems")),
        v2: must("cpuset.mems", |l| list(&l.cpuset_mems, "cpuset.mems")),
    },
];

/// The writes that set `limits`, in order. Devices are not among them: see `devices`.
pub(crate) fn plan(limits: &Limits, version: Version) -> Result<Plan> {
    let mut plan = Plan::new();
    for row in TABLE {
        let knob = match version {
            Version::V1 => &row.v1,
            Version::V2 => &row.v2,
        };
        let Some(knob) = knob else { continue };
        if let Some(value) = (knob.format)(limits)? {
            tracing::trace!(limit = row.limit, file = knob.file, value, "limit");
            plan.push(Write { controller: row.controller, file: knob.file.to_owned(), value, missing: knob.missing });
        }
    }
    for page in &limits.hugepages {
        plan.push(hugepage(page, version)?);
    }
    for (file, value) in &limits.unified {
        plan.push(unified(file, value, version)?);
    }
    Ok(plan)
}

/// v1 keeps `limit <= memory+swap` at every moment, so a limit that grows past the present
/// memory+swap limit must be written after it. `present` is that file's value, if it has one.
pub(crate) fn order_memory(plan: &mut Plan, present: Option<u64>) {
    let at = |file: &str| plan.iter().position(|w| w.file == file);
    let (Some(memory), Some(swap)) = (at("memory.limit_in_bytes"), at("memory.memsw.limit_in_bytes")) else {
        return;
    };
    let grows = match plan[memory].value.parse::<u64>() {
        Ok(new) => present.is_some_and(|present| new > present),
        Err(_) => true, // "-1": unlimited
    };
    if grows && memory < swap {
        plan.swap(memory, swap);
    }
}

/// CPU weight (1..=10000) of v1 shares (2..=262144).
///
/// The curve is the one of runc since 1.3.2 and crun since 1.23, and what Kubernetes 1.35 expects:
/// quadratic in the logarithm, through (2, 1), (1024, 100) and (262144, 10000). The older linear
/// map gave the default of 1024 a weight of 39, so that pods lost to every ordinary process, and
/// small requests collapsed into the same few weights (kubernetes/kubernetes#131216).
pub fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            // Rounded up, but not across the error of the floating point itself.
            (10f64.powf(exponent) - 1e-9).ceil() as u64
        }
    }
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// `cpu.max` is "quota period"; a quota alone keeps the period.
fn cpu_max(limits: &Limits) -> Option<String> {
    let quota = limits.cpu_quota.map(or_max);
    match (quota, limits.cpu_period) {
        (Some(quota), Some(period)) => Some(format!("{quota} {period}")),
        (Some(quota), None) => Some(quota),
        (None, Some(period)) => Some(format!("max {period}")),
        (None, None) => None,
    }
}

/// Swap alone, in bytes, out of OCI's sum; negative: unlimited.
fn swap(limits: &Limits) -> Result<Option<i64>> {
    let bad = |total: i64, why: &str| Error::InvalidLimit {
        file: "memory_swap".into(),
        value: total.to_string(),
        why: why.into(),
    };
    match (limits.memory_swap, limits.memory) {
        (None, _) => Ok(None),
        (Some(total), _) if total < 0 => Ok(Some(-1)),
        (Some(total), Some(memory)) if memory >= 0 && total >= memory => Ok(Some(total - memory)),
        (Some(total), Some(memory)) if memory >= 0 => Err(bad(total, "less than the memory limit")),
        (Some(total), _) => Err(bad(total, "memory+swap needs a memory limit beside it")),
    }
}

fn list(value: &Option<String>, file: &str) -> Result<Option<String>> {
    let Some(value) = value.as_deref().filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    if value.bytes().all(|b| b.is_ascii_digit() || b == b'-' || b == b',') {
        return Ok(Some(value.to_owned()));
    }
    Err(Error::InvalidLimit { file: file.into(), value: value.into(), why: "not a list of numbers and ranges".into() })
}

fn hugepage(page: &HugepageLimit, version: Version) -> Result<Write> {
    let size = &page.page_size;
    let digits = size.trim_end_matches(|c: char| c.is_ascii_uppercase());
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || digits == size {
        return Err(Error::InvalidLimit {
            file: "hugepages".into(),
            value: size.clone(),
            why: "not a page size such as 2MB or 1GB".into(),
        });
    }
    let file = match version {
        Version::V1 => format!("hugetlb.{size}.limit_in_bytes"),
        Version::V2 => format!("hugetlb.{size}.max"),
    };
    // The kubelet forbids every page size that a pod did not ask for, also those that are not
    // accounted on this machine.
    let missing = if page.limit == 0 { Missing::Skip } else { Missing::Fail };
    Ok(Write { controller: Controller::Hugetlb, file, value: page.limit.to_string(), missing })
}

fn unified(file: &str, value: &str, version: Version) -> Result<Write> {
    let bad = |why: &str| Error::InvalidLimit { file: file.to_owned(), value: value.to_owned(), why: why.to_owned() };
    if version == Version::V1 {
        return Err(bad("cgroup v2 files cannot be set on a v1 machine"));
    }
    let plain = file.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let controller = file.split_once('.').map(|(prefix, _)| prefix);
    let controller = Controller::ALL
        .into_iter()
        .find(|c| Some(c.name()) == controller)
        .filter(|_| plain)
        .ok_or_else(|| bad("not a file of a controller"))?;
    Ok(Write { controller, file: file.to_owned(), value: value.to_owned(), missing: Missing::Fail })
}

#[cfg(test)]
#[path = "limits/tests.rs"]
mod tests;
