//! Files that change all at once. They lie in a directory with a time in its name, `..data` is a link to it, and what a
//! container sees of them are links through that one: a rename of `..data` changes all of them. Layout and order are
//! those of the kubelet's atomic writer, for programs that watch `..data` for a change.
//!
//! ```text
//!  name      → ..data/name
//!  directory → ..data/directory
//!  ..data    → ..2026_11_27_05_12_48.0
//!  ..2026_11_27_05_12_48.0/{name,directory/file}
//! ```

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::File as Handle,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use jiff::Timestamp;
use rustix::{
    fs::{self, AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::{
    projection::{File, Files},
    tree,
};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";
/// Of directories: whoever may read a file must find it.
const OPEN: Mode = Mode::from_raw_mode(0o755);

/// Makes the directory show exactly these files; what is so already is left as it is. Whether anything was changed.
///
/// With a group, files are its and it may read them, as the kubelet's `fsGroup` on a read-only volume.
pub(super) fn write(directory: &OwnedFd, files: &Files, group: Option<u32>, now: Timestamp) -> io::Result<bool> {
    let old = current(directory)?;
    let mode = |file: &File| file.mode | group.map_or(0, |_| 0o440);
    let is_same = match &old {
        None => false,
        Some(old) => matches!(read(directory, old), Ok(found) if
        found.len() == files.len()
        && found.iter().zip(files).all(|(found, wanted)| {
            found.0 == wanted.0 && found.1.data == wanted.1.data && found.1.mode == mode(wanted.1)
        })),
    };
    if !is_same {
        let new = make_directory(directory, now)?;
        fill(&tree::open_child(directory, &new)?, files, group, mode)
            .and_then(|()| point(directory, &new))
            .inspect_err(|_| {
                // The error is what matters; the next write clears what is left.
                let _ = tree::remove(directory, &new);
            })?;
    }
    // Also after a write that was broken off between its steps.
    let shown = show(directory, files)?;
    clear(directory)?;
    Ok(!is_same || shown)
}

/// The directory that `..data` points to.
fn current(directory: &OwnedFd) -> io::Result<Option<String>> {
    match fs::readlinkat(directory, DATA, Vec::new()) {
        Ok(target) => Ok(target.into_string().ok().filter(|name| name.starts_with("..") && !name.contains('/'))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The files that there are.
fn read(directory: &OwnedFd, name: &str) -> io::Result<Files> {
    let mut files = Files::new();
    let mut directories = vec![(tree::open_child(directory, name)?, String::new())];
    while let Some((directory, prefix)) = directories.pop() {
        for (name, kind) in entries(directory.as_fd())? {
            let path = format!("{prefix}{name}");
            if kind == FileType::Directory {
                directories.push((tree::open_child(&directory, &name)?, format!("{path}/")));
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = fs::openat(&directory, &*name, flags, Mode::empty())?;
            let mode = Mode::from_raw_mode(fs::fstat(&file)?.st_mode).bits() & 0o7777;
            let mut data = Vec::new();
            Handle::from(file).read_to_end(&mut data)?;
            files.insert(path, File { data, mode });
        }
    }
    Ok(files)
}

fn make_directory(directory: &OwnedFd, now: Timestamp) -> io::Result<String> {
    for number in 0..1000 {
        let name = format!("..{}.{number}", now.strftime("%Y_%m_%d_%H_%M_%S"));
        match fs::mkdirat(directory, &*name, OPEN) {
            Ok(()) => return Ok(name),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::EXIST.into())
}

fn fill(top: &OwnedFd, files: &Files, group: Option<u32>, mode: impl Fn(&File) -> u32) -> io::Result<()> {
    own_directory(top, group)?;
    for (path, file) in files {
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut parent = top.try_clone()?;
        for part in parents.split('/').filter(|part| !part.is_empty()) {
            match fs::mkdirat(&parent, part, OPEN) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            parent = tree::open_child(&parent, part)?;
            own_directory(&parent, group)?;
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let handle = fs::openat2(&parent, name, flags, Mode::from_raw_mode(0o600), ResolveFlags::BENEATH)?;
        if let Some(group) = group {
            fs::fchown(&handle, None, Some(Gid::from_raw(group)))?;
        }
        // The umask does not count, and nobody reads half a file.
        let mut handle = Handle::from(handle);
        handle.write_all(&file.data)?;
        fs::fchmod(&handle, Mode::from_raw_mode(mode(file)))?;
    }
    Ok(())
}

fn own_directory(directory: &OwnedFd, group: Option<u32>) -> io::Result<()> {
    let setgid = match group {
        Some(group) => {
            fs::fchown(directory, None, Some(Gid::from_raw(group)))?;
            Mode::SGID
        }
        None => Mode::empty(),
    };
    Ok(fs::fchmod(directory, OPEN | setgid)?)
}

/// Lets `..data` point to another directory, in one step.
fn point(directory: &OwnedFd, new: &str) -> io::Result<()> {
    match fs::unlinkat(directory, DATA_NEW, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    fs::symlinkat(new, directory, DATA_NEW)?;
    Ok(fs::renameat(directory, DATA_NEW, directory, DATA)?)
}

/// Makes the links that are seen be those of the files. Whether anything was changed.
fn show(directory: &OwnedFd, files: &Files) -> io::Result<bool> {
    let top = |path: &'_ String| path.split('/').next().unwrap_or_default().to_owned();
    let mut missing: BTreeSet<String> = files.keys().map(top).collect();
    let mut changed = false;
    for (name, kind) in entries(directory.as_fd())?.into_iter().filter(|(name, _)| !name.starts_with("..")) {
        if kind == FileType::Symlink && !missing.remove(&name) {
            fs::unlinkat(directory, &*name, AtFlags::empty())?;
            changed = true;
        }
    }
    for name in missing {
        fs::symlinkat(format!("{DATA}/{name}"), directory, &*name)?;
        changed = true;
    }
    Ok(changed)
}

/// Removes the directories that nothing points to.
fn clear(directory: &OwnedFd) -> io::Result<()> {
    let current = current(directory)?;
    let is_old = |name: &str| name.starts_with("..") && name != DATA && Some(name) != current.as_deref();
    for (name, _) in entries(directory.as_fd())?.into_iter().filter(|(name, _)| is_old(name)) {
        if let Some(left) = tree::remove(directory, &name).into_iter().next() {
            return Err(io::Error::other(left.to_string()));
        }
    }
    Ok(())
}

/// What is in a directory; names that are no text cannot be ours.
fn entries(directory: BorrowedFd<'_>) -> io::Result<Vec<(String, FileType)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if let Some(name) = OsStr::from_bytes(name).to_str().filter(|name| !matches!(*name, "." | "..")) {
            let kind = match entry.file_type() {
                // Some file systems do not say it in the listing.
                FileType::Unknown => {
                    let found = fs::statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(found.st_mode)
                }
                kind => kind,
            };
            found.push((name.to_owned(), kind));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn files(rows: &[(&str, &str, u32)]) -> Files {
        let row = |(path, data, mode): &(&str, &str, u32)| {
            ((*path).to_owned(), File { data: data.as_bytes().to_vec(), mode: *mode })
        };
        rows.iter().map(row).collect()
    }

    fn open(directory: &tempfile::TempDir) -> OwnedFd {
        tree::open_directory(directory.path()).expect("opened")
    }

    fn names(directory: &tempfile::TempDir) -> Vec<String> {
        let mut names: Vec<String> =
            entries(open(directory).as_fd()).expect("listed").into_iter().map(|e| e.0).collect();
        names.sort();
        names
    }

    fn text(directory: &tempfile::TempDir, path: &str) -> String {
        std::fs::read_to_string(directory.path().join(path)).expect("a file")
    }

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn a_change_replaces_all_files_at_once_and_leaves_nothing_of_the_old() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = open(&directory);
        let first = files(&[("a", "1", 0o644), ("d/e/f", "2", 0o400), ("gone", "", 0o644)]);
        assert!(write(&at, &first, None, NOW).expect("written"));
        assert_eq!(names(&directory), ["..1970_01_01_00_00_00.0", "..data", "a", "d", "gone"]);
        assert_eq!(text(&directory, "d/e/f"), "2");
        let mode = |path: &str| std::fs::metadata(directory.path().join(path)).expect("there").permissions().mode();
        assert_eq!((mode("a") & 0o7777, mode("d/e/f") & 0o7777, mode("d/e") & 0o7777), (0o644, 0o400, 0o755));
        assert!(!write(&at, &first, None, NOW).expect("nothing to do"));

        let held = std::fs::canonicalize(directory.path().join("..data")).expect("a directory");
        let second = files(&[("a", "one", 0o644), ("d/e/f", "2", 0o400), ("new", "3", 0o644)]);
        assert!(write(&at, &second, None, NOW).expect("written"));
        assert_eq!(names(&directory), ["..1970_01_01_00_00_00.1", "..data", "a", "d", "new"]);
        assert_eq!((text(&directory, "a"), text(&directory, "new")), ("one".into(), "3".into()));
        assert!(!held.exists());
        let link = std::fs::read_link(directory.path().join("a")).expect("a link");
        assert_eq!(link.to_str(), Some("..data/a"));
    }

    #[test]
    fn a_mode_alone_is_a_change_and_no_files_are_files_too() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = open(&directory);
        assert!(write(&at, &files(&[("a", "1", 0o644)]), None, NOW).expect("written"));
        assert!(write(&at, &files(&[("a", "1", 0o600)]), None, NOW).expect("written"));
        assert!(write(&at, &files(&[]), None, NOW).expect("written"));
        assert_eq!(names(&directory), ["..1970_01_01_00_00_00.0", "..data"]);
        assert!(!write(&at, &files(&[]), None, NOW).expect("nothing to do"));
    }

    #[test]
    fn a_write_that_was_broken_off_is_made_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = open(&directory);
        let wanted = files(&[("a", "1", 0o644)]);
        write(&at, &wanted, None, NOW).expect("written");
        std::fs::remove_file(directory.path().join("a")).expect("removed");
        std::fs::create_dir(directory.path().join("..half")).expect("made");
        std::os::unix::fs::symlink("..half", directory.path().join("..data_tmp")).expect("made");
        assert!(write(&at, &wanted, None, NOW).expect("written"));
        assert_eq!(names(&directory), ["..1970_01_01_00_00_00.0", "..data", "a"]);
    }

    #[test]
    fn a_group_may_read_what_it_owns() {
        let directory = tempfile::tempdir().expect("a directory");
        let wanted = files(&[("d/a", "1", 0o400)]);
        assert!(write(&open(&directory), &wanted, Some(4321), NOW).expect("written"));
        let found = std::fs::metadata(directory.path().join("d/a")).expect("there");
        assert_eq!((found.gid(), found.mode() & 0o7777), (4321, 0o440));
        let above = std::fs::metadata(directory.path().join("d")).expect("there");
        assert_eq!((above.gid(), above.mode() & 0o7777), (4321, 0o2755));
        assert!(!write(&open(&directory), &wanted, Some(4321), NOW).expect("nothing to do"));
    }
}
