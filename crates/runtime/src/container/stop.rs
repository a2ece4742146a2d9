//! StopContainer: the stop signal, a wait, SIGKILL. Several callers wait together; the least patient one kills.

use std::sync::Arc;
use std::time::Duration;

use podd_shim::wire::Request;

use super::Container;
use crate::engine::Engine;
use crate::error::{CriError, Result};
use crate::records::Stage;
use crate::request::seconds;
use crate::signals::SIGKILL;

/// How long SIGKILL may take before the cgroup is killed, and then once more before it is an error: a process that is
/// stuck in the kernel (a dead NFS server) cannot be killed at all.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// The longest grace that a caller can ask for; longer ones mean this.
const LONGEST_GRACE: Duration = Duration::from_secs(365 * 24 * 3600);

impl Engine {
    /// Stops a container. One that is not there, or does not run, is stopped already.
    pub(crate) async fn stop_container(self: Arc<Self>, id: &str, timeout: i64) -> Result<()> {
        let grace = Duration::from_secs(seconds("timeout", timeout)?).min(LONGEST_GRACE);
        let Some(container) = self.registry.container_if_any(id)? else { return Ok(()) };
        self.stop_within(&container, grace).await?;
        self.announce_stop(&container).await;
        Ok(())
    }

    pub(crate) async fn stop_within(self: &Arc<Self>, container: &Arc<Container>, grace: Duration) -> Result<()> {
        if !matches!(container.status().stage, Stage::Starting | Stage::Running { .. }) {
            return Ok(());
        }
        if !grace.is_zero() {
            if container.claim_stop() {
                self.signal(container, container.meta.stop_signal, false).await?;
            }
            if ended_within(container, grace).await {
                return Ok(());
            }
        }
        self.signal(container, SIGKILL, !container.meta.own_pid_namespace).await?;
        if ended_within(container, KILL_PATIENCE).await {
            return Ok(());
        }
        self.kill_group(container).await;
        if ended_within(container, KILL_PATIENCE).await {
            return Ok(());
        }
        Err(CriError::Deadline(format!("container {} did not end after SIGKILL", container.id())))
    }

    async fn signal(&self, container: &Container, signal: i32, all: bool) -> Result<()> {
        let Some(shim) = container.sandbox.shim_if_alive() else {
            // Without its shim a container is being killed by its cgroup already.
            return Ok(());
        };
        let request = Request::Signal { id: container.id().to_owned(), exec: None, signal, all };
        match shim.client.order(request).await {
            Err(_) if shim.client.is_lost() => Ok(()),
            outcome => outcome,
        }
    }
}

async fn ended_within(container: &Container, patience: Duration) -> bool {
    let mut status = container.watch();
    let ended = status.wait_for(|status| matches!(status.stage, Stage::Exited(_)));
    // Cancelling the wait loses nothing: the status stays where it is.
    tokio::time::timeout(patience, ended).await.is_ok()
}
