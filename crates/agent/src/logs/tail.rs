//! Where the last N lines of a log begin, found by reading backwards from the end, so that the size of the log does not
//! matter. A line is what ends with an `F` record; an unfinished line at the end counts as one.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::{files::LogFile, line::Record};

/// Bytes read at a time.
const BLOCK: usize = 64 * 1024;

/// Index of the file and offset in it where the last `lines` lines begin; the very beginning when there are fewer.
pub(super) fn find_start(files: &[LogFile], lines: u64) -> io::Result<(usize, u64)> {
    let mut counter = Counter { wanted: lines, complete: 0, first_record: true };
    for (index, file) in files.iter().enumerate().rev() {
        if let Some(offset) = find_in(&file.file, &mut counter)? {
            return Ok((index, offset));
        }
    }
    Ok((0, 0))
}

/// Counts records from the last one backwards.
struct Counter {
    wanted: u64,
    complete: u64,
    first_record: bool,
}

impl Counter {
    /// Take one more record going backwards; true when the part wanted begins right after it.
    fn ends_before(&mut self, record: &[u8]) -> bool {
        let partial = Record::parse(record).is_some_and(|record| record.partial);
        // An unfinished line at the very end is a line as well.
        self.complete += u64::from(!partial || self.first_record);
        self.first_record = false;
        self.complete > self.wanted
    }
}

/// Offset after the newline of the record at which the counter is full.
fn find_in(file: &File, counter: &mut Counter) -> io::Result<Option<u64>> {
    let mut end = file.metadata()?.len();
    if counter.wanted == 0 && counter.first_record {
        return Ok(Some(end));
    }
    // The end of a record whose start lies in a block not yet read.
    let mut carry: Vec<u8> = Vec::new();
    while end > 0 {
        let length = usize::try_from(end).unwrap_or(usize::MAX).min(BLOCK);
        let start = end - length as u64;
        let mut block = vec![0; length];
        file.read_exact_at(&mut block, start)?;
        block.append(&mut carry);
        let mut till = block.len();
        while let Some(newline) = block[..till].iter().rposition(|b| *b == b'\n') {
            let record = &block[newline + 1..till];
            let record_start = start + newline as u64 + 1;
            if !record.is_empty() && counter.ends_before(record) {
                return Ok(Some(behind(record_start, record.len())));
            }
            till = newline;
        }
        block.truncate(till);
        carry = block;
        end = start;
    }
    if !carry.is_empty() && counter.ends_before(&carry) {
        return Ok(Some(behind(0, carry.len())));
    }
    Ok(None)
}

/// Offset behind a record and its newline.
fn behind(start: u64, length: usize) -> u64 {
    start + length as u64 + 1
}
