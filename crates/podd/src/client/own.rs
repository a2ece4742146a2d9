//! podd's own routes, asked over a unix socket: one connection per request, bodies streamed both ways.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use axum::body::Body;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::connect;
use crate::config::Settings;

/// The socket on which the agent serves podd's own routes; starts an agent when none runs.
pub(crate) async fn agent_socket(settings: &Settings) -> anyhow::Result<PathBuf> {
    if let Some(socket) = running_agent_socket(settings).await {
        return Ok(socket);
    }
    connect(settings).await?;
    let started = running_agent_socket(settings).await;
    started.with_context(|| format!("an API without an agent answers at {}", settings.api_socket().display()))
}

/// The socket of an agent that runs: its kubelet interface where the API is another process, else the API's.
pub(crate) async fn running_agent_socket(settings: &Settings) -> Option<PathBuf> {
    for socket in [settings.kubelet_socket(), settings.api_socket()] {
        let Ok(request) = Request::get("/podd/v1/agent").body(Body::empty()) else { continue };
        // An API without an agent answers 404.
        if send(&socket, request).await.is_ok_and(|answer| answer.status().is_success()) {
            return Some(socket);
        }
    }
    None
}

/// Sends a request to whoever listens on `socket`. The answer may come before the request's body was sent.
///
/// # Errors
/// When nobody listens, or the connection ends before an answer.
pub(crate) async fn send(socket: &Path, mut request: Request<Body>) -> anyhow::Result<Response<Incoming>> {
    let what = || format!("ask {}", socket.display());
    let stream = UnixStream::connect(socket).await.with_context(what)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(what)?;
    // It ends with the answer's body; what fails is told there.
    tokio::spawn(connection);
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    sender.send_request(request).await.with_context(what)
}

/// Posts to one of podd's routes; an answer that is no success becomes an error with the answer's text.
pub(crate) async fn post(socket: &Path, route: &str, kind: &str, body: Body) -> anyhow::Result<Lines> {
    let request = Request::post(route).header(CONTENT_TYPE, kind).body(body).context("build the request")?;
    let answer = send(socket, request).await?;
    match answer.status() {
        status if status.is_success() => Ok(Lines { body: answer.into_body(), pending: Vec::new() }),
        StatusCode::NOT_FOUND => bail!("no agent of this version answers at {}", socket.display()),
        _ => {
            let text = answer.into_body().collect().await.context("read the answer")?.to_bytes();
            bail!("{}", String::from_utf8_lossy(&text))
        }
    }
}

/// An answer of lines of JSON, as they arrive.
pub(crate) struct Lines {
    body: Incoming,
    pending: Vec<u8>,
}

impl Lines {
    /// The next line; none when the answer has ended. A line `{"error": TEXT}` is an error.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Value>> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Value = serde_json::from_slice(&self.pending[..end]).context("read the answer")?;
                self.pending.drain(..=end);
                match line["error"].as_str() {
                    Some(error) => bail!("{error}"),
                    None => return Ok(Some(line)),
                }
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    let frame = frame.context("read the answer")?;
                    self.pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| &data[..]));
                }
            }
        }
    }
}
