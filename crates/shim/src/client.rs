//! One connection of a runtime: frames in, replies and events out, and a bound on what waits for a reader.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use podd_shim::wire::{Decoder, Message, encode, receive};
use podd_sys::socket::send_with_fds;

/// What may wait for a client that does not read; then the connection is cut. Several of the longest frames.
const LONGEST_QUEUE: usize = 16 << 20;

/// A connection.
#[derive(Debug)]
pub(crate) struct Client {
    socket: OwnedFd,
    pub(crate) decoder: Decoder,
    /// It has said hello, so it wants events.
    pub(crate) greeted: bool,
    waiting: VecDeque<Outgoing>,
    waiting_bytes: usize,
}

/// A frame, or what is left of it.
#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    /// Go with the first byte.
    fds: Vec<OwnedFd>,
}

impl Client {
    /// Takes a non-blocking socket.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, decoder: Decoder::default(), greeted: false, waiting: VecDeque::new(), waiting_bytes: 0 }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads once. `false` at the end of the connection.
    pub(crate) fn read(&mut self) -> io::Result<bool> {
        match receive(self.socket.as_fd(), &mut self.decoder) {
            Ok(0) => Ok(false),
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Queues a message. An error means that the connection has to be cut.
    pub(crate) fn queue(&mut self, message: &Message, fds: Vec<OwnedFd>) -> io::Result<()> {
        let bytes = encode(message)?;
        self.waiting_bytes += bytes.len();
        if self.waiting_bytes > LONGEST_QUEUE {
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, "the client does not read"));
        }
        self.waiting.push_back(Outgoing { bytes, sent: 0, fds });
        Ok(())
    }

    /// Writes as much as the socket takes. `true` when nothing is left.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        while let Some(first) = self.waiting.front_mut() {
            let fds: Vec<BorrowedFd<'_>> = first.fds.iter().map(AsFd::as_fd).collect();
            match send_with_fds(self.socket.as_fd(), &first.bytes[first.sent..], &fds) {
                Ok(count) => {
                    first.sent += count;
                    first.fds.clear();
                    if first.sent == first.bytes.len() {
                        self.waiting_bytes -= first.bytes.len();
                        self.waiting.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // An idle shim keeps no buffers.
        self.waiting = VecDeque::new();
        Ok(true)
    }
}
