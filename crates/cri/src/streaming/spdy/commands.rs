//! Exec and attach: one stream for each of stdin, stdout and stderr, one for the terminal's sizes, and one that tells how
//! it ended. (`k8s.io/cri-streaming/pkg/streaming/remotecommand/httpstream.go`.)

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;

use futures::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::frames::{Frame, Reader, Reset, Say, StreamId};
use super::{CREATION, answer, converse, copy};
use crate::streaming::channels::{Channel, Size};
use crate::streaming::session::{Ended, Limits, Pending, Remote, Session, Wanted, Workshop, idle, touch};

/// Frames that may come before all streams are open.
const MAX_EARLY: usize = 16;

/// A sub-protocol of [`super::VERSION_HEADER`].
#[derive(Debug, PartialEq, Eq)]
pub(in crate::streaming) struct Protocol {
    pub(in crate::streaming) name: &'static str,
    /// The error stream carries a `Status` in JSON; else bare text, and nothing on success.
    status: bool,
    /// There is a stream for the terminal's sizes.
    resize: bool,
}

/// Best first.
static PROTOCOLS: [Protocol; 4] = [
    Protocol { name: "v4.channel.k8s.io", status: true, resize: true },
    Protocol { name: "v3.channel.k8s.io", status: false, resize: true },
    Protocol { name: "v2.channel.k8s.io", status: false, resize: false },
    Protocol { name: "channel.k8s.io", status: false, resize: false },
];

impl Protocol {
    /// The best of those that a client offers; for one that offers none, the oldest.
    pub(in crate::streaming) fn negotiate(offered: &[String]) -> Option<&'static Self> {
        let known = |protocol: &&Self| offered.iter().any(|name| name == protocol.name);
        if offered.is_empty() { PROTOCOLS.last() } else { PROTOCOLS.iter().find(known) }
    }
}

/// The streams that a client has opened.
#[derive(Default)]
struct Opened {
    streams: HashMap<Channel, StreamId>,
    /// What was said before the last of them was open.
    early: Vec<Frame>,
}

/// Serves the session until it is over.
pub(in crate::streaming) async fn run<S>(
    io: S,
    protocol: &'static Protocol,
    pending: Pending,
    workshop: &Workshop,
    limits: Limits,
) where
    S: AsyncRead + AsyncWrite + Send,
{
    let Some(wanted) = pending.wanted() else { return };
    let talk = |mut reader: Reader<ReadHalf<S>>, say: mpsc::Sender<Say>| async move {
        let opening = open(&mut reader, &say, protocol, wanted);
        let opened = tokio::select! {
            opened = tokio::time::timeout(CREATION, opening) => opened,
            // Nothing has begun; the client sees its connection end.
            () = workshop.ending.cancelled() => return None,
        };
        match opened {
            Ok(Ok(opened)) => {
                let session = Session::begin(pending, workshop);
                serve(&mut reader, say, protocol, opened, session, limits).await.then_some(reader)
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "streams not opened");
                None
            }
            Err(_) => {
                tracing::debug!("client did not open its streams in time");
                None
            }
        }
    };
    converse(io, limits, &workshop.ending, |reader, say| talk(reader, say).boxed()).await;
}

/// Waits until all streams are open.
async fn open<R>(
    reader: &mut Reader<R>,
    say: &mpsc::Sender<Say>,
    protocol: &Protocol,
    wanted: Wanted,
) -> io::Result<Opened>
where
    R: AsyncRead + Send + Unpin,
{
    let mut expected = vec![Channel::Error];
    expected.extend(wanted.stdin.then_some(Channel::Stdin));
    expected.extend(wanted.stdout.then_some(Channel::Stdout));
    expected.extend((wanted.stderr && !wanted.tty).then_some(Channel::Stderr));
    expected.extend((wanted.tty && protocol.resize).then_some(Channel::Resize));
    let mut opened = Opened::default();
    while opened.streams.len() < expected.len() {
        let frame = reader.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        match frame {
            Frame::Open { stream, headers } => {
                let channel = headers.get("streamtype").and_then(channel_of);
                let reply = match channel.filter(|channel| expected.contains(channel)) {
                    Some(channel) if !opened.streams.contains_key(&channel) => {
                        opened.streams.insert(channel, stream);
                        Say::Reply(stream)
                    }
                    _ => Say::Reset(stream, Reset::Refused),
                };
                say.send(reply).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
            }
            frame @ (Frame::Data { .. } | Frame::End { .. }) if opened.early.len() < MAX_EARLY => {
                opened.early.push(frame);
            }
            Frame::Data { .. } | Frame::End { .. } => return Err(io::Error::other("data before the streams are open")),
            frame => answer(&frame, say).await,
        }
    }
    Ok(opened)
}

