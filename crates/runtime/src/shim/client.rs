//! One connection to one shim: calls by sequence number in any order, events as they come.
//!
//! A task of its own reads; callers write their frame whole and wait for the reply of their number. When the
//! connection ends, every waiting call fails with [`Lost`] and the event channel closes: that is how the rest of the
//! runtime learns that a shim is gone.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use podd_shim::wire::{
    Call, Decoder, Event, Message, OLDEST, Reply, Request, Response, ShimError, VERSION, Welcome, encode, receive,
};
use podd_sys::socket::send_with_fds;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::error::CriError;

/// How long a shim may take to answer. Its own longest wait (a container's child that sets itself up) is 60 s.
const CALL_DEADLINE: Duration = Duration::from_secs(75);
/// How many events may wait for the runtime; then the reader waits, and after it the shim's send queue fills.
const EVENTS: usize = 256;

/// A call gave nothing because the shim is gone.
#[derive(Debug, thiserror::Error)]
#[error("the shim is gone")]
pub(crate) struct Lost;

type Answer = Result<(Response, Vec<OwnedFd>), ShimError>;

/// The calls that wait, and the next number; `None` once the connection has ended.
type Waiting = Option<(HashMap<u64, oneshot::Sender<Answer>>, u64)>;

/// A connection to a shim.
pub(crate) struct Client {
    socket: AsyncFd<UnixStream>,
    /// Held for the length of one frame, so that frames do not mix. The awaits under it are for the socket alone.
    writing: tokio::sync::Mutex<()>,
    waiting: Mutex<Waiting>,
    /// What both sides speak, from the welcome on.
    version: OnceLock<u32>,
}

