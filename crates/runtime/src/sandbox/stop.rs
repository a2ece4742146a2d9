//! StopPodSandbox: everything in it ends, its network is given back. Each step is fine with its work being done
//! already, so that it can be called again and again, and finishes what a crash has interrupted.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use podd_cri::v1::ContainerEventType;
use podd_nri::message::Event;
use podd_shim::wire::Request;

use super::{Sandbox, Shim, files};
use crate::container::Container;
use crate::container::start::unseen;
use crate::engine::{Engine, blocking};
use crate::error::{CriError, Result};
use crate::network;
use crate::records::{SandboxStage, Stage};

/// How long a shim may take to leave after it was asked to.
const SHIM_PATIENCE: Duration = Duration::from_secs(5);

impl Engine {
    /// Stops a sandbox. One that is not there, or stopped, is stopped already.
    pub(crate) async fn stop_sandbox(self: Arc<Self>, id: &str) -> Result<()> {
        let _gate = self.enter_nri().await;
        let Some(sandbox) = self.registry.sandbox_if_any(id)? else { return Ok(()) };
        let _turn = sandbox.turn.write().await;
        if self.registry.sandbox(sandbox.id()).is_err() {
            // Removed while this waited for its turn; its record must not come back.
            return Ok(());
        }
        self.halt_sandbox(&sandbox).await
    }

    /// The caller holds the plugins' gate and the sandbox's turn.
    pub(crate) async fn halt_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        let was_ready = sandbox.status().stage == SandboxStage::Ready;
        // First of all, so that a crash from here on is finished by the next start.
        sandbox.change(|status| status.stage = SandboxStage::NotReady)?;
        let containers = self.registry.containers_in(sandbox.id());
        if sandbox.shim_if_alive().is_some_and(|shim| !shim.client.is_lost()) {
            let stops = containers.iter().map(|container| self.stop_within(container, Duration::ZERO));
            for error in join_all(stops).await.into_iter().filter_map(Result::err) {
                // Burying it is the stronger means.
                tracing::warn!(sandbox = sandbox.id(), error = error.chain(), "stop a container of a sandbox");
            }
        }
        for container in &containers {
            self.bury(container).await;
        }
        for container in &containers {
            self.announce_stop_inside(container).await;
        }
        if was_ready {
            self.announce_sandbox(Event::StopPodSandbox, sandbox).await;
        }
        self.dismiss_shim(sandbox).await;
        let (engine, stopped) = (Arc::clone(self), Arc::clone(sandbox));
        blocking(move || engine.release(&stopped)).await?;
        sandbox.change(|status| status.ips.clear())?;
        if was_ready {
            tracing::info!(sandbox = sandbox.id(), "sandbox stopped");
            self.announce(sandbox.id(), sandbox, ContainerEventType::ContainerStoppedEvent);
        }
        Ok(())
    }

    /// Ends a container without its shim's help: one that waits for its start, one whose shim is gone, one that does
    /// not die of a signal.
    async fn bury(self: &Arc<Self>, container: &Arc<Container>) {
        let stage = container.status().stage;
        let why = match stage {
            Stage::Exited(_) | Stage::Creating => return,
            Stage::Created => "its sandbox was stopped before it started",
            Stage::Starting | Stage::Running { .. } => "its shim was gone, so its end was not seen",
        };
        self.kill_group(container).await;
        self.note_exit(container, unseen(&stage, why)).await;
    }

    /// The connection to a shim has ended, and nobody here has ended it.
    pub(crate) async fn on_shim_lost(self: &Arc<Self>, sandbox: &Arc<Sandbox>, shim: &Arc<Shim>) {
        let _gate = self.enter_nri().await;
        let _turn = sandbox.turn.write().await;
        if !sandbox.shim_if_alive().is_some_and(|current| Arc::ptr_eq(&current, shim)) {
            return;
        }
        tracing::error!(sandbox = sandbox.id(), pid = shim.process.pid, "the shim is gone; its containers are ended");
        if let Err(error) = self.halt_sandbox(sandbox).await {
            tracing::error!(sandbox = sandbox.id(), error = error.chain(), "clear up after a shim");
        }
    }

    /// Ends the shim: it is asked, then killed. Nothing of the pod is left in either case.
    async fn dismiss_shim(&self, sandbox: &Sandbox) {
        let Some(shim) = sandbox.shim_if_alive() else { return };
        sandbox.set_shim(None);
        if let Err(error) = shim.client.order(Request::Shutdown).await {
            tracing::debug!(sandbox = sandbox.id(), error = error.chain(), "the shim did not take its leave");
            shim.process.kill();
        }
        shim.client.hang_up();
        if !shim.process.ended_within(SHIM_PATIENCE).await {
            shim.process.kill();
            if !shim.process.ended_within(SHIM_PATIENCE).await {
                tracing::warn!(sandbox = sandbox.id(), pid = shim.process.pid, "a shim does not end");
            }
        }
    }

    /// Gives back what a stopped sandbox has no use for: processes that anything left behind, network, shared memory,
    /// the shim's traces.
    fn release(&self, sandbox: &Sandbox) -> Result<()> {
        let meta = &sandbox.meta;
        let mut first = Ok(());
        let mut note = |outcome: Result<()>| {
            if let Err(error) = outcome {
                tracing::warn!(sandbox = sandbox.id(), error = error.chain(), "stop a sandbox");
                if first.is_ok() {
                    first = Err(error);
                }
            }
        };
        if let Some(process) = self.launcher.process(sandbox.id()) {
            process.kill();
        }
        for container in self.registry.containers_in(sandbox.id()) {
            note(self.kill_now(&container.meta.cgroup));
        }
        note(self.kill_now(&super::run::init_path(meta)));
        note(network::detach(&self.network, &self.cni, meta));
        note(files::unmount_shm(&self.paths.sandbox(sandbox.id()).shm()));
        note(self.launcher.forget(sandbox.id()).map_err(|error| CriError::internal("forget the shim", error)));
        first
    }

    fn kill_now(&self, group: &std::path::Path) -> Result<()> {
        let outcome = self.cgroups.group(group).and_then(|group| group.kill());
        outcome.map_err(|error| CriError::internal("kill what is left in a cgroup", error))
    }
}
