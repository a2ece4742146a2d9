//! Mirror pods: an object in the API for each static pod, so that people see it. Its status is the static pod's; deleting
//! it stops nothing.

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};
use tracing::{debug, info};

use super::{annotation, annotation_of, full_name, is_mirror};

/// The mirror of a static pod on a node with this UID.
pub fn mirror_of(pod: &Pod, node: &str, node_uid: Option<&str>) -> Pod {
    let mut annotations = pod.metadata.annotations.clone().unwrap_or_default();
    if let Some(hash) = annotations.get(annotation::HASH).cloned() {
        annotations.insert(annotation::MIRROR.into(), hash);
    }
    let owner = node_uid.map(|uid| {
        vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: node.into(),
            uid: uid.into(),
            controller: Some(true),
            ..Default::default()
        }]
    });
    Pod {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            labels: pod.metadata.labels.clone(),
            annotations: Some(annotations),
            owner_references: owner,
            ..Default::default()
        },
        spec: pod.spec.clone(),
        status: None,
    }
}

/// Whether an object of the API is the mirror of this version of this static pod.
pub fn mirrors(mirror: &Pod, pod: &Pod) -> bool {
    is_mirror(mirror) && annotation_of(mirror, annotation::MIRROR) == annotation_of(pod, annotation::HASH)
}

/// Make the mirror of a static pod, or find it made.
pub async fn create(client: &Client, pod: &Arc<Pod>, node: &str) -> Result<Pod, kube::Error> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let owner = Api::<Node>::all(client.clone()).get_opt(node).await?.and_then(|node| node.metadata.uid);
    match pods.create(&PostParams::default(), &mirror_of(pod, node, owner.as_deref())).await {
        Ok(made) => {
            info!(pod = full_name(pod), "mirror made");
            Ok(made)
        }
        Err(kube::Error::Api(status)) if status.code == 409 => pods.get(name).await,
        Err(error) => Err(error),
    }
}

/// Remove a mirror at once; one that is gone or replaced already is success.
pub async fn delete(client: &Client, mirror: &Pod) -> Result<(), kube::Error> {
    let namespace = mirror.metadata.namespace.as_deref().unwrap_or("default");
    let name = mirror.metadata.name.as_deref().unwrap_or_default();
    delete_at_once(client, namespace, name, mirror.metadata.uid.clone()).await?;
    debug!(pod = full_name(mirror), "mirror removed");
    Ok(())
}

/// Delete the pod object of this UID without grace; no such object is success.
pub(crate) async fn delete_at_once(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: Option<String>,
) -> Result<(), kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid, resource_version: None }),
        ..Default::default()
    };
    match pods.delete(name, &params).await {
        Ok(_) => Ok(()),
        // Gone, or another pod has the name now.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mirror_is_the_pod_without_its_uid_owned_by_the_node() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "web-n1", "namespace": "default", "uid": "u", "labels": {"a": "b"},
                "annotations": {annotation::HASH: "h", annotation::SOURCE: "file"},
            },
            "spec": {"containers": [{"name": "c"}]},
        }))
        .expect("a pod");
        let mirror = mirror_of(&pod, "n1", Some("node-uid"));
        assert!(is_mirror(&mirror) && mirrors(&mirror, &pod));
        assert!(!super::super::is_static(&mirror));
        assert_eq!(mirror.metadata.uid, None);
        assert_eq!(mirror.metadata.owner_references.map(|o| o[0].uid.clone()).as_deref(), Some("node-uid"));
        assert_eq!(mirror.spec, pod.spec);
    }
}
