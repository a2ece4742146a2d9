//! Where NRI's plugins come in: what the engine tells and asks them, and what they ask of it. Without a configured
//! socket each of these is one look at an empty cell, without a plugin one more load.
//!
//! Order of locks: gate, then a container's turn, then its `stop_told`; nobody waits for the gate with a container's
//! turn in hand, and no operation takes the gate twice.

mod adjust;
mod convert;

use std::sync::{Arc, Weak};
use std::time::Duration;

use podd_nri::message::{Container as Shown, ContainerEviction, ContainerUpdate, Event, PodSandbox};
use podd_nri::{Gate, Host, NriError, Plugins};

use crate::container::Container;
use crate::container::plan::Plan;
use crate::engine::Engine;
use crate::error::{Context, CriError, Result};
use crate::records::{PodResources, Resources, Stage};
use crate::sandbox::Sandbox;

/// How long an evicted container may take over its stop signal.
const EVICTION_GRACE: Duration = Duration::from_secs(30);

impl From<NriError> for CriError {
    fn from(error: NriError) -> Self {
        Self::Precondition(error.to_string())
    }
}

impl Engine {
    /// Lets plugins connect, if the configuration names a socket.
    pub(crate) fn start_nri(self: &Arc<Self>) -> Result<()> {
        let Some(socket) = &self.config.nri_socket else { return Ok(()) };
        let host: Weak<Engine> = Arc::downgrade(self);
        let plugins = Plugins::start(podd_nri::Config::new(socket), host)
            .context(|| format!("listen for NRI plugins at {}", socket.display()))?;
        // The first and only one: an engine is opened once.
        let _first = self.nri.set(plugins);
        Ok(())
    }

    /// Begins an operation that plugins may want to know of: none of them comes in until it is over.
    pub(crate) async fn enter_nri(&self) -> Option<Gate> {
        match self.nri.get() {
            Some(plugins) => Some(plugins.enter().await),
            None => None,
        }
    }

    /// The plugins, if there are any.
    fn plugins(&self) -> Option<&Arc<Plugins>> {
        self.nri.get().filter(|plugins| !plugins.is_idle())
    }

    /// Lets go of the plugins.
    pub(crate) fn hang_up_nri(&self) {
        if let Some(plugins) = self.nri.get() {
            plugins.hang_up();
        }
    }

    /// Tells about an event of a sandbox; a refusal is an error. The caller holds the gate.
    pub(crate) async fn tell_of_sandbox(
        &self,
        event: Event,
        sandbox: &Sandbox,
        ips: &[std::net::IpAddr],
    ) -> Result<()> {
        let Some(plugins) = self.plugins() else { return Ok(()) };
        let mut pod = convert::pod(sandbox);
        if !ips.is_empty() {
            pod.ips = ips.iter().map(ToString::to_string).collect();
        }
        Ok(plugins.tell(event, &pod, None).await?)
    }

    /// Tells about an event of a sandbox that no plugin can stop. The caller holds the gate.
    pub(crate) async fn announce_sandbox(&self, event: Event, sandbox: &Sandbox) {
        if let Err(error) = self.tell_of_sandbox(event, sandbox, &[]).await {
            tracing::warn!(sandbox = sandbox.id(), error = error.chain(), "an NRI plugin objects in vain");
        }
    }

    /// Tells about an event of a container; a refusal is an error. The caller holds the gate.
    pub(crate) async fn tell_of_container(&self, event: Event, container: &Container) -> Result<()> {
        let Some(plugins) = self.plugins() else { return Ok(()) };
        let (pod, shown) = (convert::pod(&container.sandbox), convert::container(container));
        Ok(plugins.tell(event, &pod, Some(&shown)).await?)
    }

    /// Tells about what no plugin can stop any more. The caller holds the gate.
    pub(crate) async fn announce_container(&self, event: Event, container: &Container) {
        if let Err(error) = self.tell_of_container(event, container).await {
            tracing::warn!(container = container.id(), error = error.chain(), "an NRI plugin objects in vain");
        }
    }

    /// Asks about other resources of a pod as a whole; a refusal is an error. The caller holds the gate.
    pub(crate) async fn tell_of_pod_update(&self, sandbox: &Sandbox, wanted: &PodResources) -> Result<()> {
        let Some(plugins) = self.plugins() else { return Ok(()) };
        let [overhead, resources] =
            [&wanted.overhead, &wanted.resources].map(|part| part.as_ref().map(convert::resources));
        Ok(plugins.update_pod(&convert::pod(sandbox), overhead, resources).await?)
    }

    /// Tells once that a container has ended, and waits for whoever tells it already. The caller does not hold the gate.
    pub(crate) async fn announce_stop(self: &Arc<Self>, container: &Container) {
        let Some(_gate) = self.enter_nri().await else { return };
        self.announce_stop_inside(container).await;
    }

