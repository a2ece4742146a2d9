//! The streaming server that kubelet and crictl dial: loopback only, a port of its own, one-time tokens.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::extract::{FromRequestParts as _, Path, Request, State};
use axum::response::Response;
use axum::routing::any;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::server::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::StreamingRuntime;
use super::channels::{Failure, Protocol};
use super::session::{Limits, Pending, Session, Workshop};
use super::spdy;
use super::tokens::{MAX_WAITING, Tokens};
use super::websocket::{self, MAX_INPUT, ports};
use crate::v1::{AttachRequest, ExecRequest, PortForwardRequest};

/// Connections that are served at a time, before and after their upgrade.
const MAX_CONNECTIONS: usize = 1000;
/// A connection must have sent its request by then.
const REQUEST: Duration = Duration::from_secs(30);
/// How long sessions may take to end when the server does.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// The last word of the address of a port forwarding.
const PORT_FORWARD: &str = "portforward";

/// What may be set. The defaults are the kubelet's.
pub struct Options {
    /// A session in which neither side says anything ends after this.
    pub idle: Duration,
    /// A client that does not read has this long to take the output of work that has ended.
    pub drain: Duration,
    /// A client that was told that it is over has this long to close its side.
    pub farewell: Duration,
    /// Makes a token: unguessable, never the same twice, of characters that a path may hold.
    pub token: Box<dyn Fn() -> String + Send + Sync>,
}

impl Options {
    /// The usual times, and tokens from `token`.
    pub fn new(token: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self {
            idle: Duration::from_secs(4 * 60 * 60),
            drain: Duration::from_secs(15 * 60),
            farewell: Duration::from_secs(3),
            token: Box::new(token),
        }
    }
}

/// Keeps requests until they are dialled, then runs them. Ends when dropped; it holds the runtime, so a
/// runtime that owns its server hands in a part of itself, not the whole.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
}

struct Shared {
    waiting: Mutex<Tokens<Pending>>,
    options: Options,
    workshop: Workshop,
    places: Arc<Semaphore>,
}

