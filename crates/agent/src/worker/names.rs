//! The labels and annotations by which sandboxes and containers are known again, in the kubelet's words, and the paths
//! of logs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Pod;

/// Label: name of the pod.
pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label: namespace of the pod.
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label: UID of the pod.
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label: name of the container in its pod.
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation: hash of the definition that a container was made from.
pub(crate) const HASH: &str = "io.kubernetes.container.hash";
/// Annotation: how often the container had been started before.
pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation: where the container leaves its last words.
pub(crate) const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation: what counts as its last words.
pub(crate) const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation: the pod's grace in seconds, for the day on which only the container is left of it.
pub(crate) const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// The pod's metadata that everything here is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
}

/// Who a pod is.
pub(crate) fn identity(pod: &Pod) -> Identity<'_> {
    let meta = &pod.metadata;
    Identity {
        namespace: meta.namespace.as_deref().unwrap_or("default"),
        name: meta.name.as_deref().unwrap_or_default(),
        uid: meta.uid.as_deref().unwrap_or_default(),
    }
}

impl Identity<'_> {
    /// The three labels that name the pod.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        [(POD_NAME, self.name), (POD_NAMESPACE, self.namespace), (POD_UID, self.uid)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    /// Directory of the pod's logs: `<root>/<namespace>_<name>_<uid>`.
    pub(crate) fn log_directory(&self, log_root: &Path) -> PathBuf {
        log_root.join(format!("{}_{}_{}", self.namespace, self.name, self.uid))
    }
}

/// Path of one instance's log below the pod's log directory: `<container>/<restart count>.log`.
pub(crate) fn log_path(container: &str, restart_count: u32) -> String {
    format!("{container}/{restart_count}.log")
}
