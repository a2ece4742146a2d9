//! SPDY/3.1 frames, as far as Kubernetes' streams have them: a reader and a writer over a byte stream.
//!
//! Both ends of the field ignore flow control (the Go library neither sends nor obeys `WINDOW_UPDATE`), so a stream that
//! is not read holds up its connection, through TCP.

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::headers::{Deflate, Headers, Inflate};

/// Data is read in pieces of at most this size, whatever the frame's.
const CHUNK: usize = 32 << 10;
/// Most bytes of a control frame.
const MAX_CONTROL: usize = 64 << 10;
/// First two bytes of a control frame: its bit, and version 3.
const CONTROL: u16 = 0x8003;
/// The flag of a frame that is its stream's last.
const FIN: u8 = 1;

/// Types of control frames.
mod kind {
    pub(super) const SYN_STREAM: u16 = 1;
    pub(super) const SYN_REPLY: u16 = 2;
    pub(super) const RST_STREAM: u16 = 3;
    pub(super) const PING: u16 = 6;
    pub(super) const GOAWAY: u16 = 7;
}

/// A stream of the connection. The client's are odd, and grow.
pub(in crate::streaming) type StreamId = u32;

/// Why a stream is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::streaming) enum Reset {
    /// What was said about the stream makes no sense.
    Protocol = 1,
    /// No such stream.
    Refused = 3,
    /// It is of no more use.
    Cancel = 5,
}

/// What the client says.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::streaming) enum Frame {
    /// A stream begins.
    Open { stream: StreamId, headers: Headers },
    /// Bytes of a stream.
    Data { stream: StreamId, data: Bytes },
    /// The client says no more on this stream.
    End { stream: StreamId },
    /// The client wants no more of this stream.
    Reset { stream: StreamId },
    /// To be said back.
    Ping(u32),
    /// No more streams will begin.
    Away,
}

/// What the server says; and what the client does, which alone opens streams.
#[derive(Debug)]
pub(in crate::streaming) enum Say {
    Open(StreamId, Headers),
    Reply(StreamId),
    Data(StreamId, Bytes),
    End(StreamId),
    Reset(StreamId, Reset),
    Ping(u32),
}

/// A data frame that has been read in part.
struct Rest {
    stream: StreamId,
    left: usize,
    fin: bool,
}

/// Reads frames.
pub(in crate::streaming) struct Reader<R> {
    source: R,
    inflate: Inflate,
    rest: Option<Rest>,
    /// A stream that ends before the next frame is read.
    ended: Option<StreamId>,
    /// It is the client who reads: streams are replied to.
    client: bool,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(in crate::streaming) fn new(source: R) -> Self {
        Self { source, inflate: Inflate::new(), rest: None, ended: None, client: false }
    }

    /// Reads what a server says.
    pub(in crate::streaming) fn of_client(source: R) -> Self {
        Self { client: true, ..Self::new(source) }
    }

