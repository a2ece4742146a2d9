//! Random trees, packed by the machine's `tar`, unpack to the same trees.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use super::super::*;

const GNU: &str = "--format=gnu";
const POSIX: &str = "--format=posix";

#[derive(Clone, Debug)]
enum Kind {
    Directory,
    File(Vec<u8>),
    /// Content at an offset that leaves a hole.
    Sparse(u64, Vec<u8>),
    Symlink(Vec<u8>),
    /// To one of the files so far.
    Link(prop::sample::Index),
    Fifo,
    Device(u32, u32),
}

#[derive(Clone, Debug)]
struct Node {
    parent: prop::sample::Index,
    name: Vec<u8>,
    kind: Kind,
    mode: u32,
    owner: (u32, u32),
    mtime: (u32, u32),
    xattr: Option<Vec<u8>>,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no part of a name", |b| !matches!(b, 0 | b'/'));
    prop_oneof![
        4 => "[a-z]{1,8}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(byte, 1..20),
        1 => "[a-z]{90,255}".prop_map(String::into_bytes),
    ]
    .prop_filter("a name that means something", |name| !matches!(&name[..], b"." | b"..") && !name.starts_with(b".wh."))
}

fn kind() -> impl Strategy<Value = Kind> {
    let content = || proptest::collection::vec(any::<u8>(), 0..3000);
    let target = proptest::collection::vec(any::<u8>().prop_filter("NUL", |b| *b != 0), 1..200);
    prop_oneof![
        4 => Just(Kind::Directory),
        4 => content().prop_map(Kind::File),
        1 => (1_u64..2_000_000, content()).prop_map(|(at, content)| Kind::Sparse(at, content)),
        2 => target.prop_map(Kind::Symlink),
        2 => any::<prop::sample::Index>().prop_map(Kind::Link),
        1 => Just(Kind::Fifo),
        1 => (1_u32..200, 0_u32..200).prop_map(|(major, minor)| Kind::Device(major, minor)),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    let fields = (
        any::<prop::sample::Index>(),
        name(),
        kind(),
        0_u32..0o10000,
        prop_oneof![Just((0, 0)), (0_u32..70_000, 0_u32..3_000_000)],
        (any::<u32>(), 0_u32..1_000_000_000),
        proptest::option::weighted(0.2, proptest::collection::vec(any::<u8>(), 1..40)),
    );
    fields.prop_map(|(parent, name, kind, mode, owner, mtime, xattr)| Node {
        parent,
        name,
        kind,
        mode,
        owner,
        mtime,
        xattr,
    })
}

/// Makes the tree; nodes whose name is taken are passed over.
fn grow(root: &Path, nodes: &[Node]) {
    let mut directories = vec![root.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    let mut made: Vec<(PathBuf, &Node)> = Vec::new();
    for node in nodes {
        let path = node.parent.get(&directories).join(OsStr::from_bytes(&node.name));
        if fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match &node.kind {
            Kind::Directory => {
                fs::create_dir(&path).unwrap();
                directories.push(path.clone());
            }
            Kind::File(content) => fs::write(&path, content).unwrap(),
            Kind::Sparse(at, content) => {
                let mut file = File::create(&path).unwrap();
                file.seek(SeekFrom::Start(*at)).unwrap();
                file.write_all(content).unwrap();
                file.set_len(at + content.len() as u64 + 5000).unwrap();
            }
            Kind::Symlink(target) => symlink(OsStr::from_bytes(target), &path).unwrap(),
            Kind::Link(which) if !files.is_empty() => {
                fs::hard_link(which.get(&files), &path).unwrap();
                continue;
            }
            Kind::Link(_) => continue,
            Kind::Fifo => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::empty(), 0).unwrap(),
            Kind::Device(major, minor) => {
                let device = rustix::fs::makedev(*major, *minor);
                rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), device).unwrap();
            }
        }
        if matches!(node.kind, Kind::File(_) | Kind::Sparse(..)) {
            files.push(path.clone());
        }
        made.push((path, node));
    }
    // From the leaves up, because filling a directory changes its time.
    for (path, node) in made.iter().rev() {
        lchown(path, Some(node.owner.0), Some(node.owner.1)).unwrap();
        if !matches!(node.kind, Kind::Symlink(_)) {
            fs::set_permissions(path, fs::Permissions::from_mode(node.mode)).unwrap();
        }
        if let (Some(value), Kind::File(_) | Kind::Directory) = (&node.xattr, &node.kind) {
            rustix::fs::lsetxattr(path, "user.test", value, XattrFlags::empty()).unwrap();
        }
        let times = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 },
            last_modification: rustix::fs::Timespec { tv_sec: node.mtime.0.into(), tv_nsec: node.mtime.1.into() },
        };
        rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// All that can be seen of a node.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    device: u64,
    content: Vec<u8>,
    xattr: Option<Vec<u8>>,
    /// All names of the same file.
    names: BTreeSet<PathBuf>,
}

/// A tree as `format` can keep it: GNU's own has no attributes and whole seconds.
fn look(root: &Path, format: &str) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut by_inode: BTreeMap<u64, BTreeSet<PathBuf>> = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let relative = path.strip_prefix(root).unwrap().to_owned();
        let content = match metadata.file_type() {
            kind if kind.is_file() => fs::read(&path).unwrap(),
            kind if kind.is_symlink() => fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
            kind if kind.is_dir() => {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                Vec::new()
            }
            _ => Vec::new(),
        };
        let (nanos, xattr) = match format {
            POSIX => (metadata.mtime_nsec(), super::xattr(&path, "user.test")),
            _ => (0, None),
        };
        by_inode.entry(metadata.ino()).or_default().insert(relative.clone());
        inodes.insert(relative.clone(), metadata.ino());
        let entry = Seen {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            mtime: (metadata.mtime(), nanos),
            device: metadata.rdev(),
            content,
            xattr,
            names: BTreeSet::new(),
        };
        seen.insert(relative, entry);
    }
    for (path, entry) in &mut seen {
        entry.names.clone_from(&by_inode[&inodes[path]]);
    }
    seen
}

fn pack(root: &Path, format: &str, sparse: bool) -> Vec<u8> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--numeric-owner", format]);
    if format == POSIX {
        tar.args(["--xattrs", "--xattrs-include=*"]);
    }
    if sparse {
        tar.arg("--sparse");
    }
    let output = tar.arg("-C").arg(root).arg(".").stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_that_tar_packs_unpacks_equal(nodes in proptest::collection::vec(node(), 0..30), sparse in any::<bool>()) {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("made");
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        grow(&root, &nodes);
        for format in [GNU, POSIX] {
            let archive = pack(&root, format, sparse);
            let layer = place.path().join(format);
            fs::create_dir(&layer).unwrap();
            unpack(&archive[..], &layer, "layer x", &Limits::default()).unwrap();
            let (made, found) = (look(&root, format), look(&layer, format));
            prop_assert_eq!(made.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
            for (path, seen) in &made {
                prop_assert_eq!(seen, &found[path], "{} {:?}", format, path);
            }
        }
    }
}
