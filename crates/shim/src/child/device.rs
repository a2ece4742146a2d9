//! Device nodes and the links of `/dev`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use podd_shim::wire::{Device, DeviceKind, ShimErrorKind};
use podd_sys::resolve::{Leaf, ensure_in_root};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, chownat, makedev, mkdirat, mknodat, statat, symlinkat};
use rustix::io::Errno;

use crate::fault::{Outcome, Stage, refuse};

/// Character devices of every container: name, major, minor.
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

const DIRECTORIES: [&str; 3] = ["pts", "shm", "mqueue"];

/// Fills a fresh `/dev`, attached nowhere yet: nobody else can reach it.
pub(super) fn populate(dev: &OwnedFd) -> Outcome<()> {
    for (name, major, minor) in NODES {
        mknodat(dev, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor))
            .on("make device", Path::new(name))?;
    }
    for (name, target) in LINKS {
        symlinkat(target, dev, name).on("make link", Path::new(name))?;
    }
    for name in DIRECTORIES {
        mkdirat(dev, name, Mode::from_raw_mode(0o755)).on("make directory", Path::new(name))?;
    }
    Ok(())
}

/// Makes the devices asked for. Their owners are the machine's, whatever users the pod has: its root must not come to own a
/// disk. One that is there already (a host's `/dev` mounted over ours) is left alone.
pub(super) fn create(root: BorrowedFd<'_>, devices: &[Device]) -> Outcome<()> {
    for device in devices {
        let path = &device.path;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(refuse(ShimErrorKind::Invalid, "make device", format!("{} is no path", path.display())));
        };
        let parent = ensure_in_root(root, parent, Leaf::Directory).on("make directory", parent)?;
        let kind = match device.kind {
            DeviceKind::Char => FileType::CharacterDevice,
            DeviceKind::Block => FileType::BlockDevice,
            DeviceKind::Fifo => FileType::Fifo,
        };
        let number = makedev(device.major, device.minor);
        match mknodat(&parent, name, kind, Mode::from_raw_mode(device.mode & 0o7777), number) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let found = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).on("inspect device", path)?;
                if found.st_rdev == number && FileType::from_raw_mode(found.st_mode) == kind {
                    continue;
                }
                return Err(Errno::EXIST).on("make device", path);
            }
            Err(error) => return Err(error).on("make device", path),
        }
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        chownat(parent.as_fd(), name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).on("give device away", path)?;
    }
    Ok(())
}
