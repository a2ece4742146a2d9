//! The files of one container's log in the order they were written: what rotation put aside, then the live file.
//!
//! Rotation renames `<n>.log` to `<n>.log.<suffix>` and starts a new `<n>.log`. A suffix is a time (`20260102-030405`,
//! ascending with age falling) as the kubelet writes it, or a count (`.1` is the newest). Names change under the reader's
//! eyes, so that a listing is only believed once it was the same twice, and files are told apart by inode.

use std::{
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// How often a listing may change while it is read before the last one is taken as it is.
const PATIENCE: usize = 20;

/// A file and what tells it from all others for as long as it is open.
#[derive(Debug)]
pub struct LogFile {
    /// Open for reading.
    pub file: File,
    /// Device and inode.
    pub id: (u64, u64),
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let id = identity(&file.metadata()?);
        Ok(Self { file, id })
    }
}

fn identity(metadata: &std::fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// All files of the log at `live`, oldest first; without the live file while a rotation has none yet. Compressed ones are
/// left out.
pub fn open_all(live: &Path) -> io::Result<Vec<LogFile>> {
    let mut opened = Vec::new();
    for _ in 0..PATIENCE {
        let before = list(live)?;
        opened = match before.iter().map(|path| LogFile::open(path)).collect::<io::Result<Vec<_>>>() {
            Ok(opened) => opened,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let now = list(live)?.iter().map(|path| Ok(identity(&path.metadata()?))).collect::<io::Result<Vec<_>>>();
        match now {
            Ok(now) if now.iter().eq(opened.iter().map(|file| &file.id)) => return Ok(opened),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(opened)
}

/// Whether this file is no longer the one at `live`.
pub fn is_rotated(live: &Path, file: &LogFile) -> io::Result<bool> {
    match live.metadata() {
        Ok(metadata) => Ok(identity(&metadata) != file.id),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

fn list(live: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (live.parent(), live.file_name().and_then(|name| name.to_str())) else {
        return Err(io::Error::from(ErrorKind::InvalidInput));
    };
    let mut rotated = Vec::new();
    let mut live_exists = false;
    for entry in std::fs::read_dir(directory)? {
        let entry_name = entry?.file_name();
        let Some(entry_name) = entry_name.to_str() else { continue };
        if entry_name == name {
            live_exists = true;
        } else if let Some(suffix) = entry_name.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'))
            && let Some(age) = Age::of(suffix)
        {
            rotated.push((age, directory.join(entry_name)));
        }
    }
    rotated.sort();
    let mut paths: Vec<PathBuf> = rotated.into_iter().map(|(_, path)| path).collect();
    if live_exists {
        paths.push(live.to_owned());
    }
    Ok(paths)
}

/// Sorts rotated files from the oldest on.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    Count(std::cmp::Reverse<u32>),
    Time(String),
}

impl Age {
    /// `None` for what is not ours or compressed.
    fn of(suffix: &str) -> Option<Self> {
        if suffix.len() <= 6 && suffix.bytes().all(|b| b.is_ascii_digit()) {
            return suffix.parse().ok().map(|count| Self::Count(std::cmp::Reverse(count)));
        }
        let is_time = suffix.starts_with(|c: char| c.is_ascii_digit())
            && suffix.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'T' | b'Z'));
        is_time.then(|| Self::Time(suffix.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &[&str]) -> Vec<String> {
        let directory = tempfile::tempdir().expect("a directory");
        for file in files {
            std::fs::write(directory.path().join(file), "").expect("written");
        }
        let listed = list(&directory.path().join("0.log")).expect("listed");
        listed.iter().map(|p| p.file_name().expect("a name").to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn rotated_files_come_oldest_first_and_the_live_one_last() {
        let times = ["0.log", "0.log.20260102-030405", "0.log.20251231-235959", "1.log", "0.log.20260102-030406.gz"];
        assert_eq!(names(&times), ["0.log.20251231-235959", "0.log.20260102-030405", "0.log"]);
        assert_eq!(names(&["0.log.1", "0.log.10", "0.log", "0.log.2"]), ["0.log.10", "0.log.2", "0.log.1", "0.log"]);
        assert_eq!(names(&["0.log.1", "0.log.tmp"]), ["0.log.1"]);
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        assert_eq!(open_all(Path::new("/nowhere/at/all/0.log")).expect_err("no").kind(), ErrorKind::NotFound);
    }
}
