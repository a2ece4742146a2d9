//! RemoveContainer, and the one removal that a failed creation and recovery use, too. Each step is fine with its work
//! being done already.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use podd_cgroup::Group;
use podd_cri::v1::ContainerEventType;
use podd_nri::message::Event;
use podd_shim::wire::Request;

use super::Container;
use crate::engine::{Engine, blocking};
use crate::error::{Context, Result};
use crate::records::Stage;

/// How long a killed container's cgroup may take to be empty.
const GROUP_PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// Removes a container, by force when it runs. One that is not there is removed already.
    pub(crate) async fn remove_container(self: Arc<Self>, id: &str) -> Result<()> {
        let Some(container) = self.registry.container_if_any(id)? else { return Ok(()) };
        // What takes its time comes before the gate.
        self.stop_within(&container, Duration::ZERO).await?;
        let _gate = self.enter_nri().await;
        self.remove_whole_container(&container).await
    }

    /// The caller holds the plugins' gate.
    pub(crate) async fn remove_whole_container(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        // Before the turn: a start that hangs ends with this.
        self.stop_within(container, Duration::ZERO).await?;
        let turn = container.turn.lock().await;
        if self.registry.container(container.id()).is_err() {
            return Ok(());
        }
        self.stop_within(container, Duration::ZERO).await?;
        let listed = container.is_listed();
        container.change(|status| status.removing = true)?;
        self.clear_container(container).await?;
        tracing::info!(container = container.id(), "container removed");
        // Plugins may answer with updates of containers, this one among them, each of which waits for its turn.
        drop(turn);
        if listed {
            self.announce_stop_inside(container).await;
            self.announce_container(Event::RemoveContainer, container).await;
            self.announce(container.id(), &container.sandbox, ContainerEventType::ContainerDeletedEvent);
        }
        Ok(())
    }

    /// Removes a container whose creation did not work. What cannot be removed now stays listed, to be removed later.
    pub(super) async fn give_up_container(self: &Arc<Self>, container: &Arc<Container>) {
        let marked = container.change(|status| status.removing = true);
        if let Err(error) = marked.and(self.clear_container(container).await) {
            tracing::warn!(container = container.id(), error = error.chain(), "clear up after a failed creation");
            let exit = super::start::unseen(&Stage::Creating, "its creation failed");
            self.note_exit(container, exit).await;
        }
    }

    /// Kills what is left in a container's group, and removes the group.
    async fn remove_group(&self, container: &Container, group: Group) -> Result<()> {
        let what = || "remove the container's cgroup";
        let killed = group.clone();
        blocking(move || killed.kill()).await.context(what)?;
        self.stop_unit(&container.meta.cgroup).await?;
        blocking(move || group.remove(GROUP_PATIENCE)).await.context(what)
    }

    /// Undoes whatever there is of a container, and forgets it. Safe at any point of its life and any number of times.
    pub(crate) async fn clear_container(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let id = container.id();
        if let Some(shim) = container.sandbox.shim_if_alive()
            && let Err(error) = shim.client.order(Request::Forget { id: id.to_owned() }).await
            && !shim.client.is_lost()
        {
            return Err(error);
        }
        let group = self.cgroups.group(&container.meta.cgroup).context(|| "name the container's cgroup")?;
        let killed = self.remove_group(container, group).await;
        self.run_poststop(container).await;
        let directory = self.paths.container(id).directory;
        let removed =
            blocking(move || remove_directory(&directory).context(|| format!("remove {}", directory.display()))).await;
        killed?;
        removed?;
        container.forget_record().context(|| format!("remove the record of container {id}"))?;
        self.registry.drop_container(container);
        container.release_layers();
        let volumes = container.meta.mounts.iter().filter_map(|mount| mount.image.as_ref()).map(|image| &image.id);
        self.collect_layers(std::iter::once(&container.meta.image.id).chain(volumes)).await;
        Ok(())
    }
}

/// Removes a directory with all that is in it; that it is gone already is fine.
pub(crate) fn remove_directory(directory: &std::path::Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
