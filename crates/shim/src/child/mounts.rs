//! What is mounted in a container: a default set, and what the runtime asked for, parents before what lies in them.
//!
//! Destinations are hostile (the image may have links there, another container of the pod may swap them meanwhile): each is
//! resolved inside the root to a descriptor, and the mount goes onto that descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use podd_shim::wire::{self, ContainerSpec, IdMaps, Mount, MountKind, ShimErrorKind};
use podd_sys::mount::{Attributes, MountAttr, Propagation, attach, clone_tree, filesystem, map_ids, set_attributes};
use podd_sys::resolve::{Leaf, ensure_in_root, in_root};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, fstatfs};

use super::{device, rootfs};
use crate::fault::{Outcome, Stage, refuse};
use crate::users::Needed;

/// A mount that every container has.
struct Default {
    destination: &'static str,
    kind: &'static str,
    options: &'static [(&'static str, Option<&'static str>)],
    attributes: MountAttr,
}

const NOSUID_NODEV_NOEXEC: MountAttr = MountAttr::NOSUID.and(MountAttr::NODEV).and(MountAttr::NOEXEC);

const DEFAULTS: [Default; 6] = [
    Default { destination: "/proc", kind: "proc", options: &[], attributes: NOSUID_NODEV_NOEXEC },
    Default {
        destination: DEV,
        kind: "tmpfs",
        options: &[("mode", Some("755")), ("size", Some("65536k"))],
        attributes: MountAttr::NOSUID,
    },
    Default { destination: SYS, kind: "sysfs", options: &[], attributes: NOSUID_NODEV_NOEXEC },
    Default {
        destination: "/dev/pts",
        kind: "devpts",
        // 5 is the group `tty` of every distribution.
        options: &[("newinstance", None), ("ptmxmode", Some("0666")), ("mode", Some("0620")), ("gid", Some("5"))],
        attributes: MountAttr::NOSUID.and(MountAttr::NOEXEC),
    },
    Default {
        destination: "/dev/shm",
        kind: "tmpfs",
        options: &[("mode", Some("1777")), ("size", Some("65536k"))],
        attributes: NOSUID_NODEV_NOEXEC,
    },
    Default { destination: "/dev/mqueue", kind: "mqueue", options: &[], attributes: NOSUID_NODEV_NOEXEC },
];

const DEV: &str = "/dev";
const SYS: &str = "/sys";
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// One mount to make.
enum Planned<'a> {
    Default(&'static Default),
    /// With the tree of its source, where it has one: a bind mount's, an image's.
    Asked(&'a Mount, Option<OwnedFd>),
}

impl Planned<'_> {
    fn destination(&self) -> &Path {
        match self {
            Self::Default(row) => Path::new(row.destination),
            Self::Asked(mount, _) => &mount.destination,
        }
    }
}

/// The mounts of a container, with the sources of bind mounts already held.
pub(super) struct Plan<'a> {
    steps: Vec<Planned<'a>>,
    sysfs_writable: bool,
}

/// Orders the mounts and takes hold of the sources. That comes before this namespace's mounts are made private: a copy
/// made now still belongs to the host's peer group, which is what propagation lives on.
///
/// Sources are shown by other ids here, too, since a copy can be only as long as it is attached nowhere.
pub(super) fn plan<'a>(spec: &'a ContainerSpec, users: &Needed) -> Outcome<Plan<'a>> {
    let replaced = |row: &Default| spec.mounts.iter().any(|mount| mount.destination == Path::new(row.destination));
    let mut steps: Vec<Planned<'_>> = DEFAULTS.iter().filter(|row| !replaced(row)).map(Planned::Default).collect();
    for mount in &spec.mounts {
        if !mount.destination.components().any(|part| matches!(part, Component::Normal(_))) {
            let message = "a mount can't take the place of the root";
            return Err(refuse(ShimErrorKind::Invalid, "plan mounts", message));
        }
        steps.push(Planned::Asked(mount, open_source(mount, users)?));
    }
    steps.sort_by_key(|step| step.destination().components().count());
    Ok(Plan { steps, sysfs_writable: spec.sysfs_writable })
}

/// What a bind mount shows of the host.
fn open_source(mount: &Mount, users: &Needed) -> Outcome<Option<OwnedFd>> {
    let MountKind::Bind { source, recursive } = &mount.kind else { return Ok(None) };
    let tree = clone_tree(CWD, source, *recursive).on("open mount source", source)?;
    if let Some(ids) = &mount.ids {
        show_by(ids, users, &tree, source, *recursive)?;
    }
    Ok(Some(tree))
}

/// What a mount shows of an image.
fn open_image(mount: &Mount) -> Outcome<Option<OwnedFd>> {
    let MountKind::Image { lower, sub_path } = &mount.kind else { return Ok(None) };
    rootfs::image(lower, sub_path.as_deref(), &mount.destination).map(Some)
}

