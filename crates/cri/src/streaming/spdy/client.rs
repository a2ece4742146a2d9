//! The other side of port forwarding: one connection of a local program, carried to a port of a pod. A connection has an
//! upgrade of its own, so that one that nobody reads does not hold up the others.

use std::io;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::frames::{self, Frame, Reader, Say, StreamId};
use super::headers::Headers;
use super::{CHUNK, PORT_FORWARD, QUEUE, UPGRADE, VERSION_HEADER, answer};

/// The stream that tells what went wrong.
const ERROR: StreamId = 1;
/// The stream of the connection's bytes.
const DATA: StreamId = 3;
/// What is kept of what went wrong.
const MAX_ERROR: usize = 16 << 10;

/// Makes a request one that asks for [`join_port`]'s protocol.
pub fn ask_for_forwarding(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(UPGRADE));
    headers.insert(HeaderName::from_static(VERSION_HEADER), HeaderValue::from_static(PORT_FORWARD));
}

/// Joins `local` with a port of the pod that `io`, which has switched to SPDY/3.1, leads to. Each side may end its half
/// while the other goes on. The answer is what went wrong on the pod's side, if anything did.
///
/// # Errors
/// When `io` fails, or speaks something else.
pub async fn join_port<S, L>(io: S, port: u16, local: L) -> io::Result<Option<String>>
where
    S: AsyncRead + AsyncWrite + Send,
    L: AsyncRead + AsyncWrite + Send,
{
    let (source, sink) = tokio::io::split(io);
    let (from_local, to_local) = tokio::io::split(local);
    let (say, said) = mpsc::channel(QUEUE);
    let up = async {
        // Fails when the writer has ended, which is told below.
        let _ended = ask(port, from_local, &say).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        heard = hear(Reader::of_client(source), to_local, &say) => heard,
        () = up => unreachable!("asking never ends"),
        written = frames::write(sink, said) => {
            written?;
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }
}

/// Opens the pair of streams, and says what the local side says.
async fn ask(
    port: u16,
    mut from: impl AsyncRead + Unpin,
    say: &mpsc::Sender<Say>,
) -> Result<(), mpsc::error::SendError<Say>> {
    let port = port.to_string();
    let headers = |kind| Headers::from([("streamtype", kind), ("port", port.as_str()), ("requestid", "0")]);
    say.send(Say::Open(ERROR, headers("error"))).await?;
    say.send(Say::End(ERROR)).await?;
    say.send(Say::Open(DATA, headers("data"))).await?;
    let mut buffer = vec![0; CHUNK];
    loop {
        // A local side that breaks off has no more to say either.
        let count = from.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            return say.send(Say::End(DATA)).await;
        }
        say.send(Say::Data(DATA, Bytes::copy_from_slice(&buffer[..count]))).await?;
    }
}

/// Passes on what the pod says, until both streams have ended.
async fn hear(
    mut reader: Reader<impl AsyncRead + Unpin>,
    mut to: impl AsyncWrite + Unpin,
    say: &mpsc::Sender<Say>,
) -> io::Result<Option<String>> {
    let mut wrong = Vec::new();
    let mut open = [ERROR, DATA].to_vec();
    while !open.is_empty() {
        let Some(frame) = reader.next().await? else {
            if open.contains(&DATA) && wrong.is_empty() {
                // More was to come.
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            break;
        };
        match frame {
            Frame::Data { stream: DATA, data } => {
                if to.write_all(&data).await.is_err() {
                    // The local side is gone; nobody is left to talk for.
                    return Ok(None);
                }
                to.flush().await?;
            }
            Frame::Data { stream: ERROR, data } => {
                let room = MAX_ERROR.saturating_sub(wrong.len());
                wrong.extend_from_slice(&data[..data.len().min(room)]);
            }
            Frame::End { stream } | Frame::Reset { stream } => {
                open.retain(|other| *other != stream);
                if stream == DATA {
                    // It may be gone, and then needs no telling.
                    let _gone = to.shutdown().await;
                }
            }
            frame => answer(&frame, say).await,
        }
    }
    Ok((!wrong.is_empty()).then(|| String::from_utf8_lossy(&wrong).into_owned()))
}
