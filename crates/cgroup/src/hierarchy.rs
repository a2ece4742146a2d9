//! Where the controllers of this machine live: each at its own v1 mount, several at a joint one
//! (`cpu,cpuacct`), or all in the one v2 tree. Found in `/proc/self/mountinfo`, never assumed.
//!
//! A *hybrid* machine (v1 controllers plus a v2 mount with what is left over) counts as v1, as in
//! systemd and runc: limits live where the `memory` and `pids` controllers are.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::group::Group;

/// A kernel controller that podd uses. `freezer`, `devices` and `cpuacct` exist in v1 only; in v2
/// their work is done by the core, by eBPF and by `cpu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    /// CPU shares/weight and bandwidth.
    Cpu,
    /// CPU accounting (v1).
    Cpuacct,
    /// CPUs and memory nodes.
    Cpuset,
    /// Memory and swap.
    Memory,
    /// Number of tasks.
    Pids,
    /// Device allow-list (v1).
    Devices,
    /// Freezing (v1); what a race-free kill needs there.
    Freezer,
    /// Huge pages.
    Hugetlb,
    /// Block I/O (v2; on v1 it would cost a group per container for statistics alone).
    Io,
}

impl Controller {
    /// Every controller that podd makes groups in.
    pub const ALL: [Controller; 9] = [
        Controller::Cpu,
        Controller::Cpuacct,
        Controller::Cpuset,
        Controller::Memory,
        Controller::Pids,
        Controller::Devices,
        Controller::Freezer,
        Controller::Hugetlb,
        Controller::Io,
    ];

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Controller::Cpu => "cpu",
            Controller::Cpuacct => "cpuacct",
            Controller::Cpuset => "cpuset",
            Controller::Memory => "memory",
            Controller::Pids => "pids",
            Controller::Devices => "devices",
            Controller::Freezer => "freezer",
            Controller::Hugetlb => "hugetlb",
            Controller::Io => "io",
        }
    }

    fn of_v1(name: &str) -> Option<Controller> {
        Controller::ALL.into_iter().find(|c| *c != Controller::Io && c.name() == name)
    }
}

/// Which kernel interface carries the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Separate hierarchies per controller.
    V1,
    /// The unified hierarchy.
    V2,
}

/// Where the controllers are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// Mount point of each controller; joint mounts appear once per controller.
    V1(BTreeMap<Controller, PathBuf>),
    /// The one mount point.
    V2(PathBuf),
}

/// The cgroup hierarchy of this machine, and the group beneath which all of ours live.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    pub(crate) layout: Arc<Layout>,
    root: PathBuf,
}

impl Hierarchy {
    /// Reads `/proc/self/mountinfo`. `root` is the group below which every path of this hierarchy
    /// lies ("/" or "" for the top), relative to the mounts.
    pub fn detect(root: impl AsRef<Path>) -> Result<Self> {
        let path = "/proc/self/mountinfo";
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        Self::new(parse_mountinfo(&text)?, root)
    }

    /// A hierarchy at known mounts: for tests on a directory tree, and for a caller that has
    /// detected already.
    pub fn new(layout: Layout, root: impl AsRef<Path>) -> Result<Self> {
        Ok(Self { layout: Arc::new(layout), root: relative(root.as_ref())? })
    }

    /// The kernel interface in use.
    pub fn version(&self) -> Version {
        match &*self.layout {
            Layout::V1(_) => Version::V1,
            Layout::V2(_) => Version::V2,
        }
    }

    /// Where the controllers are mounted.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The root group, relative to the mounts; empty for the top.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The group at `path` beneath the root ("" is the root itself). Touches nothing.
    /// A leading slash is accepted, since CRI's `cgroup_parent` has one.
    pub fn group(&self, path: impl AsRef<Path>) -> Result<Group> {
        let path = relative(path.as_ref())?;
        Ok(Group::new(self.clone(), self.root.join(path)))
    }
}

/// A path without a leading slash that has only plain names: nothing may climb out of the root.
pub(crate) fn relative(path: &Path) -> Result<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::InvalidPath(path.to_owned()));
            }
        }
    }
    Ok(out)
}

/// Finds the cgroup mounts in the text of a mountinfo file (proc_pid_mountinfo(5)).
pub(crate) fn parse_mountinfo(text: &str) -> Result<Layout> {
    let mut v1 = BTreeMap::new();
    let mut v2 = None;
    for line in text.lines() {
        let Some((mount, source)) = line.split_once(" - ") else {
            continue;
        };
        let Some(point) = mount.split(' ').nth(4).map(unescape) else {
            continue;
        };
        let mut source = source.split(' ');
        match (source.next(), source.nth(1)) {
            (Some("cgroup"), Some(options)) if !options.split(',').any(|o| o.starts_with("name=")) => {
                for controller in options.split(',').filter_map(Controller::of_v1) {
                    v1.entry(controller).or_insert_with(|| point.clone());
                }
            }
            (Some("cgroup2"), _) if v2.is_none() => v2 = Some(point),
            _ => {}
        }
    }
    // The memory controller decides: it is in one hierarchy only, and nothing works without it.
    match (v1.contains_key(&Controller::Memory), v2) {
        (true, _) => Ok(Layout::V1(v1)),
        (false, Some(point)) => Ok(Layout::V2(point)),
        (false, None) => Err(Error::NoHierarchy("no memory controller is mounted".into())),
    }
}

/// Undoes the octal escapes of mountinfo (space, tab, newline, backslash).
fn unescape(field: &str) -> PathBuf {
    let mut out = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|d| u8::from_str_radix(d, 8).ok());
        match code {
            Some(byte) => {
                out.push(byte as char);
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    PathBuf::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_machine_counts_as_v1_and_named_hierarchies_are_ignored() {
        let Layout::V1(mounts) = parse_mountinfo(HYBRID).unwrap() else { panic!("v2") };
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[&Controller::Cpu], Path::new("/sys/fs/cgroup/cpu"));
        assert_eq!(mounts[&Controller::Memory], Path::new("/sys/fs/cgroup/memory"));
    }

    #[test]
    fn controllers_of_a_joint_mount_share_its_mount_point() {
        let text = "1 2 0:1 / /c\\040g/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                    1 2 0:1 / /m rw - cgroup cgroup rw,memory\n";
        let Layout::V1(mounts) = parse_mountinfo(text).unwrap() else { panic!("v2") };
        assert_eq!(mounts[&Controller::Cpu], mounts[&Controller::Cpuacct]);
        assert_eq!(mounts[&Controller::Cpu], Path::new("/c g/cpu,cpuacct"));
    }

    #[test]
    fn a_unified_machine_is_v2() {
        let text = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(parse_mountinfo(text).unwrap(), Layout::V2("/sys/fs/cgroup".into()));
    }

    #[test]
    fn a_machine_without_a_memory_controller_is_refused() {
        let text = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        assert!(matches!(parse_mountinfo(text), Err(Error::NoHierarchy(_))));
    }

    #[test]
    fn a_path_cannot_climb_out_of_the_root() {
        for (path, good) in [("/a/b", true), ("a", true), ("", true), ("a/../b", false), ("..", false)] {
            assert_eq!(relative(Path::new(path)).is_ok(), good, "{path}");
        }
    }
}