/// Mounts the root, and below `place`, under its place in the list, each mount that shows something of the host or of an
/// image; it has its attributes already, whatever is made of it. What `place` has here, nobody else sees.
pub(super) fn stage(spec: &ContainerSpec, users: &Needed, place: &Path) -> Outcome<OwnedFd> {
    let mut trees = spec.mounts.iter().map(|mount| open_source(mount, users)).collect::<Outcome<Vec<_>>>()?;
    podd_sys::mount::make_all_private().stage("make mounts private")?;
    for (mount, tree) in spec.mounts.iter().zip(&mut trees) {
        if let Some(image) = open_image(mount)? {
            *tree = Some(image);
        }
    }
    let root = rootfs::mount(&spec.rootfs, std::iter::empty())?;
    let directory = filesystem("tmpfs", &[("mode", Some("700"))], NOSUID_NODEV_NOEXEC).on("mount", place)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = rustix::fs::open(place, flags, Mode::empty()).on("open directory", place)?;
    attach(directory.as_fd(), target.as_fd()).on("attach mount", place)?;
    for (number, (mount, tree)) in spec.mounts.iter().zip(trees).enumerate() {
        let Some(tree) = tree else { continue };
        let path = PathBuf::from(number.to_string());
        let target = ensure_in_root(directory.as_fd(), &path, leaf_of(&tree, &mount.destination)?)
            .on("make mount point", &path)?;
        set_up(&tree, mount)?;
        attach(tree.as_fd(), target.as_fd()).on("attach mount", &mount.destination)?;
    }
    Ok(root)
}

/// Maps the ids of a bind mount.
fn show_by(ids: &IdMaps, users: &Needed, tree: &OwnedFd, source: &Path, recursive: bool) -> Outcome<()> {
    let users = users.with_ids(ids).ok_or_else(|| {
        refuse(ShimErrorKind::System, "map ids", format!("there is no namespace for {}", source.display()))
    })?;
    match map_ids(tree.as_fd(), users.namespace.as_fd(), recursive) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            let message = format!("the file system of {} cannot be mounted with other ids", source.display());
            Err(refuse(ShimErrorKind::Invalid, "map ids", message))
        }
        outcome => outcome.on("map ids", source),
    }
}

impl Plan<'_> {
    /// The layers of image volumes.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Path> {
        let images = self.steps.iter().filter_map(|step| match step {
            Planned::Asked(Mount { kind: MountKind::Image { lower, .. }, .. }, _) => Some(lower),
            _ => None,
        });
        images.flatten().map(PathBuf::as_path)
    }

    /// Stacks the layers of images. That comes after this namespace's mounts were made private, and before the root is
    /// mounted, which may lie over the same layers.
    pub(super) fn open_images(&mut self) -> Outcome<()> {
        for step in &mut self.steps {
            if let Planned::Asked(mount, tree) = step
                && let Some(image) = open_image(mount)?
            {
                *tree = Some(image);
            }
        }
        Ok(())
    }

    /// Where the mounts go.
    pub(super) fn destinations(&self) -> impl Iterator<Item = &Path> {
        self.steps.iter().map(Planned::destination)
    }

    /// Makes the mounts under a root.
    pub(super) fn apply(self, root: BorrowedFd<'_>) -> Outcome<()> {
        for step in self.steps {
            match step {
                Planned::Default(row) => mount_default(root, row, self.sysfs_writable)?,
                Planned::Asked(mount, tree) => mount_asked(root, mount, tree)?,
            }
        }
        Ok(())
    }
}

fn mount_default(root: BorrowedFd<'_>, row: &Default, sysfs_writable: bool) -> Outcome<()> {
    let path = Path::new(row.destination);
    // A link here could only be the image's attempt to have the kernel's files elsewhere than programs trust them.
    if let Ok(found) = in_root(root, path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())
        && FileType::from_raw_mode(fstat(&found).on("inspect", path)?.st_mode) != FileType::Directory
    {
        let message = format!("{} in the image is not a directory", row.destination);
        return Err(refuse(ShimErrorKind::Invalid, "mount", message));
    }
    let target = ensure_in_root(root, path, Leaf::Directory).on("make mount point", path)?;
    let readonly = MountAttr::RDONLY.when(row.destination == SYS && !sysfs_writable);
    let mount = filesystem(row.kind, row.options, row.attributes.and(readonly)).on("mount", path)?;
    if row.destination == DEV {
        device::populate(&mount)?;
    }
    attach(mount.as_fd(), target.as_fd()).on("attach mount", path)
}

fn mount_asked(root: BorrowedFd<'_>, mount: &Mount, tree: Option<OwnedFd>) -> Outcome<()> {
    let path = &mount.destination;
    let tree = match tree {
        Some(tree) => tree,
        None => make(mount)?,
    };
    let target = ensure_in_root(root, path, leaf_of(&tree, path)?).on("make mount point", path)?;
    if fstatfs(&target).on("inspect mount point", path)?.f_type == PROC_SUPER_MAGIC {
        let message = format!("{} lies in the container's /proc", path.display());
        return Err(refuse(ShimErrorKind::Invalid, "mount", message));
    }
    set_up(&tree, mount)?;
    attach(tree.as_fd(), target.as_fd()).on("attach mount", path)?;
    if mount.kind == MountKind::Cgroup {
        let inside = in_root(root, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).on("enter", path)?;
        mount_cgroup_v1(inside.as_fd(), mount)?;
    }
    Ok(())
}

