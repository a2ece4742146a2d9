//! What a container's file system is made of: its root, what is mounted in it, its devices.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::spec::IdMaps;

/// The root file system, as layers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rootfs {
    /// Unpacked layers, topmost first, absolute paths shorter than 256 bytes; at least one.
    pub lower: Vec<PathBuf>,
    /// The writable layer; an existing directory.
    #[serde(default)]
    pub upper: Option<PathBuf>,
    /// Overlay's work directory, on the same file system as `upper`; an existing directory.
    #[serde(default)]
    pub work: Option<PathBuf>,
    /// The container can't write. `upper` then only serves to make missing mount points, and may be absent.
    #[serde(default)]
    pub readonly: bool,
    /// Where the root is mounted, in the container's mount namespace, before the container enters it; an existing
    /// directory, for hooks to find it. `None` means over the topmost layer.
    #[serde(default)]
    pub mount_point: Option<PathBuf>,
}

/// One mount of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the container; links in it are resolved inside; made when missing.
    pub destination: PathBuf,
    /// What is mounted.
    pub kind: MountKind,
    /// The mount (not those below it) refuses writes.
    #[serde(default)]
    pub readonly: bool,
    /// Those below it refuse writes too.
    #[serde(default)]
    pub recursive_readonly: bool,
    /// How mounts made later travel between the host and the container.
    #[serde(default)]
    pub propagation: Propagation,
    /// `nosuid`.
    #[serde(default)]
    pub nosuid: bool,
    /// `nodev`.
    #[serde(default)]
    pub nodev: bool,
    /// `noexec`.
    #[serde(default)]
    pub noexec: bool,
    /// A bind mount shows files by these ids: who is `inside` on the disk is `outside` to the machine.
    #[serde(default)]
    pub ids: Option<IdMaps>,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    /// A file or directory of the host, with the mounts below it when `recursive`.
    Bind {
        /// Absolute host path; must exist. A link at its end is followed.
        source: PathBuf,
        /// Take the mounts below it along.
        #[serde(default)]
        recursive: bool,
    },
    /// The content of an image. Always read-only.
    Image {
        /// Unpacked layers, topmost first; at least one.
        lower: Vec<PathBuf>,
        /// A directory or file of it instead of its root; links in it are resolved inside the image.
        #[serde(default)]
        sub_path: Option<PathBuf>,
    },
    /// Memory.
    Tmpfs {
        /// Size limit in bytes; `None` is the kernel's default (half of the memory).
        #[serde(default)]
        size: Option<u64>,
        /// Mode of its root; `None` is 01777.
        #[serde(default)]
        mode: Option<u32>,
    },
    /// The container's processes.
    Proc,
    /// Kernel objects, for the container's network namespace.
    Sysfs,
    /// POSIX message queues.
    Mqueue,
    /// The cgroup hierarchies, from the container's own group down.
    Cgroup,
}

impl Default for MountKind {
    fn default() -> Self {
        Self::Tmpfs { size: None, mode: None }
    }
}

/// Mount propagation, seen from the container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// Nothing travels.
    #[default]
    Private,
    /// From the host to the container (`HostToContainer`).
    Slave,
    /// Both ways (`Bidirectional`).
    Shared,
}

/// A device node to make under `/dev`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Absolute path inside the container.
    pub path: PathBuf,
    /// Character or block.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    #[serde(default)]
    pub uid: u32,
    /// Group.
    #[serde(default)]
    pub gid: u32,
}

/// The kinds of node in `/dev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// Character device.
    Char,
    /// Block device.
    Block,
    /// Named pipe; it has no numbers.
    Fifo,
}
