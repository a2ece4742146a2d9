//! Making and removing directory trees that workloads wrote into. Every step is relative to a directory descriptor, opened
//! without following links or crossing mounts, so that whatever lies there, nothing outside is ever touched.
//!
//! Removal keeps no stack: a directory found inside is moved up into the tree's top before it is emptied, so that depth
//! costs neither descriptors nor recursion (a workload can nest directories without bound).

use std::{
    ffi::{CStr, CString},
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, CWD, Dir, FileType, Gid, IFlags, Mode, OFlags, ResolveFlags},
    io::{Errno, Result},
};

/// Open a directory of our own by its path; links in it are the administrator's and are followed.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd> {
    fs::openat(CWD, path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Open a directory directly beneath another, never through a link, never another file system.
fn open_beneath(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    fs::openat2(
        parent,
        name,
        OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
    )
}

/// Open a directory directly beneath another, which may be a mount point of ours.
pub(super) fn open_child(parent: impl AsFd, name: &str) -> Result<OwnedFd> {
    fs::openat2(
        parent,
        name,
        OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

/// The directory of this name, made with exactly this mode if it is not there.
pub(super) fn ensure_directory(parent: impl AsFd, name: &str, mode: Mode) -> Result<OwnedFd> {
    ensure_directory_of(parent, name, mode, None)
}

/// The same, made with this group.
pub(super) fn ensure_directory_of(parent: impl AsFd, name: &str, mode: Mode, group: Option<u32>) -> Result<OwnedFd> {
    match open_child(&parent, name) {
        Err(Errno::NOENT) => {}
        found => return found,
    }
    // Made aside and renamed, so that a crash never leaves it with the mode that the umask gave. Volume names and UIDs
    // cannot begin with a dot.
    let aside = format!(".{name}.new");
    match fs::mkdirat(&parent, aside.as_str(), mode) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let made = open_child(&parent, &aside)?;
    if let Some(group) = group {
        fs::fchown(&made, None, Some(Gid::from_raw(group)))?;
    }
    fs::fchmod(&made, mode)?;
    match fs::renameat_with(&parent, aside.as_str(), &parent, name, fs::RenameFlags::NOREPLACE) {
        Ok(()) => Ok(made),
        // Somebody else was quicker.
        Err(Errno::EXIST) => open_child(&parent, name),
        Err(error) => Err(error),
    }
}

/// One thing that could not be removed.
#[derive(Debug)]
pub(super) struct Leftover {
    name: String,
    error: Errno,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.error)
    }
}

/// How many leftovers are reported in full.
const REPORTED: usize = 10;

/// Remove whatever has this name beneath `parent`; nothing there is success. Goes on past errors and returns them.
pub(super) fn remove(parent: impl AsFd, name: &str) -> Vec<Leftover> {
    let leftover = |error| vec![Leftover { name: name.to_owned(), error }];
    let Ok(c_name) = CString::new(name) else { return leftover(Errno::INVAL) };
    let top = match open_beneath(parent.as_fd(), &c_name) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Vec::new(),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return unlink(parent.as_fd(), &c_name).err().map(leftover).unwrap_or_default();
        }
        Err(error) => return leftover(error),
    };
    let mut errors = empty(&top);
    match fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => {}
        // What keeps it from being empty is in the list already.
        Err(Errno::NOTEMPTY) if !errors.is_empty() => {}
        Err(error) => errors.push(Leftover { name: name.to_owned(), error }),
    }
    errors
}

/// Remove all that is in a directory.
fn empty(top: &OwnedFd) -> Vec<Leftover> {
    let mut errors = Vec::new();
    let mut hoisted = 0_u64;
    let mut stuck = std::collections::HashSet::new();
    loop {
        let mut progress = false;
        let names = match list(top.as_fd()) {
            Ok(names) => names,
            Err(error) => {
                errors.push(Leftover { name: ".".into(), error });
                return errors;
            }
        };
        for (name, is_directory) in names {
            if stuck.contains(&name) {
                continue;
            }
            let outcome = if is_directory { empty_one(top, &name, &mut hoisted) } else { unlink(top.as_fd(), &name) };
            match outcome {
                Ok(()) => progress = true,
                Err(error) => {
                    if errors.len() < REPORTED {
                        errors.push(Leftover { name: name.to_string_lossy().into_owned(), error });
                    }
                    stuck.insert(name);
                }
            }
        }
        if !progress {
            return errors;
        }
    }
}

/// Empty one directory of the top: its files go, its directories are moved up beside it. Then it goes itself.
fn empty_one(top: &OwnedFd, name: &CStr, hoisted: &mut u64) -> Result<()> {
    match fs::unlinkat(top, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(Errno::PERM) => thaw(top.as_fd(), name)?,
        Err(error) => return Err(error),
    }
    // The mode forbids nothing to root, but an immutable directory cannot lose entries.
    let directory = open_beneath(top.as_fd(), name)?;
    let mut failed = None;
    for (child, is_directory) in list(directory.as_fd())? {
        let outcome =
            if is_directory { hoist(&directory, &child, top, hoisted) } else { unlink(directory.as_fd(), &child) };
        if let Err(error) = outcome {
            failed = Some(error);
        }
    }
    match failed {
        Some(error) => Err(error),
        None => fs::unlinkat(top, name, AtFlags::REMOVEDIR),
    }
}

fn hoist(from: &OwnedFd, name: &CStr, top: &OwnedFd, hoisted: &mut u64) -> Result<()> {
    match fs::unlinkat(from, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        _ => {}
    }
    for _ in 0..1000 {
        *hoisted += 1;
        let target = format!(".gone.{hoisted}");
        let moved = fs::renameat_with(from, name, top, target.as_str(), fs::RenameFlags::NOREPLACE);
        match moved {
            Err(Errno::EXIST) => {}
            Err(Errno::PERM) => {
                thaw(from.as_fd(), name)?;
                thaw(from.as_fd(), c".")?;
            }
            moved => return moved,
        }
    }
    Err(Errno::EXIST)
}

fn unlink(directory: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    match fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::PERM) => {
            thaw(directory, name)?;
            thaw(directory, c".")?;
            fs::unlinkat(directory, name, AtFlags::empty())
        }
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}

/// Take the immutable and append-only flags off a file or directory; a privileged workload may have set them. Only
/// regular files and directories have them, and only those are opened (opening a device or a pipe has effects).
fn thaw(directory: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let kind = FileType::from_raw_mode(fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return Ok(());
    }
    let file = fs::openat2(
        directory,
        name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )?;
    let flags = fs::ioctl_getflags(&file)?;
    fs::ioctl_setflags(&file, flags - (IFlags::IMMUTABLE | IFlags::APPEND))
}

fn list(directory: BorrowedFd<'_>) -> Result<Vec<(CString, bool)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                FileType::from_raw_mode(fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
            }
            known => known,
        };
        names.push((name.to_owned(), kind == FileType::Directory));
    }
    Ok(names)
}
