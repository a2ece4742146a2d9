//! Why a network operation did not work. The variants name what was wanted; [`Error::kind`] is for callers that choose.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::ports::Protocol;

/// What went wrong, and on what.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration or the request cannot be honoured, whatever the state of the machine.
    #[error("{0}")]
    Invalid(String),
    /// Every address of a subnet is leased.
    #[error("subnet {subnet} has no free address left, all {limit} are leased to pods; use a larger network.subnet")]
    NoAddress {
        /// The subnet.
        subnet: IpNet,
        /// How many pods it can hold.
        limit: u32,
    },
    /// The bridge has all the ports it can have.
    #[error("bridge {bridge} has no free port left: {limit} is the most that the kernel gives a bridge")]
    NoBridgePort {
        /// The bridge.
        bridge: String,
        /// How many pods it can hold.
        limit: u32,
    },
    /// A host port that is wanted is in use.
    #[error("host port {port}/{protocol}{at} is taken by {holder}", at = host_ip.map_or_else(String::new, |ip| format!(" on {ip}")))]
    PortTaken {
        /// The protocol.
        protocol: Protocol,
        /// The host's port.
        port: u16,
        /// Where the pod wanted it; everywhere if none.
        host_ip: Option<IpAddr>,
        /// Who has it: a sandbox, another instance's sandbox, a socket of the host.
        holder: String,
    },
    /// A bridge, table or interface of that name is there, and it is not ours.
    #[error("{what} {name} belongs to {owner}; give this instance another name, or remove it")]
    Foreign {
        /// `bridge`, `nft table inet`, `interface`.
        what: &'static str,
        /// Its name.
        name: String,
        /// What it says about its owner.
        owner: String,
    },
    /// The machine already has a way to addresses of a subnet.
    #[error("subnet {subnet} overlaps {route}; set another network.subnet")]
    Overlap {
        /// The configured subnet.
        subnet: IpNet,
        /// The route it meets.
        route: String,
    },
    /// The network cannot go while pods are attached.
    #[error("{pods} pods are still attached to the network")]
    Busy {
        /// How many.
        pods: usize,
    },
    /// The file of leases cannot be read or written.
    #[error("{what} {}", path.display())]
    Ledger {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it could not be.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error("{what}")]
    Kernel {
        /// What was tried, and on what.
        what: String,
        /// Its errno.
        #[source]
        source: io::Error,
    },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// The kinds of errors that a caller may tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request or configuration is wrong.
    Invalid,
    /// What is wanted is somebody else's.
    AlreadyExists,
    /// A limit was reached.
    Exhausted,
    /// Not while pods are attached.
    Busy,
    /// The machine did not do what was asked of it.
    Unavailable,
}

impl Error {
    /// What kind of error this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Invalid(_) => Kind::Invalid,
            Self::PortTaken { .. } | Self::Foreign { .. } | Self::Overlap { .. } => Kind::AlreadyExists,
            Self::NoAddress { .. } | Self::NoBridgePort { .. } => Kind::Exhausted,
            Self::Busy { .. } => Kind::Busy,
            Self::Ledger { .. } | Self::Kernel { .. } => Kind::Unavailable,
        }
    }

    pub(crate) fn kernel(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Kernel { what: what.into(), source: source.into() }
    }
}

/// Says what was tried when the kernel refused.
pub(crate) trait Context<T> {
    fn context<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T> {
        self.map_err(|source| Error::kernel(what(), source))
    }
}
