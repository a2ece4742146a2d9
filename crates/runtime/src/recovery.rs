//! Taking over what an earlier runtime has left: what records say, made true again.
//!
//! | record | world | becomes |
//! |---|---|---|
//! | sandbox creating, or being removed | any | removed |
//! | sandbox ready | shim answers | ready; its containers as the shim knows them |
//! | sandbox ready | no shim, or another boot | not ready; what ran exits as `ContainerStatusUnknown` |
//! | sandbox not ready | any | not ready; the stop is finished |
//! | container creating, or being removed | any | removed |
//! | container exited | any | as it is |
//! | files, shims, without a record | any | removed |
//! | what CNI plugins made, without a record | any | removed in the background |

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use podd_shim::wire::{ContainerState, Phase, Request, Response, State};

use crate::container::Container;
use crate::container::remove::remove_directory;
use crate::container::start::ended;
use crate::engine::{Engine, blocking};
use crate::error::{Context, Result};
use crate::network;
use crate::records::{Exit, SandboxStage, Stage, User};
use crate::sandbox::{Sandbox, Shim};
use crate::shim::unexpected;

/// How long a start waits for what it finds to be settled. Plugins of CNI may take longer; they hold up their own pod
/// only, whose turn they have.
const PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// Reads the records and brings memory, disk and kernel in line with them.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<()> {
        let engine = Arc::clone(self);
        blocking(move || engine.read_records()).await?;
        let sandboxes = self.registry.sandboxes();
        let found = join_all(sandboxes.iter().map(|sandbox| self.reach(sandbox))).await;
        let live: Vec<Arc<Sandbox>> =
            sandboxes.iter().zip(&found).filter(|(_, state)| state.is_some()).map(|(s, _)| Arc::clone(s)).collect();
        let engine = Arc::clone(self);
        blocking(move || network::restore(&engine.network, &engine.cni, &live)).await?;
        self.settle_all(&sandboxes, found).await?;
        let engine = Arc::clone(self);
        blocking(move || engine.remove_orphans()).await
    }

    fn read_records(&self) -> Result<()> {
        for loaded in self.sandbox_records.load().context(|| "read the records of sandboxes")? {
            self.registry.add_sandbox(Arc::new(Sandbox::new(loaded.meta, loaded.status, loaded.record)));
        }
        for loaded in self.container_records.load().context(|| "read the records of containers")? {
            let Ok(sandbox) = self.registry.sandbox(&loaded.meta.sandbox_id) else {
                // Its sandbox went without it: a removal that was torn by a power loss. Its files go as orphans.
                loaded.record.delete().context(|| format!("remove the record of container {}", loaded.meta.id))?;
                continue;
            };
            let layers = vec![self.images.lease_layers(&loaded.meta.layers)];
            let container = Container::new(loaded.meta, loaded.status, loaded.record, sandbox, layers);
            self.registry.add_container(Arc::new(container));
        }
        Ok(())
    }

    /// Connects to the shim of a sandbox that should have one; what it knows, if it answers.
    async fn reach(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Option<State> {
        let status = sandbox.status();
        if status.removing || status.stage != SandboxStage::Ready {
            return None;
        }
        let (engine, id) = (Arc::clone(self), sandbox.id().to_owned());
        let launched = blocking(move || engine.launcher.find(&id)).await?;
        let asked = async {
            let shim = self.connect(sandbox, launched).await?;
            match shim.client.call(Request::State).await? {
                Response::State(state) => Ok(state),
                other => Err(unexpected(&other)),
            }
        };
        match asked.await {
            Ok(state) => Some(state),
            Err(error) => {
                tracing::warn!(sandbox = sandbox.id(), error = error.chain(), "a shim does not answer");
                None
            }
        }
    }

    /// Settles all side by side, each to its end; answers when they have, or time is up.
    async fn settle_all(self: &Arc<Self>, sandboxes: &[Arc<Sandbox>], states: Vec<Option<State>>) -> Result<()> {
        let settling = sandboxes.iter().zip(states).map(|(sandbox, state)| {
            let (engine, sandbox) = (Arc::clone(self), Arc::clone(sandbox));
            self.whole(async move {
                engine.settle(&sandbox, state).await;
                Ok(())
            })
        });
        match tokio::time::timeout(PATIENCE, join_all(settling)).await {
            Ok(outcomes) => outcomes.into_iter().collect(),
            Err(_) => {
                tracing::warn!("what was left of some sandboxes takes long to be cleared up; it goes on");
                Ok(())
            }
        }
    }

    /// Makes one sandbox and its containers what the table above says.
    async fn settle(self: &Arc<Self>, sandbox: &Arc<Sandbox>, state: Option<State>) {
        let _turn = sandbox.turn.write().await;
        let status = sandbox.status();
        let outcome = if status.removing || status.stage == SandboxStage::Creating {
            self.clear_sandbox(sandbox).await
        } else {
            match (state, sandbox.shim_if_alive()) {
                (Some(state), Some(shim)) => self.adopt(sandbox, &shim, state).await,
                _ => self.halt_sandbox(sandbox).await,
            }
        };
        if let Err(error) = outcome {
            tracing::error!(sandbox = sandbox.id(), error = error.chain(), "a sandbox could not be taken over");
        }
        for container in self.registry.containers_in(sandbox.id()) {
            let status = container.status();
            if (status.removing || status.stage == Stage::Creating)
                && let Err(error) = self.remove_whole_container(&container).await
            {
                tracing::error!(container = container.id(), error = error.chain(), "finish a removal");
            }
        }
    }

    /// The shim is there: its word counts for what has happened since.
    async fn adopt(self: &Arc<Self>, sandbox: &Arc<Sandbox>, shim: &Shim, state: State) -> Result<()> {
        let containers = self.registry.containers_in(sandbox.id());
        let known: HashSet<&str> = containers.iter().map(|container| container.id()).collect();
        for stray in state.containers.iter().filter(|found| !known.contains(found.id.as_str())) {
            tracing::warn!(container = stray.id, "the shim has a container without a record; it goes");
            shim.client.order(Request::Forget { id: stray.id.clone() }).await?;
        }
        for container in &containers {
            let found = state.containers.iter().find(|found| found.id == container.id());
            self.adopt_container(container, found).await?;
        }
        tracing::info!(sandbox = sandbox.id(), containers = containers.len(), "sandbox taken over");
        Ok(())
    }

    async fn adopt_container(
        self: &Arc<Self>,
        container: &Arc<Container>,
        found: Option<&ContainerState>,
    ) -> Result<()> {
        let status = container.status();
        if status.removing || status.stage == Stage::Creating {
            return Ok(());
        }
        let (stage, found) = match (status.stage, found) {
            // Its end is recorded; the shim may not have been told to forget it.
            (Stage::Exited(exit), _) => {
                self.note_exit(container, exit).await;
                return Ok(());
            }
            (stage, None) => {
                let why = "its shim does not know it";
                self.note_exit(container, crate::container::start::unseen(&stage, why)).await;
                return Ok(());
            }
            (stage, Some(found)) => (stage, found),
        };
        if let Some(exit) = found.exit {
            let message = found.start_error.as_ref().map(ToString::to_string).unwrap_or_default();
            self.note_exit(container, Exit { message, ..ended(exit) }).await;
            return Ok(());
        }
        let stage = match found.phase {
            Phase::Running => Stage::Running { started_at: found.started_at },
            // A start that was not sent off, or not heard.
            Phase::Creating | Phase::Created => Stage::Created,
            Phase::Exited => stage,
        };
        let user = User { uid: found.user.uid, gid: found.user.gid, groups: found.user.groups.clone() };
        container.change(|status| {
            status.stage = stage;
            status.pid = found.pid.unwrap_or_default();
            status.user = Some(user);
        })
    }

    /// Removes what lies about without a record.
    fn remove_orphans(self: &Arc<Self>) -> Result<()> {
        let sandboxes: HashSet<String> = self.registry.sandboxes().iter().map(|s| s.id().to_owned()).collect();
        let containers: HashSet<String> = self.registry.containers().iter().map(|c| c.id().to_owned()).collect();
        for id in self.launcher.traces().context(|| "list the shims")? {
            if !sandboxes.contains(&id) {
                if let Some(process) = self.launcher.process(&id) {
                    process.kill();
                }
                self.launcher.forget(&id).context(|| format!("forget shim {id}"))?;
            }
        }
        for (directory, known) in [(self.paths.sandboxes(), &sandboxes), (self.paths.containers(), &containers)] {
            for entry in std::fs::read_dir(&directory).context(|| format!("list {}", directory.display()))? {
                let entry = entry.context(|| format!("list {}", directory.display()))?;
                let orphan = entry.path().is_dir() && !known.contains(&*entry.file_name().to_string_lossy());
                if orphan {
                    tracing::info!(path = %entry.path().display(), "remove what has no record");
                    remove_directory(&entry.path()).context(|| format!("remove {}", entry.path().display()))?;
                }
            }
        }
        self.remove_orphaned_io(&containers)?;
        self.look_after_cni(&sandboxes)
    }

    /// Of execs that were under way, and of containers that are gone.
    fn remove_orphaned_io(&self, containers: &HashSet<String>) -> Result<()> {
        let directory = self.paths.io();
        let what = || format!("clear up {}", directory.display());
        for entry in std::fs::read_dir(&directory).context(what)? {
            let path = entry.context(what)?.path();
            let known = path.file_stem().is_some_and(|id| containers.contains(&*id.to_string_lossy()));
            if known {
                continue;
            }
            match std::fs::remove_file(&path) {
                // A shim takes its sockets away itself.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                outcome => outcome.context(what)?,
            }
        }
        Ok(())
    }
}
