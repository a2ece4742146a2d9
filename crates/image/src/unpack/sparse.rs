//! Files with holes. GNU's old form is read by the `tar` crate, which delivers the holes as zeros; GNU's PAX form
//! 1.0, what `tar --format=posix -S` writes today, is read here. Its older PAX forms are refused by name.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};

use super::copy;
use super::tape::Extensions;

/// The file's true name; the entry's own is made up.
pub(super) const NAME: &[u8] = b"GNU.sparse.name";
const BLOCK: u64 = 512;
/// Parts of one file; each takes at least four bytes of the archive.
const MAX_PARTS: u64 = 100_000;

/// Where the content goes.
pub(super) struct Map {
    /// Of the whole file.
    pub(super) size: u64,
    /// Offset and length, in order.
    parts: Vec<(u64, u64)>,
}

impl Map {
    /// Reads the map that precedes the content; `None` if the entry is no such file.
    pub(super) fn read(content: &mut impl Read, extensions: &Extensions) -> Result<Option<Map>, String> {
        let version = (extensions.number(b"GNU.sparse.major"), extensions.number(b"GNU.sparse.minor"));
        match version {
            (Some(1), Some(0)) => {}
            (None, None) if extensions.get(b"GNU.sparse.size").is_none() => return Ok(None),
            _ => {
                return Err("this form of sparse file is not supported, only GNU's old one and PAX 1.0".to_owned());
            }
        }
        let size = extensions.number(b"GNU.sparse.realsize").ok_or("a sparse file without its size")?;
        let mut read = 0;
        let count = number(content, &mut read)?;
        if count > MAX_PARTS {
            return Err(format!("a sparse file of more than {MAX_PARTS} parts"));
        }
        let mut parts = Vec::new();
        let mut end = 0;
        for _ in 0..count {
            let (offset, length) = (number(content, &mut read)?, number(content, &mut read)?);
            let next = offset.checked_add(length).filter(|next| offset >= end && *next <= size);
            end = next.ok_or("the parts of a sparse file overlap or exceed it")?;
            parts.push((offset, length));
        }
        let padding = read.next_multiple_of(BLOCK) - read;
        copy(content, io::sink(), padding, &mut [0; BLOCK as usize]).map_err(|error| error.to_string())?;
        Ok(Some(Map { size, parts }))
    }

    pub(super) fn copy(&self, content: &mut impl Read, mut file: &File, buffer: &mut [u8]) -> io::Result<()> {
        for (offset, length) in &self.parts {
            file.seek(SeekFrom::Start(*offset))?;
            copy(&mut *content, file, *length, buffer)?;
        }
        file.set_len(self.size)
    }
}

/// A decimal number on a line of its own.
fn number(content: &mut impl Read, read: &mut u64) -> Result<u64, String> {
    let mut digits = String::new();
    loop {
        let mut byte = [0];
        content.read_exact(&mut byte).map_err(|error| format!("the map of a sparse file: {error}"))?;
        *read += 1;
        match byte[0] {
            b'\n' => {
                return digits.parse().map_err(|_| "the map of a sparse file has a bad number".to_owned());
            }
            digit @ b'0'..=b'9' if digits.len() < 20 => digits.push(char::from(digit)),
            _ => return Err("the map of a sparse file has a bad number".to_owned()),
        }
    }
}

/// Copies `size` bytes and leaves out blocks of zeros.
pub(super) fn copy_with_holes(
    content: &mut impl Read,
    mut file: &File,
    size: u64,
    buffer: &mut [u8],
) -> io::Result<()> {
    let mut left = size;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let got = content.read(&mut buffer[..want])?;
        if got == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the entry ends early"));
        }
        match buffer[..got].iter().all(|b| *b == 0) {
            true => file.seek(SeekFrom::Current(got as i64)).map(drop)?,
            false => file.write_all(&buffer[..got])?,
        }
        left -= got as u64;
    }
    file.set_len(size)
}
