//! The controller of claims: it watches claims, volumes, classes and pods, lets `podd_core::claims` decide, and does it.
//! The data of the volumes that it makes lies beneath `<root>/claims`, a directory each.
//!
//! One task does one thing after another; whatever fails is decided again, after the next change or a pause.

mod act;
mod lookup;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use futures::{StreamExt, future::ready, stream, stream::BoxStream};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use podd_core::claims::{Action, ClaimKey, World, decide};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub(crate) use lookup::{Claims, Found};

use crate::events::Recorder;

/// The pause after something failed.
const AGAIN: Duration = Duration::from_secs(2);
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
        loop {
            let mut failed = false;
            if !has_class {
                has_class = self.ensure_class().await.inspect_err(|error| debug!(%error, "make the class")).is_ok();
                failed = !has_class;
            }
            if seen.is_whole() {
                failed |= !self.turn(&seen, &mut told).await;
            }
            let pause = async {
                match failed {
                    true => tokio::time::sleep(AGAIN).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                // A timer and a stream lose nothing when their wait is cancelled.
                () = pause => {}
                change = changes.next() => match change {
                    Some(changes) => changes.into_iter().for_each(|change| seen.take(change)),
                    None => return,
                }
            }
        }
    }

    fn changes(&self) -> BoxStream<'static, Change> {
        stream::select(
            stream::select(watch(&self.client, Change::Claim), watch(&self.client, Change::Volume)),
            stream::select(watch(&self.client, Change::Class), watch(&self.client, Change::Pod)),
        )
        .boxed()
    }

    /// Does what is to be done now. False if something failed.
    async fn turn(&self, seen: &Seen, told: &mut BTreeMap<ClaimKey, String>) -> bool {
        let directory = self.directory.to_string_lossy();
        let world = World {
            claims: seen.claims.all().collect(),
            volumes: seen.volumes.all().collect(),
            classes: seen.classes.all().collect(),
            pods: seen.pods.all().collect(),
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
            if let Err(error) = self.act(seen, &action).await {
                warn!(%error, ?action, "a claim's turn failed");
                well = false;
            }
        }
        *told = telling;
        well
    }
}

fn watch<K>(client: &Client, change: fn(Box<Event<K>>) -> Change) -> BoxStream<'static, Change>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
{
    let events = watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff();
    events
        .filter_map(move |event| {
            // The watcher tries again by itself.
            ready(event.inspect_err(|error| debug!(%error, "the API is away")).ok().map(Box::new).map(change))
        })
        .boxed()
}

/// The objects of one kind, by namespace and name.
struct Store<K> {
    objects: BTreeMap<(String, String), K>,
    /// A list that is coming in.
    list: Option<BTreeMap<(String, String), K>>,
    is_whole: bool,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), list: None, is_whole: false }
    }
}

impl<K: kube::Resource> Store<K> {
    fn take(&mut self, event: Event<K>) {
        let key = |object: &K| {
            let meta = object.meta();
            (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
        };
        match event {
            Event::Init => self.list = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                self.list.get_or_insert_default().insert(key(&object), object);
            }
            Event::InitDone => {
                self.objects = self.list.take().unwrap_or_default();
                self.is_whole = true;
            }
            Event::Apply(object) => {
                self.objects.insert(key(&object), object);
            }
            Event::Delete(object) => {
                self.objects.remove(&key(&object));
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &K> {
        self.objects.values()
    }

    fn get(&self, namespace: &str, name: &str) -> Option<&K> {
        self.objects.get(&(namespace.to_owned(), name.to_owned()))
    }
}

/// What the controller has seen.
#[derive(Default)]
struct Seen {
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    classes: Store<StorageClass>,
    pods: Store<Pod>,
}

impl Seen {
    fn take(&mut self, change: Change) {
        match change {
            Change::Claim(event) => self.claims.take(*event),
            Change::Volume(event) => self.volumes.take(*event),
            Change::Class(event) => self.classes.take(*event),
            Change::Pod(event) => self.pods.take(*event),
        }
    }

    /// Nothing is decided before every list has come in: what is not seen yet is not gone.
    fn is_whole(&self) -> bool {
        self.claims.is_whole && self.volumes.is_whole && self.classes.is_whole && self.pods.is_whole
    }
}
