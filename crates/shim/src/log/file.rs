//! A log file that rotates by size, as the kubelet names and keeps rotated files.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use podd_shim::wire::{LogLimits, LogSpec};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};

use crate::clock;

/// The live log.
#[derive(Debug)]
pub(crate) struct LogFile {
    spec: LogSpec,
    file: Option<File>,
    size: u64,
    dropped: u64,
    /// The last rotation's suffix.
    rotated: String,
}

impl LogFile {
    /// Opens or creates the file and appends to it.
    pub(crate) fn open(spec: LogSpec) -> io::Result<Self> {
        let (file, size) = open(&spec.path)?;
        Ok(Self { spec, file: Some(file), size, dropped: 0, rotated: String::new() })
    }

    /// Opens the path anew, after somebody renamed the file.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        let (file, size) = open(&self.spec.path)?;
        (self.file, self.size) = (Some(file), size);
        Ok(())
    }

    /// Changes when it rotates.
    pub(crate) fn set_limits(&mut self, limits: LogLimits) {
        self.spec.limits = limits;
    }

    /// Bytes that could not be written.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether the limit would be passed by this many bytes: then it is time to append what there is before them.
    pub(super) fn is_full_after(&self, bytes: usize) -> bool {
        let limit = self.spec.limits.max_size;
        limit > 0 && self.size + bytes as u64 > limit
    }

    /// Appends whole lines, rotating first if they would pass the limit. A failure is counted and forgotten: the next
    /// batch may fit again.
    pub(super) fn append(&mut self, lines: &[u8]) {
        if self.size > 0 && self.is_full_after(lines.len()) {
            self.rotate();
        }
        let Some(file) = &mut self.file else {
            // A rotation that could not open the new file; the directory may be back.
            self.dropped += lines.len() as u64;
            let _still_gone = self.reopen();
            return;
        };
        match file.write_all(lines) {
            Ok(()) => self.size += lines.len() as u64,
            Err(_) => {
                self.dropped += lines.len() as u64;
                // Part of a line may stand at the end: readers would join it with the next.
                let _best_effort = file.set_len(self.size);
            }
        }
    }

    fn rotate(&mut self) {
        let now = clock::now();
        let stamp = clock::compact(now);
        let name = |suffix: &str| {
            let mut name = self.spec.path.clone().into_os_string();
            name.push(suffix);
            name
        };
        // The second's plain name sorts first, so it is not for a later rotation though a removal has freed it.
        let plain = (stamp != self.rotated).then(|| name(&format!(".{stamp}")));
        let unique = name(&format!(".{stamp}.{:09}", clock::fraction(now)));
        let renamed = plain
            .iter()
            .chain([&unique])
            .any(|name| renameat_with(CWD, &self.spec.path, CWD, name, RenameFlags::NOREPLACE).is_ok());
        if !renamed {
            return;
        }
        self.rotated = stamp;
        self.file = None;
        let _counted_by_the_next_append = self.reopen();
        let _best_effort = self.remove_oldest();
    }

    /// Keeps `max_files` files, the live one included. Names sort by time: a suffix beyond the second sorts after none.
    fn remove_oldest(&self) -> io::Result<()> {
        let keep = match self.spec.limits.max_files {
            0 => return Ok(()),
            files => files as usize - 1,
        };
        let (Some(directory), Some(name)) = (self.spec.path.parent(), self.spec.path.file_name()) else {
            return Ok(());
        };
        let mut prefix = name.as_encoded_bytes().to_vec();
        prefix.push(b'.');
        let mut rotated: Vec<OsString> = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let name = entry?.file_name();
            if name.as_encoded_bytes().starts_with(&prefix) {
                rotated.push(name);
            }
        }
        rotated.sort_unstable();
        for name in &rotated[..rotated.len().saturating_sub(keep)] {
            std::fs::remove_file(directory.join(name))?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd: OwnedFd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o640))?;
    let size = rustix::fs::fstat(fd.as_fd())?.st_size;
    Ok((File::from(fd), u64::try_from(size).unwrap_or(0)))
}
