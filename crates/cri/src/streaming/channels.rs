//! How streams of exec and attach share one WebSocket: the `channel.k8s.io` sub-protocols. A codec and
//! nothing else, for the server here and for the CLI's client.
//!
//! A message is a channel and bytes. In a binary protocol the channel is the first byte; in a base64
//! one the message is text, its first character is the channel's digit, the rest is base64. Version 4
//! made the error channel carry a Kubernetes `Status`, version 5 added a message that ends one stream:
//! byte 255 and the channel, which is how stdin can end while output goes on.
//! (KEP 4006; `k8s.io/cri-streaming/pkg/streaming/remotecommand/websocket.go`.)

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// First byte of the message that ends a stream, from version 5 on.
const CLOSE: u8 = 255;

/// The streams of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Client to process.
    Stdin,
    /// Process to client; with a terminal, everything.
    Stdout,
    /// Process to client.
    Stderr,
    /// Server to client, once: how it ended.
    Error,
    /// Client to server: the terminal's size.
    Resize,
}

impl Channel {
    /// All of them; the place is the number on the wire.
    pub const ALL: [Self; 5] = [Self::Stdin, Self::Stdout, Self::Stderr, Self::Error, Self::Resize];

    fn of(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// A sub-protocol of `Sec-WebSocket-Protocol`.
#[derive(Debug, PartialEq, Eq)]
pub struct Protocol {
    /// As it is negotiated.
    pub name: &'static str,
    /// Text messages with base64 in them, for clients that cannot send binary ones.
    pub base64: bool,
    /// The error channel carries a `Status` in JSON; else bare text, and nothing on success.
    pub status: bool,
    /// There is a message that ends one stream.
    pub close: bool,
}

/// What a session is asked for first, best first.
pub static PROTOCOLS: [Protocol; 5] = [
    Protocol { name: "v5.channel.k8s.io", base64: false, status: true, close: true },
    Protocol { name: "v4.channel.k8s.io", base64: false, status: true, close: false },
    Protocol { name: "v4.base64.channel.k8s.io", base64: true, status: true, close: false },
    Protocol { name: "channel.k8s.io", base64: false, status: false, close: false },
    Protocol { name: "base64.channel.k8s.io", base64: true, status: false, close: false },
];

/// What a client that names none is taken to speak.
static UNNAMED: &Protocol = &PROTOCOLS[3];

/// One WebSocket message, in either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A binary message.
    Binary(Bytes),
    /// A text message.
    Text(String),
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of a stream; an empty one says only that the stream is there.
    Data(Channel, Bytes),
    /// The stream ends.
    Close(Channel),
}

/// A message that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not even a channel.
    #[error("empty message")]
    Empty,
    /// A channel beyond 4, or a close where the protocol has none.
    #[error("unknown channel {0}")]
    Channel(u8),
    /// Not base64.
    #[error("message is not base64")]
    Base64,
}

impl Protocol {
    /// The protocol of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        PROTOCOLS.iter().find(|protocol| protocol.name == name)
    }

    /// The best of those that a client offers, in whatever order; for one that offers none, the
    /// oldest. `None`: none of the offered ones is known.
    pub fn negotiate<'a>(offered: impl IntoIterator<Item = &'a str>) -> Option<&'static Self> {
        let offered: Vec<&str> = offered.into_iter().collect();
        if offered.is_empty() {
            return Some(UNNAMED);
        }
        PROTOCOLS.iter().find(|protocol| offered.contains(&protocol.name))
    }

    /// The message for bytes of a stream.
    #[must_use]
    pub fn data(&self, channel: Channel, data: &[u8]) -> Message {
        self.numbered(channel as u8, data)
    }

    /// The message for bytes of the channel of that number: port forwarding has two for each port.
    pub(super) fn numbered(&self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::with_capacity(1 + data.len().div_ceil(3) * 4);
            text.push(char::from(b'0' + channel));
            STANDARD.encode_string(data, &mut text);
            return Message::Text(text);
        }
        let mut bytes = BytesMut::with_capacity(1 + data.len());
        bytes.put_u8(channel);
        bytes.put_slice(data);
        Message::Binary(bytes.freeze())
    }

    /// The number of a message's channel, and the bytes.
    pub(super) fn number_of(&self, message: &Bytes) -> Result<(u8, Bytes), FrameError> {
        let first = *message.first().ok_or(FrameError::Empty)?;
        if self.base64 {
            let number = first.checked_sub(b'0').ok_or(FrameError::Channel(first))?;
            let data = STANDARD.decode(&message[1..]).map_err(|_| FrameError::Base64)?;
            return Ok((number, data.into()));
        }
        Ok((first, message.slice(1..)))
    }

    /// The message that ends a stream, where the protocol has one.
    #[must_use]
    pub fn close(&self, channel: Channel) -> Option<Message> {
        let bytes = [CLOSE, channel as u8];
        self.close.then(|| Message::Binary(Bytes::copy_from_slice(&bytes)))
    }

    /// What a message says. The kind of the message does not matter, since a channel below 128 makes
    /// valid text too.
    ///
    /// # Errors
    /// A [`FrameError`] when it breaks the protocol; the connection is then of no more use.
    pub fn decode(&self, message: Bytes) -> Result<Frame, FrameError> {
        let (number, data) = self.number_of(&message)?;
        if number == CLOSE && self.close {
            let second = *data.first().ok_or(FrameError::Channel(CLOSE))?;
            return Channel::of(second).map(Frame::Close).ok_or(FrameError::Channel(second));
        }
        let channel = Channel::of(number).ok_or(FrameError::Channel(message[0]))?;
        Ok(Frame::Data(channel, data))
    }

    /// What goes into the error channel at the end; `None`: nothing does.
    #[must_use]
    pub fn outcome(&self, outcome: &Outcome) -> Option<Message> {
        outcome.text(self.status).map(|text| self.data(Channel::Error, text.as_bytes()))
    }
}

