//! The pods that the dispatcher has, with their newest statuses, for whoever asks. Written by the dispatcher (objects) and
//! by the workers (statuses), read by the kubelet's HTTP interface and the node's housekeeping.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use k8s_openapi::api::core::v1::Pod;
use podd_core::pod::Observation;

/// One pod as it is known now.
#[derive(Clone)]
struct Row {
    pod: Arc<Pod>,
    seen: Arc<Observation>,
}

/// By uid. Clones are the same table.
#[derive(Clone, Default)]
pub(super) struct Table {
    rows: Arc<Mutex<BTreeMap<String, Row>>>,
    complete: Arc<AtomicBool>,
}

impl Table {
    /// Takes in a newer object; its worker's status stays.
    pub(super) fn object(&self, uid: &str, pod: &Arc<Pod>) {
        let mut rows = self.lock();
        let Some(row) = rows.get_mut(uid) else {
            rows.insert(uid.to_owned(), Row { pod: pod.clone(), seen: Arc::default() });
            return;
        };
        if let Some(status) = row.pod.status.clone() {
            row.pod = Arc::new(Pod { status: Some(status), ..Pod::clone(pod) });
        } else {
            row.pod = pod.clone();
        }
    }

    /// Takes in what a worker knows, if the pod is still there.
    pub(super) fn tell(&self, uid: &str, pod: &Arc<Pod>, seen: Option<&Arc<Observation>>) {
        if let Some(row) = self.lock().get_mut(uid) {
            row.pod = pod.clone();
            if let Some(seen) = seen {
                row.seen = seen.clone();
            }
        }
    }

    /// Every source has told all it has: who is not in the table is not on the node.
    pub(super) fn completed(&self) {
        self.complete.store(true, Ordering::Release);
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    pub(super) fn remove(&self, uid: &str) {
        self.lock().remove(uid);
    }

    pub(super) fn all(&self) -> Vec<Arc<Pod>> {
        self.lock().values().map(|row| row.pod.clone()).collect()
    }

    /// What the runtime had of a pod when its worker last looked.
    pub(super) fn seen(&self, uid: &str) -> Option<Arc<Observation>> {
        self.lock().get(uid).map(|row| row.seen.clone())
    }

    /// The pod of that name. While an old one of the name still ends, the newer one.
    pub(super) fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let is_it = |pod: &&Arc<Pod>| {
            pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name)
        };
        let age = |pod: &&Arc<Pod>| {
            let meta = &pod.metadata;
            (meta.deletion_timestamp.is_none(), meta.creation_timestamp.as_ref().map(|time| time.0))
        };
        self.lock().values().map(|row| &row.pod).filter(is_it).max_by_key(age).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Row>> {
        // Nothing panics while it holds this; and a table that is whole is good whoever did.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