fn channel_of(name: &str) -> Option<Channel> {
    Some(match name {
        "stdin" => Channel::Stdin,
        "stdout" => Channel::Stdout,
        "stderr" => Channel::Stderr,
        "error" => Channel::Error,
        "resize" => Channel::Resize,
        _ => return None,
    })
}

/// Carries the streams; whether the client is still there in the end.
async fn serve<R>(
    reader: &mut Reader<R>,
    say: mpsc::Sender<Say>,
    protocol: &'static Protocol,
    opened: Opened,
    session: Session,
    limits: Limits,
) -> bool
where
    R: AsyncRead + Send + Unpin,
{
    let Session { remote: Remote { stdin, stdout, stderr, resize }, ended, presence: _presence } = session;
    let active = Mutex::new(Instant::now());
    let id = |channel: Channel| opened.streams.get(&channel).copied();
    let mut incoming = Incoming { stdin: id(Channel::Stdin).zip(stdin), resize: id(Channel::Resize).zip(resize) };
    let listening = async {
        for frame in opened.early {
            incoming.take(frame, &say).await;
        }
        while let Ok(Some(frame)) = reader.next().await {
            touch(&active);
            incoming.take(frame, &say).await;
        }
    };
    let outgoing = Outgoing {
        stdout: id(Channel::Stdout).zip(stdout),
        stderr: id(Channel::Stderr).zip(stderr),
        error: id(Channel::Error),
        say: &say,
        active: &active,
    };
    tokio::select! {
        // The output is complete and told: what input is lost now, nobody waits for.
        sent = outgoing.run(protocol, ended.clone()) => sent.is_some(),
        // Output that has not been sent has no reader any more.
        () = listening => false,
        () = idle(&active, limits.idle) => false,
        () = async { ended.clone().await; tokio::time::sleep(limits.drain).await } => false,
    }
}

struct Incoming {
    stdin: Option<(StreamId, DuplexStream)>,
    resize: Option<(StreamId, watch::Sender<Option<Size>>)>,
}

impl Incoming {
    async fn take(&mut self, frame: Frame, say: &mpsc::Sender<Say>) {
        match frame {
            Frame::Data { stream, data } => {
                if let Some((id, pipe)) = &mut self.stdin
                    && *id == stream
                {
                    if pipe.write_all(&data).await.is_err() {
                        // The process reads no more; what comes is dropped.
                        self.stdin = None;
                    }
                } else if let Some((id, sizes)) = &self.resize
                    && *id == stream
                    && let Some(size) = Size::parse(&data).last()
                {
                    sizes.send_replace(Some(size));
                }
            }
            Frame::End { stream } | Frame::Reset { stream } => {
                self.stdin.take_if(|(id, _)| *id == stream);
                self.resize.take_if(|(id, _)| *id == stream);
            }
            Frame::Open { stream, .. } => drop(say.send(Say::Reset(stream, Reset::Refused)).await),
            Frame::Away => {}
            frame @ Frame::Ping(_) => answer(&frame, say).await,
        }
    }
}

struct Outgoing<'a> {
    stdout: Option<(StreamId, DuplexStream)>,
    stderr: Option<(StreamId, DuplexStream)>,
    error: Option<StreamId>,
    say: &'a mpsc::Sender<Say>,
    active: &'a Mutex<Instant>,
}

impl Outgoing<'_> {
    /// `None` when nothing can be sent any more.
    async fn run(self, protocol: &Protocol, ended: Ended) -> Option<()> {
        let Self { stdout, stderr, error, say, active } = self;
        let copying = [stdout, stderr].into_iter().flatten().map(|(stream, pipe)| copy(stream, pipe, say, active));
        futures::future::try_join_all(copying).await.ok()?;
        let outcome = ended.await;
        if let Some(error) = error {
            if let Some(text) = outcome.text(protocol.status) {
                say.send(Say::Data(error, text.into())).await.ok()?;
            }
            say.send(Say::End(error)).await.ok()?;
        }
        Some(())
    }
}
