//! The root file system: layers stacked, mounted where the child can pivot into them.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use podd_shim::wire::{Rootfs, ShimErrorKind};
use podd_sys::mount::{
    Attributes, MountAttr, Overlay, Propagation, attach, clone_tree, map_ids, overlay, overlay_at, set_attributes,
};
use podd_sys::resolve::in_root;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::mount::{UnmountFlags, unmount};

use crate::fault::{Outcome, Stage, refuse};
use crate::users::Users;

/// Has the layers' files belong to the users of a user namespace, and the writable layer's root to its root. In this mount
/// namespace that nobody shares each layer is covered by itself with other ids; overlay finds those. `more` are layers of
/// other images.
pub(super) fn show_as<'a>(spec: &'a Rootfs, more: impl Iterator<Item = &'a Path>, users: &Users) -> Outcome<()> {
    let layers: BTreeSet<&Path> = spec.lower.iter().map(PathBuf::as_path).chain(more).collect();
    for layer in layers {
        let target = open_directory(layer)?;
        let tree = clone_tree(CWD, layer, false).on("clone layer", layer)?;
        map_ids(tree.as_fd(), users.namespace.as_fd(), false).on("map ids of layer", layer)?;
        attach(tree.as_fd(), target.as_fd()).on("attach layer", layer)?;
    }
    if let Some(upper) = &spec.upper {
        let (uid, gid) = users.outside(0, 0)?;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(CWD, upper, uid, gid, AtFlags::SYMLINK_NOFOLLOW).on("give writable layer away", upper)?;
    }
    Ok(())
}

/// Mounts the root and gives its directory. `wanted` are the mount points that have to exist in it or be made.
///
/// A read-only root goes without a writable layer (36 µs instead of about 250) as long as no mount point is missing.
pub(super) fn mount<'a>(spec: &Rootfs, mut wanted: impl Iterator<Item = &'a Path>) -> Outcome<OwnedFd> {
    let Some(anchor) = spec.mount_point.as_ref().or(spec.lower.first()) else {
        return Err(refuse(ShimErrorKind::Invalid, "mount root", "no layers"));
    };
    let upper = spec.upper.as_deref().zip(spec.work.as_deref());
    if spec.readonly {
        let root = stack(&spec.lower, None, anchor)?;
        let missing = |path: &Path| {
            let found = in_root(root.as_fd(), path, OFlags::PATH, Mode::empty());
            found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        if upper.is_none() || !wanted.any(missing) {
            return Ok(root);
        }
        unmount(anchor, UnmountFlags::DETACH).on("unmount", anchor)?;
    }
    stack(&spec.lower, upper, anchor)
}

/// The content of an image, or what a path in it names, as a mount that is attached nowhere.
pub(super) fn image(lower: &[PathBuf], sub_path: Option<&Path>, destination: &Path) -> Outcome<OwnedFd> {
    const STAGE: &str = "mount image volume";
    let Some(anchor) = lower.first() else {
        return Err(refuse(ShimErrorKind::Invalid, STAGE, "no layers"));
    };
    let root = stack(lower, None, anchor)?;
    let found = in_root(root.as_fd(), sub_path.unwrap_or(Path::new("/")), OFlags::PATH, Mode::empty());
    let tree = match found {
        Ok(found) => clone_tree(found.as_fd(), Path::new(""), false).on(STAGE, destination),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            let sub_path = sub_path.unwrap_or(Path::new("/")).display();
            let message = format!("image volume at {}: the image has no {sub_path}", destination.display());
            Err(refuse(ShimErrorKind::Invalid, STAGE, message))
        }
        Err(error) => Err(error).on(STAGE, destination),
    };
    unmount(anchor, UnmountFlags::DETACH).on("unmount", anchor)?;
    tree
}

/// Mounts layers over the topmost of them (or where the specification says), in this mount namespace that nobody shares: a directory that surely exists and
/// that nothing else here needs by its path, since overlay holds its layers by mounts of its own.
fn stack(lower: &[PathBuf], upper: Option<(&Path, &Path)>, anchor: &Path) -> Outcome<OwnedFd> {
    let target = open_directory(anchor)?;
    let layers = Overlay { lower, upper };
    let mount = if upper.is_none() && lower.len() == 1 {
        // Overlay wants two layers or a writable one.
        let tree = clone_tree(CWD, &lower[0], false).on("clone layer", &lower[0])?;
        let attributes =
            Attributes { set: MountAttr::RDONLY, propagation: Some(Propagation::Private), ..Attributes::default() };
        set_attributes(tree.as_fd(), false, &attributes).on("make layer read-only", anchor)?;
        tree
    } else {
        match overlay(&layers) {
            Ok(mount) => mount,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                overlay_at(&layers, anchor).on("mount overlay", anchor)?;
                return open_directory(anchor);
            }
            Err(error) => return Err(error).on("mount overlay", anchor),
        }
    };
    attach(mount.as_fd(), target.as_fd()).on("attach root", anchor)?;
    open_directory(anchor)
}

fn open_directory(path: &Path) -> Outcome<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).on("open directory", path)
}

/// Makes the root refuse writes, once all mount points are made.
pub(super) fn make_readonly(root: &OwnedFd) -> Outcome<()> {
    let attributes = Attributes { set: MountAttr::RDONLY, ..Attributes::default() };
    set_attributes(root.as_fd(), false, &attributes).stage("make root read-only")
}

/// Makes it the root of this process and lets the host's go.
pub(super) fn pivot(root: &OwnedFd) -> Outcome<()> {
    rustix::process::fchdir(root).stage("enter root")?;
    podd_sys::mount::pivot_into_working_directory().stage("pivot root")
}
