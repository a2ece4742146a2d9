//! Control groups of pods and containers: one set of limits, one kind of group, on cgroup v1 and
//! v2 alike.
//!
//! - [`Hierarchy`] finds the mounts; [`Group`] is a path in it and does all the acting.
//! - [`Limits`] is what may be asked for; `limits::plan` turns it into file writes by one table,
//!   `devices` turns the device allow-list into v1 lines or an eBPF program.
//! - Attaching is the child's own act: it writes `0` into each of [`Group::join_files`] (a foreign
//!   pid in `cgroup.procs` costs an RCU grace period), or is cloned into [`Group::v2_dir`].
//!
//! Not here: which groups and numbers a pod gets (QoS tiers, shares, quota); the caller computes
//! them and builds the tree of the same [`Group`]s.
//!
//! cgroups-rs reads the statistics. It does not create groups or set limits: its v2 side always
//! reads `/sys/fs/cgroup`, its v1 side also enters the named systemd hierarchy, and both drop the
//! errors of the writes that matter (subtree_control, cpuset), so a limit could silently not bite.

mod bpf;
mod details;
mod devices;
mod error;
mod group;
mod hierarchy;
mod kill;
mod limits;
mod stats;

pub use details::{Details, DeviceIo, HugepageUse};
pub use devices::{DeviceKind, DeviceRule};
pub use error::{Error, ErrorKind, Result};
pub use group::Group;
pub use hierarchy::{Controller, Hierarchy, Layout, Version};
pub use limits::{HugepageLimit, Limits, weight_of_shares};
pub use stats::{CpuStats, IoStats, MemoryStats, Pressure, PressureLine, Stats};
