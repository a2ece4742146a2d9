//! The pods' objects in the API: their status is written here, and they are removed when the pod has gone. The status of
//! a static pod goes to its mirror. What was published last is remembered, for the kubelet's HTTP interface and for
//! mirrors that are made anew.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use k8s_openapi::api::{
    core::v1::{ConfigMap, Pod, PodStatus, Secret},
    node::v1::RuntimeClass,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tracing::debug;

use crate::{
    references::Unread,
    resources::chain,
    source::{full_name, is_static, mirror, uid},
    worker::{PodObjects, PublishError},
};

/// A call to the API that takes longer than this has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Every field of a pod's status: what the new status lacks is removed from the object.
const STATUS_FIELDS: &[&str] = &[
    "allocatedResources",
    "conditions",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "extendedResourceClaimStatus",
    "hostIP",
    "hostIPs",
    "initContainerStatuses",
    "message",
    "nodeAllocatableResourceClaimStatuses",
    "nominatedNodeName",
    "observedGeneration",
    "phase",
    "podIP",
    "podIPs",
    "qosClass",
    "reason",
    "resize",
    "resourceClaimStatuses",
    "resources",
    "startTime",
];

/// Pods in the API, seen from one node.
#[derive(Clone)]
pub(crate) struct ApiObjects {
    client: Client,
    node: String,
    /// By UID.
    published: Arc<Mutex<HashMap<String, PodStatus>>>,
}

impl ApiObjects {
    pub(crate) fn new(client: Client, node: String) -> Self {
        Self { client, node, published: Arc::default() }
    }

    /// The newest status of a pod: the one published last, or the object's own.
    pub(crate) fn status_of(&self, pod: &Pod) -> Option<PodStatus> {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        published.get(uid(pod)).cloned().or_else(|| pod.status.clone())
    }

    /// Forget pods that are gone.
    pub(crate) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| is_there(uid));
    }

    /// Make the mirror of a static pod and give it the status that the pod has.
    pub(crate) async fn create_mirror(&self, pod: &Arc<Pod>) -> Result<(), PublishError> {
        let mirror = in_time(mirror::create(&self.client, pod, &self.node)).await?;
        match self.status_of(pod) {
            Some(status) if mirror::mirrors(&mirror, pod) => self.patch(&mirror, &status).await,
            _ => Ok(()),
        }
    }

    /// Remove a mirror at once.
    pub(crate) async fn delete_mirror(&self, mirror: &Pod) -> Result<(), PublishError> {
        in_time(mirror::delete(&self.client, mirror)).await
    }

    async fn publish_static(&self, pod: &Pod, status: &PodStatus) -> Result<(), PublishError> {
        match in_time(self.api(pod).get_opt(name_of(pod))).await? {
            Some(mirror) if mirror::mirrors(&mirror, pod) => match self.patch(&mirror, status).await {
                // The keeper of the mirrors makes it anew, with the status remembered.
                Err(PublishError::Gone | PublishError::Conflict) => Ok(()),
                other => other,
            },
            // Not there yet: it gets the status when it is made.
            _ => {
                debug!(pod = full_name(pod), "no mirror to publish to yet");
                Ok(())
            }
        }
    }

    async fn patch(&self, object: &Pod, status: &PodStatus) -> Result<(), PublishError> {
        let patch = Patch::Merge(status_patch(uid(object), status));
        let patched = in_time(self.api(object).patch_status(name_of(object), &PatchParams::default(), &patch)).await;
        match patched {
            Ok(_) => Ok(()),
            // Either somebody was quicker, or another pod has the name.
            Err(PublishError::Conflict) => match in_time(self.api(object).get_opt(name_of(object))).await? {
                Some(found) if found.metadata.uid == object.metadata.uid => Err(PublishError::Conflict),
                _ => Err(PublishError::Gone),
            },
            Err(error) => Err(error),
        }
    }

    fn api(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), pod.metadata.namespace.as_deref().unwrap_or("default"))
    }
}

#[async_trait]
impl PodObjects for ApiObjects {
    async fn runtime_handler(&self, pod: &Pod) -> Result<String, String> {
        let class = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref()).unwrap_or_default();
        if class.is_empty() {
            return Ok(String::new());
        }
        // Asked for each sandbox: there are few of them, and a class may come after its pod.
        let classes: Api<RuntimeClass> = Api::all(self.client.clone());
        match in_time(classes.get_opt(class)).await {
            Ok(Some(found)) => Ok(found.handler),
            Ok(None) => Err(format!("runtimeclass.node.k8s.io \"{class}\" not found")),
            Err(error) => Err(format!("look up runtimeclass \"{class}\": {}", chain(&error))),
        }
    }

    async fn publish(&self, pod: &Pod, status: &PodStatus) -> Result<(), PublishError> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).insert(uid(pod).to_owned(), status.clone());
        if is_static(pod) { self.publish_static(pod, status).await } else { self.patch(pod, status).await }
    }

    async fn delete(&self, pod: &Pod) -> Result<(), PublishError> {
        if is_static(pod) {
            // Its mirror goes when the manifest has gone.
            return Ok(());
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        in_time(mirror::delete_at_once(&self.client, namespace, name_of(pod), pod.metadata.uid.clone())).await
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, Unread> {
        referenced(Api::namespaced(self.client.clone(), namespace), "configmap", name).await
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, Unread> {
        referenced(Api::namespaced(self.client.clone(), namespace), "secret", name).await
    }
}

/// An object that a pod names. A call that takes too long has failed.
async fn referenced<K>(api: Api<K>, kind: &'static str, name: &str) -> Result<Option<K>, Unread>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let unread = |source| Unread { kind, name: name.to_owned(), source };
    match tokio::time::timeout(DEADLINE, api.get_opt(name)).await {
        Ok(found) => found.map_err(|error| unread(error.into())),
        Err(elapsed) => Err(unread(elapsed.into())),
    }
}

fn name_of(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// A merge patch that leaves exactly this status. Below the first level there are only lists, which a merge patch replaces.
/// The UID makes it a precondition: a pod of the same name is another pod.
fn status_patch(uid: &str, status: &PodStatus) -> Value {
    let mut fields = match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    for field in STATUS_FIELDS {
        fields.entry(*field).or_insert(Value::Null);
    }
    json!({"metadata": {"uid": uid}, "status": fields})
}

async fn in_time<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, PublishError> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(PublishError::Gone),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(PublishError::Conflict),
        Ok(Err(error)) => Err(PublishError::Unavailable(Box::new(error))),
        Err(late) => Err(PublishError::Unavailable(Box::new(late))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_leaves_nothing_of_the_old_status() {
        let status = PodStatus { phase: Some("Running".into()), ..Default::default() };
        let patch = status_patch("u", &status);
        assert_eq!(patch["metadata"]["uid"], "u");
        assert_eq!(patch["status"]["phase"], "Running");
        assert_eq!(patch["status"].as_object().map(serde_json::Map::len), Some(STATUS_FIELDS.len()));
        assert!(patch["status"]["podIP"].is_null());
    }

    #[test]
    fn the_list_of_fields_is_whole() {
        // Every field that this version of the API knows, each with some value.
        let mut all = serde_json::Map::new();
        for field in STATUS_FIELDS {
            all.insert((*field).into(), Value::Null);
        }
        let source = format!("{:?}", PodStatus::default());
        let fields = source.matches(": None").count();
        assert_eq!(fields, all.len(), "{source}");
    }
}
