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
            } else if kind.is_dir() {
                archive.append_dir(&path, &on_disk)?;
                directories.push(path);
            } else if !kind.is_socket() {
                // A socket's file is of no use without who listens, and tar has no form for it.
                archive.append_path_with_name(&on_disk, &path)?;
            }
        }
    }
    archive.finish()?;
    gone.sort();
    Ok(gone)
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
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(upper.join("anew"), OPAQUE, b"y", flags).expect("setxattr");

        let mut written = Vec::new();
        let gone = write(&upper, &[lower], &mut written).expect("written");
        assert_eq!(gone, [Path::new("anew/old"), Path::new("away")]);
        let mut archive = tar::Archive::new(&written[..]);
        let entries = archive.entries().expect("entries");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("entry").path().expect("path").display().to_string()).collect();
        names.sort();
        assert_eq!(names, ["anew", "anew/kept", "link", "made"]);
    }
}
