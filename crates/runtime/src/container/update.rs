//! UpdateContainerResources: live limits, all of them or none; and ReopenContainerLog.

use std::sync::Arc;

use podd_cri::v1::LinuxContainerResources;
use podd_nri::message::Event;
use podd_shim::wire::Request;

use super::create::refused_limit;
use super::{Container, limits};
use crate::engine::{Engine, blocking};
use crate::error::{Context, CriError, Result};
use crate::records::{Resources, Stage};
use crate::request::check_resources;

impl Engine {
    /// Changes the limits of a container that has not ended.
    pub(crate) async fn update_container(self: Arc<Self>, id: &str, update: LinuxContainerResources) -> Result<()> {
        check_resources(&update)?;
        let _gate = self.enter_nri().await;
        let container = self.registry.container(id)?;
        let update = self.adjust_update(&container, Resources::from(&update)).await?;
        self.change_resources(&container, update).await?;
        self.announce_container(Event::PostUpdateContainer, &container).await;
        Ok(())
    }

    /// As [`Self::update_container`], for whoever has asked the plugins, or is one.
    pub(crate) async fn change_resources(&self, container: &Container, update: Resources) -> Result<()> {
        let id = container.id();
        let _turn = container.turn.lock().await;
        let status = container.status();
        if matches!(status.stage, Stage::Creating | Stage::Exited(_)) || status.removing {
            let state = container.state().as_str_name();
            return Err(CriError::Precondition(format!("container {id} is {state}; its resources cannot be updated")));
        }
        let group = self.cgroups.group(&container.meta.cgroup).context(|| "name the container's cgroup")?;
        let present = status.resources;
        let wanted = limits::limits(&update);
        let (before, undo) = (present.clone(), limits::limits(&present));
        // systemd first: it rounds, and the files have the last word.
        let unit = &container.meta.cgroup;
        self.update_scope(unit, &wanted).await?;
        let was = undo.clone();
        let updated = blocking(move || {
            group.update(&wanted).map_err(|error| {
                // All or nothing: back to what stood before.
                if let Err(error) = group.update(&undo) {
                    tracing::warn!(?before, %error, "restore limits after a refused update");
                }
                refused_limit(error)
            })
        })
        .await;
        if let Err(error) = updated {
            if let Err(error) = self.update_scope(unit, &was).await {
                tracing::warn!(error = error.chain(), "restore systemd's limits after a refused update");
            }
            return Err(error);
        }
        container.change(|status| status.resources = limits::merged(&present, update))?;
        tracing::info!(container = container.id(), "container resources updated");
        Ok(())
    }

    /// Has the shim open the log anew, after someone renamed it.
    pub(crate) async fn reopen_log(self: Arc<Self>, id: &str) -> Result<()> {
        let container = self.registry.container(id)?;
        if !container.is_running() {
            let state = container.state().as_str_name();
            return Err(CriError::Precondition(format!("container {id} is {state}; it has no open log")));
        }
        let shim = container.sandbox.shim()?;
        shim.client.order(Request::ReopenLog { id: container.id().to_owned() }).await
    }
}
