//! GetContainerEvents: every change of a sandbox or container, with the state of the whole pod after it.
//!
//! A slow reader loses the oldest events and is told so in the log; whoever follows events also lists now and then.

use podd_cri::v1::{ContainerEventResponse, ContainerEventType};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use crate::clock::now;
use crate::engine::Engine;
use crate::sandbox::Sandbox;

/// How many events a reader may be behind.
const BACKLOG: usize = 1024;

/// Hands events to whoever listens.
pub(crate) struct Events(broadcast::Sender<ContainerEventResponse>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }
}

impl Engine {
    /// Tells those who listen about a change of `id`, a container of `sandbox` or the sandbox itself.
    pub(crate) fn announce(&self, id: &str, sandbox: &Sandbox, kind: ContainerEventType) {
        if self.events.0.receiver_count() == 0 {
            return;
        }
        let event = ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind as i32,
            created_at: now(),
            pod_sandbox_status: Some(sandbox.to_cri()),
            containers_statuses: self.statuses_in(sandbox.id()),
        };
        // The last listener may have gone meanwhile.
        let _nobody = self.events.0.send(event);
    }

    /// Every event from now on.
    pub(crate) fn listen(&self) -> impl Stream<Item = Result<ContainerEventResponse, Status>> + use<> {
        BroadcastStream::new(self.events.0.subscribe()).filter_map(|event| match event {
            Ok(event) => Some(Ok(event)),
            Err(BroadcastStreamRecvError::Lagged(count)) => {
                tracing::warn!(count, "a slow reader of container events lost some");
                None
            }
        })
    }
}
