//! The hooks of a container that run outside it. Those of a container of another OCI runtime are that one's to run.

use std::sync::Arc;
use std::time::Duration;

use podd_shim::wire::{Hook, HookStatus};

use super::Container;
use super::plan::hook_annotations;
use crate::engine::Engine;
use crate::error::Result;
use crate::hooks::{self, Told};

impl Engine {
    /// Between the mounts and the entering of the root.
    pub(super) async fn run_creation_hooks(&self, container: &Container, pid: u32) -> Result<()> {
        let own = &container.meta.hooks;
        self.run_stage(container, "prestart", &own.prestart, HookStatus::Creating, pid).await?;
        self.run_stage(container, "createRuntime", &own.create_runtime, HookStatus::Creating, pid).await
    }

    /// Once the program runs. A failure ends the container.
    pub(super) async fn run_poststart(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        if container.meta.external.is_some() {
            // That runtime has.
            return Ok(());
        }
        let (list, pid) = (&container.meta.hooks.poststart, container.status().pid);
        let ran = self.run_stage(container, "poststart", list, HookStatus::Running, pid).await;
        if let Err(error) = &ran {
            tracing::warn!(container = container.id(), error = error.chain(), "a poststart hook ends the container");
            self.stop_within(container, Duration::ZERO).await?;
        }
        ran
    }

    /// Once the container has ended, or has come to nothing; once in its life, but for a crash in the middle of it.
    pub(super) async fn run_poststop(&self, container: &Container) {
        let _turn = container.poststop.lock().await;
        if !container.status().poststop_due {
            return;
        }
        let annotations = hook_annotations(&container.sandbox.meta.annotations, &container.meta.annotations);
        let bundle = self.paths.container(container.id()).directory;
        let told = Told {
            id: container.id(),
            status: HookStatus::Stopped,
            pid: None,
            bundle: &bundle,
            annotations: &annotations,
        };
        match &container.meta.external {
            Some(program) => self.delete_elsewhere(container, program).await,
            None => hooks::run_anyway("poststop", &container.meta.hooks.poststop, &told).await,
        }
        if let Err(error) = container.change(|status| status.poststop_due = false) {
            tracing::warn!(container = container.id(), error = error.chain(), "poststop hooks may run once more");
        }
    }

    async fn run_stage(
        &self,
        container: &Container,
        stage: &str,
        list: &[Hook],
        status: HookStatus,
        pid: u32,
    ) -> Result<()> {
        let annotations = hook_annotations(&container.sandbox.meta.annotations, &container.meta.annotations);
        let bundle = self.paths.container(container.id()).directory;
        let told = Told { id: container.id(), status, pid: Some(pid), bundle: &bundle, annotations: &annotations };
        hooks::run(stage, list, &told).await
    }
}
