//! What happens in the runtime, told to the dispatcher: its events one by one, and now and then, and whenever the stream
//! of events began anew, the list of all it has.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use podd_cri::v1;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout},
};
use tokio_stream::StreamExt as _;
use tonic::{Request, Status, codegen::BoxStream};
use tracing::{debug, warn};

use super::{names, services::Services};

/// Pause before a lost stream of events, or a failed list, is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The grace of a pod of which nothing tells it, in the API's default.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// Something seen in the runtime.
pub(super) enum Seen {
    /// Something happened to the pod of this uid.
    Pod(String),
    /// All that there is, by uid.
    All(BTreeMap<String, Listed>),
}

/// What the runtime has of one pod.
#[derive(Clone, Debug, Default)]
pub(super) struct Listed {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The longest that its containers were promised.
    pub(super) grace: Duration,
    /// Names all sandboxes and containers with their states.
    pub(super) fingerprint: u64,
    /// Whether anything of it may run.
    pub(super) alive: bool,
}

impl Listed {
    /// The pod as far as the runtime tells it.
    pub(super) fn into_pod(self, uid: String) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.uid = Some(uid);
        pod.metadata.name = Some(self.name);
        pod.metadata.namespace = Some(self.namespace);
        pod
    }

    fn take(&mut self, id: &str, state: i32, own: &BTreeMap<String, String>) {
        self.fingerprint ^= fingerprint(id, state);
        let label = |key| own.get(key).cloned().unwrap_or_default();
        (self.namespace, self.name) = (label(names::POD_NAMESPACE), label(names::POD_NAME));
    }
}

/// The part of one thing in the fingerprint of its pod; they are joined by exclusive or, so that order does not matter.
pub(super) fn fingerprint(id: &str, state: i32) -> u64 {
    let mut hasher = DefaultHasher::new();
    (id, state).hash(&mut hasher);
    hasher.finish()
}

/// Runs until the dispatcher is gone.
pub(super) async fn watch(services: Arc<Services>, seen: mpsc::Sender<Seen>, relist: Arc<Notify>) {
    let mut events: Option<BoxStream<v1::ContainerEventResponse>> = None;
    let mut connect_at = Instant::now();
    let mut list_at = Instant::now();
    loop {
        // Every arm may be cancelled: a stream and a `Notify` lose nothing, and a connection begun is begun again.
        // In order, so that a simulation can be run again.
        tokio::select! {
            biased;
            () = seen.closed() => return,
            stream = connect(&services), if events.is_none() && connect_at <= Instant::now() => match stream {
                Ok(stream) => {
                    events = Some(stream);
                    // Whatever happened while nobody listened.
                    list_at = Instant::now();
                }
                Err(error) => {
                    debug!(%error, "no events from the runtime");
                    connect_at = Instant::now() + RETRY;
                }
            },
            () = tokio::time::sleep_until(connect_at), if events.is_none() && connect_at > Instant::now() => {}
            event = next(&mut events), if events.is_some() => match event {
                Some(Ok(event)) => {
                    if let Some(uid) = uid_of(&event)
                        && seen.send(Seen::Pod(uid)).await.is_err()
                    {
                        return;
                    }
                }
                ended => {
                    let error = ended.and_then(Result::err);
                    warn!(?error, "the runtime's events ended; they are asked for again");
                    events = None;
                    connect_at = Instant::now() + RETRY;
                }
            },
            () = relist.notified() => list_at = Instant::now(),
            () = tokio::time::sleep_until(list_at) => {
                list_at = Instant::now() + services.settings.resync;
                match list(&services).await {
                    Ok(all) => {
                        if seen.send(Seen::All(all)).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        debug!(%error, "the runtime was not listed");
                        list_at = Instant::now() + RETRY;
                    }
                }
            }
        }
    }
}

async fn connect(services: &Services) -> Result<BoxStream<v1::ContainerEventResponse>, Status> {
    let call = services.runtime.get_container_events(Request::new(v1::GetEventsRequest {}));
    let answer = timeout(services.settings.call_deadline, call).await;
    Ok(answer.map_err(|_| Status::deadline_exceeded("no stream of events in time"))??.into_inner())
}

async fn next(
    events: &mut Option<BoxStream<v1::ContainerEventResponse>>,
) -> Option<Result<v1::ContainerEventResponse, Status>> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// The pod that an event is about, if it is news: what is created, started or removed, its worker did itself. Where it was
/// somebody else, the list will tell.
fn uid_of(event: &v1::ContainerEventResponse) -> Option<String> {
    if event.container_event_type() != v1::ContainerEventType::ContainerStoppedEvent {
        return None;
    }
    let of_sandbox = event.pod_sandbox_status.as_ref().and_then(|s| Some(s.metadata.as_ref()?.uid.clone()));
    let of_container = || event.containers_statuses.iter().find_map(|c| c.labels.get(names::POD_UID).cloned());
    of_sandbox.filter(|uid| !uid.is_empty()).or_else(of_container)
}

/// All pods that the runtime has. What has no uid among its labels is not ours.
async fn list(services: &Services) -> Result<BTreeMap<String, Listed>, Status> {
    let runtime = &services.runtime;
    let both = async {
        tokio::try_join!(
            runtime.list_pod_sandbox(Request::new(v1::ListPodSandboxRequest::default())),
            runtime.list_containers(Request::new(v1::ListContainersRequest::default())),
        )
    };
    let answers = timeout(services.settings.call_deadline, both).await;
    let (sandboxes, containers) = answers.map_err(|_| Status::deadline_exceeded("no list in time"))??;
    let mut all: BTreeMap<String, Listed> = BTreeMap::new();
    for sandbox in sandboxes.into_inner().items {
        if let Some(uid) = sandbox.labels.get(names::POD_UID) {
            let listed = all.entry(uid.clone()).or_default();
            listed.take(&sandbox.id, sandbox.state, &sandbox.labels);
            listed.alive |= sandbox.state() == v1::PodSandboxState::SandboxReady;
            listed.grace = listed.grace.max(DEFAULT_GRACE);
        }
    }
    let mut promised: BTreeMap<String, Duration> = BTreeMap::new();
    for container in containers.into_inner().containers {
        if let Some(uid) = container.labels.get(names::POD_UID) {
            let listed = all.entry(uid.clone()).or_default();
            listed.take(&container.id, container.state, &container.labels);
            listed.alive |= matches!(
                container.state(),
                v1::ContainerState::ContainerRunning | v1::ContainerState::ContainerUnknown
            );
            let grace = container.annotations.get(names::POD_GRACE).and_then(|text| text.parse().ok());
            let longest = promised.entry(uid.clone()).or_default();
            *longest = (*longest).max(grace.map_or(DEFAULT_GRACE, Duration::from_secs));
        }
    }
    for (uid, grace) in promised {
        if let Some(listed) = all.get_mut(&uid) {
            listed.grace = grace;
        }
    }
    Ok(all)
}
