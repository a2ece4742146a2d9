//! Sessions over SPDY/3.1, which kubelets, crictl and the older kubectl speak.
//!
//! The client opens the streams, each with a header that says what it is for; the server answers and uses them.
//!
//! ```text
//!  commands (exec, attach)   forward (pairs of streams)   client (one pair, from the other side)
//!        └──────────┬────────────────┴────────────────────────┘
//!                 frames ── headers (zlib)
//! ```

mod client;
mod commands;
mod forward;
mod frames;
mod headers;

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, DuplexStream, ReadHalf};
use tokio::sync::mpsc::{self, error::SendError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::session::{Limits, touch};

pub use client::{ask_for_forwarding, join_port};
pub(super) use commands::{Protocol, run as run_command};
pub(super) use forward::run as run_forward;
use frames::{Frame, Reader, Say, StreamId};

/// What the client asks to switch to.
pub(super) const UPGRADE: &str = "SPDY/3.1";
/// Names the sub-protocols, in both directions.
pub(super) const VERSION_HEADER: &str = "x-stream-protocol-version";
/// The sub-protocol of port forwarding.
pub(super) const PORT_FORWARD: &str = "portforward.k8s.io";
/// The client must have opened its streams by then.
const CREATION: Duration = Duration::from_secs(30);
/// Frames that wait to be written.
const QUEUE: usize = 16;
/// Bytes of output in one frame.
const CHUNK: usize = 32 << 10;

/// Runs `talk`, whose words are written side by side, until it has ended and all is written, or nothing can be written
/// any more. Then the client's own goodbye is waited for, though not for ever: a connection that is closed with input unread
/// is reset, and a reset overtakes what the client has not read yet.
async fn converse<'a, S>(
    io: S,
    limits: Limits,
    ending: &CancellationToken,
    talk: impl FnOnce(Reader<ReadHalf<S>>, mpsc::Sender<Say>) -> BoxFuture<'a, Option<Reader<ReadHalf<S>>>>,
) where
    S: AsyncRead + AsyncWrite,
{
    let (source, sink) = tokio::io::split(io);
    let (say, said) = mpsc::channel(QUEUE);
    let writing = frames::write(sink, said);
    let mut talking = talk(Reader::new(source), say);
    let mut writing = std::pin::pin!(writing);
    let reader = tokio::select! {
        // Ends before the talk only when the client is gone.
        _ = &mut writing => None,
        reader = &mut talking => reader,
    };
    let Some(mut reader) = reader else { return };
    let farewell = async {
        writing.await?;
        while reader.next().await?.is_some() {}
        std::io::Result::Ok(())
    };
    let late = async {
        tokio::select! {
            // Both only wait.
            () = tokio::time::sleep(limits.drain) => {}
            () = ending.cancelled() => tokio::time::sleep(limits.farewell).await,
        }
    };
    tokio::select! {
        _ = farewell => {}
        // What the client has not read by now it will not read.
        () = late => tracing::debug!("client did not take its leave"),
    }
}

/// What any connection does with frames that are about none of its streams.
async fn answer(frame: &Frame, say: &mpsc::Sender<Say>) {
    if let Frame::Ping(number) = frame {
        // The writer has ended when the connection has, which the reader sees too.
        let _gone = say.send(Say::Ping(*number)).await;
    }
}

/// Copies what comes out of a pipe into a stream, to the end.
///
/// # Errors
/// When the writer has ended, and the connection with it.
async fn copy(
    stream: StreamId,
    mut from: DuplexStream,
    say: &mpsc::Sender<Say>,
    active: &Mutex<Instant>,
) -> Result<(), SendError<Say>> {
    let mut buffer = vec![0; CHUNK];
    loop {
        // A pipe in memory does not fail.
        let count = from.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            return say.send(Say::End(stream)).await;
        }
        say.send(Say::Data(stream, Bytes::copy_from_slice(&buffer[..count]))).await?;
        touch(active);
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
