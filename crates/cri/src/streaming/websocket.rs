//! A session over one WebSocket, in one of the `channel.k8s.io` sub-protocols. ([`ports`] forwards ports so.)
//!
//! Two halves run side by side in one task: one turns messages into stdin and sizes, the other output
//! into messages. Nothing is queued between them but the bounded pipes of the session: a client that
//! does not read stops the process's output, a process that does not read stops the client's input.

pub(super) mod ports;

use std::sync::Mutex;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message as Packet, WebSocket, close_code};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::channels::{Channel, Frame, FrameError, Message, Protocol, Size};
use super::session::{Ended, Limits, Remote, Session, idle, touch};

/// Bytes of output in one message.
const CHUNK: usize = 32 << 10;
/// Largest message of a client.
pub(super) const MAX_INPUT: usize = 16 << 20;

/// Why no more is read from the client.
enum Gone {
    /// It closed the connection, or the connection broke.
    Closed,
    /// It said something that is no message.
    Nonsense(FrameError),
}

pub(super) async fn run(
    socket: WebSocket,
    protocol: &'static Protocol,
    session: Session,
    limits: Limits,
    ending: CancellationToken,
) {
    let (mut sink, mut source) = socket.split();
    let Session { remote: Remote { stdin, stdout, stderr, resize }, ended, presence: _presence } = session;
    let active = Mutex::new(Instant::now());
    let incoming = Incoming { protocol, stdin, resize, active: &active };
    let outgoing = Outgoing { protocol, stdout, stderr, active: &active };
    let (code, reason) = tokio::select! {
        // The output is complete and told: what input is lost now, nobody waits for.
        sent = outgoing.run(&mut sink, ended.clone()) => match sent {
            Ok(()) => (close_code::NORMAL, String::new()),
            Err(_) => return,
        },
        // Output that has not been sent has no reader any more.
        gone = incoming.run(&mut source) => match gone {
            Gone::Closed => return,
            Gone::Nonsense(error) => (close_code::PROTOCOL, error.to_string()),
        },
        () = idle(&active, limits.idle) => (close_code::NORMAL, "idle for too long".into()),
        () = async { ended.clone().await; tokio::time::sleep(limits.drain).await } => {
            (close_code::POLICY, "output was not read".into())
        }
        () = ending.cancelled() => (close_code::AWAY, "the server is ending".into()),
    };
    part(&mut sink, &mut source, code, reason, limits.farewell).await;
}

/// Says goodbye and waits for the client's: closing a socket with input unread resets the connection, and a reset can
/// overtake the outcome.
async fn part(
    sink: &mut SplitSink<WebSocket, Packet>,
    source: &mut SplitStream<WebSocket>,
    code: u16,
    reason: String,
    patience: Duration,
) {
    let farewell = async {
        sink.send(Packet::Close(Some(CloseFrame { code, reason: reason.into() }))).await?;
        while source.next().await.is_some() {}
        Ok::<(), axum::Error>(())
    };
    if tokio::time::timeout(patience, farewell).await.is_err() {
        tracing::debug!("client did not take its leave");
    }
}

fn packet(message: Message) -> Packet {
    match message {
        Message::Binary(bytes) => Packet::Binary(bytes),
        Message::Text(text) => Packet::Text(text.into()),
    }
}

struct Incoming<'a> {
    protocol: &'static Protocol,
    stdin: Option<DuplexStream>,
    resize: Option<tokio::sync::watch::Sender<Option<Size>>>,
    active: &'a Mutex<Instant>,
}

impl Incoming<'_> {
    async fn run(mut self, source: &mut SplitStream<WebSocket>) -> Gone {
        while let Some(Ok(packet)) = source.next().await {
            touch(self.active);
            let bytes = match packet {
                Packet::Binary(bytes) => bytes,
                Packet::Text(text) => text.into(),
                Packet::Close(_) => return Gone::Closed,
                Packet::Ping(_) | Packet::Pong(_) => continue,
            };
            match self.protocol.decode(bytes) {
                Ok(frame) => self.take(frame).await,
                // As upstream: clients probe with empty messages.
                Err(FrameError::Empty) => {}
                Err(error) => return Gone::Nonsense(error),
            }
        }
        Gone::Closed
    }

    async fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Data(Channel::Stdin, data) => {
                if let Some(stdin) = &mut self.stdin
                    && stdin.write_all(&data).await.is_err()
                {
                    // The process reads no more; what comes is dropped.
                    self.stdin = None;
                }
            }
            Frame::Close(Channel::Stdin) => self.stdin = None,
            Frame::Data(Channel::Resize, data) => {
                if let (Some(resize), Some(size)) = (&self.resize, Size::parse(&data).last()) {
                    resize.send_replace(Some(size));
                }
            }
            // Nothing else comes from a client that means anything.
            Frame::Data(..) | Frame::Close(_) => {}
        }
    }
}

struct Outgoing<'a> {
    protocol: &'static Protocol,
    stdout: Option<DuplexStream>,
    stderr: Option<DuplexStream>,
    active: &'a Mutex<Instant>,
}

impl Outgoing<'_> {
    async fn run(mut self, sink: &mut SplitSink<WebSocket, Packet>, ended: Ended) -> Result<(), axum::Error> {
        // An empty message on the first channel tells the client that the streams stand.
        let first = match (&self.stdout, &self.stderr) {
            (Some(_), _) => Channel::Stdout,
            (None, Some(_)) => Channel::Stderr,
            (None, None) => Channel::Error,
        };
        sink.send(packet(self.protocol.data(first, b""))).await?;
        let (mut out, mut err) = (vec![0; CHUNK], vec![0; CHUNK]);
        while self.stdout.is_some() || self.stderr.is_some() {
            // Reading a pipe takes nothing from it unless it completes, so neither arm loses bytes.
            let (channel, data) = tokio::select! {
                n = read(&mut self.stdout, &mut out) => (Channel::Stdout, &out[..n]),
                n = read(&mut self.stderr, &mut err) => (Channel::Stderr, &err[..n]),
            };
            if data.is_empty() {
                // A stream ends with its process; no message says so, the outcome does.
                match channel {
                    Channel::Stdout => self.stdout = None,
                    _ => self.stderr = None,
                }
                continue;
            }
            sink.send(packet(self.protocol.data(channel, data))).await?;
            touch(self.active);
        }
        if let Some(message) = self.protocol.outcome(&ended.await) {
            sink.send(packet(message)).await?;
        }
        Ok(())
    }
}

/// The next bytes, 0 at the end; waits for ever on a stream that is not there.
async fn read(pipe: &mut Option<DuplexStream>, into: &mut [u8]) -> usize {
    match pipe {
        // A pipe in memory does not fail.
        Some(pipe) => pipe.read(into).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}
