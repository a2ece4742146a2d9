//! podd's own routes, for what Kubernetes and CRI have no call for: ending the agent; loading an archive, and pulling with
//! progress.
//!
//! ```text
//! GET  /podd/v1/agent            the agent's version                    who asks may be talking to an API alone
//! POST /podd/v1/stop?pods=BOOL   202, and the agent ends
//! POST /podd/v1/load             body: the archive                      lines: {"loaded": [NAME…]} or {"error"}
//! POST /podd/v1/pull             body: {"image", "credentials"}         lines: {"layer", "done", "total"}…, {"id"} or {"error"}
//! ```
//!
//! The agent serves all of them beside the API, or beside its kubelet interface where the API is another process. `load`
//! and `pull` belong to the process that has the runtime: `podd cri` serves them beside the CRI, and the agent passes them on.

mod load;
mod pull;
mod remote;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::{Stream, StreamExt as _};
use podd_runtime::Runtime;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Ending;
pub(super) use remote::remote_images;

/// The agent's own.
pub(super) fn agent(ending: Arc<watch::Sender<Ending>>) -> Router {
    let version = || async { Json(json!({"version": env!("CARGO_PKG_VERSION")})) };
    Router::new().route("/podd/v1/agent", get(version)).route("/podd/v1/stop", post(stop)).with_state(ending)
}

/// The images of a runtime in this process.
pub(super) fn images(runtime: Arc<Runtime>) -> Router {
    Router::new().route("/podd/v1/load", post(load::load)).route("/podd/v1/pull", post(pull::pull)).with_state(runtime)
}

/// Where a runtime that serves CRI on `cri` serves [`images`].
pub(super) fn images_socket(cri: &Path) -> PathBuf {
    cri.with_extension("images.sock")
}

#[derive(Deserialize)]
struct StopOptions {
    #[serde(default)]
    pods: bool,
}

async fn stop(State(ending): State<Arc<watch::Sender<Ending>>>, Query(options): Query<StopOptions>) -> Response {
    ending.send_replace(if options.pods { Ending::StopPods } else { Ending::Leave });
    StatusCode::ACCEPTED.into_response()
}

/// An answer of lines of JSON; `None` says nothing.
fn lines(stream: impl Stream<Item = Option<Value>> + Send + 'static) -> Response {
    let lines = stream.filter_map(|line| std::future::ready(line.map(|line| Ok::<_, Infallible>(format!("{line}\n")))));
    axum::body::Body::from_stream(lines).into_response()
}

/// The last line of what went wrong, with its causes.
fn failure(error: impl std::error::Error + Send + Sync + 'static) -> Value {
    json!({"error": format!("{:#}", anyhow::Error::new(error))})
}