impl Server {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// What the system answers when there is none.
    pub async fn bind(runtime: Arc<dyn StreamingRuntime>, options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let workshop = Workshop { runtime, tasks: TaskTracker::new(), ending: CancellationToken::new() };
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            options,
            workshop,
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        });
        shared.workshop.tasks.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { shared, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address at which this exec can be had, once, within a minute.
    ///
    /// # Errors
    /// `InvalidArgument` when the streams asked for cannot be, `ResourceExhausted` when a thousand
    /// requests wait already.
    pub fn register_exec(&self, request: ExecRequest) -> Result<String, Status> {
        check_streams(request.stdin, request.stdout, request.stderr, request.tty)?;
        if request.cmd.is_empty() {
            return Err(Status::invalid_argument("exec needs a command"));
        }
        self.register("exec", Pending::Exec(request))
    }

    /// The address at which this attach can be had, once, within a minute.
    ///
    /// # Errors
    /// As [`Self::register_exec`].
    pub fn register_attach(&self, request: AttachRequest) -> Result<String, Status> {
        check_streams(request.stdin, request.stdout, request.stderr, request.tty)?;
        self.register("attach", Pending::Attach(request))
    }

    /// The address at which this forwarding can be had, once, within a minute.
    ///
    /// # Errors
    /// `InvalidArgument` for ports that are none, `ResourceExhausted` when a thousand requests wait already.
    pub fn register_port_forward(&self, request: PortForwardRequest) -> Result<String, Status> {
        for port in &request.port {
            if !u16::try_from(*port).is_ok_and(|port| port > 0) {
                return Err(Status::invalid_argument(format!("port {port} is not between 1 and 65535")));
            }
        }
        if request.port.len() > ports::MAX_PORTS {
            return Err(Status::invalid_argument(format!("more than {} ports", ports::MAX_PORTS)));
        }
        self.register(PORT_FORWARD, Pending::PortForward(request))
    }

    fn register(&self, kind: &str, pending: Pending) -> Result<String, Status> {
        let token = (self.shared.options.token)();
        let url = format!("http://{}/{kind}/{token}", self.address);
        self.shared
            .waiting()
            .insert(Instant::now(), token, pending)
            .map_err(|_| Status::resource_exhausted(format!("{MAX_WAITING} streaming requests wait already")))?;
        Ok(url)
    }

    /// Ends: no new connections, sessions are told, work that goes on is dropped.
    pub async fn shutdown(self) {
        let tasks = self.shared.workshop.tasks.clone();
        drop(self);
        tasks.close();
        if tokio::time::timeout(SHUTDOWN, tasks.wait()).await.is_err() {
            tracing::debug!(left = tasks.len(), "streaming sessions did not end in time");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.workshop.ending.cancel();
    }
}

/// CRI's rules for what may be asked for together.
fn check_streams(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Result<(), Status> {
    if tty && stderr {
        return Err(Status::invalid_argument("a terminal has no stderr of its own"));
    }
    if !(stdin || stdout || stderr) {
        return Err(Status::invalid_argument("one of stdin, stdout and stderr must be set"));
    }
    Ok(())
}

impl Shared {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Tokens<Pending>> {
        self.waiting.lock().expect("nothing panics while it holds this")
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let ending = shared.workshop.ending.clone();
    let router = Router::new()
        .route("/{kind}/{token}", any(dial))
        .fallback(|| async { refuse(&not_found()) })
        .with_state(Arc::clone(&shared));
    loop {
        let place = Arc::clone(&shared.places).acquire_owned();
        // Dropping an accept or a wait for a place loses nothing: the connection stays in the backlog.
        let accepted = tokio::select! {
            () = ending.cancelled() => return,
            accepted = async { (place.await, listener.accept().await) } => accepted,
        };
        let (Ok(place), accepted) = accepted else {
            return;
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "streaming connection not accepted");
                // Out of descriptors, most likely: not at once again.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Small messages go both ways; waiting to fill a segment would cost 40 ms each.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()))
            .with_upgrades();
        let ending = ending.clone();
        shared.workshop.tasks.spawn(async move {
            let _place = place;
            tokio::select! {
                // One request a connection matters; what else the client says is lost with it.
                () = ending.cancelled() => {}
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "streaming connection ended");
                }
            }
        });
    }
}

/// Somebody comes with a token.
async fn dial(
    State(shared): State<Arc<Shared>>,
    Path((kind, token)): Path<(String, String)>,
    request: Request,
) -> Response {
    let (mut parts, _) = request.into_parts();
    let opened = if wants_spdy(&parts.headers) {
        open_spdy(&shared, &kind, &token, &mut parts)
    } else {
        let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
        open_websocket(&shared, &kind, &token, upgrade)
    };
    opened.unwrap_or_else(|failure| refuse(&failure))
}

fn wants_spdy(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|wanted| wanted.as_bytes().eq_ignore_ascii_case(spdy::UPGRADE.as_bytes()))
}

fn bad(message: String) -> Failure {
    Failure { code: 400, reason: "BadRequest".into(), message }
}

fn unknown_protocols(offered: &[String]) -> Failure {
    let message = format!("none of the protocols {} is known", offered.join(", "));
    Failure { code: 403, reason: "Forbidden".into(), message }
}

