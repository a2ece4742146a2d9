//! Pulling an image with progress. A client that goes away ends the pull, unless somebody else waits for the same image.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use futures::{StreamExt as _, stream};
use podd_image::Credentials;
use podd_runtime::Runtime;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{failure, lines};

/// Lines of progress that may wait for a client.
const PROGRESS_LINES: usize = 64;

#[derive(Deserialize)]
pub(super) struct PullOptions {
    pub(super) image: String,
    /// `USER:PASSWORD`.
    credentials: Option<String>,
}

impl PullOptions {
    /// User and password, where they are given.
    pub(super) fn credentials(&self) -> Result<Option<(String, String)>, &'static str> {
        let Some(text) = &self.credentials else { return Ok(None) };
        match text.split_once(':') {
            Some((user, password)) => Ok(Some((user.to_owned(), password.to_owned()))),
            None => Err("credentials are USER:PASSWORD"),
        }
    }
}

pub(super) async fn pull(State(runtime): State<Arc<Runtime>>, Json(options): Json<PullOptions>) -> Response {
    let reference = match podd_image::Reference::parse(&options.image) {
        Ok(reference) => reference,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let credentials = match options.credentials() {
        Ok(None) => Credentials::Anonymous,
        Ok(Some((username, password))) => Credentials::Basic { username, password },
        Err(refusal) => return (StatusCode::BAD_REQUEST, refusal).into_response(),
    };
    let (sender, queue) = mpsc::channel::<Value>(PROGRESS_LINES);
    let progress = sender.clone();
    // A client that reads slowly misses some of the numbers; a later one says the same.
    let sink: podd_image::ProgressSink = Arc::new(move |progressed: &podd_image::Progress| {
        let layer = progressed.layer.to_string();
        let _missed = progress.try_send(json!({"layer": layer, "done": progressed.done, "total": progressed.total}));
    });
    let work = async move {
        let last = match runtime.images().pull(&reference, &credentials, Some(sink)).await {
            Ok(image) => json!({"id": image.id.to_string()}),
            Err(error) => failure(error),
        };
        let _client_is_gone = sender.send(last).await;
    };
    let queue = tokio_stream::wrappers::ReceiverStream::new(queue).map(Some);
    // The work is polled with the answer's body and yields nothing itself.
    lines(stream::select(queue, stream::once(work).map(|()| None)))
}
