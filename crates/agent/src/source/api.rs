//! Pods of the API that are bound to this node, by a kube-runtime watcher: it lists, watches, resumes where it was after a
//! broken connection and lists anew where the API says that this is too old. An API that is away is waited for.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt,
        utils::{Backoff, ResetTimerBackoff},
        watcher::{self, Event, watcher},
    },
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Change, Source};

/// Pause before the first new try; it doubles up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(100);
/// The API is on this machine more often than not, so that it is never left alone for long.
const LONGEST: Duration = Duration::from_secs(5);

/// Watch the pods of `node` and tell `changes` of them until `shutdown`.
pub async fn run(client: Client, node: String, changes: mpsc::Sender<(Source, Change)>, shutdown: CancellationToken) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut events = std::pin::pin!(watcher(Api::<Pod>::all(client), config).backoff(backoff()));
    let mut relist = Relist::default();
    let mut failing = false;
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
            // A stream keeps its state when the wait for its next item is cancelled.
            event = events.next() => event,
        };
        match event {
            None => return,
            Some(Err(error)) => {
                // Once per outage: the tries in between are of no interest.
                if failing {
                    debug!(%error, "the API is still away")
                } else {
                    warn!(%error, "the API is away")
                }
                failing = true;
            }
            Some(Ok(event)) => {
                failing = false;
                if let Some(change) = relist.take(event)
                    && changes.send((Source::Api, change)).await.is_err()
                {
                    return;
                }
            }
        }
    }
}

/// Collects the items of a list until it is whole.
#[derive(Default)]
struct Relist {
    pods: Vec<Arc<Pod>>,
}

impl Relist {
    fn take(&mut self, event: Event<Pod>) -> Option<Change> {
        match event {
            Event::Init => {
                self.pods.clear();
                None
            }
            Event::InitApply(pod) => {
                self.pods.push(Arc::new(slim(pod)));
                None
            }
            Event::InitDone => Some(Change::All(std::mem::take(&mut self.pods))),
            Event::Apply(pod) => Some(Change::Applied(Arc::new(slim(pod)))),
            Event::Delete(pod) => Some(Change::Gone(Arc::new(slim(pod)))),
        }
    }
}

/// Field management is of no use to a node and a third of an object's size.
fn slim(mut pod: Pod) -> Pod {
    pod.metadata.managed_fields = None;
    pod
}

/// How a watch that is broken off comes back.
pub(crate) fn backoff() -> impl Backoff {
    ResetTimerBackoff::new(Doubling(SHORTEST), Duration::from_secs(60))
}

struct Doubling(Duration);

impl Iterator for Doubling {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = self.0;
        self.0 = (now * 2).min(LONGEST);
        Some(now)
    }
}

impl Backoff for Doubling {
    fn reset(&mut self) {
        self.0 = SHORTEST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_told_only_when_it_is_whole() {
        let mut relist = Relist::default();
        assert!(relist.take(Event::Init).is_none());
        assert!(relist.take(Event::InitApply(Pod::default())).is_none());
        assert!(relist.take(Event::Init).is_none(), "broken off, from the beginning");
        assert!(relist.take(Event::InitApply(Pod::default())).is_none());
        let Some(Change::All(pods)) = relist.take(Event::InitDone) else { panic!("a whole list") };
        assert_eq!(pods.len(), 1);
    }

    #[test]
    fn the_pause_doubles_and_starts_over() {
        let mut pauses = Doubling(SHORTEST);
        let first: Vec<u128> = pauses.by_ref().take(8).map(|pause| pause.as_millis()).collect();
        assert_eq!(first, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        pauses.reset();
        assert_eq!(pauses.next(), Some(SHORTEST));
    }
}
