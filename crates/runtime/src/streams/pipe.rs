//! The runtime's end of a process' pipe or terminal, for tokio.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One end of a pipe, or a terminal's master.
pub(crate) struct Pipe(AsyncFd<OwnedFd>);

/// A pipe that a process writes to: our end, and its.
pub(crate) fn from_process() -> io::Result<(Pipe, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Pipe::new(read)?, write))
}

/// A pipe that a process reads from: our end, and its.
pub(crate) fn to_process() -> io::Result<(Pipe, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Pipe::new(write)?, read))
}

impl Pipe {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        // Only our end: the two ends of a pipe are two open files. A terminal's master is ours alone, too.
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        #[expect(deprecated, reason = "only types that can change their descriptor are unsound, this one cannot")]
        let fd = AsyncFd::new(fd)?;
        Ok(Self(fd))
    }

    /// Zero at the end. Cancelling it loses nothing.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(Interest::READABLE, |fd| read(fd, buffer)).await
    }

    /// What is there now; `None` when nothing is.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match read(self.0.get_ref(), buffer) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = self.0.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?)).await?;
            bytes = &bytes[count..];
        }
        Ok(())
    }
}

fn read(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    match rustix::io::read(fd, buffer) {
        // A terminal's master says so when the last process has closed the terminal.
        Err(Errno::IO) => Ok(0),
        outcome => Ok(outcome?),
    }
}

/// Collects what comes out of a pipe, up to a limit; what is beyond is read and dropped.
pub(crate) struct Capture {
    pipe: Pipe,
    limit: usize,
    bytes: Vec<u8>,
    buffer: Vec<u8>,
    closed: bool,
}

impl Capture {
    pub(crate) fn new(pipe: Pipe, limit: usize) -> Self {
        Self { pipe, limit, bytes: Vec::new(), buffer: vec![0; super::CHUNK], closed: false }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Waits for something to come. Cancelling it loses nothing.
    pub(crate) async fn fill(&mut self) -> io::Result<()> {
        let count = self.pipe.read(&mut self.buffer).await?;
        self.keep(count);
        Ok(())
    }

    /// Takes what is still there, without waiting, and gives all of it.
    pub(crate) fn finish(mut self) -> io::Result<Vec<u8>> {
        while !self.closed {
            match self.pipe.try_read(&mut self.buffer)? {
                Some(count) => self.keep(count),
                None => break,
            }
        }
        Ok(self.bytes)
    }

    fn keep(&mut self, count: usize) {
        self.closed = count == 0;
        let room = self.limit - self.bytes.len();
        self.bytes.extend_from_slice(&self.buffer[..count.min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_capture_keeps_its_limit_and_does_not_wait_for_others() {
        let (pipe, end) = from_process().expect("pipe");
        rustix::io::write(&end, b"hello world").expect("write");
        let mut capture = Capture::new(pipe, 5);
        capture.fill().await.expect("fill");
        rustix::io::write(&end, b" and more").expect("write");
        // `end` is still open: somebody else could write.
        assert_eq!(capture.finish().expect("finish"), b"hello");
    }

    #[tokio::test]
    async fn a_capture_ends_with_the_last_writer() {
        let (pipe, end) = from_process().expect("pipe");
        rustix::io::write(&end, b"x").expect("write");
        drop(end);
        let mut capture = Capture::new(pipe, 5);
        while !capture.is_closed() {
            capture.fill().await.expect("fill");
        }
        assert_eq!(capture.finish().expect("finish"), b"x");
    }
}
