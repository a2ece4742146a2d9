//! Frames: bytes and descriptors to whole messages and back.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use podd_sys::socket::{receive_with_fds, send_with_fds};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest body of a frame, in bytes; a longer one ends the connection.
pub const MAX_FRAME: usize = 4 << 20;

const HEADER: usize = 4;
const READ_SIZE: usize = 16 << 10;

/// A value as one frame.
///
/// Fails with `InvalidData` when the value has no JSON form (a path that is not UTF-8) or is longer than [`MAX_FRAME`].
pub fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, value)?;
    let length = frame.len() - HEADER;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame longer than its bound"));
    }
    let length = u32::try_from(length).expect("MAX_FRAME fits u32");
    frame[..HEADER].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Sends a whole frame over a blocking socket, `fds` on its first byte.
pub fn send_all(socket: BorrowedFd<'_>, frame: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut fds = fds;
    let mut rest = frame;
    while !rest.is_empty() {
        match send_with_fds(socket, rest, fds) {
            Ok(sent) => {
                rest = &rest[sent..];
                fds = &[];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads what the socket has into `decoder`: one `recvmsg`. 0 is the end of the stream; with a non-blocking socket
/// `WouldBlock` as usual, so it serves inside tokio's `try_io`.
pub fn receive(socket: BorrowedFd<'_>, decoder: &mut Decoder) -> io::Result<usize> {
    let start = decoder.bytes.len();
    decoder.bytes.resize(start + READ_SIZE, 0);
    let mut fds = Vec::new();
    let outcome = receive_with_fds(socket, &mut decoder.bytes[start..], &mut fds);
    decoder.bytes.truncate(start + *outcome.as_ref().unwrap_or(&0));
    decoder.fds.extend(fds);
    outcome
}

/// Bytes and descriptors received and not yet taken as frames.
///
/// Descriptors keep their order and arrive no later than the first byte of their frame (unix(7): a receive ends at the
/// message that carried some), so a frame that declares `n` owns the next `n`.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    taken: usize,
    fds: VecDeque<OwnedFd>,
}

/// The body of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a>(pub &'a [u8]);

impl Frame<'_> {
    /// The value in the frame.
    pub fn parse<T: DeserializeOwned>(&self) -> io::Result<T> {
        Ok(serde_json::from_slice(self.0)?)
    }
}

impl Decoder {
    /// Adds what came, for callers that read by themselves.
    pub fn push(&mut self, bytes: &[u8], fds: impl IntoIterator<Item = OwnedFd>) {
        self.bytes.extend_from_slice(bytes);
        self.fds.extend(fds);
    }

    /// The next whole frame, if there is one. `InvalidData` when its length is past [`MAX_FRAME`]: hang up.
    pub fn next_frame(&mut self) -> io::Result<Option<Frame<'_>>> {
        let rest = &self.bytes[self.taken..];
        let Some((header, body)) = rest.split_first_chunk::<HEADER>() else {
            self.compact();
            return Ok(None);
        };
        let length = u32::from_le_bytes(*header) as usize;
        if length > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "frame longer than its bound"));
        }
        if body.len() < length {
            self.compact();
            return Ok(None);
        }
        let start = self.taken + HEADER;
        self.taken = start + length;
        Ok(Some(Frame(&self.bytes[start..self.taken])))
    }

    /// Takes the descriptors of the frame just read. `InvalidData` when fewer came than it declares.
    pub fn take_fds(&mut self, count: u32) -> io::Result<Vec<OwnedFd>> {
        let count = count as usize;
        if count > self.fds.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors missing"));
        }
        Ok(self.fds.drain(..count).collect())
    }

    fn compact(&mut self) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests;
