//! The members of an archive, as files in the store's scratch space.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read};

use tar::EntryType;

use crate::config::Limits;
use crate::error::{During as _, Error};
use crate::store::{Layout, Scratch};
use crate::unpack::tape::Tape;

/// Links between members that are followed before giving up.
const MAX_LINKS: usize = 8;

/// Members by their normalised names.
pub(super) struct Spool {
    files: BTreeMap<String, Scratch>,
    links: BTreeMap<String, String>,
}

impl Spool {
    /// Reads the whole archive.
    pub(super) fn read(archive: impl Read, layout: &Layout, limits: &Limits) -> Result<Spool, Error> {
        let broken = |error: io::Error| Error::content("the archive", error.to_string());
        let over = |limit, value| Error::Limit { subject: "the archive".to_owned(), limit, value };
        let mut stream = BufReader::with_capacity(128 << 10, archive);
        let start = stream.fill_buf().map_err(broken)?;
        let plain: Box<dyn Read> = match start {
            [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(stream)),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::with_buffer(stream).map_err(broken)?),
            _ => Box::new(stream),
        };
        let tape = Tape::new(plain, limits.entry_header_bytes);
        let mut archive = tar::Archive::new(tape.reader());
        let mut entries = archive.entries().map_err(broken)?;
        let mut spool = Spool { files: BTreeMap::new(), links: BTreeMap::new() };
        let (mut members, mut bytes) = (0, 0_u64);
        loop {
            tape.record();
            let Some(entry) = entries.next() else {
                return Ok(spool);
            };
            let mut entry = entry.map_err(broken)?;
            tape.extensions(entry.raw_header_position()).map_err(|reason| Error::content("the archive", reason))?;
            members += 1;
            if members > limits.archive_members {
                return Err(over("archive_members", limits.archive_members));
            }
            bytes = bytes.saturating_add(entry.size());
            if bytes > limits.archive_bytes {
                return Err(over("archive_bytes", limits.archive_bytes));
            }
            spool.member(&mut entry, layout, broken)?;
            io::copy(&mut entry, &mut io::sink()).map_err(broken)?;
        }
    }

    fn member<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        layout: &Layout,
        broken: impl Fn(io::Error) -> Error,
    ) -> Result<(), Error> {
        let name = join("", &String::from_utf8_lossy(&entry.path_bytes()));
        let target = entry.link_name_bytes().map(|target| String::from_utf8_lossy(&target).into_owned());
        match (entry.header().entry_type(), target) {
            (EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse, _) => {
                let scratch = layout.scratch();
                let path = scratch.path();
                let mut file = File::create_new(path).during("create", path)?;
                copy(entry, &mut file, broken, path)?;
                self.files.insert(name, scratch);
            }
            (EntryType::Symlink, Some(target)) => {
                let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                self.links.insert(name.clone(), join(parent, &target));
            }
            (EntryType::Link, Some(target)) => {
                self.links.insert(name, join("", &target));
            }
            // Directories are implied, and nothing else belongs here.
            _ => {}
        }
        Ok(())
    }

    pub(super) fn has(&self, member: &str) -> bool {
        self.files.contains_key(&self.resolve(member))
    }

    /// The name of the member that is meant, links followed.
    pub(super) fn resolve(&self, member: &str) -> String {
        let mut name = join("", member);
        for _ in 0..MAX_LINKS {
            match self.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => break,
            }
        }
        name
    }

    pub(super) fn take(&mut self, member: &str) -> Option<Scratch> {
        self.files.remove(&self.resolve(member))
    }

    /// The content of a member of at most `limit` bytes.
    pub(super) fn small(&self, member: &str, limit: u64) -> Result<Vec<u8>, Error> {
        let invalid = |reason: String| Error::content(super::subject(member), reason);
        let scratch = self.files.get(&self.resolve(member)).ok_or_else(|| invalid("it is missing".to_owned()))?;
        let path = scratch.path();
        let size = fs::metadata(path).during("look at", path)?.len();
        match size <= limit {
            true => fs::read(path).during("read", path),
            false => Err(invalid(format!("it has {size} bytes, more than {limit}"))),
        }
    }
}

fn copy<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    file: &mut File,
    broken: impl Fn(io::Error) -> Error,
    path: &std::path::Path,
) -> Result<(), Error> {
    let mut buffer = vec![0; 128 << 10];
    let mut left = entry.size();
    while left > 0 {
        let got = entry.read(&mut buffer).map_err(&broken)?;
        if got == 0 {
            return Err(broken(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends early")));
        }
        io::Write::write_all(file, &buffer[..got]).during("write", path)?;
        left -= got as u64;
    }
    Ok(())
}

/// `path` as seen from the directory `base`, `.` and `..` resolved by name. It stays a key and never becomes a
/// path of the file system.
fn join(base: &str, path: &str) -> String {
    let base = if path.starts_with('/') { "" } else { base };
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_between_members_are_resolved_by_name() {
        for (base, path, expected) in [
            ("", "./a//b", "a/b"),
            ("a", "../b/layer.tar", "b/layer.tar"),
            ("a/b", "../../../../etc/passwd", "etc/passwd"),
            ("a", "/b", "b"),
        ] {
            assert_eq!(join(base, path), expected, "{base} {path}");
        }
    }
}
