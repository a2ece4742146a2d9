//! Volumes that show what the API has follow it: ConfigMaps and Secrets are watched, and of the pods whose volumes show
//! one that has changed the files are written anew; so they are when a pod's labels or annotations change, and when a
//! worker takes a pod over from an agent before. Environments and sub paths stay as they were, as with the kubelet.
//!
//! A change only says *which* pod: what is written is read then, in the pod's turn, so that the last write has the newest.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt, stream::FuturesUnordered};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    events::{Recorder, Severity},
    references::Names,
    resources::NodeResources,
    source::api::backoff,
    worker::Lookup,
};

/// How many pods' volumes are written side by side.
const SIDE_BY_SIDE: usize = 8;
/// When those that could not be written are tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// UIDs of pods whose volumes may have changed. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Stale(Arc<(Mutex<BTreeSet<String>>, Notify)>);

impl Stale {
    /// This pod's volumes are to be looked at.
    pub(crate) fn mark(&self, uid: &str) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned());
        self.0.1.notify_one();
    }

    fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.0.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What keeps the volumes up to date.
pub(crate) struct Refresher {
    pub(crate) client: Client,
    pub(crate) resources: NodeResources,
    pub(crate) pods: Lookup,
    pub(crate) recorder: Recorder,
    pub(crate) stale: Stale,
}

impl Refresher {
    /// Follows the API until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let config_maps = names(Api::<ConfigMap>::all(self.client.clone()));
        let secrets = names(Api::<Secret>::all(self.client.clone()));
        let mut config_maps = std::pin::pin!(config_maps);
        let mut secrets = std::pin::pin!(secrets);
        let mut running = FuturesUnordered::new();
        let mut waiting = BTreeSet::new();
        loop {
            waiting.append(&mut self.stale.take());
            while running.len() < SIDE_BY_SIDE
                && let Some(uid) = waiting.pop_first()
            {
                running.push(self.refresh(uid));
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                // Streams keep their state when the wait for the next item is cancelled, and a `Notify` its permit.
                Some(()) = running.next() => {}
                Some((namespace, name)) = config_maps.next() => {
                    self.mark(&namespace, |names| names.config_maps.contains(&name));
                }
                Some((namespace, name)) = secrets.next() => self.mark(&namespace, |names| names.secrets.contains(&name)),
                () = self.stale.0.1.notified() => {}
            }
        }
    }

    fn mark(&self, namespace: &str, is_shown: impl Fn(&Names) -> bool) {
        let pods = self.pods.pods().into_iter();
        let shown = pods
            .filter(|pod| pod.metadata.namespace.as_deref() == Some(namespace) && is_shown(&Names::of_volumes(pod)));
        for pod in shown {
            self.stale.mark(pod.metadata.uid.as_deref().unwrap_or_default());
        }
    }

    async fn refresh(&self, uid: String) {
        let newest = || self.pods.pods().into_iter().find(|pod| pod.metadata.uid.as_deref() == Some(&uid));
        match self.resources.refresh(&uid, newest).await {
            Ok(()) => debug!(uid, "volumes show what the API has"),
            Err(failure) => {
                warn!(uid, message = failure.message, "volumes stay as they were");
                // A pod that is gone needs none.
                let Some(pod) = newest() else { return };
                self.recorder.pod(&pod, Severity::Warning, &failure.reason, failure.message);
                let stale = self.stale.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(AGAIN).await;
                    stale.mark(&uid);
                });
            }
        }
    }
}

/// Namespace and name of each object that is there, or has changed, or is gone.
fn names<K>(api: Api<K>) -> impl Stream<Item = (String, String)>
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    watcher(api, watcher::Config::default()).backoff(backoff()).filter_map(|event| async {
        let object = match event {
            Ok(Event::Apply(object) | Event::InitApply(object) | Event::Delete(object)) => object,
            // Whoever lists pods says that the API is away; after it is back all objects are told anew.
            Ok(Event::Init | Event::InitDone) | Err(_) => return None,
        };
        let meta = object.meta();
        Some((meta.namespace.clone()?, meta.name.clone()?))
    })
}
