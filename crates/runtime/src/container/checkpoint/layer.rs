//! What a container has changed of its image, as container engines keep it in a checkpoint: a tar of what is new, and a
//! list of what is gone.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Says of a directory of the upper layer that nothing below shows through (overlayfs.rst, "whiteouts and opaque
/// directories").
const OPAQUE: &str = "trusted.overlay.opaque";

/// Writes a tar of what is in the upper layer to `into`, and answers what of the layers below is gone, as paths from the
/// root. Overlayfs' own marks are not in the tar.
pub(super) fn write(upper: &Path, layers: &[PathBuf], into: impl Write) -> io::Result<Vec<PathBuf>> {
    let mut archive = tar::Builder::new(into);
    archive.follow_symlinks(false);
    let mut gone = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(upper.join(&directory))? {
            names.insert(entry?.file_name());
        }
        if is_opaque(&upper.join(&directory))? {
            gone.extend(hidden(&directory, layers, &names)?.into_iter().map(|name| directory.join(name)));
        }
        for name in names {
            let (path, on_disk) = (directory.join(&name), upper.join(&directory).join(&name));
            let metadata = fs::symlink_metadata(&on_disk)?;
            let kind = metadata.file_type();
            if kind.is_char_device() && metadata.rdev() == 0 {
                gone.push(path);
                continue;
            }
            if kind.is_socket() {
                // Of no use without who listens, and tar has no form for it.
                continue;
            }
            let attributes = attributes(&on_disk)?;
            archive.append_pax_extensions(attributes.iter().map(|(key, value)| (key.as_str(), &value[..])))?;
            if kind.is_dir() {
                archive.append_dir(&path, &on_disk)?;
                directories.push(path);
            } else if let Some(special) = special(kind) {
                append_special(&mut archive, special, &path, &metadata)?;
            } else {
                archive.append_path_with_name(&on_disk, &path)?;
            }
        }
    }
    archive.finish()?;
    gone.sort();
    Ok(gone)
}

/// What tar calls a file that has no content.
fn special(kind: fs::FileType) -> Option<tar::EntryType> {
    match kind {
        kind if kind.is_fifo() => Some(tar::EntryType::Fifo),
        kind if kind.is_char_device() => Some(tar::EntryType::Char),
        kind if kind.is_block_device() => Some(tar::EntryType::Block),
        _ => None,
    }
}

/// By hand: the builder would take the path on disk for the name.
fn append_special(
    archive: &mut tar::Builder<impl Write>,
    kind: tar::EntryType,
    path: &Path,
    metadata: &fs::Metadata,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_metadata(metadata);
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_device_major(rustix::fs::major(metadata.rdev()))?;
    header.set_device_minor(rustix::fs::minor(metadata.rdev()))?;
    archive.append_data(&mut header, path, io::empty())
}

/// Extended attributes as records of a pax header, without those that are overlay's or a security module's of the host.
/// Names that are no text are left out: tar has no form for them.
fn attributes(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let names = attribute(|buffer| rustix::fs::llistxattr(path, buffer))?.unwrap_or_default();
    let mut found = Vec::new();
    for name in names.split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok()) {
        let kept = name == "security.capability" || name.starts_with("system.posix_acl_") || name.starts_with("user.");
        if kept && let Some(value) = attribute(|buffer| rustix::fs::lgetxattr(path, name, buffer))? {
            found.push((format!("SCHILY.xattr.{name}"), value));
        }
    }
    Ok(found)
}

/// What such a call answers; none where there is no such attribute, or there are none at all.
fn attribute(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Option<Vec<u8>>> {
    // XATTR_LIST_MAX and XATTR_SIZE_MAX: the kernel gives no more.
    let mut buffer = vec![0; 64 << 10];
    match read(&mut buffer) {
        Ok(length) => {
            buffer.truncate(length);
            Ok(Some(buffer))
        }
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_opaque(directory: &Path) -> io::Result<bool> {
    let mut value = [0; 1];
    match rustix::fs::lgetxattr(directory, OPAQUE, &mut value) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What the layers below have in a directory and `names` has not.
fn hidden(
    directory: &Path,
    layers: &[PathBuf],
    names: &BTreeSet<std::ffi::OsString>,
) -> io::Result<BTreeSet<std::ffi::OsString>> {
    let mut found = BTreeSet::new();
    for layer in layers {
        let entries = match fs::read_dir(layer.join(directory)) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let whiteout = metadata.file_type().is_char_device() && metadata.rdev() == 0;
            if !whiteout && !names.contains(&entry.file_name()) {
                found.insert(entry.file_name());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_in_the_tar_and_what_is_gone_in_the_list() {
        let directory = tempfile::tempdir().expect("tempdir");
        let (upper, lower) = (directory.path().join("upper"), directory.path().join("lower"));
        fs::create_dir_all(lower.join("anew")).expect("mkdir");
        fs::write(lower.join("anew/old"), "").expect("write");
        fs::write(lower.join("anew/kept"), "").expect("write");
        fs::create_dir_all(upper.join("anew")).expect("mkdir");
        fs::write(upper.join("anew/kept"), "new").expect("write");
        fs::write(upper.join("made"), "by it").expect("write");
        std::os::unix::fs::symlink("made", upper.join("link")).expect("symlink");
        let _socket = std::os::unix::net::UnixListener::bind(upper.join("socket")).expect("bind");
        let mode = rustix::fs::Mode::empty();
        rustix::fs::mknodat(rustix::fs::CWD, upper.join("away"), rustix::fs::FileType::CharacterDevice, mode, 0)
            .expect("mknod");
        rustix::fs::mknodat(rustix::fs::CWD, upper.join("fifo"), rustix::fs::FileType::Fifo, mode, 0).expect("mknod");
        let zero = rustix::fs::makedev(1, 5);
        rustix::fs::mknodat(rustix::fs::CWD, upper.join("zero"), rustix::fs::FileType::CharacterDevice, mode, zero)
            .expect("mknod");
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(upper.join("anew"), OPAQUE, b"y", flags).expect("setxattr");
        rustix::fs::lsetxattr(upper.join("made"), "user.note", b"a\0b", flags).expect("setxattr");

        let mut written = Vec::new();
        let gone = write(&upper, &[lower], &mut written).expect("written");
        assert_eq!(gone, [Path::new("anew/old"), Path::new("away")]);
        let mut archive = tar::Archive::new(&written[..]);
        let mut found = Vec::new();
        for entry in archive.entries().expect("entries") {
            let mut entry = entry.expect("entry");
            let note = entry.pax_extensions().expect("readable").into_iter().flatten();
            let note = note
                .map(|record| record.expect("a record"))
                .find(|record| record.key() == Ok("SCHILY.xattr.user.note"));
            let note = note.map(|record| record.value_bytes().to_vec());
            let name = entry.path().expect("path").display().to_string();
            if name == "zero" {
                assert_eq!(entry.header().device_minor().expect("a number"), Some(5));
            }
            found.push((name, entry.header().entry_type(), note));
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        use tar::EntryType::{Char, Directory, Fifo, Regular, Symlink};
        let expected = [
            ("anew", Directory, None),
            ("anew/kept", Regular, None),
            ("fifo", Fifo, None),
            ("link", Symlink, None),
            ("made", Regular, Some(b"a\0b".to_vec())),
            ("zero", Char, None),
        ];
        assert_eq!(found, expected.map(|(name, kind, note)| (name.to_owned(), kind, note)));
    }
}
