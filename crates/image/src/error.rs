//! What can go wrong with images, and which kind of wrong it is.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::reference::ReferenceError;

/// What a caller chooses by: gRPC codes and Kubernetes reasons come from this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such image, here or in the registry, or none for this platform.
    NotFound,
    /// The registry wants (other) credentials.
    Unauthorized,
    /// The registry cannot be reached, is too slow or fails; a retry may help.
    Unavailable,
    /// The name, the manifest, a digest or a layer is wrong; a retry does not help.
    Invalid,
    /// The disk is full, or a limit of the store is reached.
    Exhausted,
    /// The store's own disk or state fails.
    Internal,
}

/// An error of the store or of a registry. It can be cloned, because several callers may wait for one pull.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The name of an image does not parse.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The store has no image of that name or id.
    #[error("image {name} is not in the store")]
    NoImage {
        /// The name as it was given.
        name: String,
    },
    /// A short id that more than one image starts with.
    #[error("image id {prefix} is ambiguous: it starts {count} images")]
    Ambiguous {
        /// The id as it was given.
        prefix: String,
        /// How many images it could mean.
        count: usize,
    },
    /// A registry refused, failed or answered nonsense.
    #[error("{action} of image {image} from registry {registry}: {reason}")]
    Registry {
        /// What a caller chooses by.
        kind: ErrorKind,
        /// The host (and port) that was asked.
        registry: String,
        /// The name of the image.
        image: String,
        /// What was tried, with the tag or digest: `get manifest latest`.
        action: String,
        /// What happened.
        reason: String,
    },
    /// Bytes that are not what they claim to be: a digest, a size, a manifest, a layer.
    #[error("{subject} is invalid: {reason}")]
    Content {
        /// What was looked at, with its digest.
        subject: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something hostile or huge met a named limit.
    #[error("{subject} is over the limit {limit} of {value}")]
    Limit {
        /// What was looked at, with its digest.
        subject: String,
        /// The limit's name in [`crate::Limits`].
        limit: &'static str,
        /// The limit's value.
        value: u64,
    },
    /// A file operation of the store failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: Arc<io::Error>,
    },
    /// Another process has the store open.
    #[error("image store {} is in use by another process", root.display())]
    Locked {
        /// The store's directory.
        root: PathBuf,
    },
    /// The trust anchors for HTTPS could not be read.
    #[error("read certificates for HTTPS: {reason}")]
    Certificates {
        /// What happened.
        reason: String,
    },
    /// The file of credentials is not one, or wants what podd does not do.
    #[error("credentials of {}: {reason}", file.display())]
    Logins {
        /// The file.
        file: PathBuf,
        /// What is wrong, without secrets.
        reason: String,
    },
    /// The work was dropped before it was done.
    #[error("{what} was cancelled")]
    Cancelled {
        /// What was being done.
        what: String,
    },
}

impl Error {
    /// What a caller chooses by.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Reference(_) | Error::Ambiguous { .. } | Error::Content { .. } => ErrorKind::Invalid,
            Error::Limit { .. } => ErrorKind::Invalid,
            Error::NoImage { .. } => ErrorKind::NotFound,
            Error::Registry { kind, .. } => *kind,
            Error::Io { source, .. } if is_full(source) => ErrorKind::Exhausted,
            Error::Io { .. } => ErrorKind::Internal,
            Error::Locked { .. } | Error::Cancelled { .. } => ErrorKind::Unavailable,
            Error::Certificates { .. } => ErrorKind::Internal,
            Error::Logins { .. } => ErrorKind::Unauthorized,
        }
    }

    pub(crate) fn content(subject: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Content { subject: subject.into(), reason: reason.into() }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// Names the file operation that failed: `fs::read(p).during("read", p)`.
pub(crate) trait During<T> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source: Arc::new(source.into()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_exhaustion_and_other_disk_trouble_is_ours() {
        for (errno, kind) in [(28, ErrorKind::Exhausted), (122, ErrorKind::Exhausted), (5, ErrorKind::Internal)] {
            let error = Err::<(), _>(io::Error::from_raw_os_error(errno)).during("write", Path::new("/x")).unwrap_err();
            assert_eq!(error.kind(), kind, "{errno}");
            assert_eq!(error.to_string(), "write /x");
        }
    }
}
