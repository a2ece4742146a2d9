//! The kubelet's HTTP interface, as the API server (or kubectl's `--raw`) asks for it: pods, logs, exec, attach
//! and port forwarding. It is a router: who listens where is the composition root's choice.

mod logs;
mod streams;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    handler::Handler,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use podd_core::pod::{Member, members};
use podd_cri::{
    RuntimeService,
    streaming::{channels::Failure, refuse},
};
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
        .route("/exec/{namespace}/{pod}/{container}", streams(streams::exec))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", streams(streams::exec))
        .route("/attach/{namespace}/{pod}/{container}", streams(streams::attach))
        .route("/attach/{namespace}/{pod}/{uid}/{container}", streams(streams::attach))
        .route("/portForward/{namespace}/{pod}", streams(streams::port_forward))
        .route("/portForward/{namespace}/{pod}/{uid}", streams(streams::port_forward))
        .with_state(kubelet)
}

/// Clients of WebSocket ask with GET, those of SPDY with POST.
fn streams<H, T>(handler: H) -> MethodRouter<Kubelet>
where
    H: Handler<T, Kubelet> + Clone,
    T: 'static,
{
    get(handler.clone()).post(handler)
}

async fn pods(State(kubelet): State<Kubelet>) -> Response {
    let pods: Vec<Pod> = kubelet.pods.pods().iter().map(|pod| Pod::clone(pod)).collect();
    Json(json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": pods})).into_response()
}

/// A refusal, in the kubelet's words; the answer is a Kubernetes `Status`.
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
        let reason = match self.0 {
            StatusCode::BAD_REQUEST => "BadRequest",
            StatusCode::NOT_FOUND => "NotFound",
            StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
            StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
            _ => "InternalError",
        };
        refuse(&Failure { code: self.0.as_u16(), reason: reason.to_owned(), message: self.1 })
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

/// The pod's container of this name, of any list.
fn container_of<'a>(pod: &'a Pod, container: &str) -> Option<Member<'a>> {
    members(pod).into_iter().find(|found| found.name() == container)
}

/// The runtime's id in `<runtime>://<id>`.
fn runtime_id(container_id: &str) -> &str {
    container_id.split_once("://").map_or(container_id, |(_, id)| id)
}
