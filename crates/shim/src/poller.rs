//! epoll, and what its events mean.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::log::Channel;

/// Serial number of a client, a container or an exec in this shim; never used twice.
pub(crate) type Serial = u32;

/// Whose descriptor is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// Somebody connects.
    Listener,
    /// A signal came.
    Signals,
    /// A client can be read from or written to.
    Client(Serial),
    /// The child of a container reports.
    Container(Serial),
    /// Output of a container.
    Output(Serial, Channel),
    /// The child of an exec reports.
    Exec(Serial),
    /// The init of a shared PID namespace reports.
    Init,
}

impl Token {
    fn number(self) -> u64 {
        let (kind, serial) = match self {
            Self::Listener => (0, 0),
            Self::Signals => (1, 0),
            Self::Client(serial) => (2, serial),
            Self::Container(serial) => (3, serial),
            Self::Output(serial, Channel::Stdout) => (4, serial),
            Self::Output(serial, Channel::Stderr) => (5, serial),
            Self::Exec(serial) => (6, serial),
            Self::Init => (7, 0),
        };
        kind << 32 | u64::from(serial)
    }

    fn of_number(number: u64) -> Self {
        let serial = (number & u64::from(u32::MAX)) as Serial;
        match number >> 32 {
            0 => Self::Listener,
            1 => Self::Signals,
            2 => Self::Client(serial),
            3 => Self::Container(serial),
            4 => Self::Output(serial, Channel::Stdout),
            5 => Self::Output(serial, Channel::Stderr),
            6 => Self::Exec(serial),
            _ => Self::Init,
        }
    }
}

/// Events taken at once.
const BATCH: usize = 32;

/// The descriptors that are waited for. Level-triggered: what is not taken comes again.
#[derive(Debug)]
pub(crate) struct Poller(OwnedFd);

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Waits for reading.
    pub(crate) fn add(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(token.number()), EventFlags::IN)?)
    }

    /// Waits for writing too, or no more.
    pub(crate) fn writing(&self, fd: impl AsFd, token: Token, wanted: bool) -> io::Result<()> {
        let flags = if wanted { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        Ok(epoll::modify(&self.0, fd, EventData::new_u64(token.number()), flags)?)
    }

    /// Waits no more. Before a close, not by it: a child that has just been forked has a copy of the descriptor, and the
    /// kernel would go on telling of it.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        // One that was never added is removed as well as one that was.
        let _absent = epoll::delete(&self.0, fd);
    }

    /// What is ready, at most [`BATCH`]; nothing when `timeout` (milliseconds) is over.
    pub(crate) fn wait(&self, timeout: Option<i64>) -> io::Result<Vec<Token>> {
        let timeout = timeout.map(|millis| Timespec { tv_sec: millis / 1000, tv_nsec: (millis % 1000) * 1_000_000 });
        let mut events = [const { MaybeUninit::uninit() }; BATCH];
        match epoll::wait(&self.0, &mut events, timeout.as_ref()) {
            Ok((ready, _)) => Ok(ready.iter().map(|event| Token::of_number(event.data.u64())).collect()),
            Err(rustix::io::Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_kernel() {
        let serial = u32::MAX - 3;
        let all = [
            Token::Listener,
            Token::Signals,
            Token::Client(serial),
            Token::Container(serial),
            Token::Output(serial, Channel::Stdout),
            Token::Output(serial, Channel::Stderr),
            Token::Exec(serial),
            Token::Init,
        ];
        for token in all {
            assert_eq!(Token::of_number(token.number()), token);
        }
    }
}
