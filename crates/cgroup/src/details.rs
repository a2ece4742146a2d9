//! What a group counts beyond [`crate::Stats`]: the numbers that cAdvisor shows of a container and nobody decides by.
//! Read on demand, file by file; what the kernel does not have is zero or empty.

use std::fs;
use std::path::Path;

use crate::group::Group;
use crate::hierarchy::{Controller, Version};

/// The rarer numbers of a group and the groups beneath it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Page cache, in bytes.
    pub cache: u64,
    /// Files that are mapped, in bytes.
    pub mapped_file: u64,
    /// File pages in use of late, in bytes.
    pub active_file: u64,
    /// File pages not in use of late, in bytes.
    pub inactive_file: u64,
    /// Memory of the kernel's own for the group, in bytes.
    pub kernel: u64,
    /// The most memory that was ever charged, in bytes; 0 on a v2 kernel without `memory.peak`.
    pub max_usage: u64,
    /// How often the limit was hit (v1), or `memory.events`' `max` (v2).
    pub limit_hits: u64,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: u64,
    /// The most tasks; `None` for no limit.
    pub pids_limit: Option<u64>,
    /// Block devices (v2).
    pub devices: Vec<DeviceIo>,
    /// Huge pages by size.
    pub hugepages: Vec<HugepageUse>,
}

/// What was read from and written to one block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugepageUse {
    /// `2MB`, `1GB`.
    pub page_size: String,
    /// In use now.
    pub usage: u64,
    /// The most ever (v1); 0 in v2.
    pub max_usage: u64,
}

impl Group {
    /// Reads all of it. A group that is gone reads as zeroes.
    pub fn details(&self) -> Details {
        let v2 = self.version() == Version::V2;
        let text = |controller, file: &str| {
            self.dir(controller).and_then(|dir| fs::read_to_string(dir.join(file)).ok()).unwrap_or_default()
        };
        let number = |controller, file: &str| text(controller, file).trim().parse::<u64>().ok();
        let stat = text(Controller::Memory, "memory.stat");
        let memory = |v1: &str, name: &str| field(&stat, if v2 { name } else { v1 });
        Details {
            cache: memory("total_cache", "file"),
            mapped_file: memory("total_mapped_file", "file_mapped"),
            active_file: memory("total_active_file", "active_file"),
            inactive_file: memory("total_inactive_file", "inactive_file"),
            kernel: if v2 {
                field(&stat, "kernel")
            } else {
                number(Controller::Memory, "memory.kmem.usage_in_bytes").unwrap_or(0)
            },
            max_usage: number(Controller::Memory, if v2 { "memory.peak" } else { "memory.max_usage_in_bytes" })
                .unwrap_or(0),
            limit_hits: if v2 {
                field(&text(Controller::Memory, "memory.events"), "max")
            } else {
                number(Controller::Memory, "memory.failcnt").unwrap_or(0)
            },
            oom_kills: self.oom_kills().unwrap_or(0),
            pids_limit: number(Controller::Pids, "pids.max"),
            devices: if v2 { devices_of(&text(Controller::Io, "io.stat")) } else { Vec::new() },
            hugepages: self.dir(Controller::Hugetlb).map(|dir| hugepages_in(&dir, v2)).unwrap_or_default(),
        }
    }
}

/// The number behind `key` in a flat keyed file.
fn field(text: &str, key: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0)
}

fn devices_of(text: &str) -> Vec<DeviceIo> {
    let line = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let value = |key: &str| {
            rest.split_whitespace().find_map(|word| word.strip_prefix(key)?.parse().ok()).unwrap_or_default()
        };
        Some(DeviceIo {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            read_bytes: value("rbytes="),
            written_bytes: value("wbytes="),
            reads: value("rios="),
            writes: value("wios="),
        })
    };
    text.lines().filter_map(line).collect()
}

/// `hugetlb.2MB.usage_in_bytes` (v1), `hugetlb.2MB.current` (v2).
fn hugepages_in(dir: &Path, v2: bool) -> Vec<HugepageUse> {
    let ending = if v2 { ".current" } else { ".usage_in_bytes" };
    let number = |file: String| fs::read_to_string(dir.join(file)).ok().and_then(|text| text.trim().parse().ok());
    let mut found: Vec<HugepageUse> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let page_size = name.strip_prefix("hugetlb.")?.strip_suffix(ending)?.to_owned();
            // `hugetlb.2MB.rsvd.current` counts reservations.
            (!page_size.contains('.')).then(|| HugepageUse {
                usage: number(name.clone()).unwrap_or(0),
                max_usage: number(format!("hugetlb.{page_size}.max_usage_in_bytes")).unwrap_or(0),
                page_size,
            })
        })
        .collect();
    found.sort_by(|a, b| a.page_size.cmp(&b.page_size));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_apart_and_lines_without_numbers_passed_over() {
        let text =
            "8:0 rbytes=10 wbytes=1 rios=3 wios=4 dbytes=0 dios=0\n7:0\n253:99999 rbytes=5 wbytes=2 rios=1 wios=6\n";
        let first = DeviceIo { major: 8, minor: 0, read_bytes: 10, written_bytes: 1, reads: 3, writes: 4 };
        let second = DeviceIo { major: 253, minor: 99_999, read_bytes: 5, written_bytes: 2, reads: 1, writes: 6 };
        assert_eq!(devices_of(text), [first, second]);
    }

    #[test]
    fn huge_pages_are_found_by_size_in_both_versions_and_reservations_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, value: &str| fs::write(dir.path().join(name), value).unwrap();
        write("hugetlb.2MB.usage_in_bytes", "4194304\n");
        write("hugetlb.2MB.max_usage_in_bytes", "6291456\n");
        write("hugetlb.2MB.rsvd.usage_in_bytes", "1\n");
        write("hugetlb.1GB.current", "7\n");
        write("hugetlb.1GB.rsvd.current", "1\n");
        let v1 = HugepageUse { page_size: "2MB".into(), usage: 4_194_304, max_usage: 6_291_456 };
        assert_eq!(hugepages_in(dir.path(), false), [v1]);
        let v2 = HugepageUse { page_size: "1GB".into(), usage: 7, max_usage: 0 };
        assert_eq!(hugepages_in(dir.path(), true), [v2]);
    }
}
