//! How much a pod's volumes hold, for those who evict. A volume in memory knows it by itself; a directory is walked, as `du`
//! does it: blocks on disk, each file once however many names it has, no other file system.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
};

use k8s_openapi::api::core::v1::Pod;
use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::{Volumes, empty_dir, tree};

/// What one volume holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk, or of memory.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
    /// It is memory, and limited by itself.
    pub in_memory: bool,
}

impl Volumes {
    /// What a pod's emptyDir volumes hold, by name; one that is not there yet is left out. Blocking: a walk over the files
    /// of those on disk.
    ///
    /// # Errors
    /// When the kernel refuses. Files that go meanwhile are no error.
    pub fn usage(&self, pod: &Pod) -> io::Result<BTreeMap<String, Usage>> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut all = BTreeMap::new();
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        for volume in volumes.filter(|volume| volume.empty_dir.is_some()) {
            let path = self.pods.join(uid).join("volumes/empty-dir").join(&volume.name);
            let top = match tree::open_directory(&path) {
                Err(Errno::NOENT) => continue,
                top => top?,
            };
            let usage = if empty_dir::is_mount_point(&top)? { of_memory(top.as_fd())? } else { of_tree(top.as_fd())? };
            all.insert(volume.name.clone(), usage);
        }
        Ok(all)
    }
}

fn of_memory(top: BorrowedFd<'_>) -> io::Result<Usage> {
    let found = fs::fstatvfs(top)?;
    Ok(Usage {
        bytes: (found.f_blocks - found.f_bfree) * found.f_frsize,
        inodes: found.f_files - found.f_ffree,
        in_memory: true,
    })
}

fn of_tree(top: BorrowedFd<'_>) -> io::Result<Usage> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let blocks = |found: &fs::Stat| u64::try_from(found.st_blocks).unwrap_or(0) * 512;
    let mut usage = Usage { bytes: blocks(&fs::fstat(top)?), inodes: 1, in_memory: false };
    let mut names = HashSet::new();
    let mut rest = VecDeque::from([PathBuf::from(".")]);
    while let Some(path) = rest.pop_front() {
        let directory = match fs::openat2(top, &path, flags, Mode::empty(), how) {
            // Gone, swapped, or what a container has mounted.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => continue,
            directory => directory?,
        };
        for entry in fs::Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let found = match fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                found => found?,
            };
            let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
            if is_directory {
                rest.push_back(path.join(OsStr::from_bytes(name.to_bytes())));
            } else if found.st_nlink > 1 && !names.insert((found.st_dev, found.st_ino)) {
                continue;
            }
            usage.bytes += blocks(&found);
            usage.inodes += 1;
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_volume_holds_what_is_in_it_once() {
        let place = tempfile::tempdir().expect("a directory");
        let volumes = Volumes::new(place.path().join("pods"));
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [], "volumes": [
            {"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}]}}))
        .expect("a pod");
        assert!(volumes.usage(&pod).expect("nothing yet").is_empty());
        let made = volumes.set_up(&pod, &BTreeMap::new()).expect("made");
        let disk = &made["disk"].path;
        let before = volumes.usage(&pod).expect("measured");
        std::fs::create_dir(disk.join("d")).expect("made");
        std::fs::write(disk.join("d/file"), vec![1; 1 << 20]).expect("written");
        std::fs::hard_link(disk.join("d/file"), disk.join("other")).expect("linked");
        std::os::unix::fs::symlink("/usr", disk.join("usr")).expect("linked");
        std::fs::write(made["memory"].path.join("file"), vec![1; 1 << 20]).expect("written");
        let after = volumes.usage(&pod).expect("measured");
        let more = |name: &str| after[name].bytes - before[name].bytes;
        assert!((1 << 20..(1 << 20) + 65_536).contains(&more("disk")), "{}", more("disk"));
        assert_eq!(more("memory"), 1 << 20);
        assert_eq!(after["disk"].inodes - before["disk"].inodes, 3);
        assert!(after["memory"].in_memory && !after["disk"].in_memory);
        volumes.tear_down("u").expect("gone");
    }
}
