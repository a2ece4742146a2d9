//! Container output to CRI log files: `time stream P|F text`, one line for each line or part of a line.
//!
//! The pump reads as much as there is, stamps the batch once and writes it with one call. Whatever happens to the disk,
//! it goes on reading: a container must not stand still because its log can't be written.

mod file;
mod split;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use podd_sys::memory::Pages;
use rustix::io::Errno;

pub(crate) use file::LogFile;
use split::{Splitter, Tag};

use crate::audience::Audience;
use crate::clock;

/// One read.
const INPUT: usize = 256 << 10;
/// One write, at most.
const OUTPUT: usize = 512 << 10;
/// What a pipe from a container holds.
pub(crate) const PIPE_SIZE: usize = INPUT;

/// Length of a line's head: time, stream, tag and the spaces after each.
const HEAD: usize = clock::STAMP + 1 + 6 + 1 + 1 + 1;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    Stdout,
    Stderr,
}

/// The buffers of all pumps: the shim has one thread, and nothing stays in them between two calls.
pub(crate) struct Scratch {
    input: Pages,
    output: Pages,
    used: bool,
}

impl Scratch {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { input: Pages::map(INPUT)?, output: Pages::map(OUTPUT)?, used: false })
    }

    /// Whether pages are worth giving back.
    pub(crate) fn used(&self) -> bool {
        self.used
    }

    /// Gives the pages back.
    pub(crate) fn release(&mut self) {
        self.input.release();
        self.output.release();
        self.used = false;
    }
}

/// What a pump found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Bytes; there may be more.
    Read(usize),
    /// Nothing at present.
    Empty,
    /// Nothing ever again.
    Ended,
}

/// One output stream of a container.
#[derive(Debug)]
pub(crate) struct Stream {
    source: OwnedFd,
    channel: Channel,
    splitter: Splitter,
}

impl Stream {
    /// Reads from a non-blocking descriptor: a pipe's end or a terminal's master.
    pub(crate) fn new(source: OwnedFd, channel: Channel) -> Self {
        Self { source, channel, splitter: Splitter::default() }
    }

    pub(crate) fn source(&self) -> &OwnedFd {
        &self.source
    }

    /// Moves one batch into the log, or reads and drops it when there is none; the audience hears it too.
    pub(crate) fn pump(
        &mut self,
        log: Option<&mut LogFile>,
        audience: &mut Audience,
        scratch: &mut Scratch,
    ) -> Progress {
        let count = match rustix::io::read(self.source.as_fd(), &mut scratch.input[..]) {
            Ok(0) => return Progress::Ended,
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Progress::Empty,
            // A terminal's master says EIO once no process holds the other side.
            Err(_) => return Progress::Ended,
        };
        scratch.used |= count > 4096;
        audience.hear(self.channel, &scratch.input[..count]);
        if let Some(log) = log {
            let input = &scratch.input[..count];
            let mut batch = Batch::new(self.channel, log, &mut scratch.output);
            self.splitter.push(input, |tag, head, tail| batch.line(tag, head, tail));
            batch.flush();
        }
        Progress::Read(count)
    }

    /// Writes what stands without an end of line.
    pub(crate) fn finish(&mut self, log: Option<&mut LogFile>, scratch: &mut Scratch) {
        if let Some(log) = log {
            let mut batch = Batch::new(self.channel, log, &mut scratch.output);
            self.splitter.finish(|tag, head, tail| batch.line(tag, head, tail));
            batch.flush();
        }
    }
}

/// Lines on their way into a file, stamped with one time.
struct Batch<'a> {
    head: [u8; HEAD],
    log: &'a mut LogFile,
    output: &'a mut [u8],
    filled: usize,
}

impl<'a> Batch<'a> {
    fn new(channel: Channel, log: &'a mut LogFile, output: &'a mut [u8]) -> Self {
        let mut head = [b' '; HEAD];
        head[..clock::STAMP].copy_from_slice(&clock::rfc3339(clock::now()));
        let name = match channel {
            Channel::Stdout => b"stdout",
            Channel::Stderr => b"stderr",
        };
        head[clock::STAMP + 1..clock::STAMP + 7].copy_from_slice(name);
        Self { head, log, output, filled: 0 }
    }

    fn line(&mut self, tag: Tag, head: &[u8], tail: &[u8]) {
        let length = HEAD + head.len() + tail.len() + 1;
        // The longest line is far shorter than the buffer, so an empty buffer always has room.
        if self.filled + length > self.output.len() || self.log.is_full_after(self.filled + length) {
            self.flush();
        }
        self.head[HEAD - 2] = tag.letter();
        for part in [&self.head[..], head, tail, b"\n"] {
            self.output[self.filled..self.filled + part.len()].copy_from_slice(part);
            self.filled += part.len();
        }
    }

    fn flush(&mut self) {
        if self.filled > 0 {
            self.log.append(&self.output[..self.filled]);
            self.filled = 0;
        }
    }
}