    /// As [`Self::announce_stop`], for who holds the gate.
    pub(crate) async fn announce_stop_inside(self: &Arc<Self>, container: &Container) {
        if self.nri.get().is_none() {
            return;
        }
        if !matches!(container.status().stage, Stage::Exited(_)) {
            return;
        }
        let mut told = container.stop_told.lock().await;
        if std::mem::replace(&mut *told, true) {
            return;
        }
        let Some(plugins) = self.plugins() else { return };
        let (pod, shown) = (convert::pod(&container.sandbox), convert::container(container));
        let outcome = match plugins.stopped(&pod, &shown).await {
            Ok(updates) => self.apply_nri(updates.list, updates.evict).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = outcome {
            tracing::warn!(container = container.id(), error = error.chain(), "an NRI plugin objects in vain");
        }
    }

    /// As [`Self::announce_stop`], for those who cannot wait.
    pub(crate) fn announce_stop_later(self: &Arc<Self>, container: &Arc<Container>) {
        if self.nri.get().is_some() {
            let (engine, container) = (Arc::clone(self), Arc::clone(container));
            self.in_background(async move { engine.announce_stop(&container).await });
        }
    }

    /// Has the plugins change a plan. The caller holds the gate.
    pub(crate) async fn adjust_plan(self: &Arc<Self>, sandbox: &Sandbox, plan: &mut Plan) -> Result<()> {
        let Some(plugins) = self.plugins() else { return Ok(()) };
        let (pod, shown) = (convert::pod(sandbox), convert::planned(plan));
        let outcome = match plugins.create(&pod, shown.clone()).await {
            Ok(created) => match adjust::apply(created.adjust, plan, &self.config.cdi_dirs) {
                Ok(()) => self.apply_nri(created.updates, created.evict).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error.into()),
        };
        if outcome.is_err()
            && let Err(error) = plugins.tell(Event::RemoveContainer, &pod, Some(&shown)).await
        {
            // For those plugins that had agreed, and hold something for it.
            tracing::warn!(container = shown.id, %error, "an NRI plugin objects in vain");
        }
        outcome
    }

    /// Has the plugins change an update. The caller holds the gate, and not the container's turn.
    pub(crate) async fn adjust_update(self: &Arc<Self>, container: &Container, asked: Resources) -> Result<Resources> {
        let Some(plugins) = self.plugins() else { return Ok(asked) };
        let (pod, shown) = (convert::pod(&container.sandbox), convert::container(container));
        let (whole, updates) = plugins.update(&pod, &shown, convert::resources(&asked)).await?;
        let whole = Resources { oom_score_adj: asked.oom_score_adj, ..adjust::resources(&whole)? };
        self.apply_nri(updates.list, updates.evict).await?;
        Ok(whole)
    }

    /// Carries out what plugins want of other containers. The caller holds no container's turn.
    async fn apply_nri(self: &Arc<Self>, updates: Vec<ContainerUpdate>, evict: Vec<ContainerEviction>) -> Result<()> {
        for eviction in evict {
            self.evict(&eviction);
        }
        for update in updates {
            match self.apply_update(&update).await {
                Err(error) if !update.ignore_failure => return Err(error),
                Err(error) => {
                    tracing::info!(id = update.container_id, error = error.chain(), "an update that may fail")
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    async fn apply_update(self: &Arc<Self>, update: &ContainerUpdate) -> Result<()> {
        let container = self.registry.container(&update.container_id)?;
        let wanted = update.linux.as_ref().and_then(|linux| linux.resources.as_ref());
        match wanted {
            Some(wanted) => self.change_resources(&container, adjust::resources(wanted)?).await,
            None => Ok(()),
        }
    }

    fn evict(self: &Arc<Self>, eviction: &ContainerEviction) {
        let Ok(container) = self.registry.container(&eviction.container_id) else { return };
        tracing::info!(container = container.id(), reason = eviction.reason, "an NRI plugin evicts a container");
        let engine = Arc::clone(self);
        self.in_background(async move {
            if let Err(error) = engine.stop_within(&container, EVICTION_GRACE).await {
                tracing::warn!(container = container.id(), error = error.chain(), "evict a container");
            }
        });
    }
}

#[tonic::async_trait]
impl Host for Engine {
    async fn inventory(&self) -> (Vec<PodSandbox>, Vec<Shown>) {
        let sandboxes = self.registry.sandboxes();
        let containers = self.registry.containers();
        let pods = sandboxes.iter().filter(|sandbox| sandbox.is_listed()).map(|sandbox| convert::pod(sandbox));
        let listed = containers.iter().filter(|container| container.is_listed());
        (pods.collect(), listed.map(|container| convert::container(container)).collect())
    }

    async fn update(
        self: Arc<Self>,
        updates: Vec<ContainerUpdate>,
        evict: Vec<ContainerEviction>,
    ) -> Vec<ContainerUpdate> {
        let _gate = self.enter_nri().await;
        for eviction in evict {
            self.evict(&eviction);
        }
        let mut failed = Vec::new();
        for update in updates {
            if let Err(error) = self.apply_update(&update).await {
                tracing::info!(container = update.container_id, error = error.chain(), "an NRI plugin's update");
                if !update.ignore_failure {
                    failed.push(update);
                }
            }
        }
        failed
    }
}
