//! A connection between runtime and plugin: one socket on which either side calls the other. The runtime calls on the
//! trunk's connection 1 and serves on 2, the plugin the other way round.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex as Turn, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::frame::{FrameError, Kind, Message, Messages, Trunk, encode};

/// The trunk's connection for the plugin's service.
const TO_PLUGIN: u32 = 1;
/// The trunk's connection for the runtime's service.
const TO_RUNTIME: u32 = 2;
/// How many calls of the other side may be under way.
const CALLS_AT_ONCE: usize = 64;
/// How long the other side may take to read an answer.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// gRPC's codes, as far as they are used here.
pub mod code {
    /// It worked.
    pub const OK: i32 = 0;
    /// The request makes no sense.
    pub const INVALID_ARGUMENT: i32 = 3;
    /// Too much at once.
    pub const RESOURCE_EXHAUSTED: i32 = 8;
    /// Not in this state.
    pub const FAILED_PRECONDITION: i32 = 9;
    /// There is no such call.
    pub const UNIMPLEMENTED: i32 = 12;
    /// Anything else.
    pub const UNKNOWN: i32 = 2;
}

/// Which end of a connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The runtime's.
    Runtime,
    /// The plugin's.
    Plugin,
}

/// What the other side answers a call with that it does not carry out.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// gRPC's code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// Why.
    #[prost(string, tag = "2")]
    pub message: String,
}

impl Status {
    /// A status of a code and a reason.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// ttrpc's envelope of a call.
#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(string, tag = "2")]
    method: String,
    #[prost(bytes = "vec", tag = "3")]
    payload: Vec<u8>,
    #[prost(int64, tag = "4")]
    timeout_nano: i64,
}

/// ttrpc's envelope of an answer.
#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    payload: Vec<u8>,
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CallError {
    /// The other side refused, or could not.
    #[error("{}", .0.message)]
    Refused(Status),
    /// The connection is closed.
    #[error("the connection is closed")]
    Closed,
    /// No answer came in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The answer makes no sense.
    #[error("the answer is no message: {0}")]
    Garbled(String),
    /// The request does not fit into a message.
    #[error(transparent)]
    TooLong(#[from] FrameError),
}

impl CallError {
    /// Whether the other side is not to be spoken to any more.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Closed | Self::Timeout(_) | Self::Garbled(_))
    }
}

/// What one side offers the other.
#[async_trait::async_trait]
pub trait Service: Send + Sync + 'static {
    /// Carries out a call: message in, message out.
    async fn call(&self, service: &str, method: &str, payload: &[u8]) -> Result<Vec<u8>, Status>;
}

/// A connection, which lives until either side closes it.
#[derive(Clone)]
pub struct Connection(Arc<Shared>);

type Answer = Result<Vec<u8>, Status>;

struct Shared {
    writer: Turn<OwnedWriteHalf>,
    waiting: Mutex<HashMap<u32, oneshot::Sender<Answer>>>,
    next: AtomicU32,
    closed: CancellationToken,
    calls_on: u32,
    serves_on: u32,
    serving: Arc<Semaphore>,
}

impl Connection {
    /// Speaks over a socket from now on; what the other side calls is carried out by `service`.
    pub fn start(socket: UnixStream, side: Side, service: Arc<dyn Service>) -> Self {
        let (reader, writer) = socket.into_split();
        let (calls_on, serves_on) = match side {
            Side::Runtime => (TO_PLUGIN, TO_RUNTIME),
            Side::Plugin => (TO_RUNTIME, TO_PLUGIN),
        };
        let shared = Arc::new(Shared {
            writer: Turn::new(writer),
            waiting: Mutex::default(),
            next: AtomicU32::new(0),
            closed: CancellationToken::new(),
            calls_on,
            serves_on,
            serving: Arc::new(Semaphore::new(CALLS_AT_ONCE)),
        });
        tokio::spawn(Arc::clone(&shared).run(reader, service));
        Self(shared)
    }

    /// Calls the other side. A call that is given up leaves the connection as it is; only a message that was written
    /// in part closes it.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    pub async fn call<Q: prost::Message, R: prost::Message + Default>(
        &self,
        service: &str,
        method: &str,
        request: &Q,
        patience: Duration,
    ) -> Result<R, CallError> {
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: request.encode_to_vec(),
            timeout_nano: i64::try_from(patience.as_nanos()).unwrap_or(i64::MAX),
        };
        // Odd, as the side that begins a call numbers it.
        let stream = self.0.next.fetch_add(1, Ordering::Relaxed).wrapping_mul(2).wrapping_add(1);
        let message = Message { stream, kind: Kind::Request, flags: 0, data: request.encode_to_vec() };
        let bytes = encode(self.0.calls_on, &message)?;
        let (sender, answer) = oneshot::channel();
        self.0.waiting().insert(stream, sender);
        let outcome = tokio::time::timeout(patience, async {
            self.0.write(&bytes).await?;
            answer.await.map_err(|_| CallError::Closed)
        })
        .await;
        self.0.waiting().remove(&stream);
        let payload = match outcome {
            Ok(answer) => answer?.map_err(CallError::Refused)?,
            Err(_) if self.0.closed.is_cancelled() => return Err(CallError::Closed),
            Err(_) => return Err(CallError::Timeout(patience)),
        };
        R::decode(payload.as_slice()).map_err(|error| CallError::Garbled(error.to_string()))
    }

    /// Closes it; whoever waits for an answer learns it at once.
    pub fn close(&self) {
        self.0.closed.cancel();
    }

    /// Whether it is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.closed.is_cancelled()
    }

    /// Waits until it is closed.
    pub async fn closed(&self) {
        self.0.closed.cancelled().await;
    }
}