    /// The next frame that means something; `None` at the end. Not to be cancelled.
    ///
    /// # Errors
    /// What the connection gives, and `InvalidData` for what is no SPDY/3.1.
    pub(in crate::streaming) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(stream) = self.ended.take() {
                return Ok(Some(Frame::End { stream }));
            }
            if let Some(rest) = self.rest.take() {
                return self.data(rest).await.map(Some);
            }
            let mut head = [0; 8];
            match self.source.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error),
            }
            let mut head = &head[..];
            let (first, flags) = (head.get_u32(), head.get_u8());
            let length = usize::try_from(head.get_uint(3)).unwrap_or(usize::MAX);
            let fin = flags & FIN != 0;
            if first & 0x8000_0000 == 0 {
                let stream = first;
                match length {
                    0 => self.ended = fin.then_some(stream),
                    left => self.rest = Some(Rest { stream, left, fin }),
                }
                continue;
            }
            if first >> 16 != u32::from(CONTROL) {
                return Err(invalid("not SPDY/3.1"));
            }
            if length > MAX_CONTROL {
                return Err(invalid("control frame too long"));
            }
            let mut payload = vec![0; length];
            self.source.read_exact(&mut payload).await?;
            let kind = u16::try_from(first & 0xffff).unwrap_or(u16::MAX);
            if let Some(frame) = self.control(kind, fin, &payload)? {
                return Ok(Some(frame));
            }
        }
    }

    async fn data(&mut self, rest: Rest) -> io::Result<Frame> {
        let Rest { stream, left, fin } = rest;
        let mut data = BytesMut::zeroed(left.min(CHUNK));
        self.source.read_exact(&mut data).await?;
        match left - data.len() {
            0 => self.ended = fin.then_some(stream),
            left => self.rest = Some(Rest { stream, left, fin }),
        }
        Ok(Frame::Data { stream, data: data.freeze() })
    }

    fn control(&mut self, kind: u16, fin: bool, mut payload: &[u8]) -> io::Result<Option<Frame>> {
        let mut number = || payload.try_get_u32().map_err(|_| invalid("control frame too short"));
        Ok(match kind {
            kind::SYN_STREAM => {
                let stream = number()? & 0x7fff_ffff;
                // The stream it is associated with, its priority and slot mean nothing here.
                let block = payload.get(6..).ok_or_else(|| invalid("control frame too short"))?;
                let headers = self.inflate.read(block)?;
                self.ended = fin.then_some(stream);
                Some(Frame::Open { stream, headers })
            }
            kind::RST_STREAM => Some(Frame::Reset { stream: number()? }),
            kind::PING => Some(Frame::Ping(number()?)),
            kind::GOAWAY => Some(Frame::Away),
            kind::SYN_REPLY if self.client => {
                let stream = number()? & 0x7fff_ffff;
                // They say nothing, but are part of the zlib stream.
                self.inflate.read(payload)?;
                self.ended = fin.then_some(stream);
                None
            }
            // A reply to nothing has headers all the same, and they are part of the zlib stream.
            kind::SYN_REPLY => return Err(invalid("a reply to a stream that the server did not begin")),
            // SETTINGS, HEADERS, WINDOW_UPDATE, CREDENTIAL: no one sends them, and they change nothing. (HEADERS has a
            // block; whoever sends one and then another stream ends the connection.)
            _ => None,
        })
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Writes what comes through the channel until all its senders are gone.
///
/// # Errors
/// What the connection gives.
pub(in crate::streaming) async fn write<W>(mut sink: W, mut said: mpsc::Receiver<Say>) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let mut deflate = Deflate::new()?;
    let mut buffer = Vec::with_capacity(CHUNK + 64);
    while let Some(say) = said.recv().await {
        encode(say, &mut deflate, &mut buffer)?;
        // What else waits goes with it: small frames are many.
        while buffer.len() < CHUNK
            && let Ok(say) = said.try_recv()
        {
            encode(say, &mut deflate, &mut buffer)?;
        }
        sink.write_all(&buffer).await?;
        sink.flush().await?;
        buffer.clear();
    }
    Ok(())
}

fn encode(say: Say, deflate: &mut Deflate, into: &mut Vec<u8>) -> io::Result<()> {
    let numbers = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>();
    match say {
        Say::Open(stream, headers) => {
            // Neither an associated stream, nor a priority or slot.
            let mut payload = numbers(&[stream, 0]);
            payload.extend_from_slice(&[0, 0]);
            payload.append(&mut deflate.write(&headers)?);
            control(into, kind::SYN_STREAM, &payload);
        }
        Say::Reply(stream) => {
            let mut payload = numbers(&[stream]);
            payload.append(&mut deflate.write(&Headers::default())?);
            control(into, kind::SYN_REPLY, &payload);
        }
        Say::Data(stream, data) => frame(into, stream, 0, &data),
        Say::End(stream) => frame(into, stream, FIN, &[]),
        Say::Reset(stream, why) => control(into, kind::RST_STREAM, &numbers(&[stream, why as u32])),
        Say::Ping(number) => control(into, kind::PING, &numbers(&[number])),
    }
    Ok(())
}

fn control(into: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    frame(into, u32::from(CONTROL) << 16 | u32::from(kind), 0, payload);
}

/// Payloads here are at most [`CHUNK`], so their length fits its three bytes.
fn frame(into: &mut Vec<u8>, first: u32, flags: u8, payload: &[u8]) {
    into.extend_from_slice(&first.to_be_bytes());
    into.push(flags);
    into.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes()[1..]);
    into.extend_from_slice(payload);
}
