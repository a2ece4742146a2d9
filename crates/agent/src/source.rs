//! Where pods come from: the API and a directory of static manifests. Each source turns what it sees into
//! [`Change`]s, in order, on one channel; the agent's loop admits them and passes them on to the workers.

pub mod api;
pub mod file;
pub mod identity;
pub mod manifest;
pub mod mirror;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

pub use crate::worker::Source;

/// What a source has seen.
#[derive(Clone, Debug)]
pub enum Change {
    /// All that the source has, now; what it had before and not here is gone.
    All(Vec<Arc<Pod>>),
    /// A pod is there, or has changed.
    Applied(Arc<Pod>),
    /// A pod is gone.
    Gone(Arc<Pod>),
}

/// Annotations of pods that do not come from the API, and of their mirrors there.
pub mod annotation {
    /// Where the pod came from: `file` or `api`.
    pub const SOURCE: &str = "kubernetes.io/config.source";
    /// Hash of a static pod's manifest.
    pub const HASH: &str = "kubernetes.io/config.hash";
    /// When the source saw it first.
    pub const SEEN: &str = "kubernetes.io/config.seen";
    /// On the mirror: hash of the static pod that it mirrors.
    pub const MIRROR: &str = "kubernetes.io/config.mirror";
}

/// An annotation of a pod.
pub fn annotation_of<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether an object of the API only mirrors a static pod. Such a pod is never run.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation_of(pod, annotation::MIRROR).is_some()
}

/// Whether a pod comes from a manifest of this node.
pub fn is_static(pod: &Pod) -> bool {
    !is_mirror(pod) && podd_core::pod::is_static(pod)
}

/// `namespace/name`.
pub fn full_name(pod: &Pod) -> String {
    let part = |value: &Option<String>| value.clone().unwrap_or_default();
    format!("{}/{}", part(&pod.metadata.namespace), part(&pod.metadata.name))
}

/// The UID, empty where there is none.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}
