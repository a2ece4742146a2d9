//! Who a static pod is: the kubelet's rules for name, namespace, UID and annotations. The UID is a hash of the content, so
//! that any edit of the manifest makes another pod.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Toleration};

use super::annotation;

/// Complete a static pod from `file` on `node`, first seen at `seen`. The pod has passed defaults and validation.
pub(super) fn adopt(pod: &mut Pod, node: &str, file: &str, seen: Timestamp) {
    let given = pod.metadata.uid.take().filter(|uid| !uid.is_empty());
    let uid = given.unwrap_or_else(|| uid(pod, node, file));
    let metadata = &mut pod.metadata;
    metadata.name = Some(format!("{}-{node}", metadata.name.as_deref().unwrap_or_default()));
    if metadata.namespace.as_deref().unwrap_or_default().is_empty() {
        metadata.namespace = Some("default".into());
    }
    let annotations = metadata.annotations.get_or_insert_default();
    // The hash is the UID as upstream, where both are the hash of the content unless the manifest names a UID.
    annotations.insert(annotation::HASH.into(), uid.clone());
    annotations.insert(annotation::SOURCE.into(), "file".into());
    annotations.insert(annotation::SEEN.into(), seen.to_string());
    metadata.uid = Some(uid);
    pod.status = None;
    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some(node.into());
    // A static pod stays whatever taint the node gets.
    let toleration =
        Toleration { operator: Some("Exists".into()), effect: Some("NoExecute".into()), ..Default::default() };
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.contains(&toleration) {
        tolerations.push(toleration);
    }
}

/// FNV-128a of the pod as JSON (whose maps are sorted), of the node and of the file, in hex.
fn uid(pod: &Pod, node: &str, file: &str) -> String {
    let content = serde_json::to_vec(pod).unwrap_or_default();
    let hash = [&content[..], b"host:", node.as_bytes(), b"file:", file.as_bytes()]
        .into_iter()
        .flatten()
        .fold(FNV_OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(FNV_PRIME));
    format!("{hash:032x}")
}

/// The constants of the 128-bit FNV hash (RFC 9923).
const FNV_OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const FNV_PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn adopted(object: serde_json::Value, file: &str, seen: i64) -> Pod {
        let mut pod: Pod = serde_json::from_value(object).expect("a pod");
        adopt(&mut pod, "n1", file, Timestamp::from_second(seen).expect("a time"));
        pod
    }

    #[test]
    fn a_static_pod_gets_the_kubelets_identity() {
        let pod =
            adopted(json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "c"}]}}), "/m/a.yaml", 0);
        assert_eq!(pod.metadata.name.as_deref(), Some("web-n1"));
        assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
        let uid = pod.metadata.uid.as_deref().expect("a uid");
        assert_eq!(uid.len(), 32);
        let annotations = pod.metadata.annotations.as_ref().expect("annotations");
        assert_eq!(annotations[annotation::HASH], uid);
        assert_eq!(annotations[annotation::SOURCE], "file");
        let spec = pod.spec.as_ref().expect("a spec");
        assert_eq!(spec.node_name.as_deref(), Some("n1"));
        assert_eq!(spec.tolerations.as_ref().map(Vec::len), Some(1));
        assert!(super::super::is_static(&pod));
    }

    #[test]
    fn the_uid_follows_content_and_file_but_not_the_time() {
        let web = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "image": "a"}]}});
        let edited = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "image": "b"}]}});
        let uid = |object: &serde_json::Value, file: &str, seen| adopted(object.clone(), file, seen).metadata.uid;
        assert_eq!(uid(&web, "/m/a", 0), uid(&web, "/m/a", 99));
        assert_ne!(uid(&web, "/m/a", 0), uid(&edited, "/m/a", 0));
        assert_ne!(uid(&web, "/m/a", 0), uid(&web, "/m/b", 0));
    }

    #[test]
    fn a_uid_that_is_given_stays() {
        let pod = adopted(json!({"metadata": {"name": "web", "uid": "mine", "namespace": "x"}}), "/m/a", 0);
        assert_eq!((pod.metadata.uid.as_deref(), pod.metadata.namespace.as_deref()), (Some("mine"), Some("x")));
    }

    #[test]
    fn the_hash_is_fnv_128a() {
        let hash = b"a".iter().fold(FNV_OFFSET, |h, b| (h ^ u128::from(*b)).wrapping_mul(FNV_PRIME));
        assert_eq!(format!("{hash:032x}"), "d228cb696f1a8caf78912b704e4a8964");
    }
}
