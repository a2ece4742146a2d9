//! What the runtime asks for: sandboxes, containers, processes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::external::{External, Launch};
use super::files::{Device, Mount, Rootfs};
use super::hook::InsideHooks;

/// The pod's share of a shim, sent once, with the descriptors of `namespaces` in that order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The sandbox id; also the shim's process title.
    pub id: String,
    /// The kinds of the namespace descriptors that come with the request. A kind that is absent is the host's.
    #[serde(default)]
    pub namespaces: Vec<NamespaceKind>,
    /// Files to which the shim writes "0" to enter its own cgroup (v1: `tasks` per controller; v2: `cgroup.procs`).
    #[serde(default)]
    pub cgroup_join: Vec<PathBuf>,
    /// `oom_score_adj` of the shim itself; lowering is clamped where the kernel forbids it.
    #[serde(default)]
    pub oom_score_adj: Option<i32>,
    /// Containers share one PID namespace, whose PID 1 is a small reaper.
    #[serde(default)]
    pub pid_namespace: bool,
    /// The reaper's cgroup, in the form of `cgroup_join`: the pod's.
    #[serde(default)]
    pub init_cgroup_join: Vec<PathBuf>,
    /// The pod has a user namespace of its own, which the shim makes.
    #[serde(default)]
    pub user: Option<UserNamespace>,
}

/// A pod's user namespace, and those that belong to it because they are made inside.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// Its ids; id 0 inside has to be among them.
    pub ids: IdMaps,
    /// The namespaces that are made in it (net, ipc, uts), rather than given as descriptors.
    #[serde(default)]
    pub inside: Vec<NamespaceKind>,
    /// Host name, for a UTS namespace made inside.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Kernel parameters by file below `/proc/sys`, which belong to the namespaces made inside.
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
}

/// What ids of a user namespace are outside of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// Users.
    pub uids: Vec<IdRange>,
    /// Groups.
    pub gids: Vec<IdRange>,
}

/// Ids from `inside` are those from `outside` of the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first in the namespace.
    pub inside: u32,
    /// The first on the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl IdMaps {
    /// The host's ids of a user and a group in the namespace.
    pub fn outside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        let find = |ranges: &[IdRange], id: u32| {
            let range = ranges.iter().find(|range| id >= range.inside && id - range.inside < range.count)?;
            range.outside.checked_add(id - range.inside)
        };
        Some((find(&self.uids, uid)?, find(&self.gids, gid)?))
    }
}

/// A namespace that a sandbox can own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceKind {
    /// Network devices, addresses, routes.
    Net,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host name and domain name.
    Uts,
    /// Process ids (in replies only: the shim makes it).
    Pid,
    /// Users and groups (in replies only: the shim makes it).
    User,
}

/// Everything that makes a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The container id.
    pub id: String,
    /// The first process.
    pub process: Process,
    /// Root file system.
    pub rootfs: Rootfs,
    /// Mounts beyond the default set, in order. The default set is `/proc`, `/sys` (read-only unless `sysfs_writable`),
    /// `/dev` with its nodes, `/dev/pts`, `/dev/shm` (a private tmpfs of 64 MiB) and `/dev/mqueue`; a mount here with
    /// the same destination takes the place of the default.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Directories and files hidden from the container, absolute inside it; those that do not exist are skipped.
    #[serde(default)]
    pub masked_paths: Vec<PathBuf>,
    /// Paths made read-only, absolute inside the container; those that do not exist are skipped.
    #[serde(default)]
    pub readonly_paths: Vec<PathBuf>,
    /// `/sys` and `/proc/sys` stay writable (privileged containers).
    #[serde(default)]
    pub sysfs_writable: bool,
    /// Device nodes beyond the default set.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Which namespaces the container lives in.
    #[serde(default)]
    pub namespaces: Namespaces,
    /// Its cgroup.
    #[serde(default)]
    pub cgroup: CgroupSpec,
    /// Where stdout and stderr go; `None` reads and drops them.
    #[serde(default)]
    pub log: Option<LogSpec>,
    /// A stdin pipe is kept open (otherwise stdin is `/dev/null`). Ignored with `tty`, which always has one.
    #[serde(default)]
    pub stdin: bool,
    /// stdin closes when the first attached client leaves.
    #[serde(default)]
    pub stdin_once: bool,
    /// The process gets a terminal; its output is logged as stdout.
    #[serde(default)]
    pub tty: bool,
    /// Terminal size at the start.
    #[serde(default)]
    pub window: Option<WindowSize>,
    /// How long the child may take to set itself up, in milliseconds; 0 means the shim's default (60 s).
    #[serde(default)]
    pub deadline_ms: u64,
    /// Hooks that run in its namespaces.
    #[serde(default)]
    pub hooks: InsideHooks,
    /// Another runtime makes it; then hooks are that one's to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<Box<External>>,
}

/// A process to run, in a container that is made or in one that runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments; the program is looked up in the `PATH` of `env` when it has no slash.
    pub args: Vec<String>,
    /// `NAME=value` entries. `HOME` is added from `/etc/passwd` when absent, `PATH` never.
    #[serde(default)]
    pub env: Vec<String>,
    /// Working directory inside the container; created when missing; empty means `/`.
    #[serde(default)]
    pub cwd: PathBuf,
    /// Who runs it.
    #[serde(default)]
    pub user: UserSpec,
    /// Capability sets; what the machine's bounding set lacks is left out silently.
    #[serde(default)]
    pub capabilities: CapabilitySets,
    /// `PR_SET_NO_NEW_PRIVS`.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// System call filter.
    #[serde(default)]
    pub seccomp: Seccomp,
    /// The AppArmor profile that confines it, by the kernel's name for it.
    #[serde(default)]
    pub apparmor: Option<String>,
    /// Resource limits, set before privileges go.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// `oom_score_adj`; clamped with a warning where the kernel forbids it.
    #[serde(default)]
    pub oom_score_adj: Option<i32>,
    /// File mode creation mask; `None` means 0022.
    #[serde(default)]
    pub umask: Option<u32>,
}