impl Client {
    /// Says hello over `socket`. Events go to the receiver, which closes when the shim is gone.
    pub(crate) async fn open(socket: UnixStream) -> Result<(Arc<Self>, Welcome, mpsc::Receiver<Event>), CriError> {
        let unavailable =
            |source: io::Error| CriError::Unavailable { what: "connect to shim".into(), source: source.into() };
        socket.set_nonblocking(true).map_err(unavailable)?;
        #[expect(deprecated, reason = "only types that can change their descriptor are unsound, this one cannot")]
        let socket = AsyncFd::new(socket).map_err(unavailable)?;
        let client = Arc::new(Self {
            socket,
            writing: tokio::sync::Mutex::new(()),
            waiting: Mutex::new(Some((HashMap::new(), 0))),
            version: OnceLock::new(),
        });
        let (sender, events) = mpsc::channel(EVENTS);
        tokio::spawn(read(Arc::clone(&client), sender));
        match client.call(Request::Hello { version: VERSION, oldest: OLDEST }).await? {
            Response::Welcome(welcome) => {
                client.version.get_or_init(|| welcome.version);
                Ok((client, welcome, events))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The version of the protocol that this connection speaks.
    pub(crate) fn version(&self) -> u32 {
        self.version.get().copied().unwrap_or(OLDEST)
    }

    /// A call without descriptors.
    pub(crate) async fn call(&self, request: Request) -> Result<Response, CriError> {
        Ok(self.call_with_fds(request, &[]).await?.0)
    }

    /// A call that is answered by [`Response::Done`].
    pub(crate) async fn order(&self, request: Request) -> Result<(), CriError> {
        match self.call(request).await? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// A call with descriptors; those of the reply come back.
    pub(crate) async fn call_with_fds(
        &self,
        request: Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Response, Vec<OwnedFd>), CriError> {
        match tokio::time::timeout(CALL_DEADLINE, self.exchange(request, fds)).await {
            Ok(answer) => answer,
            Err(_) => Err(CriError::Deadline(format!("the shim did not answer within {} s", CALL_DEADLINE.as_secs()))),
        }
    }

    /// Whether the connection has ended.
    pub(crate) fn is_lost(&self) -> bool {
        self.waiting().is_none()
    }

    /// Hangs up: the reader sees the end, and what waits is lost.
    pub(crate) fn hang_up(&self) {
        // The other side may have hung up before; then there is nothing to end.
        let _gone = self.socket.get_ref().shutdown(std::net::Shutdown::Both);
    }

    async fn exchange(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<(Response, Vec<OwnedFd>), CriError> {
        let (sender, answer) = oneshot::channel();
        let seq = {
            let mut waiting = self.waiting();
            let (calls, next) = waiting.as_mut().ok_or_else(lost)?;
            *next += 1;
            calls.insert(*next, sender);
            *next
        };
        let _forget = Forget { client: self, seq };
        let fds_count = u32::try_from(fds.len()).map_err(|error| CriError::internal("call shim", error))?;
        let frame =
            encode(&Call { seq, fds: fds_count, request }).map_err(|error| CriError::internal("call shim", error))?;
        self.send(&frame, fds).await.map_err(|_| lost())?;
        match answer.await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(refused(error)),
            Err(_) => Err(lost()),
        }
    }

    async fn send(&self, frame: &[u8], mut fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let _turn = self.writing.lock().await;
        let mut rest = frame;
        while !rest.is_empty() {
            let sent =
                self.socket.async_io(Interest::WRITABLE, |socket| send_with_fds(socket.as_fd(), rest, fds)).await;
            match sent {
                Ok(sent) => (rest, fds) = (&rest[sent..], &[]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Half a frame may be out: nothing that follows would be understood.
                    self.hang_up();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a call off the list when its caller stops waiting.
struct Forget<'a> {
    client: &'a Client,
    seq: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some((calls, _)) = self.client.waiting().as_mut() {
            calls.remove(&self.seq);
        }
    }
}

/// Reads until the end. Dropping `events` and the list of calls is what tells everybody.
async fn read(client: Arc<Client>, events: mpsc::Sender<Event>) {
    let mut decoder = Decoder::default();
    let outcome = loop {
        match step(&client, &mut decoder, &events).await {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "the connection to a shim ended");
    }
    client.hang_up();
    drop(client.waiting().take());
}

/// One read and what came with it; `false` at the end of the stream.
async fn step(client: &Client, decoder: &mut Decoder, events: &mpsc::Sender<Event>) -> io::Result<bool> {
    let count = client.socket.async_io(Interest::READABLE, |socket| receive(socket.as_fd(), decoder)).await;
    match count {
        Ok(0) => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
        Err(error) => return Err(error),
    }
    while let Some(frame) = decoder.next_frame()? {
        match frame.parse()? {
            Message::Reply(Reply { seq, fds, result }) => {
                let fds = decoder.take_fds(fds)?;
                let caller = client.waiting().as_mut().and_then(|(calls, _)| calls.remove(&seq));
                if let Some(caller) = caller {
                    // A caller that has gone meanwhile wants no answer; its descriptors close here.
                    let _gone = caller.send(result.map(|response| (response, fds)));
                }
            }
            Message::Event(event) => {
                if events.send(event).await.is_err() {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}

fn lost() -> CriError {
    CriError::Unavailable { what: "call shim".into(), source: Lost.into() }
}

/// A shim's refusal in the runtime's words.
fn refused(error: ShimError) -> CriError {
    use podd_shim::wire::ShimErrorKind as Kind;
    match error.kind {
        Kind::Invalid => CriError::Invalid(error.to_string()),
        Kind::WrongState | Kind::Busy => CriError::Precondition(error.to_string()),
        Kind::Unsupported => CriError::Unsupported(error.to_string()),
        Kind::Timeout => CriError::Deadline(error.to_string()),
        Kind::NotFound | Kind::AlreadyExists | Kind::ExecNotFound | Kind::ExecPermission | Kind::System => {
            let because = error.message.clone();
            CriError::internal(ShimError { message: String::new(), ..error }.to_string(), because)
        }
    }
}

/// A reply of the wrong shape: a shim of another version than it said.
pub(crate) fn unexpected(response: &Response) -> CriError {
    CriError::internal("call shim", io::Error::other(format!("unexpected response {response:?}")))
}
