//! Mounts in namespaces of the test's own.

use std::fs;

use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;

use super::*;
use crate::namespace::unshare_own;

/// Runs in a mount namespace (and with a root and working directory) of a thread of its own: nothing of it is seen by
/// others, and it is gone with the thread.
fn apart(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare_own(UnshareFlags::NEWNS).unwrap();
        make_all_private().unwrap();
        work();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn directory(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn errno<T: std::fmt::Debug>(outcome: io::Result<T>) -> Option<Errno> {
    Errno::from_io_error(&outcome.unwrap_err())
}

#[test]
fn layers_are_named_from_their_common_ancestor() {
    let ancestor = |paths: &[&str]| common_ancestor(paths.iter().map(Path::new));
    assert_eq!(ancestor(&["/a/b/1", "/a/b/2", "/a/c/3"]), Some("/a".into()));
    assert_eq!(ancestor(&["/a/b", "/a/b/c"]), Some("/a".into()));
    assert_eq!(ancestor(&["/a/1", "/b/1"]), Some("/".into()));
    assert_eq!(escape(Path::new("a:b,c")), "a\\:b\\,c");
}

#[test]
fn a_mount_is_nowhere_until_it_is_attached_and_never_leaves_its_namespace() {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().to_path_buf();
    apart(move || {
        let options = [("mode", Some("700")), ("size", Some("64k"))];
        let mount = filesystem("tmpfs", &options, MountAttr::NOEXEC).unwrap();
        fs::write(path.join("below"), "").unwrap();
        attach(mount.as_fd(), directory(&path).as_fd()).unwrap();
        fs::write(path.join("above"), "").unwrap();
        assert!(!path.join("below").exists());
        set_attributes(mount.as_fd(), false, &Attributes { set: MountAttr::RDONLY, ..Default::default() }).unwrap();
        assert_eq!(errno(fs::write(path.join("above"), "")), Some(Errno::ROFS));
        set_attributes(mount.as_fd(), false, &Attributes { clear: MountAttr::RDONLY, ..Default::default() }).unwrap();
        fs::write(path.join("above"), "").unwrap();
    });
    let left: Vec<_> = fs::read_dir(here.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["below"]);
}

#[test]
fn a_cloned_tree_is_another_view_of_the_same_files() {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().to_path_buf();
    apart(move || {
        for name in ["source", "target"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        let tree = clone_tree(CWD, &path.join("source"), false).unwrap();
        set_attributes(tree.as_fd(), true, &Attributes { set: MountAttr::RDONLY, ..Default::default() }).unwrap();
        attach(tree.as_fd(), directory(&path.join("target")).as_fd()).unwrap();
        fs::write(path.join("source/file"), "seen").unwrap();
        assert_eq!(fs::read_to_string(path.join("target/file")).unwrap(), "seen");
        assert_eq!(errno(fs::write(path.join("target/file"), "")), Some(Errno::ROFS));
    });
}

/// Both ways to make an overlay give the same one.
fn check_overlay(mount: impl FnOnce(&Overlay<'_>, &Path) -> io::Result<()> + Send + 'static) {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().to_path_buf();
    apart(move || {
        for name in ["a,b", "c:d", "upper", "work", "target"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        fs::write(path.join("a,b/file"), "top").unwrap();
        fs::write(path.join("c:d/file"), "bottom").unwrap();
        fs::write(path.join("c:d/other"), "other").unwrap();
        let lower = [path.join("a,b"), path.join("c:d")];
        let (upper, work, target) = (path.join("upper"), path.join("work"), path.join("target"));
        mount(&Overlay { lower: &lower, upper: Some((&upper, &work)) }, &target).unwrap();
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "top");
        assert_eq!(fs::read_to_string(target.join("other")).unwrap(), "other");
        fs::write(target.join("file"), "changed").unwrap();
        assert_eq!(fs::read_to_string(path.join("a,b/file")).unwrap(), "top");
        assert_eq!(fs::read_to_string(upper.join("file")).unwrap(), "changed");
    });
}

#[test]
fn an_overlay_by_descriptor_stacks_its_layers() {
    check_overlay(|layers, target| attach(overlay(layers)?.as_fd(), directory(target).as_fd()));
}

#[test]
fn an_overlay_by_path_stacks_its_layers() {
    check_overlay(overlay_at);
}

#[test]
fn after_a_pivot_nothing_of_the_old_root_is_left() {
    apart(|| {
        let root = filesystem("tmpfs", &[], MountAttr::default()).unwrap();
        attach(root.as_fd(), directory(Path::new("/proc")).as_fd()).unwrap();
        rustix::process::fchdir(&root).unwrap();
        fs::write("file", "").unwrap();
        pivot_into_working_directory().unwrap();
        let names =
            |path: &str| -> Vec<_> { fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect() };
        assert_eq!(names("/"), ["file"]);
        assert_eq!(names("/.."), ["file"]);
    });
}
