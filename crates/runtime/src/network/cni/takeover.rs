//! After a start: plugins are asked about the pods that they wired, and take away what is of no pod any more. Nobody
//! waits for either.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;

use crate::engine::Engine;
use crate::error::Result;
use crate::records::SandboxStage;
use crate::sandbox::Sandbox;

/// For so many pods plugins run at once.
const AT_ONCE: usize = 4;
/// How long all plugins of a pod may take for `CHECK`: a stop of the pod waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// Begins both for what is there now: `known` are the ids of all sandboxes.
    pub(crate) fn look_after_cni(self: &Arc<Self>, known: &HashSet<String>) -> Result<()> {
        let orphans = self.cni.orphans(known)?;
        let wired: Vec<_> =
            self.registry.sandboxes().into_iter().filter(|sandbox| self.cni.has(sandbox.id())).collect();
        if orphans.is_empty() && wired.is_empty() {
            return Ok(());
        }
        let engine = Arc::clone(self);
        self.until_closing(async move {
            let (sweeper, checker) = (Arc::clone(&engine), engine);
            let swept = stream::iter(orphans).for_each_concurrent(AT_ONCE, move |id| Arc::clone(&sweeper).sweep(id));
            let checked = stream::iter(wired)
                .for_each_concurrent(AT_ONCE, move |sandbox| Arc::clone(&checker).check_network(sandbox));
            tokio::join!(swept, checked);
        });
        Ok(())
    }

    async fn sweep(self: Arc<Self>, id: String) {
        match self.cni.take_away(&id).await {
            Ok(()) => tracing::info!(sandbox = id, "took away the network of a sandbox that is no more"),
            Err(error) => {
                tracing::warn!(sandbox = id, error = error.chain(), "the network of a sandbox that is no more stays");
            }
        }
    }

    async fn check_network(self: Arc<Self>, sandbox: Arc<Sandbox>) {
        // Plugins are never run twice at once for a pod.
        let _turn = sandbox.turn.read().await;
        if sandbox.status().stage != SandboxStage::Ready {
            return;
        }
        match tokio::time::timeout(PATIENCE, self.cni.check(sandbox.id())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(sandbox = sandbox.id(), error = error.chain(), "a pod's network is not what it was");
            }
            Err(_) => tracing::warn!(sandbox = sandbox.id(), "CNI plugins take too long to check a pod's network"),
        }
    }
}
