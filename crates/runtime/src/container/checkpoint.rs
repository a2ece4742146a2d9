//! CheckpointContainer: needs CRIU, and says so where it is not installed.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Access, access};

use crate::engine::Engine;
use crate::error::{CriError, Result, excerpt};
use crate::request::seconds;

/// The program that writes down a process tree.
const CRIU: &str = "criu";

impl Engine {
    /// Refuses, for the first of these reasons: the request is wrong, the container does not run, the machine cannot
    /// do it, podd cannot.
    pub(crate) async fn checkpoint_container(self: Arc<Self>, id: &str, location: &str, timeout: i64) -> Result<()> {
        let _whole_seconds = seconds("timeout", timeout)?;
        check_location(location)?;
        let container = self.registry.container(id)?;
        if !container.is_running() {
            let state = container.state().as_str_name();
            return Err(CriError::Precondition(format!("container {id} is {state}; there is nothing to write down")));
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        match find(CRIU, &path) {
            None => Err(CriError::Precondition(format!(
                "a checkpoint needs CRIU, and there is no program {CRIU:?} in PATH {path:?}"
            ))),
            Some(program) => Err(CriError::Unsupported(format!(
                "checkpoints are not implemented, although {} is installed",
                program.display()
            ))),
        }
    }
}

/// Where the archive goes: a file of the host, named without detours.
fn check_location(location: &str) -> Result<()> {
    let path = Path::new(location);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain || path.file_name().is_none() || location.contains('\0') {
        let location = excerpt(location);
        return Err(CriError::invalid(format!(
            "location {location} must be the absolute path of a file, without \"..\""
        )));
    }
    Ok(())
}

/// A program as execvp(3) would find it.
fn find(program: &str, path: &OsStr) -> Option<PathBuf> {
    let executable = |file: &PathBuf| file.is_file() && access(file, Access::EXEC_OK).is_ok();
    std::env::split_paths(path).filter(|directory| directory.is_absolute()).map(|d| d.join(program)).find(executable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_a_file_of_the_host_named_without_detours() {
        assert!(check_location("/var/lib/kubelet/checkpoints/a.tar").is_ok());
        for wrong in ["", "a.tar", "/", "/a/../b.tar", "/a\0.tar", "../a"] {
            assert!(matches!(check_location(wrong), Err(CriError::Invalid(text)) if text.starts_with("location ")));
        }
    }

    #[test]
    fn a_program_is_found_where_it_can_be_run() {
        let directory = tempfile::tempdir().expect("tempdir");
        let file = directory.path().join("criu");
        assert_eq!(find("criu", directory.path().as_os_str()), None);
        std::fs::write(&file, "").expect("write");
        assert_eq!(find("criu", directory.path().as_os_str()), None, "not to be run");
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let both = std::env::join_paths([Path::new("/nowhere"), directory.path()]).expect("join");
        assert_eq!(find("criu", &both), Some(file));
    }
}
