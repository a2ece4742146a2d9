//! Reads a container's log as people want it: selected, without the format's columns, in order across rotations, without
//! loss or repetition even while the log is written and rotated. Synchronous; each call reads what is there.

use std::{
    collections::VecDeque,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{
    Selection,
    files::{self, LogFile},
    line::Record,
    tail,
};

/// Bytes read from a file at a time.
const BLOCK: usize = 64 * 1024;
/// A record longer than this is no record; the part read is dropped (the format's own bound is 16 KiB of content).
const LONGEST_RECORD: usize = 1 << 20;

/// How far a call of [`Reader::read`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The budget is used up, there is more.
    More,
    /// All that is in the files was read; more may be written.
    AtEnd,
    /// The byte limit is reached: nothing will come any more.
    Finished,
}

/// A position in a log that is being read.
#[derive(Debug)]
pub struct Reader {
    live: PathBuf,
    current: Option<Current>,
    /// Files after the current one, oldest first.
    next: VecDeque<LogFile>,
    since: Option<Timestamp>,
    timestamps: bool,
    remaining: Option<u64>,
    /// The next record begins a line of output.
    begins_line: bool,
}

#[derive(Debug)]
struct Current {
    log: LogFile,
    offset: u64,
    /// A record whose newline has not been read yet.
    carry: Vec<u8>,
    /// Another file follows, so that nothing is written to this one any more.
    superseded: bool,
}

impl Current {
    fn new(log: LogFile, offset: u64) -> Self {
        Self { log, offset, carry: Vec::new(), superseded: false }
    }

    /// A writer that could not finish a record (the disk is full) cuts it off again: go back to the new end.
    fn forget_truncated(&mut self) -> io::Result<bool> {
        let length = self.log.file.metadata()?.len();
        let Some(cut) = self.offset.checked_sub(length).filter(|cut| *cut > 0) else { return Ok(false) };
        let kept = self.carry.len().saturating_sub(usize::try_from(cut).unwrap_or(usize::MAX));
        self.carry.truncate(kept);
        self.offset = length;
        Ok(true)
    }
}

impl Reader {
    /// Open the log whose live file is at `live`; rotated files beside it come first. An empty log is no error, a missing
    /// directory is.
    pub fn open(live: &Path, selection: &Selection) -> io::Result<Self> {
        let mut files = files::open_all(live)?;
        let (index, offset) = match selection.tail {
            Some(lines) if !files.is_empty() => tail::find_start(&files, lines)?,
            _ => (0, 0),
        };
        let mut next: VecDeque<LogFile> = files.drain(index.min(files.len())..).collect();
        let current = next.pop_front().map(|log| Current::new(log, offset));
        Ok(Self {
            live: live.to_owned(),
            current,
            next,
            since: selection.since,
            timestamps: selection.timestamps,
            remaining: selection.limit_bytes,
            begins_line: true,
        })
    }

    /// Append output until `out` has about `budget` bytes or nothing is left to read.
    pub fn read(&mut self, out: &mut Vec<u8>, budget: usize) -> io::Result<Progress> {
        let mut block = vec![0; BLOCK];
        loop {
            if self.remaining == Some(0) {
                return Ok(Progress::Finished);
            }
            if out.len() >= budget {
                return Ok(Progress::More);
            }
            let Some(current) = &mut self.current else {
                if self.find_first()? { continue } else { return Ok(Progress::AtEnd) }
            };
            let read = current.log.file.read_at(&mut block, current.offset)?;
            if read > 0 {
                current.offset += read as u64;
                let mut carry = std::mem::take(&mut current.carry);
                carry.extend_from_slice(&block[..read]);
                let rest = self.emit_records(&carry, out);
                carry.drain(..rest);
                if carry.len() > LONGEST_RECORD {
                    carry.clear();
                }
                if let Some(current) = &mut self.current {
                    current.carry = carry;
                }
            } else if current.forget_truncated()? {
                // The writer took back a torn record; what comes is read from there.
            } else if current.superseded {
                self.advance(out);
            } else if !self.find_next()? {
                return Ok(Progress::AtEnd);
            }
        }
    }

    /// Emit what a finished log has at its end without a newline (a writer that died in the middle of a record).
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if let Some(current) = &mut self.current {
            let carry = std::mem::take(&mut current.carry);
            self.emit(&carry, out);
        }
    }

    fn find_first(&mut self) -> io::Result<bool> {
        self.next = files::open_all(&self.live)?.into();
        self.current = self.next.pop_front().map(|log| Current::new(log, 0));
        Ok(self.current.is_some())
    }

    /// At the end of the current file: is there a later one? Only the *next* end of file is then its true end, since the
    /// writer may have written between our last read and its rotation.
    fn find_next(&mut self) -> io::Result<bool> {
        let Some(current) = &mut self.current else { return Ok(false) };
        if self.next.is_empty() && files::is_rotated(&self.live, &current.log)? {
            let files = match files::open_all(&self.live) {
                // The log went with its pod; what was open is read, and no more comes.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                files => files?,
            };
            // Files are removed from the oldest on: where ours is gone, all that remain are later.
            let after = files.iter().position(|file| file.id == current.log.id).map_or(0, |index| index + 1);
            self.next = files.into_iter().skip(after).collect();
        }
        current.superseded = !self.next.is_empty();
        Ok(current.superseded)
    }

    fn advance(&mut self, out: &mut Vec<u8>) {
        self.finish(out);
        self.current = self.next.pop_front().map(|log| Current::new(log, 0));
    }

    /// Emit all whole records; returns how many bytes they took.
    fn emit_records(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let mut start = 0;
        while let Some(length) = bytes[start..].iter().position(|b| *b == b'\n') {
            self.emit(&bytes[start..start + length], out);
            start += length + 1;
        }
        start
    }

    fn emit(&mut self, record: &[u8], out: &mut Vec<u8>) {
        let Some(record) = Record::parse(record) else { return };
        if let Some(since) = self.since {
            match record.timestamp() {
                Some(at) if at >= since => self.since = None,
                _ => return,
            }
        }
        let from = out.len();
        if self.timestamps && self.begins_line {
            out.extend_from_slice(record.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(record.content);
        if !record.partial {
            out.push(b'\n');
        }
        self.begins_line = !record.partial;
        if let Some(remaining) = &mut self.remaining {
            let written = (out.len() - from) as u64;
            let kept = written.min(*remaining);
            *remaining -= kept;
            out.truncate(from + usize::try_from(kept).unwrap_or(usize::MAX));
        }
    }
}

#[cfg(test)]
mod tests;
