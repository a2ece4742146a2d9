//! A blocking client, for the runtime's recovery and for tests. An async caller uses the frames directly.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::frame::{Decoder, encode, receive, send_all};
use super::message::{Call, Event, Message, Reply, Request, Response, ShimError, Welcome};
use super::{OLDEST, VERSION};

/// One connection, one call at a time; events that come meanwhile wait in a queue.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    decoder: Decoder,
    events: VecDeque<Event>,
    seq: u64,
}

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection failed or the other side speaks something else.
    #[error("talk to shim")]
    Connection(#[from] io::Error),
    /// The shim refused or failed.
    #[error(transparent)]
    Shim(#[from] ShimError),
}

impl Client {
    /// Connects to a shim's socket and says hello.
    pub fn connect(path: &Path) -> Result<(Self, Welcome), ClientError> {
        Self::over(UnixStream::connect(path)?)
    }

    /// Says hello over a connection.
    pub fn over(socket: UnixStream) -> Result<(Self, Welcome), ClientError> {
        let mut client = Self { socket, decoder: Decoder::default(), events: VecDeque::new(), seq: 0 };
        match client.call(Request::Hello { version: VERSION, oldest: OLDEST })? {
            Response::Welcome(welcome) => Ok((client, welcome)),
            _ => Err(unexpected("welcome").into()),
        }
    }

    /// Bounds every later wait; `None` waits for ever.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(timeout)
    }

    /// Calls without descriptors in either direction.
    pub fn call(&mut self, request: Request) -> Result<Response, ClientError> {
        Ok(self.call_with_fds(request, &[])?.0)
    }

    /// Calls with descriptors; those of the reply come back.
    pub fn call_with_fds(
        &mut self,
        request: Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Response, Vec<OwnedFd>), ClientError> {
        self.seq += 1;
        let count = u32::try_from(fds.len()).map_err(io::Error::other)?;
        let frame = encode(&Call { seq: self.seq, fds: count, request })?;
        send_all(self.socket.as_fd(), &frame, fds)?;
        loop {
            match self.next_message()? {
                (Message::Event(event), _) => self.events.push_back(event),
                (Message::Reply(Reply { seq, result, .. }), fds) if seq == self.seq => {
                    return Ok((result?, fds));
                }
                (Message::Reply(_), _) => return Err(unexpected("the reply to this call").into()),
            }
        }
    }

    /// The next event, waiting for it.
    pub fn next_event(&mut self) -> Result<Event, ClientError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        match self.next_message()? {
            (Message::Event(event), _) => Ok(event),
            (Message::Reply(_), _) => Err(unexpected("an event").into()),
        }
    }

    fn next_message(&mut self) -> io::Result<(Message, Vec<OwnedFd>)> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                let message: Message = frame.parse()?;
                let count = match &message {
                    Message::Reply(reply) => reply.fds,
                    Message::Event(_) => 0,
                };
                let fds = self.decoder.take_fds(count)?;
                return Ok((message, fds));
            }
            if receive(self.socket.as_fd(), &mut self.decoder)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn unexpected(wanted: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("shim sent something else than {wanted}"))
}
