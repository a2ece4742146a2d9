//! Watches what the `tar` crate reads, for two things that it does not do: bound the memory that the extension
//! headers of one entry may take, and read PAX records by their stated length. (It splits them at newlines, which
//! binary values such as file capabilities may contain.)

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::rc::Rc;

const BLOCK: u64 = 512;

/// The stream and the record of what was read of it since [`Tape::record`].
pub(crate) struct Tape<R>(Rc<RefCell<Inner<R>>>);

struct Inner<R> {
    stream: R,
    position: u64,
    /// Where the record starts.
    start: u64,
    record: Vec<u8>,
    recording: bool,
    overflowed: bool,
    budget: u64,
}

/// The reading end, for the `tar` crate.
pub(crate) struct TapeReader<R>(Rc<RefCell<Inner<R>>>);

impl<R: Read> Read for TapeReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut inner = self.0.borrow_mut();
        let got = inner.stream.read(into)?;
        inner.position += got as u64;
        if inner.recording {
            if inner.record.len() as u64 + got as u64 > inner.budget {
                inner.overflowed = true;
                return Err(io::Error::other("the headers of an entry are too big"));
            }
            inner.record.extend_from_slice(&into[..got]);
        }
        Ok(got)
    }
}

impl<R: Read> Tape<R> {
    pub(crate) fn new(stream: R, budget: u64) -> Tape<R> {
        Tape(Rc::new(RefCell::new(Inner {
            stream,
            position: 0,
            start: 0,
            record: Vec::new(),
            recording: false,
            overflowed: false,
            // The entry's own header and the end of the one before come on top.
            budget: budget + 2 * BLOCK,
        })))
    }

    pub(crate) fn reader(&self) -> TapeReader<R> {
        TapeReader(Rc::clone(&self.0))
    }

    pub(crate) fn overflowed(&self) -> bool {
        self.0.borrow().overflowed
    }

    /// From here on until [`Tape::extensions`], everything that is read is headers.
    pub(crate) fn record(&self) {
        let mut inner = self.0.borrow_mut();
        inner.record.clear();
        inner.start = inner.position;
        inner.recording = true;
    }

    /// The PAX records of the entry whose own header is at `header`. Ends the recording.
    pub(crate) fn extensions(&self, header: u64) -> Result<Extensions, String> {
        let mut inner = self.0.borrow_mut();
        inner.recording = false;
        let mut extensions = Extensions::default();
        let mut at = inner.start.next_multiple_of(BLOCK);
        while at < header {
            let index = (at - inner.start) as usize;
            let block = inner.record.get(index..index + BLOCK as usize).ok_or("its headers are cut")?;
            let block = tar::Header::from_byte_slice(block);
            let size = block.entry_size().map_err(|error| error.to_string())?;
            if block.entry_type().is_pax_local_extensions() {
                let data = index + BLOCK as usize;
                let data = inner.record.get(data..data + size as usize).ok_or("its headers are cut")?;
                extensions.parse(data)?;
            }
            at += BLOCK + size.next_multiple_of(BLOCK);
        }
        Ok(extensions)
    }
}

/// The PAX records of one entry (POSIX pax, "pax Extended Header").
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Extensions(BTreeMap<Vec<u8>, Vec<u8>>);

impl Extensions {
    fn parse(&mut self, mut data: &[u8]) -> Result<(), String> {
        while !data.is_empty() {
            let (length, rest) = length_of(data).ok_or("a PAX record has no length")?;
            let record = data.get(..length).filter(|record| record.ends_with(b"\n"));
            let record = record.ok_or("a PAX record has a wrong length")?;
            let record = record.get(data.len() - rest.len()..length - 1).ok_or("a PAX record has a wrong length")?;
            let equals = record.iter().position(|b| *b == b'=').ok_or("a PAX record has no '='")?;
            self.0.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
            data = &data[length..];
        }
        Ok(())
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice).filter(|value| !value.is_empty())
    }

    pub(crate) fn number(&self, key: &[u8]) -> Option<u64> {
        std::str::from_utf8(self.get(key)?).ok()?.parse().ok()
    }

    /// Seconds and nanoseconds.
    pub(crate) fn mtime(&self) -> Option<(i64, u32)> {
        let text = std::str::from_utf8(self.get(b"mtime")?).ok()?;
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        let before_epoch = seconds.starts_with('-');
        let seconds: i64 = seconds.parse().ok()?;
        let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
        let nanos: u32 = digits.parse().ok()?;
        match before_epoch && nanos > 0 {
            true => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos)),
            false => Some((seconds, nanos)),
        }
    }

    /// Extended attributes that a layer may set: file capabilities, access lists and what is the user's own. The
    /// rest means something to overlay, to a security module of the host or to nobody.
    pub(crate) fn xattrs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        const PREFIX: &[u8] = b"SCHILY.xattr.";
        let named = self.0.iter().filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value)));
        let allowed = named.filter(|(name, _)| match *name {
            b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
            name => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
        });
        allowed.map(|(name, value)| (name.to_vec(), value.clone())).collect()
    }
}

/// The decimal number that a record starts with, and what follows the space after it.
fn length_of(data: &[u8]) -> Option<(usize, &[u8])> {
    let space = data.iter().take(20).position(|b| *b == b' ')?;
    let length = std::str::from_utf8(&data[..space]).ok()?.parse().ok()?;
    (length > space).then_some((length, &data[space + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(data: &[u8]) -> Result<Extensions, String> {
        let mut extensions = Extensions::default();
        extensions.parse(data).map(|()| extensions)
    }

    #[test]
    fn records_are_read_by_length_even_with_newlines_in_them() {
        let extensions = parsed(b"37 SCHILY.xattr.security.capability=\n\n12 path=a/b\n");
        assert!(extensions.is_err(), "the length counts every byte");
        let extensions = parsed(b"39 SCHILY.xattr.security.capability=\n\n\n12 path=a/b\n").unwrap();
        assert_eq!(extensions.get(b"path"), Some(b"a/b".as_slice()));
        assert_eq!(extensions.xattrs(), [(b"security.capability".to_vec(), b"\n\n".to_vec())]);
    }

    #[test]
    fn broken_records_are_refused() {
        for data in [&b"x"[..], b"5 a=b\nx", b"99999999999999999999 a=b\n", b"0 a=b\n", b"1 \n", b"2 \n", b"6 abc\n"] {
            assert!(parsed(data).is_err(), "{data:?}");
        }
    }

    #[test]
    fn times_have_fractions_and_may_lie_before_1970() {
        for (text, time) in [
            ("12", Some((12, 0))),
            ("12.5", Some((12, 500_000_000))),
            ("-1.25", Some((-2, 750_000_000))),
            ("12.0000000019", Some((12, 1))),
            ("x", None),
        ] {
            let extensions = Extensions([(b"mtime".to_vec(), text.as_bytes().to_vec())].into());
            assert_eq!(extensions.mtime(), time, "{text}");
        }
    }

    #[test]
    fn attributes_that_overlay_would_believe_are_dropped() {
        let names = ["trusted.overlay.redirect", "user.overlay.opaque", "security.selinux", "user.ok"];
        let records = names.map(|name| (format!("SCHILY.xattr.{name}").into_bytes(), b"y".to_vec()));
        let kept = Extensions(records.into()).xattrs();
        assert_eq!(kept, [(b"user.ok".to_vec(), b"y".to_vec())]);
    }
}
