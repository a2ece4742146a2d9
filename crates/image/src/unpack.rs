//! Turns a layer's tar stream into a directory that overlay can use as a lower directory.
//!
//! The `tar` crate reads entries; every file operation is ours and goes through [`tree::Tree`], which resolves
//! each path beneath the layer's own directory. What an entry cannot do: leave the directory, reach a file through
//! a link that points out, set attributes that mean something to overlay or to podd. Whiteouts become what
//! overlay understands (overlayfs.rst, "whiteouts and opaque directories"); they act on lower layers only.

mod sparse;
pub(crate) mod tape;
mod tree;

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode};
use tar::EntryType;

use crate::config::Limits;
use crate::error::Error;
use tape::{Extensions, Tape};
use tree::{Attributes, Tree};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names that AUFS reserved; they mean nothing here.
const WHITEOUT_META: &[u8] = b".wh..wh.";
const COPY_BUFFER: usize = 128 << 10;

/// What a layer takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// Unpacks `stream` into `directory`, which must exist, be empty and be out of everyone else's reach. `layer`
/// names the layer in errors. The stream's rest after the archive's end is left unread.
pub(crate) fn unpack(stream: impl Read, directory: &Path, layer: &str, limits: &Limits) -> Result<Size, Error> {
    let tape = Tape::new(stream, limits.entry_header_bytes);
    let mut archive = tar::Archive::new(tape.reader());
    let mut unpacking = Unpacking {
        tree: Tree::open(directory, layer, limits)?,
        layer,
        limits,
        written: 0,
        buffer: vec![0; COPY_BUFFER],
    };
    let unreadable = |error: io::Error| match tape.overflowed() {
        true => {
            Error::Limit { subject: layer.to_owned(), limit: "entry_header_bytes", value: limits.entry_header_bytes }
        }
        false => Error::content(layer, format!("its tar stream is broken: {error}")),
    };
    let mut entries = archive.entries().map_err(unreadable)?;
    let mut count = 0;
    loop {
        tape.record();
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(unreadable)?;
        count += 1;
        if count > limits.layer_entries {
            return Err(unpacking.over("layer_entries", limits.layer_entries));
        }
        let extensions =
            tape.extensions(entry.raw_header_position()).map_err(|reason| Error::content(layer, reason))?;
        unpacking.entry(&mut entry, &extensions)?;
        // An entry can imply many directories, which cost as much as if they were named.
        if unpacking.tree.made() > limits.layer_entries {
            return Err(unpacking.over("layer_entries", limits.layer_entries));
        }
        // What is left of an entry must not count as header of the next.
        io::copy(&mut entry, &mut io::sink()).map_err(unreadable)?;
    }
    unpacking.tree.finish()
}

struct Unpacking<'a> {
    tree: Tree,
    layer: &'a str,
    limits: &'a Limits,
    /// Bytes of file content so far, holes included.
    written: u64,
    buffer: Vec<u8>,
}

