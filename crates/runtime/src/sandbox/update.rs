//! UpdatePodSandboxResources.

use std::sync::Arc;

use podd_cri::v1::UpdatePodSandboxResourcesRequest;

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
        let sandbox = self.registry.sandbox(&update.pod_sandbox_id)?;
        // Shared: it changes nothing that creating a container looks at, and must not come after a removal.
        let _turn = sandbox.turn.read().await;
        let sandbox = self.registry.sandbox(sandbox.id())?;
        let resources = PodResources {
            overhead: update.overhead.as_ref().map(Resources::from),
            resources: update.resources.as_ref().map(Resources::from),
        };
        sandbox.change(|status| status.resources = resources)?;
        tracing::info!(sandbox = sandbox.id(), "sandbox resources updated");
        Ok(())
    }
}
