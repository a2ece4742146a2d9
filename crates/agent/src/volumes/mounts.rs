//! Mount points beneath a pod's directory: ours (tmpfs volumes) and whatever else was left there.

use std::{
    io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use rustix::mount::UnmountFlags;

use super::VolumeError;

/// Detach everything mounted beneath `path`, innermost first. Nothing mounted, or no such path, is success.
pub(super) fn unmount_beneath(path: &Path) -> Result<(), VolumeError> {
    let real = match std::fs::canonicalize(path) {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(VolumeError::io("resolve", path, source)),
    };
    let table =
        std::fs::read("/proc/self/mountinfo").map_err(|e| VolumeError::io("read", "/proc/self/mountinfo", e))?;
    let mut first = None;
    // The table lists parents before children and older mounts before those on top of them.
    for target in mount_points(&table).into_iter().rev().filter(|target| target.starts_with(&real)) {
        // Detached: a process that hangs on to it must not keep the pod from going; it goes when the last user does.
        match rustix::mount::unmount(&target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => {
                first.get_or_insert(VolumeError::io("unmount", target, error));
            }
        }
    }
    first.map_or(Ok(()), Err)
}

/// The fifth field of each line of mountinfo, unescaped, in the table's order.
fn mount_points(table: &[u8]) -> Vec<PathBuf> {
    table
        .split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .map(|field| PathBuf::from(std::ffi::OsString::from_vec(unescape(field))))
        .collect()
}

/// Undo the kernel's `\ooo` for blanks, newlines and backslashes (`man 5 proc`, mountinfo).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = |b: &u8| (b'0'..=b'7').contains(b);
        match tail {
            [a, b, c, after @ ..] if *first == b'\\' && octal(a) && octal(b) && octal(c) => {
                out.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_mount_points_are_read_as_they_are() {
        let table = b"36 35 98:0 / /a\\040b\\134c rw - tmpfs x rw\n37 35 98:0 / /d rw - tmpfs x rw\n";
        assert_eq!(mount_points(table), [PathBuf::from("/a b\\c"), PathBuf::from("/d")]);
    }
}
