//! The directory that a layer is unpacked into, and the only way to touch it. How the path of an entry leads to
//! its parent is [`parents`]' story.

mod parents;

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::Size;
use crate::config::Limits;
use crate::error::{During as _, Error};
use parents::{Parent, depth};

/// What overlay reads as "hides the lower directory of this name".
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);
const BLOCK: u64 = 4096;
const HARD_LINK: &str = "make hard link";

/// What an entry says of itself beside its content.
pub(super) struct Attributes {
    /// Permissions with setuid, setgid and sticky.
    pub(super) mode: Mode,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(super) struct Tree {
    root: Rc<Parent>,
    /// How deep the root itself lies, in `/proc/self/fd`'s words.
    root_depth: usize,
    layer: String,
    max_depth: u64,
    umask: Mode,
    /// The last used at the end.
    parents: VecDeque<(Vec<u8>, Rc<Parent>)>,
    /// Times of directories, set at the end because filling a directory changes them.
    times: Vec<(Vec<u8>, Timestamps)>,
    size: Size,
}

/// What stood where an entry goes.
enum Before {
    Nothing,
    Directory,
    Whiteout,
    Other,
}

impl Tree {
    pub(super) fn open(directory: &Path, layer: &str, limits: &Limits) -> Result<Tree, Error> {
        let fd = rustix::fs::open(directory, DIRECTORY, Mode::empty()).during("open", directory)?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o755)).during("set the mode of", directory)?;
        let root_depth = depth(&fd).during("look at", directory)?;
        Ok(Tree {
            root: Rc::new(Parent { fd, setgid: false }),
            root_depth,
            layer: layer.to_owned(),
            max_depth: limits.depth,
            umask: umask(),
            parents: VecDeque::new(),
            times: Vec::new(),
            size: Size { bytes: BLOCK, inodes: 1 },
        })
    }

    /// How many files, directories and links were made so far, beside the root.
    pub(super) fn made(&self) -> u64 {
        self.size.inodes - 1
    }

    /// Makes a directory, or gives one that is there new attributes.
    pub(super) fn directory(&mut self, path: &[u8], attributes: &Attributes) -> Result<(), Error> {
        let failed = |tree: &Tree, error: Errno| tree.failed("make directory", path, error.into());
        let fd = match split(path) {
            None => {
                self.attribute(&self.root.fd, path, attributes, true, true)?;
                let fd = self.root.fd.try_clone().map_err(|error| self.failed("open", path, error))?;
                let setgid = attributes.mode.contains(Mode::SGID);
                self.root = Rc::new(Parent { fd, setgid });
                self.parents.clear();
                None
            }
            Some((parent, name)) => {
                let parent = self.parent(parent)?;
                let name_os = OsStr::from_bytes(name);
                let mode = Mode::from_raw_mode(0o755);
                let mut opaque = false;
                match rustix::fs::mkdirat(&parent.fd, name_os, mode) {
                    Ok(()) => self.grew(BLOCK),
                    Err(Errno::EXIST) => match self.clear(&parent, name, path, true)? {
                        Before::Directory => {}
                        before => {
                            rustix::fs::mkdirat(&parent.fd, name_os, mode).map_err(|error| failed(self, error))?;
                            // The whiteout hid a lower directory, and this one must not show it again.
                            opaque = matches!(before, Before::Whiteout);
                            self.grew(BLOCK);
                        }
                    },
                    Err(error) => return Err(failed(self, error)),
                }
                let flags = DIRECTORY | OFlags::NOFOLLOW;
                let fd = rustix::fs::openat(&parent.fd, name_os, flags, Mode::empty());
                let fd = fd.map_err(|error| failed(self, error))?;
                self.attribute(&fd, path, attributes, true, true)?;
                if opaque {
                    self.make_opaque(&fd, path)?;
                }
                Some(fd)
            }
        };
        if let Some(fd) = fd {
            self.check_depth(&fd, path)?;
            let setgid = attributes.mode.contains(Mode::SGID);
            self.parents.retain(|(cached, _)| cached != path);
            self.remember(path, Rc::new(Parent { fd, setgid }));
        }
        self.times.push((path.to_vec(), times(attributes.mtime)));
        Ok(())
    }

    /// Makes an empty file, to be written and then finished by [`Tree::finish_file`].
    pub(super) fn file(&mut self, path: &[u8], attributes: &Attributes) -> Result<OwnedFd, Error> {
        let mode = attributes.mode & Mode::from_raw_mode(0o777);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.place(path, "create", |parent, name| rustix::fs::openat(&parent.fd, name, flags, mode))
    }

    pub(super) fn finish_file(
        &mut self,
        file: &OwnedFd,
        path: &[u8],
        size: u64,
        attributes: &Attributes,
    ) -> Result<(), Error> {
        let special = attributes.mode.bits() & 0o7000 != 0 || attributes.mode.intersects(self.umask);
        let setgid = split(path).is_some_and(|(parent, _)| {
            let cached = self.parents.iter().find(|(cached, _)| cached == parent);
            cached.is_none_or(|(_, parent)| parent.setgid)
        });
        let owned = attributes.uid != 0 || attributes.gid != 0 || setgid;
        self.attribute(file, path, attributes, owned, special)?;
        rustix::fs::futimens(file, &times(attributes.mtime))
            .map_err(|error| self.failed("set the time of", path, error.into()))?;
        self.grew(size.next_multiple_of(BLOCK));
        Ok(())
    }

    pub(super) fn symlink(&mut self, path: &[u8], target: &[u8], attributes: &Attributes) -> Result<(), Error> {
        let target = OsStr::from_bytes(target);
        self.place(path, "make link", |parent, name| {
            rustix::fs::symlinkat(target, &parent.fd, name)?;
            let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
            rustix::fs::chownat(&parent.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            rustix::fs::utimensat(&parent.fd, name, &times(attributes.mtime), AtFlags::SYMLINK_NOFOLLOW)
        })?;
        self.grew(0);
        Ok(())
    }

    /// Links to a file of the same layer; a link of that name is linked itself, not followed.
    pub(super) fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), Error> {
        let Some((target_parent, target_name)) = split(target) else {
            return Err(invalid(&self.layer, path, "a hard link to the layer's root"));
        };
        let from = self.resolve(target_parent).map_err(|error| self.failed("link to the target of", path, error))?;
        if path == target {
            return Ok(());
        }
        let target_name = OsStr::from_bytes(target_name);
        self.place(path, HARD_LINK, |parent, name| {
            rustix::fs::linkat(&from.fd, target_name, &parent.fd, name, AtFlags::empty())
        })
    }

    /// A device or fifo. The device numbers are those of the image; the container's device rules decide their use.
    pub(super) fn node(
        &mut self,
        path: &[u8],
        kind: FileType,
        device: (u32, u32),
        attributes: &Attributes,
    ) -> Result<(), Error> {
        let device = rustix::fs::makedev(device.0, device.1);
        self.place(path, "make device", |parent, name| {
            rustix::fs::mknodat(&parent.fd, name, kind, attributes.mode, device)?;
            let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
            rustix::fs::chownat(&parent.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            // mknod took the umask off. Nobody else is in this directory, so the name is still the node.
            rustix::fs::chmodat(&parent.fd, name, attributes.mode, AtFlags::empty())?;
            rustix::fs::utimensat(&parent.fd, name, &times(attributes.mtime), AtFlags::SYMLINK_NOFOLLOW)
        })?;
        self.grew(0);
        Ok(())
    }

    /// Hides `path` of lower layers. What this layer itself has there stays: the two mean a directory that
    /// replaces the lower one, or a file, which hides it anyway.
    pub(super) fn whiteout(&mut self, path: &[u8]) -> Result<(), Error> {
        let Some((parent, name)) = split(path) else {
            return Err(invalid(&self.layer, path, "a whiteout must name what it hides"));
        };
        let parent = self.parent(parent)?;
        let name = OsStr::from_bytes(name);
        let made = rustix::fs::mknodat(&parent.fd, name, FileType::CharacterDevice, Mode::empty(), 0);
        match made {
            Ok(()) => {
                self.grew(0);
                Ok(())
            }
            Err(Errno::EXIST) => match self.stat(&parent, name) {
                Ok(stat) if kind(&stat) == FileType::Directory => self.opaque(path),
                Ok(_) => Ok(()),
                Err(error) => Err(self.failed("look at", path, error.into())),
            },
            Err(error) => Err(self.failed("make whiteout", path, error.into())),
        }
    }

    /// Hides everything that lower layers have in the directory `path`.
    pub(super) fn opaque(&mut self, path: &[u8]) -> Result<(), Error> {
        let directory = self.parent(path)?;
        self.make_opaque(&directory.fd, path)
    }

    fn make_opaque(&self, fd: &OwnedFd, path: &[u8]) -> Result<(), Error> {
        rustix::fs::fsetxattr(fd, OPAQUE_XATTR, b"y", XattrFlags::empty())
            .map_err(|error| self.failed("make opaque", path, error.into()))
    }

    /// Sets the times of directories; nothing may be made afterwards.
    pub(super) fn finish(mut self) -> Result<Size, Error> {
        for (path, times) in std::mem::take(&mut self.times).iter().rev() {
            let set = match split(path) {
                None => rustix::fs::futimens(&self.root.fd, times),
                Some((parent, name)) => match self.resolve(parent) {
                    Ok(parent) => {
                        let name = OsStr::from_bytes(name);
                        match self.stat(&parent, name) {
                            Ok(stat) if kind(&stat) == FileType::Directory => {
                                rustix::fs::utimensat(&parent.fd, name, times, AtFlags::SYMLINK_NOFOLLOW)
                            }
                            // A later entry took its place.
                            _ => Ok(()),
                        }
                    }
                    Err(_) => Ok(()),
                },
            };
            set.map_err(|error| self.failed("set the time of", path, error.into()))?;
        }
        Ok(self.size)
    }

    /// Owner, then mode (changing the owner takes setuid off), then attributes (it takes capabilities off too).
    fn attribute(
        &self,
        fd: &OwnedFd,
        path: &[u8],
        attributes: &Attributes,
        owner: bool,
        mode: bool,
    ) -> Result<(), Error> {
        if owner {
            let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
            rustix::fs::fchown(fd, Some(uid), Some(gid))
                .map_err(|error| self.failed("set the owner of", path, error.into()))?;
        }
        if mode {
            rustix::fs::fchmod(fd, attributes.mode)
                .map_err(|error| self.failed("set the mode of", path, error.into()))?;
        }
        for (name, value) in &attributes.xattrs {
            match rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) => {}
                // A user's attribute on a file system without them is no loss; a capability is.
                Err(Errno::OPNOTSUPP) if name.starts_with(b"user.") => {}
                Err(error) => return Err(self.failed("set an attribute of", path, error.into())),
            }
        }
        Ok(())
    }

    /// Makes something under a name, in place of what has the name.
    fn place<T>(
        &mut self,
        path: &[u8],
        action: &'static str,
        make: impl Fn(&Parent, &OsStr) -> Result<T, Errno>,
    ) -> Result<T, Error> {
        let Some((parent, name)) = split(path) else {
            return Err(invalid(&self.layer, path, "it would take the place of the layer's root"));
        };
        let parent = self.parent(parent)?;
        let made = match make(&parent, OsStr::from_bytes(name)) {
            Err(Errno::EXIST) => {
                self.clear(&parent, name, path, false)?;
                make(&parent, OsStr::from_bytes(name))
            }
            made => made,
        };
        made.map_err(|error| self.failed(action, path, error.into()))
    }

    /// Removes what stands at a name, except a directory that `keep_directory` spares.
    fn clear(&mut self, parent: &Parent, name: &[u8], path: &[u8], keep_directory: bool) -> Result<Before, Error> {
        let failed = |tree: &Tree, error: io::Error| tree.failed("replace", path, error);
        let name = OsStr::from_bytes(name);
        let stat = match self.stat(parent, name) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Before::Nothing),
            Err(error) => return Err(failed(self, error.into())),
        };
        let before = match kind(&stat) {
            FileType::Directory if keep_directory => return Ok(Before::Directory),
            FileType::CharacterDevice if stat.st_rdev == 0 => Before::Whiteout,
            _ => Before::Other,
        };
        // Paths through the removed directory or link now mean something else.
        self.parents.clear();
        match kind(&stat) {
            FileType::Directory => {
                // The standard library removes a tree without following links, and by descriptor.
                let path = PathBuf::from(format!("/proc/self/fd/{}", parent.fd.as_raw_fd())).join(name);
                fs::remove_dir_all(path).map_err(|error| failed(self, error))?;
            }
            _ => {
                rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty()).map_err(|error| failed(self, error.into()))?
            }
        }
        Ok(before)
    }

    fn stat(&self, parent: &Parent, name: &OsStr) -> Result<Stat, Errno> {
        rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn grew(&mut self, bytes: u64) {
        self.size.bytes += bytes;
        self.size.inodes += 1;
    }

    /// The error of a file operation on an entry: the layer's own fault if only its content can cause it.
    pub(super) fn failed(&self, action: &'static str, path: &[u8], error: io::Error) -> Error {
        const LAYERS_FAULT: [Errno; 8] = [
            Errno::NOENT,
            Errno::NOTDIR,
            Errno::LOOP,
            Errno::NAMETOOLONG,
            Errno::XDEV,
            Errno::MLINK,
            Errno::INVAL,
            Errno::EXIST,
        ];
        let os = error.raw_os_error();
        // Only root unpacks, so this says that a directory cannot be linked.
        let directory = action == HARD_LINK && os == Some(Errno::PERM.raw_os_error());
        let own = directory || os.is_none() || LAYERS_FAULT.iter().any(|errno| Some(errno.raw_os_error()) == os);
        match own {
            true => invalid(&self.layer, path, &format!("{action}: {error}")),
            false => Error::Io { action, path: PathBuf::from(OsStr::from_bytes(path)), source: Arc::new(error) },
        }
    }
}

/// An entry that cannot be had as the layer wants it.
pub(super) fn invalid(layer: &str, path: &[u8], reason: &str) -> Error {
    let path: String = String::from_utf8_lossy(path).chars().take(200).collect();
    Error::content(layer, format!("entry {path:?}: {reason}"))
}

/// A path's parent and last part; `None` for the layer's root.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => Some((&path[..slash], &path[slash + 1..])),
        None if path.is_empty() => None,
        None => Some((b"", path)),
    }
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn times((tv_sec, nanos): (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec, tv_nsec: i64::from(nanos) },
    }
}

/// The process's umask, without the race of setting it to read it. The cautious one if `/proc` does not say.
fn umask() -> Mode {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let bits = line.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok());
    Mode::from_raw_mode(bits.unwrap_or(0o777))
}
