//! Paths that a container must not see or not change. They are looked up inside the root without creating anything.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use podd_sys::mount::{Attributes, MountAttr, attach, clone_tree, filesystem, set_attributes};
use podd_sys::resolve::in_root;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat};

use crate::fault::{Outcome, Stage};

/// Mounts each path that exists over itself, read-only with all below it.
pub(super) fn make_readonly(root: BorrowedFd<'_>, paths: &[PathBuf]) -> Outcome<()> {
    for path in paths {
        let Some(target) = find(root, path)? else { continue };
        let tree = clone_tree(target.as_fd(), Path::new(""), true).on("clone", path)?;
        let attributes = Attributes { set: MountAttr::RDONLY, ..Attributes::default() };
        set_attributes(tree.as_fd(), true, &attributes).on("make read-only", path)?;
        attach(tree.as_fd(), target.as_fd()).on("attach read-only", path)?;
    }
    Ok(())
}

/// Hides each path that exists: files behind the host's `/dev/null` (the container's own may be something else), which is
/// still reachable here, directories behind an empty read-only tmpfs that all of them share.
pub(super) fn hide(root: BorrowedFd<'_>, paths: &[PathBuf]) -> Outcome<()> {
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let Some(target) = find(root, path)? else { continue };
        let kind = FileType::from_raw_mode(fstat(&target).on("inspect", path)?.st_mode);
        let cover = match (&empty, kind) {
            (Some(first), FileType::Directory) => clone_tree(first.as_fd(), Path::new(""), false),
            (None, FileType::Directory) => {
                let options = [("mode", Some("555")), ("size", Some("4k")), ("nr_inodes", Some("2"))];
                filesystem("tmpfs", &options, MountAttr::RDONLY)
            }
            _ => clone_tree(CWD, Path::new("/dev/null"), false),
        };
        let cover = cover.on("make cover", path)?;
        attach(cover.as_fd(), target.as_fd()).on("cover", path)?;
        if kind == FileType::Directory {
            empty = Some(cover);
        }
    }
    Ok(())
}

fn find(root: BorrowedFd<'_>, path: &Path) -> Outcome<Option<OwnedFd>> {
    match in_root(root, path, OFlags::PATH, Mode::empty()) {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error).on("find", path),
    }
}
