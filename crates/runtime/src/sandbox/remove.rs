//! RemovePodSandbox, and the one removal that a failed creation and recovery use, too.

use std::sync::Arc;
use std::time::Duration;

use podd_cri::v1::ContainerEventType;
use podd_nri::message::Event;

use super::Sandbox;
use crate::container::remove::remove_directory;
use crate::engine::{Engine, blocking};
use crate::error::{Context, Result};
use crate::external;
use crate::records::NamespaceMode;

/// How long the groups of a stopped sandbox may take to be empty.
const GROUP_PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// Stops a sandbox and removes it with its containers. One that is not there is removed already.
    pub(crate) async fn remove_sandbox(self: Arc<Self>, id: &str) -> Result<()> {
        let _gate = self.enter_nri().await;
        let Some(sandbox) = self.registry.sandbox_if_any(id)? else { return Ok(()) };
        let _turn = sandbox.turn.write().await;
        if self.registry.sandbox(sandbox.id()).is_err() {
            return Ok(());
        }
        self.clear_sandbox(&sandbox).await?;
        self.announce_sandbox(Event::RemovePodSandbox, &sandbox).await;
        tracing::info!(sandbox = sandbox.id(), "sandbox removed");
        self.announce(sandbox.id(), &sandbox, ContainerEventType::ContainerDeletedEvent);
        Ok(())
    }

    /// Removes a sandbox whose making did not work. What cannot be removed now stays listed, to be removed later.
    /// The caller holds the sandbox's turn.
    pub(super) async fn give_up_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        if let Err(error) = self.clear_sandbox(sandbox).await {
            tracing::warn!(sandbox = sandbox.id(), error = error.chain(), "clear up after a sandbox that was not made");
        }
    }

    /// Undoes whatever there is of a sandbox, and forgets it. Safe at any point of its life and any number of times.
    /// The caller holds the sandbox's turn.
    pub(crate) async fn clear_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        sandbox.change(|status| status.removing = true)?;
        self.halt_sandbox(sandbox).await?;
        for container in self.registry.containers_in(sandbox.id()) {
            self.remove_whole_container(&container).await?;
        }
        if sandbox.meta.namespaces.pid == NamespaceMode::Pod {
            self.stop_unit(&super::run::init_path(&sandbox.meta)).await?;
        }
        if sandbox.meta.owns_cgroup {
            self.stop_unit(&sandbox.meta.cgroup_parent).await?;
        }
        let (engine, cleared) = (Arc::clone(self), Arc::clone(sandbox));
        blocking(move || engine.remove_what_is_left(&cleared)).await?;
        if external::is_foreign(&self.config.handlers, &sandbox.meta.runtime_handler) {
            let _nobody_makes_any = self.groups_beside.write().await;
            let (engine, parent) = (Arc::clone(self), sandbox.meta.cgroup_parent.clone());
            blocking(move || external::groups::remove_beside(engine.cgroups.layout(), &parent)).await;
        }
        sandbox.forget_record().context(|| format!("remove the record of sandbox {}", sandbox.id()))?;
        self.registry.drop_sandbox(sandbox);
        Ok(())
    }

    fn remove_what_is_left(&self, sandbox: &Sandbox) -> Result<()> {
        let meta = &sandbox.meta;
        let what = || format!("remove the cgroup of sandbox {}", sandbox.id());
        if meta.namespaces.pid == NamespaceMode::Pod {
            self.init_group(meta)?.remove(GROUP_PATIENCE).context(what)?;
        }
        if meta.owns_cgroup {
            let group = self.cgroups.group(&meta.cgroup_parent).context(what)?;
            group.remove(GROUP_PATIENCE).context(what)?;
        }
        let directory = self.paths.sandbox(sandbox.id()).directory;
        remove_directory(&directory).context(|| format!("remove {}", directory.display()))
    }
}
