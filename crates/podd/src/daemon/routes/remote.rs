//! The image routes where the runtime is another process: passed on to it if it is podd's, else what CRI allows.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, RequestExt as _, Router};
use futures::{StreamExt as _, stream};
use podd_cri::ImageService;
use podd_cri::v1::{AuthConfig, ImageSpec, PullImageRequest};
use serde_json::json;

use super::lines;
use super::pull::PullOptions;
use crate::client::own;

/// A runtime in another process.
#[derive(Clone)]
struct Remote {
    images: Arc<dyn ImageService>,
    /// Where it serves [`super::images`], if it is `podd cri`.
    socket: PathBuf,
}

pub(in crate::daemon) fn remote_images(images: Arc<dyn ImageService>, socket: PathBuf) -> Router {
    Router::new()
        .route("/podd/v1/load", post(load))
        .route("/podd/v1/pull", post(pull))
        .with_state(Remote { images, socket })
}

async fn load(State(remote): State<Remote>, request: Request) -> Response {
    if !remote.is_podd().await {
        let message = "the runtime is not podd's, and CRI has no call to load an archive: load it with the runtime's own \
                       tool (containerd: `ctr --namespace k8s.io images import FILE`), or pull it from a registry";
        // Said at once, while the archive is still read: who cannot send any more does not read an answer either.
        let read = request.into_body().into_data_stream().for_each(|_| std::future::ready(()));
        let refusal = stream::once(std::future::ready(Some(json!({"error": message}))));
        return lines(stream::select(refusal, stream::once(read).map(|()| None)));
    }
    remote.pass_on(request).await
}

/// CRI pulls without telling how far it is.
async fn pull(State(remote): State<Remote>, request: Request) -> Response {
    if remote.is_podd().await {
        return remote.pass_on(request).await;
    }
    let options: PullOptions = match request.extract::<Json<_>, _>().await {
        Ok(Json(options)) => options,
        Err(refusal) => return refusal.into_response(),
    };
    let auth = match options.credentials() {
        Ok(given) => given.map(|(username, password)| AuthConfig { username, password, ..Default::default() }),
        Err(refusal) => return (StatusCode::BAD_REQUEST, refusal).into_response(),
    };
    let image = ImageSpec { image: options.image.clone(), user_specified_image: options.image, ..Default::default() };
    let request = PullImageRequest { image: Some(image), auth, ..Default::default() };
    let work = async move {
        Some(match remote.images.pull_image(tonic::Request::new(request)).await {
            Ok(answer) => json!({"id": answer.into_inner().image_ref}),
            Err(status) => json!({"error": status.message()}),
        })
    };
    lines(stream::once(work))
}

impl Remote {
    async fn is_podd(&self) -> bool {
        tokio::net::UnixStream::connect(&self.socket).await.is_ok()
    }

    /// The same request to the runtime's process, and its answer; both bodies as they come.
    async fn pass_on(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let mut passed = Request::new(body);
        *passed.method_mut() = parts.method;
        *passed.uri_mut() = parts.uri;
        if let Some(kind) = parts.headers.get(CONTENT_TYPE) {
            passed.headers_mut().insert(CONTENT_TYPE, kind.clone());
        }
        match own::send(&self.socket, passed).await {
            Ok(answer) => answer.map(Body::new).into_response(),
            Err(error) => (StatusCode::BAD_GATEWAY, format!("the runtime does not answer: {error:#}")).into_response(),
        }
    }
}
