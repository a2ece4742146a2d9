//! podd's own routes, for what Kubernetes has no object for: ending the agent, loading an archive.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use podd_runtime::Runtime;
use serde::Deserialize;
use tokio::sync::watch;

use super::Ending;

/// What the routes work with.
#[derive(Clone)]
pub(super) struct State {
    pub(super) ending: Arc<watch::Sender<Ending>>,
    /// None when the runtime is another process.
    pub(super) runtime: Option<Arc<Runtime>>,
}

pub(super) fn router(state: State) -> Router {
    Router::new().route("/podd/v1/stop", post(stop)).route("/podd/v1/load", post(load)).with_state(state)
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

/// The names that an image got, or its id.
fn names(loaded: &podd_image::Loaded) -> Vec<String> {
    if loaded.names.is_empty() {
        return vec![loaded.image.id.to_string()];
    }
    loaded.names.clone()
}
