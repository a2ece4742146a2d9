//! Passes one HTTP/1.1 request on to the next hop, upgrades included: API → kubelet → streaming server.
//!
//! An upgrade (WebSocket or SPDY, this does not look inside) is forwarded, its answer passed back, and
//! when both sides have switched, bytes are copied both ways until either side ends. Everything else is
//! streamed. The incoming request may come from a socket or through a `Router` called in the same
//! process: all it needs is the `OnUpgrade` that hyper put into its extensions.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::channels::Failure;
use super::server::refuse;

/// How long the connection to the next hop may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the next hop may take to begin its answer.
const ANSWER: Duration = Duration::from_secs(300);
/// How long the next hop may go on after the client has said its last.
const LINGER: Duration = Duration::from_secs(30);
/// Bytes that are copied at a time.
const CHUNK: usize = 32 << 10;

/// Headers that concern one hop only (RFC 9110, 7.6.1), beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `host:port`, without TLS.
    Tcp(String),
    /// A unix socket.
    Unix(PathBuf),
}

/// A streaming address that is none.
#[derive(Debug, thiserror::Error)]
#[error("{0} is no http://host:port/path")]
pub struct TargetError(String);

impl Target {
    /// Where a runtime's streaming address leads, and the path to ask for there.
    ///
    /// # Errors
    /// [`TargetError`] when it is not of the form `http://host:port/path`.
    pub fn of_url(url: &str) -> Result<(Self, PathAndQuery), TargetError> {
        let parsed = url.parse::<Uri>().ok().filter(|uri| uri.scheme_str() == Some("http"));
        let uri = parsed.ok_or_else(|| TargetError(url.to_owned()))?;
        let (Some(host), Some(path)) = (uri.host(), uri.path_and_query()) else {
            return Err(TargetError(url.to_owned()));
        };
        Ok((Self::Tcp(format!("{host}:{}", uri.port_u16().unwrap_or(80))), path.clone()))
    }

    fn host(&self) -> &str {
        match self {
            Self::Tcp(address) => address,
            Self::Unix(_) => "localhost",
        }
    }
}

/// Passes `request` on to `target`; only the path and query of its URI count. Whatever goes wrong is in
/// the answer, as a Kubernetes `Status`.
pub async fn proxy<B>(request: Request<B>, target: &Target) -> Response<Body>
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    let host = target.host();
    match target {
        Target::Tcp(address) => match connect(TcpStream::connect(address)).await {
            Ok(stream) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "no TCP_NODELAY");
                }
                proxy_over(request, stream, host).await
            }
            Err(error) => refuse(&unreachable(address, &error)),
        },
        Target::Unix(path) => match connect(UnixStream::connect(path)).await {
            Ok(stream) => proxy_over(request, stream, host).await,
            Err(error) => refuse(&unreachable(&path.display().to_string(), &error)),
        },
    }
}

/// Passes `request` on over a connection that stands (TLS, say). `host` goes into its header.
pub async fn proxy_over<B, S>(request: Request<B>, stream: S, host: &str) -> Response<Body>
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match tokio::time::timeout(ANSWER, forward(request.map(Body::new), stream, host)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => refuse(&gateway(502, format!("{host}: {error}"))),
        Err(_) => refuse(&gateway(504, format!("{host}: no answer in {} s", ANSWER.as_secs()))),
    }
}

async fn connect<S>(connecting: impl Future<Output = io::Result<S>>) -> io::Result<S> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
    tokio::time::timeout(CONNECT, connecting).await.map_err(late)?
}

fn unreachable(target: &str, error: &io::Error) -> Failure {
    gateway(502, format!("connect to {target}: {error}"))
}

fn gateway(code: u16, message: String) -> Failure {
    let reason = if code == 504 { "Timeout" } else { "ServiceUnavailable" };
    Failure { code, reason: reason.into(), message }
}

async fn forward<S>(mut request: Request<Body>, stream: S, host: &str) -> Result<Response<Body>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "proxied connection ended");
        }
    });
    let wanted = wanted_upgrade(request.headers());
    let client = wanted.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let mut response = sender.send_request(onward(request, host, wanted)).await?;
    match client {
        Some(client) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let server = hyper::upgrade::on(&mut response);
            tokio::spawn(join(client, server));
            // Its headers *are* about this hop: the client checks them.
            Ok(response.map(|_| Body::empty()))
        }
        _ => {
            strip(response.headers_mut());
            Ok(response.map(Body::new))
        }
    }
}

/// What the client wants to switch to, if anything.
fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = names_in_connection(headers).any(|name| name == header::UPGRADE);
    headers.get(header::UPGRADE).filter(|_| asked).cloned()
}

fn names_in_connection(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> + '_ {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok())
}

/// The request for the next hop.
fn onward(mut request: Request<Body>, host: &str, upgrade: Option<HeaderValue>) -> Request<Body> {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
    *request.version_mut() = http::Version::HTTP_11;
    request.extensions_mut().clear();
    let headers = request.headers_mut();
    strip(headers);
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(header::HOST, host);
    }
    request
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = names_in_connection(headers).collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Copies both ways once both sides have switched.
async fn join(client: OnUpgrade, server: OnUpgrade) {
    let (client, server) = match tokio::try_join!(client, server) {
        Ok((client, server)) => (TokioIo::new(client), TokioIo::new(server)),
        Err(error) => {
            tracing::debug!(%error, "upgrade not completed");
            return;
        }
    };
    let (from_client, to_client) = tokio::io::split(client);
    let (from_server, to_server) = tokio::io::split(server);
    let mut up = std::pin::pin!(copy(from_client, to_server));
    let mut down = std::pin::pin!(copy(from_server, to_client));
    tokio::select! {
        // The server has ended, and all it said has been passed on.
        _ = &mut down => {}
        // The client has said its last; the answer may still come. Pinned, so `down` goes on as it was.
        ended = &mut up => if ended.is_ok() {
            drop(tokio::time::timeout(LINGER, down).await);
        }
    }
}

/// Copies until the end, and passes the end on.
async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = from.read(&mut chunk).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        to.write_all(&chunk[..n]).await?;
        to.flush().await?;
    }
}
