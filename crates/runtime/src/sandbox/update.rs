//! UpdatePodSandboxResources.

use std::sync::Arc;

use podd_cri::v1::UpdatePodSandboxResourcesRequest;
use podd_nri::message::Event;

use crate::engine::Engine;
use crate::error::Result;
use crate::records::{PodResources, Resources};
use crate::request::check_resources;

impl Engine {
    /// Notes what the pod as a whole has been given. Its group is the caller's, and has it already.
    pub(crate) async fn update_sandbox(self: Arc<Self>, update: UpdatePodSandboxResourcesRequest) -> Result<()> {
        for resources in [&update.overhead, &update.resources].into_iter().flatten() {
            check_resources(resources)?;
        }
        let _gate = self.enter_nri().await;
        let sandbox = self.registry.sandbox(&update.pod_sandbox_id)?;
        // Shared: it changes nothing that creating a container looks at, and must not come after a removal.
        let _turn = sandbox.turn.read().await;
        let sandbox = self.registry.sandbox(sandbox.id())?;
        let resources = PodResources {
            overhead: update.overhead.as_ref().map(Resources::from),
            resources: update.resources.as_ref().map(Resources::from),
        };
        self.tell_of_pod_update(&sandbox, &resources).await?;
        sandbox.change(|status| status.resources = resources)?;
        self.announce_sandbox(Event::PostUpdatePodSandbox, &sandbox).await;
        tracing::info!(sandbox = sandbox.id(), "sandbox resources updated");
        Ok(())
    }
}
