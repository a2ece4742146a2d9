//! CheckpointContainer: CRIU writes the processes of a running container down, and an archive of them and of what the
//! container has changed of its image comes to lie at the caller's location. The container goes on.
//!
//! ```text
//! <root>/containers/<id>/checkpoint/     made anew each time, removed at the end, and with the container at the latest
//!   images/      what CRIU writes of the processes
//!   upper/       a copy of the writable layer, made while the processes stand still
//!   dump.log, stats-dump, copy-layer
//! <location>.<id>.part                   renamed to <location> when it is whole
//! ```

mod archive;
mod criu;
mod layer;
mod metadata;

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Container;
use super::remove::remove_directory;
use crate::engine::{Engine, blocking};
use crate::error::{Context, CriError, Result, excerpt};
use crate::request::seconds;

/// How long a checkpoint may take whose caller sets no limit.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
/// The longest limit that is honoured; longer ones mean this.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

impl Engine {
    /// Writes a running container down. Whatever fails, the container goes on and nothing stays behind.
    pub(crate) async fn checkpoint_container(self: Arc<Self>, id: &str, location: &str, timeout: i64) -> Result<()> {
        let patience = match seconds("timeout", timeout)? {
            0 => DEFAULT_TIMEOUT,
            seconds => Duration::from_secs(seconds).min(LONGEST_TIMEOUT),
        };
        let location = check_location(location)?;
        let container = self.registry.container(id)?;
        // Nobody removes it meanwhile, and two do not write into the same directory.
        let _turn = container.turn.lock().await;
        if !container.is_running() {
            let state = container.state().as_str_name();
            return Err(CriError::Precondition(format!("container {id} is {state}; there is nothing to write down")));
        }
        if let Some(program) = &container.meta.external {
            let handler = &program.handler;
            return Err(CriError::Unsupported(format!(
                "container {id} is of the runtime handler {handler:?}; only podd's own containers can be checkpointed"
            )));
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = criu::find(&self.config.criu, &path)?;
        let parent = location.parent().unwrap_or(Path::new("/"));
        if !parent.is_dir() {
            return Err(CriError::Precondition(format!("location: there is no directory {}", parent.display())));
        }
        let directory = self.paths.container(container.id()).checkpoint();
        let deadline = Instant::now() + patience;
        let written = self.write_down(&container, &program, &directory, &location, deadline).await;
        let written = written.map_err(|error| match error {
            _ if Instant::now() >= deadline => CriError::Deadline(format!(
                "the checkpoint of container {} was not done after {} s",
                container.id(),
                patience.as_secs()
            )),
            error => error,
        });
        let removed =
            blocking(move || remove_directory(&directory).context(|| format!("remove {}", directory.display()))).await;
        if let (Err(_), Err(left)) = (&written, &removed) {
            tracing::warn!(container = container.id(), error = left.chain(), "a checkpoint that failed has left files");
        }
        written?;
        removed?;
        tracing::info!(container = container.id(), location = %location.display(), "container checkpointed");
        Ok(())
    }

    async fn write_down(
        &self,
        container: &Container,
        program: &Path,
        directory: &Path,
        location: &Path,
        deadline: Instant,
    ) -> Result<()> {
        let paths = self.paths.container(container.id());
        let target =
            criu::Target { pid: container.status().pid, upper: paths.upper(), directory: directory.to_owned() };
        let place = directory.to_owned();
        let patience = deadline.saturating_duration_since(Instant::now());
        let plan = blocking(move || {
            make_directories(&place)?;
            criu::plan(&target, patience)
        })
        .await?;
        let what = || format!("checkpoint container {} with {}", container.id(), program.display());
        // Cancelled, the dump ends CRIU.
        let dumped = tokio::time::timeout_at(deadline, criu::dump(program, &plan)).await.context(what)?;
        dumped.context(what)?;
        let described = metadata::describe(self, container)?;
        let part = archive::Part::new(location, container.id());
        let (directory, location, layers) = (directory.to_owned(), location.to_owned(), container.meta.layers.clone());
        blocking(move || {
            let what = || format!("write the checkpoint to {}", location.display());
            archive::write(&part, &directory, &layers, &described, deadline.into_std()).context(what)?;
            part.finish(&location).context(what)
        })
        .await
    }
}

/// Where CRIU works, empty.
fn make_directories(directory: &Path) -> Result<()> {
    let what = || format!("make {}", directory.display());
    remove_directory(directory).context(what)?;
    let images = directory.join(criu::IMAGES);
    std::os::unix::fs::DirBuilderExt::mode(fs::DirBuilder::new().recursive(true), 0o700).create(images).context(what)
}

/// Where the archive goes: a file of the host, named without detours.
fn check_location(location: &str) -> Result<PathBuf> {
    let path = Path::new(location);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain || path.file_name().is_none() || location.contains('\0') {
        let location = excerpt(location);
        return Err(CriError::invalid(format!(
            "location {location} must be the absolute path of a file, without \"..\""
        )));
    }
    Ok(path.to_owned())
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
}
