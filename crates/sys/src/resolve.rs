//! Paths of images and manifests are hostile: here they are resolved under a directory descriptor (openat2(2)).
//!
//! *In root* means: the directory is `/` for the path, absolute links and `..` included, as chroot(2) would have it but
//! without its races. *Beneath* means: a path that would leave the directory is an error (`EXDEV`).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;

/// Most attempts when something is renamed while the kernel resolves (`EAGAIN`).
const ATTEMPTS: u32 = 64;

/// Opens a path with the directory as its root. Magic links (`/proc/self/fd/…`) are refused.
pub fn in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    open(root, path, flags, mode, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Opens a path that may not leave the directory. Magic links are refused.
pub fn beneath(directory: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    open(directory, path, flags, mode, ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
}

fn open(directory: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode, how: ResolveFlags) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let mut attempts = ATTEMPTS;
    loop {
        match openat2(directory, path, flags | OFlags::CLOEXEC, mode, how) {
            Err(Errno::AGAIN | Errno::INTR) if attempts > 1 => attempts -= 1,
            outcome => return Ok(outcome?),
        }
    }
}

/// What stands at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    /// A directory.
    Directory,
    /// An empty regular file.
    File,
}

/// Opens (`O_PATH`) what a path names in the root, and makes what is missing: directories of mode 0755 on the way and the
/// leaf. A dangling link's target is made inside the root too, as a mount destination may be one.
pub fn ensure_in_root(root: BorrowedFd<'_>, path: &Path, leaf: Leaf) -> io::Result<OwnedFd> {
    match in_root(root, path, OFlags::PATH, Mode::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        outcome => return outcome,
    }
    let mut links = 0;
    let mut rest: Vec<PathBuf> = Vec::new();
    push_parts(&mut rest, path);
    // The walk keeps a resolved path instead of a stack of descriptors: `..` after a link is the kernel's business.
    let mut done = PathBuf::from("/");
    while let Some(part) = rest.pop() {
        let next = done.join(&part);
        match in_root(root, &next, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) if is_link(&fd)? => {
                links += 1;
                if links > 40 {
                    return Err(Errno::LOOP.into());
                }
                let target = rustix::fs::readlinkat(&fd, "", Vec::new())?;
                let target = PathBuf::from(OsStr::from_bytes(target.to_bytes()));
                if target.is_absolute() {
                    done = PathBuf::from("/");
                }
                push_parts(&mut rest, &target);
                continue;
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = in_root(root, &done, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
                make(parent.as_fd(), &part, if rest.is_empty() { leaf } else { Leaf::Directory })?;
            }
            Err(error) => return Err(error),
        }
        if part == Path::new("..") {
            done.pop();
        } else {
            done = next;
        }
    }
    in_root(root, &done, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())
}

/// Pushes the parts of a path so that the first is popped first.
fn push_parts(rest: &mut Vec<PathBuf>, path: &Path) {
    let parts = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    let parts: Vec<PathBuf> = parts.map(|part| PathBuf::from(part.as_os_str())).collect();
    rest.extend(parts.into_iter().rev());
}

fn is_link(fd: &OwnedFd) -> io::Result<bool> {
    let mode = rustix::fs::fstat(fd)?.st_mode;
    Ok(rustix::fs::FileType::from_raw_mode(mode) == rustix::fs::FileType::Symlink)
}

fn make(parent: BorrowedFd<'_>, name: &Path, leaf: Leaf) -> io::Result<()> {
    let made = match leaf {
        Leaf::Directory => mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Leaf::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
            openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match made {
        // Somebody else made it: resolving goes on from what stands there.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