/// Whether a directory or a file can be covered by a mount.
fn leaf_of(tree: &OwnedFd, path: &Path) -> Outcome<Leaf> {
    let kind = FileType::from_raw_mode(fstat(tree).on("inspect mount source", path)?.st_mode);
    Ok(if kind == FileType::Directory { Leaf::Directory } else { Leaf::File })
}

/// Gives a mount its propagation and attributes, before it is attached.
fn set_up(tree: &OwnedFd, mount: &Mount) -> Outcome<()> {
    let path = &mount.destination;
    let propagation = match mount.propagation {
        wire::Propagation::Private => Propagation::Private,
        wire::Propagation::Slave => Propagation::Slave,
        wire::Propagation::Shared => Propagation::Shared,
    };
    let propagation = Attributes { propagation: Some(propagation), ..Attributes::default() };
    set_attributes(tree.as_fd(), true, &propagation).on("set propagation", path)?;
    let set = attributes_of(mount);
    if set != MountAttr::default() {
        let attributes = Attributes { set, ..Attributes::default() };
        set_attributes(tree.as_fd(), false, &attributes).on("set mount attributes", path)?;
    }
    if mount.recursive_readonly {
        let attributes = Attributes { set: MountAttr::RDONLY, ..Attributes::default() };
        set_attributes(tree.as_fd(), true, &attributes).on("make mounts read-only", path)?;
    }
    Ok(())
}

fn attributes_of(mount: &Mount) -> MountAttr {
    // The directory of v1 hierarchies has to be filled first.
    let readonly = mount.readonly && (mount.kind != MountKind::Cgroup || is_cgroup_v2());
    MountAttr::RDONLY
        .when(readonly || matches!(mount.kind, MountKind::Image { .. }))
        .and(MountAttr::NOSUID.when(mount.nosuid))
        .and(MountAttr::NODEV.when(mount.nodev))
        .and(MountAttr::NOEXEC.when(mount.noexec))
}

/// A mount that has no source.
fn make(mount: &Mount) -> Outcome<OwnedFd> {
    let none = MountAttr::default();
    let made = match &mount.kind {
        MountKind::Bind { .. } | MountKind::Image { .. } => unreachable!("the trees of sources were opened before"),
        MountKind::Tmpfs { size, mode } => {
            let mode = format!("{:o}", mode.unwrap_or(0o1777));
            let size = size.map(|size| size.to_string());
            let mut options = vec![("mode", Some(mode.as_str()))];
            options.extend(size.as_deref().map(|size| ("size", Some(size))));
            filesystem("tmpfs", &options, none)
        }
        MountKind::Proc => filesystem("proc", &[], NOSUID_NODEV_NOEXEC),
        MountKind::Sysfs => filesystem("sysfs", &[], NOSUID_NODEV_NOEXEC),
        MountKind::Mqueue => filesystem("mqueue", &[], NOSUID_NODEV_NOEXEC),
        MountKind::Cgroup if is_cgroup_v2() => filesystem("cgroup2", &[], NOSUID_NODEV_NOEXEC),
        MountKind::Cgroup => filesystem("tmpfs", &[("mode", Some("755"))], NOSUID_NODEV_NOEXEC),
    };
    made.on("mount", &mount.destination)
}

/// The hierarchies of this process: (subsystems or `name=…`), empty for v2.
fn hierarchies() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    text.lines().filter_map(|line| line.split(':').nth(1).map(str::to_owned)).collect()
}

fn is_cgroup_v2() -> bool {
    hierarchies().iter().all(String::is_empty)
}

/// Fills a directory with one mount per v1 hierarchy, each from this cgroup namespace's root down.
fn mount_cgroup_v1(directory: BorrowedFd<'_>, mount: &Mount) -> Outcome<()> {
    if is_cgroup_v2() {
        return Ok(());
    }
    let attributes = NOSUID_NODEV_NOEXEC.and(MountAttr::RDONLY.when(mount.readonly));
    for hierarchy in hierarchies() {
        let (name, made) = match hierarchy.strip_prefix("name=") {
            _ if hierarchy.is_empty() => ("unified", filesystem("cgroup2", &[], attributes)),
            Some(name) => (name, filesystem("cgroup", &[("none", None), ("name", Some(name))], attributes)),
            None => {
                let options: Vec<_> = hierarchy.split(',').map(|subsystem| (subsystem, None)).collect();
                (hierarchy.as_str(), filesystem("cgroup", &options, attributes))
            }
        };
        let path = mount.destination.join(name);
        let made = made.on("mount cgroup", &path)?;
        let target = ensure_in_root(directory, Path::new(name), Leaf::Directory).on("make mount point", &path)?;
        attach(made.as_fd(), target.as_fd()).on("attach mount", &path)?;
    }
    if mount.readonly {
        let attributes = Attributes { set: MountAttr::RDONLY, ..Attributes::default() };
        set_attributes(directory, false, &attributes).on("make read-only", &mount.destination)?;
    }
    Ok(())
}
