//! What a CRI call can answer instead of a result, and the one place where that becomes a gRPC code.
//!
//! Every other module speaks in [`CriError`]; `tonic::Status` appears only at the service's edge ([`status`]).

use std::error::Error;

use tonic::{Code, Status};

/// The source of an error that came from another crate or from the kernel.
pub(crate) type Source = Box<dyn Error + Send + Sync>;

/// Why a CRI call was refused or did not work. The kind is the variant; the text says what was tried and on what.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// No sandbox, container or image of this id (an id may be a unique prefix).
    #[error("{what} {} not found", excerpt(id))]
    NotFound {
        /// What was looked for: `sandbox`, `container`, `image`.
        what: &'static str,
        /// What the caller named it.
        id: String,
    },
    /// No such image, here or in its registry; the text names it.
    #[error("{0}")]
    NoImage(String),
    /// The registry wants (other) credentials.
    #[error("{0}")]
    Unauthorized(String),
    /// The name is reserved by another object that is still there.
    #[error("{what} name {name:?} is reserved for {holder}")]
    AlreadyExists {
        /// `sandbox` or `container`.
        what: &'static str,
        /// The name that both want.
        name: String,
        /// The id of the one that has it.
        holder: String,
    },
    /// The request itself is wrong, whatever the state of the world.
    #[error("{0}")]
    Invalid(String),
    /// The request is fine, but not for an object in this state.
    #[error("{0}")]
    Precondition(String),
    /// podd does not have this yet, or this machine does not.
    #[error("{0}")]
    Unsupported(String),
    /// A named limit was reached.
    #[error("{0}")]
    Exhausted(String),
    /// A wait ran into its deadline.
    #[error("{0}")]
    Deadline(String),
    /// A registry cannot be reached or fails; another try may help.
    #[error("{0}")]
    Unreachable(String),
    /// The image store's own disk or state fails.
    #[error("{0}")]
    Broken(String),
    /// The shim that should be there is not; another try may help.
    #[error("{what}")]
    Unavailable {
        /// What was tried, and on what.
        what: String,
        /// Why it could not be.
        #[source]
        source: Source,
    },
    /// The machine did not do what was asked of it.
    #[error("{what}")]
    Internal {
        /// What was tried, and on what.
        what: String,
        /// Why it could not be.
        #[source]
        source: Source,
    },
}

/// The result of this crate's own functions.
pub type Result<T> = std::result::Result<T, CriError>;

impl CriError {
    pub(crate) fn sandbox(id: &str) -> Self {
        Self::NotFound { what: "sandbox", id: id.to_owned() }
    }

    pub(crate) fn container(id: &str) -> Self {
        Self::NotFound { what: "container", id: id.to_owned() }
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    pub(crate) fn internal(what: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::Internal { what: what.into(), source: source.into() }
    }

    /// The error and its sources in one line, as a person or the kubelet's event reads it.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }

    /// The gRPC code of this kind (the kubelet tells only `NotFound`, `Unimplemented` and `DeadlineExceeded` apart).
    fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } | Self::NoImage(_) => Code::NotFound,
            Self::Unauthorized(_) => Code::Unauthenticated,
            Self::AlreadyExists { .. } => Code::AlreadyExists,
            Self::Invalid(_) => Code::InvalidArgument,
            Self::Precondition(_) => Code::FailedPrecondition,
            Self::Unsupported(_) => Code::Unimplemented,
            Self::Exhausted(_) => Code::ResourceExhausted,
            Self::Deadline(_) => Code::DeadlineExceeded,
            Self::Unavailable { .. } | Self::Unreachable(_) => Code::Unavailable,
            Self::Internal { .. } | Self::Broken(_) => Code::Internal,
        }
    }
}

/// The longest message of a status. It travels as a header, and a header that is too long ends the whole connection.
const MESSAGE_MAX: usize = 4096;
/// The most that a message repeats of a value that it is about.
const EXCERPT_MAX: usize = 80;

/// What goes over the wire for an error.
pub(crate) fn status(error: CriError) -> Status {
    let text = error.chain();
    let text = if text.len() > MESSAGE_MAX { shortened(&text, MESSAGE_MAX) } else { text };
    Status::new(error.code(), text)
}

/// A value of a request as an error shows it: quoted, and not all of it when it is long.
pub(crate) fn excerpt(value: &str) -> String {
    if value.len() <= EXCERPT_MAX { format!("{value:?}") } else { format!("{:?}", shortened(value, EXCERPT_MAX)) }
}

fn shortened(text: &str, most: usize) -> String {
    format!("{}… ({} bytes)", &text[..text.floor_char_boundary(most)], text.len())
}

/// Says what was tried when an operation of another crate did not work.
pub(crate) trait Context<T> {
    /// Wraps the error as [`CriError::Internal`] with what was tried.
    fn context<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T>;
}

impl<T, E: Into<Source>> Context<T> for std::result::Result<T, E> {
    fn context<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T> {
        self.map_err(|source| CriError::internal(what(), source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_repeats_little_of_what_is_long() {
        let long = "é".repeat(50_000);
        let message = status(CriError::invalid(&long)).message().to_owned();
        assert!(message.len() < MESSAGE_MAX + 32 && message.ends_with(" bytes)"), "{}", message.len());
        assert_eq!(excerpt("a\0"), "\"a\\0\"");
        assert!(status(CriError::container(&long)).message().contains("not found"));
        assert!(excerpt(&long).len() < EXCERPT_MAX + 32);
    }

    #[test]
    fn every_kind_has_its_code_and_keeps_its_sources() {
        let io = || std::io::Error::other("disk on fire");
        let table = [
            (CriError::sandbox("a"), Code::NotFound, "sandbox \"a\" not found"),
            (
                CriError::AlreadyExists { what: "sandbox", name: "n".into(), holder: "b".into() },
                Code::AlreadyExists,
                "sandbox name \"n\" is reserved for b",
            ),
            (CriError::invalid("no"), Code::InvalidArgument, "no"),
            (CriError::Precondition("no".into()), Code::FailedPrecondition, "no"),
            (CriError::Unsupported("no".into()), Code::Unimplemented, "no"),
            (CriError::Exhausted("no".into()), Code::ResourceExhausted, "no"),
            (CriError::Deadline("no".into()), Code::DeadlineExceeded, "no"),
            (CriError::NoImage("no".into()), Code::NotFound, "no"),
            (CriError::Unauthorized("no".into()), Code::Unauthenticated, "no"),
            (CriError::Unreachable("no".into()), Code::Unavailable, "no"),
            (CriError::Broken("no".into()), Code::Internal, "no"),
            (
                CriError::Unavailable { what: "ask the shim".into(), source: io().into() },
                Code::Unavailable,
                "ask the shim: disk on fire",
            ),
            (CriError::internal("write x", io()), Code::Internal, "write x: disk on fire"),
        ];
        for (error, code, text) in table {
            let status = status(error);
            assert_eq!((status.code(), status.message()), (code, text));
        }
    }
}
