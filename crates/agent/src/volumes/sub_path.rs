//! Paths in volumes that a container mounts instead of the whole (`subPath`), and volumes that mounts travel through.
//!
//! What is in a volume is hostile: another container may put links there, and swap them while we look. So a path is
//! resolved once, by the kernel, beneath a descriptor of the volume, and what was found is bound from its descriptor to
//! `<pod>/volume-subpaths/<container>/<index>`, from where the runtime takes it. No path into the volume is ever used again.
//! A link that leads out of the volume, be it absolute or by `..`, is refused.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use podd_sys::{
    mount::{self, Attributes, Propagation},
    resolve,
};
use rustix::{
    fs::{self, AtFlags, CWD, FileType, Mode, OFlags},
    io::Errno,
    mount::UnmountFlags,
};

use super::{PRIVATE, VolumeError, Volumes, empty_dir, tree};

/// Where the bound paths of a pod are.
const DIRECTORY: &str = "volume-subpaths";

/// A path in a volume, for one mount of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubPath {
    /// The container's name.
    pub container: String,
    /// Which of its mounts.
    pub index: usize,
    /// Where the volume lies.
    pub volume: PathBuf,
    /// The path in it, relative and without `..`.
    pub path: String,
    /// The same as the manifest has it, for errors: a variable's value may be a secret.
    pub written: String,
}

impl Volumes {
    /// Binds a path in a volume to a place of its own and returns the place. A directory that is missing is made, with the
    /// mode of the volume. Blocking.
    pub fn bind_sub_path(&self, uid: &str, wanted: &SubPath) -> Result<PathBuf, VolumeError> {
        let shown = wanted.volume.join(&wanted.written);
        let found = resolve_sub_path(wanted).map_err(|error| match error.raw_os_error() {
            Some(code) if code == Errno::XDEV.raw_os_error() => VolumeError::LeadsOut(wanted.written.clone()),
            _ => VolumeError::io("open", &shown, error),
        })?;
        let pod = self.pod_directory(uid)?;
        let index = wanted.index.to_string();
        let place = self.pods.join(uid).join(DIRECTORY).join(&wanted.container).join(&index);
        let bind = || -> io::Result<()> {
            let top = tree::ensure_directory(&pod, DIRECTORY, PRIVATE)?;
            let parent = tree::ensure_directory(&top, &wanted.container, PRIVATE)?;
            let target = empty_place(&parent, &index, &place, is_directory(&found)?)?;
            // The mount alone, as the kubelet binds it.
            let copy = mount::clone_tree(found.as_fd(), Path::new(""), false)?;
            mount::attach(copy.as_fd(), target.as_fd())
        };
        bind().map_err(|error| VolumeError::io("bind a path of a volume to", &place, error))?;
        Ok(place)
    }

    /// Lets go of every bound path of a pod. Blocking.
    pub(super) fn unbind_sub_paths(&self, uid: &str) -> Result<(), VolumeError> {
        let top = self.pods.join(uid).join(DIRECTORY);
        let failed = |path: &Path, error: io::Error| VolumeError::io("let go of", path, error);
        for container in entries(&top).map_err(|error| failed(&top, error))? {
            for place in entries(&container).map_err(|error| failed(&container, error))? {
                release(&place).map_err(|error| failed(&place, error))?;
            }
        }
        Ok(())
    }

    /// The place of a volume that mounts can travel into and out of: its directory, bound as a shared mount. Blocking.
    pub(super) fn share(&self, pod: &OwnedFd, uid: &str, name: &str, volume: &Path) -> Result<PathBuf, VolumeError> {
        let place = self.pods.join(uid).join("volumes").join("shared").join(name);
        let bind = || -> io::Result<()> {
            let volumes = tree::ensure_directory(pod, "volumes", PRIVATE)?;
            let target = tree::ensure_directory(tree::ensure_directory(&volumes, "shared", PRIVATE)?, name, PRIVATE)?;
            if empty_dir::is_mount_point(&target)? {
                return Ok(());
            }
            let copy = mount::clone_tree(CWD, volume, true)?;
            let shared = Attributes { propagation: Some(Propagation::Shared), ..Attributes::default() };
            mount::set_attributes(copy.as_fd(), true, &shared)?;
            mount::attach(copy.as_fd(), target.as_fd())
        };
        bind().map_err(|error| VolumeError::io("share", &place, error))?;
        Ok(place)
    }
}

/// What a path in a volume names; missing directories are made.
fn resolve_sub_path(wanted: &SubPath) -> io::Result<OwnedFd> {
    // A volume's own path is the administrator's, or the agent's.
    let volume = fs::openat(CWD, &wanted.volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = Path::new(&wanted.path);
    if path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(Errno::XDEV.into());
    }
    match resolve::beneath(volume.as_fd(), path, OFlags::PATH, Mode::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(volume.as_fd(), path)?,
        found => return found,
    }
    resolve::beneath(volume.as_fd(), path, OFlags::PATH, Mode::empty())
}

/// Makes the directories of a path one after another, each beneath a descriptor of the one before it as the kernel
/// resolved it. Whatever is swapped meanwhile, nothing is made outside.
fn make(volume: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let mode = Mode::from_raw_mode(fs::fstat(volume)?.st_mode & 0o7777);
    let mut done = PathBuf::new();
    for part in path.components().filter(|part| matches!(part, Component::Normal(_))) {
        let next = done.join(part);
        match resolve::beneath(volume, &next, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = resolve::beneath(volume, &done, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
                make_one(parent.as_fd(), Path::new(part.as_os_str()), mode)?;
            }
            found => drop(found?),
        }
        done = next;
    }
    Ok(())
}

fn make_one(parent: BorrowedFd<'_>, name: &Path, mode: Mode) -> io::Result<()> {
    match fs::mkdirat(parent, name, mode) {
        // Somebody else made it, and chose its mode.
        Err(Errno::EXIST) => return Ok(()),
        made => made?,
    }
    // Not as the umask has it; a bit for the group that the volume has comes with it.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::fchmod(fs::openat(parent, name, flags, Mode::empty())?, mode)?)
}

/// An empty file or directory to bind on.
fn empty_place(parent: &OwnedFd, name: &str, path: &Path, directory: bool) -> io::Result<OwnedFd> {
    release(path)?;
    let open =
        |flags| fs::openat(parent, name, flags | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    if let Ok(found) = open(OFlags::empty()) {
        if is_directory(&found)? == directory {
            return Ok(found);
        }
        let flags = if directory { AtFlags::empty() } else { AtFlags::REMOVEDIR };
        fs::unlinkat(parent, name, flags)?;
    }
    if directory {
        fs::mkdirat(parent, name, PRIVATE)?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(parent, name, flags, Mode::from_raw_mode(0o640)).map(drop)?;
    }
    Ok(open(OFlags::empty())?)
}

/// Unmounts all that is bound on a place. It is made private first: else the kernel would take what is mounted below it
/// from the volume too, where it came from.
fn release(place: &Path) -> io::Result<()> {
    loop {
        let found = match fs::openat(CWD, place, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            found => found?,
        };
        if !empty_dir::is_mount_point(&found)? {
            return Ok(());
        }
        let private = Attributes { propagation: Some(Propagation::Private), ..Attributes::default() };
        mount::set_attributes(found.as_fd(), true, &private)?;
        rustix::mount::unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
}

fn is_directory(file: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fs::fstat(file)?.st_mode) == FileType::Directory)
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

#[cfg(test)]
mod tests;
