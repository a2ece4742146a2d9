//! Mounts as descriptors (fsopen(2), open_tree(2), move_mount(2), mount_setattr(2)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

/// What mount_setattr changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Attributes to set.
    pub set: MountAttr,
    /// Attributes to clear.
    pub clear: MountAttr,
    /// New propagation.
    pub propagation: Option<Propagation>,
}

/// `MOUNT_ATTR_*` bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttr(u64);

impl MountAttr {
    /// Writes are refused.
    pub const RDONLY: Self = Self(0x1);
    /// Set-user-id bits and file capabilities are ignored.
    pub const NOSUID: Self = Self(0x2);
    /// Device nodes do not open.
    pub const NODEV: Self = Self(0x4);
    /// Programs do not run.
    pub const NOEXEC: Self = Self(0x8);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Itself when `condition` holds, nothing otherwise.
    #[must_use]
    pub const fn when(self, condition: bool) -> Self {
        if condition { self } else { Self(0) }
    }
}

/// Mount propagation (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Nothing travels.
    Private,
    /// From the peer group to here.
    Slave,
    /// Both ways.
    Shared,
}

#[repr(C)]
struct RawAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Changes attributes of the mount that a descriptor stands on (and of all below it when `recursive`).
pub fn set_attributes(mount: BorrowedFd<'_>, recursive: bool, attributes: &Attributes) -> io::Result<()> {
    let raw = RawAttributes {
        set: attributes.set.0,
        clear: attributes.clear.0,
        propagation: match attributes.propagation {
            None => 0,
            Some(Propagation::Private) => libc::MS_PRIVATE,
            Some(Propagation::Slave) => libc::MS_SLAVE,
            Some(Propagation::Shared) => libc::MS_SHARED,
        },
        userns_fd: 0,
    };
    set_raw(mount, recursive, &raw)
}

fn set_raw(mount: BorrowedFd<'_>, recursive: bool, raw: &RawAttributes) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let (fd, path, size) = (mount.as_raw_fd(), c"".as_ptr(), size_of::<RawAttributes>());
    // SAFETY: the path is NUL-terminated and `raw` points to a mount_attr (four u64, its first version) of the size told.
    let result = unsafe { libc::syscall(libc::SYS_mount_setattr, fd, path, flags, ptr::from_ref(raw), size) };
    crate::check(result).map(drop)
}

/// Shows files under the ids that a user namespace gives them: a file of the disk's user 0 belongs to the namespace's
/// root. For a mount that is attached nowhere yet; `InvalidInput` where the file system cannot do it.
pub fn map_ids(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    const IDMAP: u64 = 0x0010_0000;
    let userns_fd = u64::try_from(user_namespace.as_raw_fd()).expect("a descriptor is not negative");
    set_raw(mount, recursive, &RawAttributes { set: IDMAP, clear: 0, propagation: 0, userns_fd })
}

/// A new mount of a file system, attached nowhere. Options without a value are flags.
pub fn filesystem(kind: &str, options: &[(&str, Option<&str>)], attributes: MountAttr) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        match value {
            Some(value) => fsconfig_set_string(context.as_fd(), *key, *value)?,
            None => fsconfig_set_flag(context.as_fd(), *key)?,
        }
    }
    fsconfig_create(context.as_fd())?;
    mount_of(&context, attributes)
}

fn mount_of(context: &OwnedFd, attributes: MountAttr) -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(attributes.0).expect("fsmount's bits are 32"));
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A copy of the mount tree at a path, attached nowhere; a link at its end is followed.
pub fn clone_tree(directory: BorrowedFd<'_>, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(directory, path, flags)?)
}

/// Attaches a mount on what `target` (`O_PATH`) stands on. No path is resolved, so none can be swapped.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

/// Makes every mount of this namespace private, so that nothing done here travels.
pub fn make_all_private() -> io::Result<()> {
    let root = rustix::fs::openat(
        CWD,
        "/",
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    set_attributes(root.as_fd(), true, &Attributes { propagation: Some(Propagation::Private), ..Default::default() })
}

/// Makes the working directory, which must be the root of a mount other than `/`'s, the root of this mount namespace,
/// and lets the old one go.
pub fn pivot_into_working_directory() -> io::Result<()> {
    // pivot_root(".", ".") stacks the old root over the new one (pivot_root(2), NOTES); "." is then the old one.
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// The layers of an overlay.
#[derive(Debug, Clone, Copy)]
pub struct Overlay<'a> {
    /// Topmost first.
    pub lower: &'a [PathBuf],
    /// The writable layer and its work directory; without them the mount is read-only.
    pub upper: Option<(&'a Path, &'a Path)>,
}

/// An overlay, attached nowhere, on kernels with `lowerdir+` (about 6.7).
///
/// `volatile` always: nothing in a container's writable layer has to survive a power cut, and umount would otherwise sync
/// the whole disk. `InvalidInput` where the kernel lacks the option: see [`overlay_at`].
pub fn overlay(layers: &Overlay<'_>) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers.lower {
        fsconfig_set_string(context.as_fd(), "lowerdir+", layer)?;
    }
    if let Some((upper, work)) = layers.upper {
        fsconfig_set_string(context.as_fd(), "upperdir", upper)?;
        fsconfig_set_string(context.as_fd(), "workdir", work)?;
        fsconfig_set_flag(context.as_fd(), "volatile")?;
    }
    fsconfig_create(context.as_fd())?;
    mount_of(&context, MountAttr::default())
}

/// The same by mount(2), attached on `target`, for older kernels: it changes the working directory to the layers' common
/// ancestor, since all options have to fit one page.
pub fn overlay_at(layers: &Overlay<'_>, target: &Path) -> io::Result<()> {
    let paths = layers.lower.iter().map(PathBuf::as_path).chain(layers.upper.into_iter().flat_map(|(u, w)| [u, w]));
    let base = common_ancestor(paths).unwrap_or_else(|| PathBuf::from("/"));
    let relative = |path: &Path| escape(path.strip_prefix(&base).unwrap_or(path));
    let lower: Vec<String> = layers.lower.iter().map(|path| relative(path)).collect();
    let mut options = format!("lowerdir={}", lower.join(":"));
    if let Some((upper, work)) = layers.upper {
        options += &format!(",upperdir={},workdir={},volatile", relative(upper), relative(work));
    }
    if options.len() >= rustix::param::page_size() {
        return Err(Errno::TOOBIG.into());
    }
    rustix::process::chdir(&base)?;
    let options = std::ffi::CString::new(options)?;
    Ok(rustix::mount::mount(
        "overlay",
        target,
        "overlay",
        rustix::mount::MountFlags::empty(),
        Some(options.as_c_str()),
    )?)
}

fn common_ancestor<'a>(mut paths: impl Iterator<Item = &'a Path>) -> Option<PathBuf> {
    let first = paths.next()?.parent()?.to_path_buf();
    Some(paths.fold(first, |base, path| {
        base.ancestors()
            .find(|ancestor| path.starts_with(ancestor) && path != *ancestor)
            .unwrap_or(Path::new("/"))
            .into()
    }))
}

/// Colons and commas separate layers and options.
fn escape(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
}

#[cfg(test)]
mod tests;
