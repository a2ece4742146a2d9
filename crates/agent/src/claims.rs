//! The controller of claims: it watches claims, volumes, classes and pods, lets `podd_core::claims` decide, and does it.
//! The data of the volumes that it makes lies beneath `<root>/claims`, a directory each.
//!
//! One task does one thing after another; whatever fails is decided again, after the next change or a pause.

mod act;
mod lookup;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use futures::{StreamExt, future::ready, stream, stream::BoxStream};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, PodSpec, PodStatus},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store, store::Writer},
        watcher::{self, Event, watcher},
    },
};
use podd_core::claims::{Action, ClaimKey, World, decide};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub(crate) use lookup::{Claims, Found};

use crate::{
    events::{Recorder, Severity},
    objects::DEADLINE,
    resources::chain,
    source::api::backoff,
};

/// The pause after something failed; twice as long after each further time, up to the longest.
const AGAIN: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(60);
/// How many changes are taken in before the next decision, at most.
const TOGETHER: usize = 1000;

/// What the controller works with.
pub(crate) struct Controller {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    pub(crate) node: String,
    /// `<root>/claims`.
    pub(crate) directory: PathBuf,
}

/// A change of one object, of whatever kind.
enum Change {
    Claim(Box<Event<PersistentVolumeClaim>>),
    Volume(Box<Event<PersistentVolume>>),
    Class(Box<Event<StorageClass>>),
    Pod(Box<Event<Pod>>),
}

impl Controller {
    /// Works until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut seen = Seen::default();
        let mut told = BTreeMap::new();
        // What came together is decided on together.
        let mut changes = self.changes().ready_chunks(TOGETHER);
        let mut has_class = false;
        let mut pause = AGAIN;
        loop {
            let mut failed = false;
            if !has_class {
                has_class = self.ensure_class().await.inspect_err(|error| debug!(%error, "make the class")).is_ok();
                failed = !has_class;
            }
            if seen.is_whole() {
                failed |= !self.turn(&seen, &mut told).await;
            }
            pause = if failed { pause } else { AGAIN };
            tokio::select! {
                () = shutdown.cancelled() => return,
                // A timer and a stream lose nothing when their wait is cancelled.
                () = tokio::time::sleep(pause), if failed => pause = LONGEST.min(pause * 2),
                change = changes.next() => match change {
                    Some(changes) => changes.into_iter().for_each(|change| seen.take(change)),
                    None => return,
                }
            }
        }
    }

    fn changes(&self) -> BoxStream<'static, Change> {
        stream::select(
            stream::select(
                watch(&self.client, unmanaged, Change::Claim),
                watch(&self.client, unmanaged, Change::Volume),
            ),
            stream::select(watch(&self.client, unmanaged, Change::Class), watch(&self.client, slim, Change::Pod)),
        )
        .boxed()
    }

    /// Does what is to be done now. False if something failed.
    async fn turn(&self, seen: &Seen, told: &mut BTreeMap<ClaimKey, String>) -> bool {
        let directory = self.directory.to_string_lossy();
        let (claims, volumes) = (seen.claims.store.state(), seen.volumes.store.state());
        let (classes, pods) = (seen.classes.store.state(), seen.pods.store.state());
        let world = World {
            claims: claims.iter().map(Arc::as_ref).collect(),
            volumes: volumes.iter().map(Arc::as_ref).collect(),
            classes: classes.iter().map(Arc::as_ref).collect(),
            pods: pods.iter().map(Arc::as_ref).collect(),
            node: &self.node,
            directory: &directory,
        };
        let mut well = true;
        let mut telling = BTreeMap::new();
        for action in decide(&world) {
            if let Action::Tell { claim, message, .. } = &action {
                telling.insert(claim.clone(), message.clone());
                // Once, as long as it stays the same.
                if told.get(claim) == Some(message) {
                    continue;
                }
            }
            let outcome = match tokio::time::timeout(DEADLINE, self.act(seen, &action)).await {
                Ok(outcome) => outcome.map_err(|error| chain(&error)),
                Err(_) => Err("it takes too long".to_owned()),
            };
            if let Err(error) = outcome {
                warn!(error, ?action, "a claim's turn failed");
                if let Action::Provision { claim, .. } = &action {
                    let message = format!("failed to provision volume: {error}");
                    self.tell(seen, claim, Severity::Warning, "ProvisioningFailed", message);
                }
                well = false;
            }
        }
        *told = telling;
        well
    }
}

/// Whose a field is, is of no use here.
fn unmanaged<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Of a pod only what claims depend on: who it is, its volumes, whether it is over. The agent has the whole of it already.
fn slim(pod: &mut Pod) {
    unmanaged(pod);
    let (volumes, phase) =
        (pod.spec.take().and_then(|spec| spec.volumes), pod.status.take().and_then(|status| status.phase));
    pod.spec = Some(PodSpec { volumes, ..Default::default() });
    pod.status = Some(PodStatus { phase, ..Default::default() });
}

fn watch<K>(client: &Client, trim: fn(&mut K), change: fn(Box<Event<K>>) -> Change) -> BoxStream<'static, Change>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
{
    let events = watcher(Api::<K>::all(client.clone()), watcher::Config::default()).backoff(backoff()).modify(trim);
    events
        .filter_map(move |event| {
            // The watcher tries again by itself.
            ready(event.inspect_err(|error| debug!(%error, "the API is away")).ok().map(Box::new).map(change))
        })
        .boxed()
}

/// The objects of one kind as they were seen.
struct Kind<K: Resource<DynamicType = ()> + Clone + 'static> {
    store: Store<K>,
    writer: Writer<K>,
    /// Its first list has come in.
    is_whole: bool,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Default for Kind<K> {
    fn default() -> Self {
        let (store, writer) = reflector::store();
        Self { store, writer, is_whole: false }
    }
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Kind<K> {
    fn take(&mut self, event: &Event<K>) {
        self.writer.apply_watcher_event(event);
        self.is_whole |= matches!(event, Event::InitDone);
    }

    fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let key = ObjectRef::new(name);
        self.store.get(&if namespace.is_empty() { key } else { key.within(namespace) })
    }
}

/// What the controller has seen.
#[derive(Default)]
struct Seen {
    claims: Kind<PersistentVolumeClaim>,
    volumes: Kind<PersistentVolume>,
    classes: Kind<StorageClass>,
    pods: Kind<Pod>,
}

impl Seen {
    fn take(&mut self, change: Change) {
        match change {
            Change::Claim(event) => self.claims.take(&event),
            Change::Volume(event) => self.volumes.take(&event),
            Change::Class(event) => self.classes.take(&event),
            Change::Pod(event) => self.pods.take(&event),
        }
    }

    /// Nothing is decided before every list has come in: what is not seen yet is not gone.
    fn is_whole(&self) -> bool {
        self.claims.is_whole && self.volumes.is_whole && self.classes.is_whole && self.pods.is_whole
    }
}
