//! Containers that another OCI runtime makes: its program is run for each step (the command line of runc, which the others share).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::message::ResolvedUser;
use super::spec::NamespaceKind;

/// One run of the program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The program, an absolute path, and its arguments.
    pub args: Vec<String>,
    /// Its whole environment, `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// Where it says why it has failed: a JSON object with `level` and `msg` on each line.
    pub log: PathBuf,
}

/// A run that leaves a process behind, as a child of whoever ran it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// What is run.
    pub command: Command,
    /// Where it writes the process's id.
    pub pid_file: PathBuf,
    /// The socket over which it sends the process's terminal, if that has one; the shim makes it and takes it away.
    #[serde(default)]
    pub console: Option<PathBuf>,
}

/// How a container is made and started by another program. The shim mounts, in a mount namespace that it gives the program
/// alone, the root at [`Rootfs::mount_point`] and below `mounts` what [`ContainerSpec::mounts`] shows of the host and of
/// images, each under its place in that list (`0`, `1`, …); the rest is for the program's own configuration to say.
///
/// [`Rootfs::mount_point`]: super::Rootfs::mount_point
/// [`ContainerSpec::mounts`]: super::ContainerSpec::mounts
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// Makes the container up to the point of exec; its standard descriptors are the container's.
    pub create: Launch,
    /// Lets it exec.
    pub start: Command,
    /// An existing directory.
    pub mounts: PathBuf,
}

/// What the program's configuration needs and only the shim knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// As whom the container will run.
    pub user: ResolvedUser,
    /// That user's home directory.
    pub home: String,
    /// Files that stand for the namespaces which the container joins; those that are absent are the host's, or its own.
    #[serde(default)]
    pub namespaces: Vec<(NamespaceKind, PathBuf)>,
}
