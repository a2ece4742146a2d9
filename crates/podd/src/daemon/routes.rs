//! podd's own routes, for what Kubernetes has no object for: ending the agent, loading an archive.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures::StreamExt as _;
use podd_image::Credentials;
use podd_runtime::Runtime;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::Ending;

/// Lines of progress that may wait for a client.
const PROGRESS_LINES: usize = 64;

/// What the routes work with.
#[derive(Clone)]
pub(super) struct State {
    pub(super) ending: Arc<watch::Sender<Ending>>,
    /// None when the runtime is another process.
    pub(super) runtime: Option<Arc<Runtime>>,
}

pub(super) fn router(state: State) -> Router {
    Router::new()
        .route("/podd/v1/stop", post(stop))
        .route("/podd/v1/load", post(load))
        .route("/podd/v1/pull", post(pull))
        .with_state(state)
}

#[derive(Deserialize)]
struct StopOptions {
    #[serde(default)]
    pods: bool,
}

async fn stop(Shared(state): Shared<State>, Query(options): Query<StopOptions>) -> Response {
    state.ending.send_replace(if options.pods { Ending::StopPods } else { Ending::Leave });
    StatusCode::ACCEPTED.into_response()
}

#[derive(Deserialize)]
struct LoadOptions {
    path: PathBuf,
}

/// Loads an archive that lies on this machine; answers the names of its images.
async fn load(Shared(state): Shared<State>, Json(LoadOptions { path }): Json<LoadOptions>) -> Response {
    let Some(runtime) = state.runtime else {
        let message = "the runtime is another process, and CRI has no call to load an archive";
        return (StatusCode::NOT_IMPLEMENTED, message).into_response();
    };
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("open {}: {error}", path.display())).into_response(),
    };
    match runtime.images().load(file).await {
        Ok(loaded) => Json(loaded.iter().flat_map(names).collect::<Vec<String>>()).into_response(),
        Err(error) => {
            let error = anyhow::Error::new(error).context(format!("load {}", path.display()));
            (StatusCode::UNPROCESSABLE_ENTITY, format!("{error:#}")).into_response()
        }
    }
}

#[derive(Deserialize)]
struct PullOptions {
    image: String,
    /// `USER:PASSWORD`.
    credentials: Option<String>,
}

/// Pulls an image. The answer is lines of JSON: `{"layer", "done", "total"}` as bytes arrive, and at last `{"id"}` or
/// `{"error"}`. A client that goes away ends the pull, unless somebody else waits for the same image.
async fn pull(Shared(state): Shared<State>, Json(options): Json<PullOptions>) -> Response {
    let Some(runtime) = state.runtime else {
        return (StatusCode::NOT_IMPLEMENTED, "the runtime is another process").into_response();
    };
    let reference = match podd_image::Reference::parse(&options.image) {
        Ok(reference) => reference,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let credentials = match options.credentials.as_deref().map(|text| text.split_once(':')) {
        None => Credentials::Anonymous,
        Some(Some((username, password))) => {
            Credentials::Basic { username: username.to_owned(), password: password.to_owned() }
        }
        Some(None) => return (StatusCode::BAD_REQUEST, "credentials are USER:PASSWORD").into_response(),
    };
    let (lines, queue) = mpsc::channel::<Value>(PROGRESS_LINES);
    let progress = lines.clone();
    // A client that reads slowly misses some of the numbers; a later one says the same.
    let sink: podd_image::ProgressSink = Arc::new(move |progressed: &podd_image::Progress| {
        let layer = progressed.layer.to_string();
        let _missed = progress.try_send(json!({"layer": layer, "done": progressed.done, "total": progressed.total}));
    });
    let work = async move {
        let last = match runtime.images().pull(&reference, &credentials, Some(sink)).await {
            Ok(image) => json!({"id": image.id.to_string()}),
            Err(error) => json!({"error": format!("{:#}", anyhow::Error::new(error))}),
        };
        let _client_is_gone = lines.send(last).await;
    };
    let queue = tokio_stream::wrappers::ReceiverStream::new(queue).map(Some);
    // The work is polled with the body and yields nothing itself.
    let stream = futures::stream::select(queue, futures::stream::once(work).map(|()| None));
    let body = stream.filter_map(|line| std::future::ready(line.map(|line| Ok::<_, Infallible>(format!("{line}\n")))));
    axum::body::Body::from_stream(body).into_response()
}

/// The names that an image got, or its id.
fn names(loaded: &podd_image::Loaded) -> Vec<String> {
    if loaded.names.is_empty() {
        return vec![loaded.image.id.to_string()];
    }
    loaded.names.clone()
}
