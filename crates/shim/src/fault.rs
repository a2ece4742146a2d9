//! Errors on their way to the runtime: what was tried, on what, and the kernel's answer.

use std::io;
use std::path::Path;

use podd_shim::wire::{ShimError, ShimErrorKind};

/// A result whose error can cross the wire.
pub(crate) type Outcome<T> = Result<T, ShimError>;

/// Names the stage of a failed system call.
pub(crate) trait Stage<T> {
    /// `stage` failed.
    fn stage(self, stage: &str) -> Outcome<T>;
    /// `stage` failed on `path`.
    fn on(self, stage: &str, path: &Path) -> Outcome<T>;
}

impl<T, E: Into<io::Error>> Stage<T> for Result<T, E> {
    fn stage(self, stage: &str) -> Outcome<T> {
        self.map_err(|error| system(stage, None, &error.into()))
    }

    fn on(self, stage: &str, path: &Path) -> Outcome<T> {
        self.map_err(|error| system(stage, Some(path), &error.into()))
    }
}

/// A failed system call.
pub(crate) fn system(stage: &str, path: Option<&Path>, error: &io::Error) -> ShimError {
    ShimError {
        kind: ShimErrorKind::System,
        stage: stage.into(),
        path: path.map(Path::to_path_buf),
        errno: error.raw_os_error(),
        message: error.to_string(),
    }
}

/// A refusal.
pub(crate) fn refuse(kind: ShimErrorKind, stage: &str, message: impl Into<String>) -> ShimError {
    ShimError { kind, stage: stage.into(), path: None, errno: None, message: message.into() }
}