/// Everything that can refuse does so before the token is spent.
fn open_websocket(
    shared: &Arc<Shared>,
    kind: &str,
    token: &str,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Failure> {
    let mut upgrade = upgrade.map_err(|rejection| bad(format!("neither SPDY/3.1 nor a WebSocket: {rejection}")))?;
    let offered: Vec<String> =
        upgrade.requested_protocols().filter_map(|name| name.to_str().ok().map(str::to_owned)).collect();
    let tunnel = kind == PORT_FORWARD && offered.iter().any(|name| name == ports::TUNNEL);
    let protocol = Protocol::negotiate(offered.iter().map(String::as_str));
    let selected = if tunnel { Some(ports::TUNNEL) } else { protocol.map(|protocol| protocol.name) };
    let selected = selected.ok_or_else(|| bad(format!("none of the protocols {} is known", offered.join(", "))))?;
    if !offered.is_empty() {
        upgrade.set_selected_protocol(HeaderValue::from_static(selected));
    }
    let (place, pending) = shared.claim(kind, token)?;
    let (workshop, limits) = (shared.workshop.clone(), shared.limits());
    Ok(upgrade.max_message_size(MAX_INPUT).max_frame_size(MAX_INPUT).on_upgrade(move |socket| async move {
        let running = async {
            match (pending, protocol) {
                (Pending::PortForward(request), _) if tunnel => {
                    ports::tunnel(socket, request.pod_sandbox_id, &workshop, limits).await;
                }
                (Pending::PortForward(request), Some(protocol)) => {
                    let numbers = request.port.iter().filter_map(|port| u16::try_from(*port).ok()).collect();
                    ports::channels(socket, protocol, request.pod_sandbox_id, numbers, &workshop, limits).await;
                }
                (pending, Some(protocol)) => {
                    let session = Session::begin(pending, &workshop);
                    websocket::run(socket, protocol, session, limits, workshop.ending.clone()).await;
                }
                (_, None) => unreachable!("only a tunnel has none"),
            }
        };
        workshop.tasks.track_future(running).await;
        drop(place);
    }))
}

/// As [`open_websocket`].
fn open_spdy(shared: &Arc<Shared>, kind: &str, token: &str, parts: &mut Parts) -> Result<Response, Failure> {
    let upgrade =
        parts.extensions.remove::<OnUpgrade>().ok_or_else(|| bad("this connection cannot be upgraded".into()))?;
    let values = parts.headers.get_all(spdy::VERSION_HEADER).iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<String> = values.flat_map(|value| value.split(',')).map(|name| name.trim().to_owned()).collect();
    let forwarding = kind == PORT_FORWARD;
    let protocol = spdy::Protocol::negotiate(&offered);
    let selected = if forwarding {
        let known = offered.is_empty() || offered.iter().any(|name| name == spdy::PORT_FORWARD);
        known.then_some(spdy::PORT_FORWARD)
    } else {
        protocol.map(|protocol| protocol.name)
    };
    let selected = selected.ok_or_else(|| unknown_protocols(&offered))?;
    let (place, pending) = shared.claim(kind, token)?;
    let (workshop, limits) = (shared.workshop.clone(), shared.limits());
    let tasks = workshop.tasks.clone();
    tasks.spawn(async move {
        let _place = place;
        let io = match upgrade.await {
            Ok(io) => TokioIo::new(io),
            Err(error) => return tracing::debug!(%error, "upgrade not completed"),
        };
        match (pending, protocol) {
            (Pending::PortForward(request), _) => {
                spdy::run_forward(io, request.pod_sandbox_id, &workshop, limits).await;
            }
            (pending, Some(protocol)) => spdy::run_command(io, protocol, pending, &workshop, limits).await,
            (_, None) => unreachable!("only port forwarding has none"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(spdy::UPGRADE));
    if !offered.is_empty() {
        headers.insert(spdy::VERSION_HEADER, HeaderValue::from_static(selected));
    }
    Ok(response)
}

impl Shared {
    /// Spends the token, when there is a place for its session.
    fn claim(&self, kind: &str, token: &str) -> Result<(OwnedSemaphorePermit, Pending), Failure> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Failure {
            code: 429,
            reason: "TooManyRequests".into(),
            message: format!("{MAX_CONNECTIONS} streams are open already"),
        })?;
        let pending = self.waiting().take(Instant::now(), token).ok_or_else(not_found)?;
        let fits = matches!(
            (kind, &pending),
            ("exec", Pending::Exec(_)) | ("attach", Pending::Attach(_)) | (PORT_FORWARD, Pending::PortForward(_))
        );
        if fits { Ok((place, pending)) } else { Err(not_found()) }
    }

    fn limits(&self) -> Limits {
        let Options { idle, drain, farewell, .. } = self.options;
        Limits { idle, drain, farewell }
    }
}

fn not_found() -> Failure {
    let message = "no such streaming request, or it was used, or a minute has passed".into();
    Failure { code: 404, reason: "NotFound".into(), message }
}

/// A Kubernetes `Status` as the answer.
#[must_use]
pub fn refuse(failure: &Failure) -> Response {
    let mut response = Response::new(Body::from(failure.to_json()));
    *response.status_mut() = StatusCode::from_u16(failure.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
