//! Links that point out, and paths that are not there.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

fn root() -> (tempfile::TempDir, OwnedFd) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    fs::write(dir.path().join("outside"), "secret").unwrap();
    let fd = OwnedFd::from(fs::File::open(dir.path().join("root")).unwrap());
    (dir, fd)
}

#[test]
fn links_that_point_out_end_inside() {
    let (dir, root) = root();
    let inside = dir.path().join("root");
    symlink("../../outside", inside.join("up")).unwrap();
    symlink(dir.path().join("outside"), inside.join("absolute")).unwrap();
    for name in ["up", "absolute"] {
        let error = in_root(root.as_fd(), Path::new(name), OFlags::RDONLY, Mode::empty()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{name}");
        let error = beneath(root.as_fd(), Path::new(name), OFlags::RDONLY, Mode::empty()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EXDEV), "{name}");
    }
}

#[test]
fn what_is_missing_is_made_inside_whatever_the_links_say() {
    let (dir, root) = root();
    let inside = dir.path().join("root");
    symlink("../../../a/b", inside.join("up")).unwrap();
    symlink("/var/run", inside.join("run")).unwrap();
    symlink("up", inside.join("twice")).unwrap();
    ensure_in_root(root.as_fd(), Path::new("/up/c"), Leaf::Directory).unwrap();
    ensure_in_root(root.as_fd(), Path::new("/run/secrets/token"), Leaf::File).unwrap();
    ensure_in_root(root.as_fd(), Path::new("/twice"), Leaf::Directory).unwrap();
    ensure_in_root(root.as_fd(), Path::new("/x/../../../y"), Leaf::Directory).unwrap();
    assert!(inside.join("a/b/c").is_dir());
    assert!(inside.join("var/run/secrets/token").is_file());
    assert!(inside.join("y").is_dir());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing was made outside");
}

#[test]
fn a_link_loop_ends() {
    let (dir, root) = root();
    symlink("loop", dir.path().join("root/loop")).unwrap();
    let error = ensure_in_root(root.as_fd(), Path::new("/loop/x"), Leaf::Directory).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
}

#[test]
fn what_stands_already_is_opened_as_it_is() {
    let (dir, root) = root();
    fs::write(dir.path().join("root/file"), "x").unwrap();
    let fd = ensure_in_root(root.as_fd(), Path::new("/file"), Leaf::Directory).unwrap();
    assert!(!is_link(&fd).unwrap());
}
