//! The kubelet's HTTP interface, as the API server (or kubectl's `--raw`) asks for it: pods, logs and exec. It is a router:
//! who listens where is the composition root's choice.

mod exec;
mod logs;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{any, get},
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use podd_cri::RuntimeService;
use serde_json::json;

use crate::worker::Lookup;

/// What the interface looks at.
#[derive(Clone)]
pub(crate) struct Kubelet {
    pub(crate) pods: Lookup,
    pub(crate) runtime: Arc<dyn RuntimeService>,
}

/// The routes.
pub(crate) fn router(kubelet: Kubelet) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/pods", get(pods))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::serve))
        .route("/exec/{namespace}/{pod}/{container}", any(exec::serve))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", any(exec::serve_uid))
        .with_state(kubelet)
}

async fn pods(State(kubelet): State<Kubelet>) -> Response {
    let pods: Vec<Pod> = kubelet.pods.pods().iter().map(|pod| Pod::clone(pod)).collect();
    Json(json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": pods})).into_response()
}

/// A refusal, in the kubelet's words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) StatusCode, pub(crate) String);

impl Refused {
    fn bad_request(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, message.into())
    }

    fn not_found(message: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, message.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

impl Kubelet {
    fn find(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Refused> {
        let found = self.pods.pod(namespace, name);
        found.ok_or_else(|| Refused::not_found(format!("pod \"{name}\" not found in namespace \"{namespace}\"")))
    }
}

/// The status of a container of any list.
fn status_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == container)
}

/// Whether the pod has a container of this name.
fn has_container(pod: &Pod, container: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let init = spec.init_containers.iter().flatten();
    init.chain(&spec.containers).any(|found| found.name == container)
}

/// The runtime's id in `<runtime>://<id>`.
fn runtime_id(container_id: &str) -> &str {
    container_id.split_once("://").map_or(container_id, |(_, id)| id)
}
