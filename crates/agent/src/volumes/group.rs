//! `fsGroup`: a volume's files belong to a group of the pod's, and the group may read and write them.
//!
//! As the kubelet does it: each file gets the group and `rw` for it (`r` where the volume is read-only), directories `x` and
//! the bit that hands the group on as well. The top comes last, so that a top that looks right says that all was done, which
//! `OnRootMismatch` relies on. What is in the volume is hostile and may change meanwhile: each directory is opened beneath
//! the top's descriptor without following links or leaving the file system, each file changed through its own descriptor.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Pod;
use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};

/// Who gets a volume's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// `fsGroup`.
    pub id: u32,
    /// Nothing is done where the top looks right (`fsGroupChangePolicy: OnRootMismatch`).
    pub on_root_mismatch: bool,
}

/// What the group of a volume's files may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read and write.
    ReadWrite,
    /// Read: configMap, secret, downwardAPI and projected volumes, and claims mounted read-only.
    ReadOnly,
}

impl Access {
    fn bits(self, directory: bool) -> u32 {
        let bits = match self {
            Self::ReadWrite => 0o660,
            Self::ReadOnly => 0o440,
        };
        bits | if directory { SET_GROUP | 0o110 } else { 0 }
    }
}

/// New files of a directory get its group.
pub(super) const SET_GROUP: u32 = 0o2000;

/// The group that a pod asks for.
pub fn of_pod(pod: &Pod) -> Option<Group> {
    let security = pod.spec.as_ref()?.security_context.as_ref()?;
    let on_root_mismatch = security.fs_group_change_policy.as_deref() == Some("OnRootMismatch");
    Some(Group { id: u32::try_from(security.fs_group?).ok()?, on_root_mismatch })
}

/// Gives all that is in a volume to the group. Blocking.
///
/// # Errors
/// When the kernel refuses a change. Files that go meanwhile are no error.
pub fn hand_over(top: BorrowedFd<'_>, group: Group, access: Access) -> io::Result<()> {
    if group.on_root_mismatch && looks_right(&fs::fstat(top)?, group, access) {
        return Ok(());
    }
    // Paths, not descriptors: a tree may be wider and deeper than a process may have files open.
    let mut rest = VecDeque::from([PathBuf::from(".")]);
    while let Some(path) = rest.pop_front() {
        let Some(directory) = open_directory(top, &path)? else { continue };
        if path != Path::new(".") {
            change(directory.as_fd(), group, access)?;
        }
        for entry in fs::Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = match fs::openat(&directory, name, flags, Mode::empty()) {
                Err(Errno::NOENT) => continue,
                file => file?,
            };
            if FileType::from_raw_mode(fs::fstat(&file)?.st_mode) == FileType::Directory {
                rest.push_back(path.join(OsStr::from_bytes(name.to_bytes())));
            } else {
                change(file.as_fd(), group, access)?;
            }
        }
    }
    change(top, group, access)
}

/// Whether a top says that its volume has been handed over.
fn looks_right(top: &Stat, group: Group, access: Access) -> bool {
    let wanted = access.bits(true);
    top.st_gid == group.id && top.st_mode & wanted == wanted
}

/// A directory of the volume; none if it is no more, or no directory of this file system.
fn open_directory(top: BorrowedFd<'_>, path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    match fs::openat2(top, path, flags, Mode::empty(), how) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Group and mode of one file. The mode is read before the group changes, which may take the bits for set-user-id away.
fn change(file: BorrowedFd<'_>, group: Group, access: Access) -> io::Result<()> {
    let found = fs::fstat(file)?;
    let kind = FileType::from_raw_mode(found.st_mode);
    if found.st_gid != group.id {
        fs::chownat(file, "", None, Some(Gid::from_raw(group.id)), AtFlags::EMPTY_PATH)?;
    }
    // A link has no mode of its own.
    let mode = found.st_mode & 0o7777 | access.bits(kind == FileType::Directory);
    if kind != FileType::Symlink && (mode != found.st_mode & 0o7777 || found.st_gid != group.id) {
        // There is no fchmod for a descriptor that only names a file (`O_PATH`), but its magic link can be changed.
        fs::chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs as files,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    use super::*;

    const GROUP: Group = Group { id: 4321, on_root_mismatch: false };

    fn tree() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join("volume").join(name);
        files::create_dir_all(at("d/e")).expect("made");
        for (name, mode) in [("file", 0o600), ("d/program", 0o4755), ("d/e/deep", 0o444)] {
            files::write(at(name), "x").expect("written");
            files::set_permissions(at(name), files::Permissions::from_mode(mode)).expect("changed");
        }
        files::set_permissions(at("d"), files::Permissions::from_mode(0o700)).expect("changed");
        files::write(directory.path().join("outside"), "x").expect("written");
        files::set_permissions(directory.path().join("outside"), files::Permissions::from_mode(0o600))
            .expect("changed");
        symlink("../outside", at("link")).expect("linked");
        symlink("..", at("up")).expect("linked");
        directory
    }

    fn run(directory: &Path, group: Group, access: Access) {
        let top = super::super::tree::open_directory(&directory.join("volume")).expect("open");
        hand_over(top.as_fd(), group, access).expect("handed over");
    }

    fn look(path: &Path) -> (u32, u32) {
        let found = files::symlink_metadata(path).expect("there");
        (found.gid(), found.mode() & 0o7777)
    }

    #[test]
    fn all_of_a_volume_goes_to_the_group_and_nothing_outside() {
        let directory = tree();
        run(directory.path(), GROUP, Access::ReadWrite);
        let table = [
            ("volume/file", (4321, 0o660)),
            ("volume/d", (4321, 0o2770)),
            ("volume/d/program", (4321, 0o4775)),
            ("volume/d/e/deep", (4321, 0o664)),
            ("volume", (4321, 0o2775)),
            ("volume/link", (4321, 0o777)),
        ];
        for (path, want) in table {
            assert_eq!(look(&directory.path().join(path)), want, "{path}");
        }
        assert_eq!(look(&directory.path().join("outside")), (0, 0o600));
        assert_eq!(look(directory.path()).0, 0);
    }

    #[test]
    fn a_read_only_volume_is_readable_for_the_group() {
        let directory = tree();
        run(directory.path(), GROUP, Access::ReadOnly);
        assert_eq!(look(&directory.path().join("volume/file")), (4321, 0o640));
        assert_eq!(look(&directory.path().join("volume/d")), (4321, 0o2750));
    }

    #[test]
    fn a_top_that_looks_right_is_believed_if_the_policy_says_so() {
        let directory = tree();
        run(directory.path(), GROUP, Access::ReadWrite);
        let file = directory.path().join("volume/file");
        files::set_permissions(&file, files::Permissions::from_mode(0o600)).expect("changed");
        let careful = Group { on_root_mismatch: true, ..GROUP };
        run(directory.path(), careful, Access::ReadWrite);
        assert_eq!(look(&file), (4321, 0o600), "nothing was done");
        files::set_permissions(directory.path().join("volume"), files::Permissions::from_mode(0o755)).expect("changed");
        run(directory.path(), careful, Access::ReadWrite);
        assert_eq!(look(&file), (4321, 0o660), "the top did not look right");
    }
}