/// Closes the connection unless it is disarmed: half a message would make nonsense of all that follow.
struct Torn<'a>(&'a CancellationToken, bool);

impl Drop for Torn<'_> {
    fn drop(&mut self) {
        if self.1 {
            self.0.cancel();
        }
    }
}

impl Shared {
    async fn run(self: Arc<Self>, reader: OwnedReadHalf, service: Arc<dyn Service>) {
        tokio::select! {
            () = self.closed.cancelled() => {}
            outcome = self.read(reader, &service) => if let Err(error) = outcome {
                tracing::warn!(%error, "an NRI connection is closed over what came");
            }
        }
        self.closed.cancel();
        // Drops the senders: nobody waits for an answer that cannot come.
        self.waiting().clear();
        // Half a write may hold it; then the socket ends with the last use of this.
        if let Ok(mut writer) = self.writer.try_lock() {
            let _gone = writer.shutdown().await;
        }
    }

    async fn read(self: &Arc<Self>, mut reader: OwnedReadHalf, service: &Arc<dyn Service>) -> Result<(), FrameError> {
        let mut trunk = Trunk::default();
        let (mut answers, mut requests) = (Messages::default(), Messages::default());
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => return Ok(()),
                Ok(count) => count,
            };
            trunk.push(&buffer[..count]);
            while let Some((connection, payload)) = trunk.next_frame()? {
                if connection == self.calls_on {
                    answers.push(&payload);
                    while let Some(message) = answers.next_message()? {
                        self.answered(message);
                    }
                } else if connection == self.serves_on {
                    requests.push(&payload);
                    while let Some(message) = requests.next_message()? {
                        self.serve(message, service);
                    }
                }
            }
        }
    }

    fn answered(&self, message: Message) {
        let waiting = self.waiting().remove(&message.stream);
        let Some(waiting) = waiting.filter(|_| message.kind == Kind::Response) else { return };
        let answer = match Response::decode(message.data.as_slice()) {
            Ok(Response { status: Some(status), .. }) if status.code != code::OK => Err(status),
            Ok(response) => Ok(response.payload),
            Err(error) => Err(Status::new(code::UNKNOWN, format!("the answer is no message: {error}"))),
        };
        // Who does not wait any more does not want it.
        let _gone = waiting.send(answer);
    }

    /// Carries a call out in a task of its own, so that answers are read meanwhile.
    fn serve(self: &Arc<Self>, message: Message, service: &Arc<dyn Service>) {
        if message.kind != Kind::Request {
            return;
        }
        let (shared, service) = (Arc::clone(self), Arc::clone(service));
        let Ok(permit) = Arc::clone(&self.serving).try_acquire_owned() else {
            // Whoever has so many calls open has no claim to an orderly refusal.
            tracing::warn!("an NRI peer has too many calls open");
            self.closed.cancel();
            return;
        };
        tokio::spawn(async move {
            let _permit = permit;
            let answer = match Request::decode(message.data.as_slice()) {
                Ok(request) => {
                    let call = service.call(&request.service, &request.method, &request.payload);
                    tokio::select! {
                        answer = call => answer,
                        () = shared.closed.cancelled() => return,
                    }
                }
                Err(error) => Err(Status::new(code::INVALID_ARGUMENT, error.to_string())),
            };
            let (status, payload) = match answer {
                Ok(payload) => (Status::default(), payload),
                Err(status) => (status, Vec::new()),
            };
            let data = Response { status: Some(status), payload }.encode_to_vec();
            let message = Message { stream: message.stream, kind: Kind::Response, flags: 0, data };
            let Ok(bytes) = encode(shared.serves_on, &message) else { return shared.closed.cancel() };
            if !matches!(tokio::time::timeout(WRITE_PATIENCE, shared.write(&bytes)).await, Ok(Ok(()))) {
                shared.closed.cancel();
            }
        });
    }

    async fn write(&self, bytes: &[u8]) -> Result<(), CallError> {
        let mut writer = self.writer.lock().await;
        if self.closed.is_cancelled() {
            return Err(CallError::Closed);
        }
        let mut torn = Torn(&self.closed, true);
        writer.write_all(bytes).await.map_err(|_| CallError::Closed)?;
        torn.1 = false;
        Ok(())
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u32, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
