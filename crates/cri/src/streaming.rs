//! What `Exec`, `Attach` and `PortForward` answer with an address for: the streams themselves.
//!
//! ```text
//!  client ──► kubelet router ──[proxy]──► Server on 127.0.0.1, one-time token ──► session ──► StreamingRuntime
//!                                              websocket, spdy │      two ends of bounded pipes
//! ```
//! - [`Server`] keeps a request under a token until somebody dials it, then runs it;
//! - a *session* joins the streams of a client with those of the runtime; it knows no wire format. A
//!   transport (`websocket`, `spdy`) is what turns a session's streams into one;
//! - [`channels`] is the codec of the WebSocket sub-protocols, for both sides;
//! - [`proxy()`] passes an upgrade on to wherever the next hop is.
//!
//! What is not here: who may exec into what. Whoever registers a request has decided that.

pub mod channels;
mod proxy;
mod server;
mod session;
mod spdy;
mod tokens;
mod websocket;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tonic::Status;

pub use self::proxy::{Target, TargetError, proxy, proxy_over};
pub use self::server::{Options, Server, refuse};
pub use self::spdy::{ask_for_forwarding, join_port};
use channels::Size;

/// Bytes from the client. Ends when the client ends its stdin, or goes away.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;
/// Bytes to the client. Writing waits for a client that reads slowly, and gives `BrokenPipe` once it
/// has gone. Dropping it ends the stream.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// The streams of one exec or attach, those that were asked for.
pub struct Streams {
    /// To the process.
    pub stdin: Option<Input>,
    /// From the process; with a terminal, everything.
    pub stdout: Option<Output>,
    /// From the process; never with a terminal.
    pub stderr: Option<Output>,
    /// Only with a terminal.
    pub resize: Option<Resizes>,
}

/// The sizes of the client's terminal. Only the newest counts, so only that one is kept.
#[derive(Debug)]
pub struct Resizes(watch::Receiver<Option<Size>>);

impl Resizes {
    /// The next size; `None` when there will be no more. May be dropped at any time, nothing is lost.
    pub async fn next(&mut self) -> Option<Size> {
        loop {
            self.0.changed().await.ok()?;
            if let Some(size) = *self.0.borrow_and_update() {
                return Some(size);
            }
        }
    }
}

/// A connection to a port of a sandbox, the client's side of it.
pub struct Connection {
    /// From the client.
    pub input: Input,
    /// To the client.
    pub output: Output,
}

/// Who does the work behind the streams.
///
/// Each call ends when the work has ended *and* all output has been written; it drops the outputs then.
/// When the client goes away, the streams end and an exec goes on until it is done: a command is not
/// killed because somebody closed a laptop. Attach and port forwarding are dropped then, and every call
/// when the server ends.
#[tonic::async_trait]
pub trait StreamingRuntime: Send + Sync + 'static {
    /// Runs a command in a container; the answer is its exit code (128 + n after signal n).
    async fn exec(&self, container_id: &str, cmd: &[String], tty: bool, io: Streams) -> Result<i32, Status>;

    /// Joins the streams of the container's first process; ends with it, or when stdin and outputs have.
    async fn attach(&self, container_id: &str, tty: bool, io: Streams) -> Result<(), Status> {
        let _ = (container_id, tty, io);
        Err(Status::unimplemented("attach is not implemented"))
    }

    /// Joins a connection with a port of a sandbox, until either side ends.
    async fn port_forward(&self, sandbox_id: &str, port: u16, connection: Connection) -> Result<(), Status> {
        let _ = (sandbox_id, port, connection);
        Err(Status::unimplemented("port forwarding is not implemented"))
    }
}

#[cfg(test)]
mod tests;
