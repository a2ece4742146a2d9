//! What can go wrong with a control group, with the kind a caller chooses by.

use std::io;
use std::path::PathBuf;

/// An operation on a control group that did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cgroup mounts of this machine could not be read or make no usable hierarchy.
    #[error("no usable cgroup hierarchy: {0}")]
    NoHierarchy(String),
    /// A group path that is absolute in a wrong way, empty in the middle or points upwards.
    #[error("invalid group path {0:?}")]
    InvalidPath(PathBuf),
    /// A limit that the kernel, or the table of limits, cannot express.
    #[error("invalid limit {file} = {value:?}: {why}")]
    InvalidLimit {
        /// The cgroup file, or the name of the limit.
        file: String,
        /// What was asked for.
        value: String,
        /// Why it cannot be had.
        why: String,
    },
    /// The controller that carries a limit is not there.
    #[error("the {controller} controller is not available at {path}")]
    NoController {
        /// Kernel name of the controller.
        controller: &'static str,
        /// The group that lacks it.
        path: PathBuf,
    },
    /// A file system call on a cgroup file.
    #[error("{op} {path}")]
    Io {
        /// What was tried, as a verb.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The group still had processes or children when the time was up.
    #[error("cgroup {path} is still busy after {waited_ms} ms")]
    Busy {
        /// The directory that would not go.
        path: PathBuf,
        /// How long removal was retried, in milliseconds.
        waited_ms: u64,
    },
}

/// What a caller can decide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The group does not exist.
    NotFound,
    /// The request itself is wrong; trying again will not help.
    Invalid,
    /// The machine lacks the controller or the privilege.
    Unsupported,
    /// Processes are left; trying again may help.
    Busy,
    /// Anything else the kernel answered.
    Other,
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::NoHierarchy(_) | Error::NoController { .. } => ErrorKind::Unsupported,
            Error::InvalidPath(_) | Error::InvalidLimit { .. } => ErrorKind::Invalid,
            Error::Busy { .. } => ErrorKind::Busy,
            Error::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::InvalidInput => ErrorKind::Invalid,
                io::ErrorKind::PermissionDenied => ErrorKind::Unsupported,
                io::ErrorKind::ResourceBusy => ErrorKind::Busy,
                // A cgroup removed while one of its files is open answers ENODEV.
                _ if source.raw_os_error() == Some(19) => ErrorKind::NotFound,
                // A number that no CPU or memory node can have: ERANGE.
                _ if source.raw_os_error() == Some(34) => ErrorKind::Invalid,
                _ => ErrorKind::Other,
            },
        }
    }

    pub(crate) fn io(op: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Error::Io { op, path: path.into(), source }
    }
}