/// A terminal's size in characters, as the resize channel carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Columns.
    #[serde(rename = "Width", alias = "width")]
    pub width: u16,
    /// Rows.
    #[serde(rename = "Height", alias = "height")]
    pub height: u16,
}

impl Size {
    /// For the resize channel.
    #[must_use]
    pub fn to_json(self) -> String {
        format!(r#"{{"Width":{},"Height":{}}}"#, self.width, self.height)
    }

    /// The sizes in a message: clients write one JSON object after the other, and not always one per
    /// message. What is no size is left out.
    pub fn parse(data: &[u8]) -> impl Iterator<Item = Self> + '_ {
        let values = serde_json::Deserializer::from_slice(data).into_iter::<Self>();
        values.map_while(Result::ok)
    }
}

/// How a session ended, as the error channel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command ended with 0.
    Success,
    /// The command ended with another code.
    Exit(i32),
    /// There was no command to end.
    Failure(Failure),
}

/// Why a request could not be served, in Kubernetes' terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// HTTP status code.
    pub code: u16,
    /// `StatusReason`, such as `NotFound`.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// `metav1.Status`, as far as streams need it.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<String>,
    metadata: serde_json::Map<String, serde_json::Value>,
    status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Details {
    causes: Vec<Cause>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
    message: String,
}

const NON_ZERO: &str = "NonZeroExitCode";
const EXIT_CODE: &str = "ExitCode";

fn exit_text(code: i32) -> String {
    format!("command terminated with non-zero exit code: exit code {code}")
}

impl Outcome {
    /// For the error channel.
    #[must_use]
    pub fn to_json(&self) -> String {
        let status = match self {
            Self::Success => Status { status: "Success".into(), ..Status::default() },
            Self::Exit(code) => Status {
                status: "Failure".into(),
                message: exit_text(*code),
                reason: NON_ZERO.into(),
                details: Some(Details { causes: vec![Cause { reason: EXIT_CODE.into(), message: code.to_string() }] }),
                ..Status::default()
            },
            Self::Failure(failure) => failure.status(),
        };
        json(&status)
    }

    /// What the error channel carries: a `Status`, or bare text and nothing on success.
    pub(super) fn text(&self, status: bool) -> Option<String> {
        match self {
            outcome if status => Some(outcome.to_json()),
            Self::Success => None,
            Self::Exit(code) => Some(exit_text(*code)),
            Self::Failure(failure) => Some(failure.message.clone()),
        }
    }

    /// What the error channel said: a `Status`, or bare text from before version 4.
    #[must_use]
    pub fn parse(data: &[u8]) -> Self {
        let Ok(status) = serde_json::from_slice::<Status>(data) else {
            let message = String::from_utf8_lossy(data).into_owned();
            return Self::Failure(Failure::internal(message));
        };
        if status.status == "Success" {
            return Self::Success;
        }
        let causes = status.details.iter().flat_map(|details| &details.causes);
        let code = causes.filter(|cause| cause.reason == EXIT_CODE).find_map(|cause| cause.message.parse().ok());
        match code {
            Some(code) if status.reason == NON_ZERO => Self::Exit(code),
            _ => Self::Failure(Failure {
                code: status.code.unwrap_or(500),
                reason: status.reason,
                message: status.message,
            }),
        }
    }
}

impl Failure {
    /// Something went wrong on our side.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self { code: 500, reason: "InternalError".into(), message: message.into() }
    }

    /// A whole `Status` object, for the body of a refused request.
    #[must_use]
    pub fn to_json(&self) -> String {
        let (kind, version) = (Some("Status".into()), Some("v1".into()));
        json(&Status { kind, api_version: version, ..self.status() })
    }

    fn status(&self) -> Status {
        Status {
            status: "Failure".into(),
            message: self.message.clone(),
            reason: self.reason.clone(),
            code: Some(self.code),
            ..Status::default()
        }
    }
}

fn json(status: &Status) -> String {
    serde_json::to_string(status).expect("strings and numbers always serialise")
}

/// The reasons of Kubernetes for the codes of gRPC.
impl From<&tonic::Status> for Failure {
    fn from(status: &tonic::Status) -> Self {
        use tonic::Code;
        let (code, reason) = match status.code() {
            Code::InvalidArgument | Code::OutOfRange => (400, "BadRequest"),
            Code::NotFound => (404, "NotFound"),
            Code::AlreadyExists => (409, "AlreadyExists"),
            Code::FailedPrecondition | Code::Aborted => (409, "Conflict"),
            Code::PermissionDenied => (403, "Forbidden"),
            Code::Unauthenticated => (401, "Unauthorized"),
            Code::ResourceExhausted => (429, "TooManyRequests"),
            Code::Unimplemented => (501, "NotImplemented"),
            Code::Unavailable => (503, "ServiceUnavailable"),
            Code::DeadlineExceeded => (504, "Timeout"),
            _ => (500, "InternalError"),
        };
        Self { code, reason: reason.into(), message: status.message().to_owned() }
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