/// A user as image and manifest name it; resolved under the container's root by `/etc/passwd` and `/etc/group`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UserSpec {
    /// The image's `USER` (`name`, `uid`, `name:group`, …) or CRI's user name; empty means root.
    #[serde(default)]
    pub user: String,
    /// Overrides the uid of `user` (CRI's `run_as_user`).
    #[serde(default)]
    pub uid: Option<u32>,
    /// Overrides the primary group (CRI's `run_as_group`).
    #[serde(default)]
    pub gid: Option<u32>,
    /// Groups beyond the primary one.
    #[serde(default)]
    pub additional_gids: Vec<u32>,
    /// Whether `/etc/group` of the image adds to them.
    #[serde(default)]
    pub groups: Groups,
}

/// CRI's supplemental groups policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Groups {
    /// `additional_gids` and what the image's `/etc/group` says of the user.
    #[default]
    Merge,
    /// `additional_gids` alone.
    Strict,
}

/// Capability sets as masks, bit = capability number (`podd_sys::capability`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitySets {
    /// Upper bound for everything the process will ever exec.
    pub bounding: u64,
    /// In force.
    pub effective: u64,
    /// May be put in force.
    pub permitted: u64,
    /// Kept over exec of files with inheritable bits.
    pub inheritable: u64,
    /// Kept over exec by a user other than root.
    pub ambient: u64,
}

/// The system call filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// None.
    Unconfined,
    /// The built-in profile, for the container's bounding capabilities.
    #[default]
    RuntimeDefault,
    /// A compiled program, `sock_filter` records in hexadecimal (16 digits each, memory order), and filter flags.
    Filter {
        /// The program.
        program: String,
        /// `SECCOMP_FILTER_FLAG_*`.
        #[serde(default)]
        flags: u32,
    },
}

/// One resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Kernel name without the prefix, in any case: `nofile`, `core`, …
    pub resource: String,
    /// Soft limit; `u64::MAX` is infinity.
    pub soft: u64,
    /// Hard limit; raising it is clamped with a warning where the kernel forbids it.
    pub hard: u64,
}

/// The namespaces of a container; the mount namespace is always its own, the user namespace the sandbox's if that has one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Network.
    #[serde(default)]
    pub net: Scope,
    /// IPC.
    #[serde(default)]
    pub ipc: Scope,
    /// UTS.
    #[serde(default)]
    pub uts: Scope,
    /// Processes.
    #[serde(default)]
    pub pid: PidNamespace,
    /// The container sees the host's cgroup tree instead of its own part as the root.
    #[serde(default)]
    pub host_cgroup: bool,
}

/// Whose namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The sandbox's, or the host's where the sandbox has none of this kind.
    #[default]
    Pod,
    /// The host's.
    Host,
}

/// Whose processes a container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PidNamespace {
    /// Its own, with its first process as PID 1.
    #[default]
    Private,
    /// The sandbox's (`SandboxSpec::pid_namespace`).
    Pod,
    /// The host's.
    Host,
    /// That of another container of the sandbox, by id.
    Target(String),
}

/// A container's cgroup.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CgroupSpec {
    /// Files to which the child itself writes "0" (v1: `tasks` per controller). Writing a pid from outside would cost
    /// a grace period of milliseconds.
    #[serde(default)]
    pub join: Vec<PathBuf>,
    /// v2: the directory the child is cloned into.
    #[serde(default)]
    pub v2_dir: Option<PathBuf>,
    /// The file with an `oom_kill N` line (v1 `memory.oom_control`, v2 `memory.events`).
    #[serde(default)]
    pub oom_counter: Option<PathBuf>,
}

/// Where a container's output goes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LogSpec {
    /// The log file; its directory exists.
    pub path: PathBuf,
    /// When it rotates.
    #[serde(default)]
    pub limits: LogLimits,
}

/// When a log rotates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// Bytes after which the file is rotated; 0 never.
    #[serde(default)]
    pub max_size: u64,
    /// Files kept, the live one included; 0 keeps all.
    #[serde(default)]
    pub max_files: u32,
}

/// Terminal size in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// A process to run in a running container, with the descriptors of `stdio` in that order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// The container.
    pub container: String,
    /// The exec's own id, unique in the container until forgotten.
    pub id: String,
    /// The process.
    pub process: Process,
    /// Which descriptors come along; those absent are `/dev/null`. Must be empty with `tty`.
    #[serde(default)]
    pub stdio: Vec<Stdio>,
    /// The process gets a terminal, whose master comes with the reply.
    #[serde(default)]
    pub tty: bool,
    /// Terminal size at the start.
    #[serde(default)]
    pub window: Option<WindowSize>,
    /// As in [`ContainerSpec::deadline_ms`].
    #[serde(default)]
    pub deadline_ms: u64,
    /// Another runtime's program starts it; of `process`, `oom_score_adj` alone is the shim's then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<Box<Launch>>,
}

/// A standard descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdio {
    /// 0.
    Stdin,
    /// 1.
    Stdout,
    /// 2.
    Stderr,
}
