//! GetContainerEvents: every change of a sandbox or container, with the state of the whole pod after it.
//!
//! A listener that does not read is cut off with an error once too much waits for it: it knows then that it missed
//! something, lists, and listens anew. Nobody else waits for it, and what waits is bounded in number and in bytes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::stream;
use podd_cri::MAX_MESSAGE;
use podd_cri::lists::encoded_len;
use podd_cri::v1::{ContainerEventResponse, ContainerEventType};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

use crate::clock::now;
use crate::engine::Engine;
use crate::sandbox::Sandbox;

/// How many events a listener may be behind.
const BACKLOG: usize = 1024;
/// How many bytes of events a listener may be behind, in their form on the wire.
const BACKLOG_BYTES: usize = 16 << 20;

/// Hands events to whoever listens.
#[derive(Default)]
pub(crate) struct Events(Mutex<Vec<Listener>>);

struct Listener {
    queue: mpsc::Sender<(Arc<ContainerEventResponse>, usize)>,
    behind: Arc<Behind>,
}

/// What listener and stream share.
#[derive(Default)]
struct Behind {
    bytes: AtomicUsize,
    cut: AtomicBool,
}

impl Events {
    fn listeners(&self) -> MutexGuard<'_, Vec<Listener>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, event: ContainerEventResponse) {
        let size = encoded_len(&event);
        let event = Arc::new(event);
        self.listeners().retain(|listener| listener.take(&event, size));
    }

    /// Every event from now on.
    fn listen(&self) -> impl Stream<Item = Result<ContainerEventResponse, Status>> + use<> {
        let (queue, events) = mpsc::channel(BACKLOG);
        let behind = Arc::new(Behind::default());
        self.listeners().push(Listener { queue, behind: Arc::clone(&behind) });
        stream::unfold((events, behind), |(mut events, behind)| async move {
            if let Some((event, size)) = events.recv().await {
                behind.bytes.fetch_sub(size, Ordering::AcqRel);
                return Some((Ok(Arc::unwrap_or_clone(event)), (events, behind)));
            }
            // Told once; a stream that ends without it ends with the runtime.
            let cut = behind.cut.swap(false, Ordering::AcqRel);
            let late = Status::resource_exhausted("container events were not read in time; list, and listen again");
            cut.then_some((Err(late), (events, behind)))
        })
    }
}

impl Listener {
    /// Whether it goes on listening. One that reads can always have an event, however big.
    fn take(&self, event: &Arc<ContainerEventResponse>, size: usize) -> bool {
        if self.queue.is_closed() {
            return false;
        }
        let waiting = self.behind.bytes.fetch_add(size, Ordering::AcqRel);
        let fits = waiting == 0 || waiting + size <= BACKLOG_BYTES;
        if fits && self.queue.try_send((Arc::clone(event), size)).is_ok() {
            return true;
        }
        tracing::warn!(bytes = waiting, "a listener to container events does not read; it is cut off");
        self.behind.cut.store(true, Ordering::Release);
        false
    }
}

impl Engine {
    /// Tells those who listen about a change of `id`, a container of `sandbox` or the sandbox itself.
    pub(crate) fn announce(&self, id: &str, sandbox: &Sandbox, kind: ContainerEventType) {
        if self.events.listeners().is_empty() {
            return;
        }
        let mut event = ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind as i32,
            created_at: now(),
            pod_sandbox_status: Some(sandbox.to_cri()),
            containers_statuses: self.statuses_in(sandbox.id()),
        };
        if encoded_len(&event) > MAX_MESSAGE {
            // No client would take it; that something happened is worth more than what is to be asked for anyway.
            event.containers_statuses.clear();
        }
        self.events.send(event);
    }

    /// Every event from now on.
    pub(crate) fn listen(&self) -> impl Stream<Item = Result<ContainerEventResponse, Status>> + use<> {
        self.events.listen()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    fn event(name: &str) -> ContainerEventResponse {
        ContainerEventResponse { container_id: name.to_owned(), ..Default::default() }
    }

    #[tokio::test]
    async fn a_listener_that_does_not_read_is_cut_off_and_told_and_nobody_else_is() {
        let events = Events::default();
        let mut lazy = Box::pin(events.listen());
        let mut eager = Box::pin(events.listen());
        for number in 0..BACKLOG + 2 {
            events.send(event(&number.to_string()));
            let heard = eager.next().await.expect("goes on").expect("an event");
            assert_eq!(heard.container_id, number.to_string());
        }
        for number in 0..BACKLOG {
            assert_eq!(lazy.next().await.expect("kept").expect("an event").container_id, number.to_string());
        }
        let told = lazy.next().await.expect("told").expect_err("why");
        assert_eq!(told.code(), tonic::Code::ResourceExhausted);
        assert!(lazy.next().await.is_none());
        assert_eq!(events.listeners().len(), 1);
    }

    #[tokio::test]
    async fn big_events_count_by_their_bytes_and_one_is_always_taken() {
        let events = Events::default();
        let mut listener = Box::pin(events.listen());
        events.send(event(&"x".repeat(BACKLOG_BYTES + 1)));
        assert_eq!(listener.next().await.expect("goes on").expect("taken").container_id.len(), BACKLOG_BYTES + 1);
        for _ in 0..3 {
            events.send(event(&"x".repeat(BACKLOG_BYTES / 2)));
        }
        assert!(listener.next().await.expect("kept").is_ok());
        assert!(listener.next().await.expect("told").is_err(), "the second and third were too much");
    }

    #[tokio::test]
    async fn one_that_hangs_up_is_forgotten() {
        let events = Events::default();
        drop(events.listen());
        events.send(event("a"));
        assert!(events.listeners().is_empty());
    }
}