impl Unpacking<'_> {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, extensions: &Extensions) -> Result<(), Error> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let raw = extensions.get(b"path").map_or_else(|| entry.path_bytes().into_owned(), <[u8]>::to_vec);
        let raw = extensions.get(sparse::NAME).map_or(raw, <[u8]>::to_vec);
        let path = self.normalise(&raw, "path")?;
        let attributes = self.attributes(entry, extensions, &path)?;
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(&path, name, hidden);
        }
        match kind {
            EntryType::Directory => self.tree.directory(&path, &attributes),
            _ if path.is_empty() => Err(self.invalid(&raw, "only a directory can be the layer's root")),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                // An old tar marks directories by a slash alone.
                match raw.ends_with(b"/") && entry.size() == 0 {
                    true => self.tree.directory(&path, &attributes),
                    false => self.file(entry, extensions, &path, &attributes),
                }
            }
            EntryType::Symlink => {
                let target = self.link_target(entry, extensions, &path)?;
                self.tree.symlink(&path, &target, &attributes)
            }
            EntryType::Link => {
                let target = self.link_target(entry, extensions, &path)?;
                let target = self.normalise(&target, "hard link to")?;
                self.tree.hard_link(&path, &target)
            }
            EntryType::Char | EntryType::Block => {
                let header = entry.header();
                let number = |number: io::Result<Option<u32>>| number.ok().flatten().unwrap_or_default();
                let device = (number(header.device_major()), number(header.device_minor()));
                let kind = match kind {
                    EntryType::Char => FileType::CharacterDevice,
                    _ => FileType::BlockDevice,
                };
                self.tree.node(&path, kind, device, &attributes)
            }
            EntryType::Fifo => self.tree.node(&path, FileType::Fifo, (0, 0), &attributes),
            other => Err(self.invalid(&path, &format!("entry type {:?} is not known", char::from(other.as_byte())))),
        }
    }

    fn whiteout(&mut self, path: &[u8], name: &[u8], hidden: &[u8]) -> Result<(), Error> {
        let parent = path.get(..path.len().saturating_sub(name.len() + 1)).unwrap_or_default();
        match name {
            OPAQUE => self.tree.opaque(parent),
            _ if name.starts_with(WHITEOUT_META) => Ok(()),
            // The parts of a path are checked before; what is left after the prefix is a name of its own.
            _ if matches!(hidden, b"" | b"." | b"..") => Err(self.invalid(path, "a whiteout must name what it hides")),
            _ => {
                let hidden = match parent {
                    b"" => hidden.to_vec(),
                    _ => [parent, b"/", hidden].concat(),
                };
                self.tree.whiteout(&hidden)
            }
        }
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        extensions: &Extensions,
        path: &[u8],
        attributes: &Attributes,
    ) -> Result<(), Error> {
        let map = sparse::Map::read(entry, extensions).map_err(|reason| self.invalid(path, &reason))?;
        let size = map.as_ref().map_or(entry.size(), |map| map.size);
        if let Some(stated) = extensions.number(b"size")
            && map.is_none()
            && stated != entry.size()
        {
            return Err(self.invalid(path, "its size is stated twice, and differs"));
        }
        self.written = self.written.saturating_add(size);
        if self.written > self.limits.layer_bytes {
            return Err(self.over("layer_bytes", self.limits.layer_bytes));
        }
        let file = std::fs::File::from(self.tree.file(path, attributes)?);
        let holes = entry.header().entry_type() == EntryType::GNUSparse;
        let copied = match map {
            Some(map) => map.copy(entry, &file, &mut self.buffer),
            None if holes => sparse::copy_with_holes(entry, &file, size, &mut self.buffer),
            None => copy(entry, &file, size, &mut self.buffer),
        };
        copied.map_err(|error| self.tree.failed("write", path, error))?;
        self.tree.finish_file(&OwnedFd::from(file), path, size, attributes)
    }

    fn link_target<R: Read>(
        &self,
        entry: &tar::Entry<'_, R>,
        extensions: &Extensions,
        path: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let target = match extensions.get(b"linkpath") {
            Some(target) => Some(target.to_vec()),
            None => entry.link_name_bytes().map(|target| target.into_owned()),
        };
        match target {
            Some(target) if !target.is_empty() => Ok(target),
            _ => Err(self.invalid(path, "a link without a target")),
        }
    }

    fn attributes<R: Read>(
        &self,
        entry: &tar::Entry<'_, R>,
        extensions: &Extensions,
        path: &[u8],
    ) -> Result<Attributes, Error> {
        let header = entry.header();
        let old = header.as_old();
        let broken = |error: io::Error| self.invalid(path, &error.to_string());
        // Some tools leave fields blank that are zero; GNU's and Go's tar read them so.
        let blank = |field: &[u8]| field.iter().all(|b| matches!(b, 0 | b' '));
        let number = |field: &[u8], read: io::Result<u64>| if blank(field) { Ok(0) } else { read };
        let id = |stated: Option<u64>, header: io::Result<u64>| -> Result<u32, Error> {
            let id = stated.map_or(header, Ok).map_err(broken)?;
            // The last number means "leave as it is" to chown.
            match u32::try_from(id) {
                Ok(id) if id != u32::MAX => Ok(id),
                _ => Err(self.invalid(path, &format!("owner {id} is out of range"))),
            }
        };
        let mode = number(&old.mode, header.mode().map(u64::from)).map_err(broken)?;
        let mtime = number(&old.mtime, header.mtime()).map_err(broken)?;
        Ok(Attributes {
            mode: Mode::from_raw_mode(mode as u32 & 0o7777),
            uid: id(extensions.number(b"uid"), number(&old.uid, header.uid()))?,
            gid: id(extensions.number(b"gid"), number(&old.gid, header.gid()))?,
            mtime: extensions.mtime().unwrap_or((mtime as i64, 0)),
            xattrs: extensions.xattrs(),
        })
    }

    /// The path as its parts joined by single slashes, relative to the layer; empty for the layer itself.
    fn normalise(&self, raw: &[u8], what: &str) -> Result<Vec<u8>, Error> {
        let parts = raw.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b"."));
        let parts: Vec<&[u8]> = parts.collect();
        if parts.contains(&b"..".as_slice()) {
            return Err(self.invalid(raw, &format!("a {what} with '..' could leave the layer")));
        }
        if raw.contains(&0) {
            return Err(self.invalid(raw, &format!("a {what} with a NUL")));
        }
        Ok(parts.join(&b'/'))
    }

    fn invalid(&self, path: &[u8], reason: &str) -> Error {
        tree::invalid(self.layer, path, reason)
    }

    fn over(&self, limit: &'static str, value: u64) -> Error {
        Error::Limit { subject: self.layer.to_owned(), limit, value }
    }
}

/// Copies exactly `size` bytes.
fn copy(mut from: impl Read, mut to: impl Write, size: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut left = size;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let got = from.read(&mut buffer[..want])?;
        if got == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the entry ends early"));
        }
        to.write_all(&buffer[..got])?;
        left -= got as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
