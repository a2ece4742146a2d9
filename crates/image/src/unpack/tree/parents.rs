//! From the path of an entry to the directory that it goes into.
//!
//! A parent is resolved by `openat2` with `RESOLVE_IN_ROOT`: links inside the layer are followed as they will be in
//! the container, and none leads out (openat2(2)). The last part of a path is never followed. The descriptors of
//! the last few parents are kept, so that an ordinary file costs four system calls: openat, write, utimensat, close.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::rc::Rc;

use rustix::fs::{Mode, ResolveFlags};
use rustix::io::Errno;

use super::{BLOCK, DIRECTORY, Tree};
use crate::error::Error;

/// Parents whose descriptors are kept.
const CACHED: usize = 16;
/// openat2 gives up with EAGAIN when something is renamed anywhere while it follows "..".
const RESOLVE_TRIES: usize = 64;

/// A directory that entries go into.
pub(super) struct Parent {
    pub(super) fd: OwnedFd,
    /// What is made in it takes its group.
    pub(super) setgid: bool,
}

impl Tree {
    /// The directory `path`, made with its parents if it is not there.
    pub(super) fn parent(&mut self, path: &[u8]) -> Result<Rc<Parent>, Error> {
        if let Some((_, parent)) = self.parents.iter().rev().find(|(cached, _)| cached == path) {
            return Ok(Rc::clone(parent));
        }
        let parent = match self.resolve(path) {
            Ok(parent) => parent,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_missing(path)?;
                self.resolve(path).map_err(|error| self.failed("open directory", path, error))?
            }
            Err(error) => return Err(self.failed("open directory", path, error)),
        };
        self.check_depth(&parent.fd, path)?;
        self.remember(path, Rc::clone(&parent));
        Ok(parent)
    }

    /// Makes the directories that a path takes for granted, from the top down.
    fn make_missing(&mut self, path: &[u8]) -> Result<(), Error> {
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        let ends: Vec<usize> = ends.chain([path.len()]).collect();
        if ends.len() as u64 > self.max_depth {
            return Err(self.too_deep());
        }
        let mut above = Rc::clone(&self.root);
        let mut start = 0;
        for end in ends {
            let name = OsStr::from_bytes(&path[start..end]);
            match rustix::fs::mkdirat(&above.fd, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => self.grew(BLOCK),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(self.failed("make directory", path, error.into())),
            }
            above = self.resolve(&path[..end]).map_err(|error| self.failed("open directory", path, error))?;
            start = end + 1;
        }
        Ok(())
    }

    pub(super) fn resolve(&self, path: &[u8]) -> io::Result<Rc<Parent>> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let path = OsStr::from_bytes(path);
        for _ in 0..RESOLVE_TRIES {
            match rustix::fs::openat2(&self.root.fd, path, DIRECTORY, Mode::empty(), how) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(fd) => {
                    let setgid = rustix::fs::fstat(&fd)?.st_mode & Mode::SGID.bits() != 0;
                    return Ok(Rc::new(Parent { fd, setgid }));
                }
            }
        }
        Err(Errno::AGAIN.into())
    }

    pub(super) fn remember(&mut self, path: &[u8], parent: Rc<Parent>) {
        if self.parents.len() == CACHED {
            self.parents.pop_front();
        }
        self.parents.push_back((path.to_vec(), parent));
    }

    /// Links can make a directory deeper than its path says, and what is too deep cannot be removed again.
    pub(super) fn check_depth(&self, fd: &OwnedFd, path: &[u8]) -> Result<(), Error> {
        match depth(fd) {
            Ok(depth) if depth.saturating_sub(self.root_depth) as u64 <= self.max_depth => Ok(()),
            Ok(_) => Err(self.too_deep()),
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => Err(self.too_deep()),
            Err(error) => Err(self.failed("look at", path, error)),
        }
    }

    fn too_deep(&self) -> Error {
        Error::Limit { subject: self.layer.clone(), limit: "depth", value: self.max_depth }
    }
}

/// How many parts the path of a directory has now, as the kernel knows it.
pub(super) fn depth(fd: &OwnedFd) -> io::Result<usize> {
    let path = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    Ok(path.components().count())
}
