//! Where programs are that podd runs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// Finds a program: an absolute path as it is, a name in `path` as execvp(3) would.
pub(crate) fn find(program: &Path, path: &OsStr) -> Option<PathBuf> {
    let executable = |file: &PathBuf| file.is_file() && access(file, Access::EXEC_OK).is_ok();
    if program.is_absolute() {
        return Some(program.to_owned()).filter(executable);
    }
    let mut places = std::env::split_paths(path).filter(|place| place.is_absolute()).map(|place| place.join(program));
    places.find(executable)
}
