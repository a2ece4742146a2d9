//! The archive of a checkpoint: a tar with `checkpoint/`, `rootfs-diff.tar`, `deleted.files` and the JSON files, as CRI-O
//! and podman write it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{criu, layer, metadata};

/// An archive that is being written, beside where it will be. It goes away unless it is finished.
pub(super) struct Part(PathBuf);

impl Part {
    /// Names it; nothing is made yet.
    pub(super) fn new(location: &Path, id: &str) -> Self {
        let mut name = location.as_os_str().to_owned();
        name.push(format!(".{id}.part"));
        Self(name.into())
    }

    fn create(&self) -> io::Result<File> {
        // What a runtime that was killed left.
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The memory of a container holds secrets.
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.0)
    }

    /// Puts it where it belongs, in one step.
    pub(super) fn finish(self, location: &Path) -> io::Result<()> {
        fs::rename(&self.0, location)?;
        // Otherwise it is not kept after a power loss.
        File::open(location.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.0.display(), %error, "a half-written checkpoint stays");
            }
            _ => {}
        }
    }
}

/// Takes what is written until a point in time, and fails then.
struct Until<W> {
    deadline: Instant,
    file: W,
}

impl<W: Write> Write for Until<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if Instant::now() >= self.deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "time is up"));
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes all of it and syncs it.
///
/// # Errors
/// What the disk gives, and `TimedOut` at the deadline.
pub(super) fn write(
    part: &Part,
    directory: &Path,
    layers: &[PathBuf],
    described: &metadata::Described,
    deadline: Instant,
) -> io::Result<()> {
    let mut archive = tar::Builder::new(Until { deadline, file: part.create()? });
    archive.follow_symlinks(false);
    for (name, content) in described {
        plain(&mut archive, name, content)?;
    }
    archive.append_dir_all("checkpoint", directory.join(criu::IMAGES))?;
    for name in [criu::LOG, criu::STATS] {
        match File::open(directory.join(name)) {
            Ok(mut file) => archive.append_file(name, &mut file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let path = directory.join("rootfs-diff.tar");
    let mut changed = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    let within = Until { deadline, file: &changed };
    let gone = layer::write(&directory.join(criu::UPPER), layers, io::BufWriter::new(within))?;
    changed.rewind()?;
    archive.append_file("rootfs-diff.tar", &mut changed)?;
    if !gone.is_empty() {
        let gone: Vec<_> = gone.iter().map(|path| path.to_string_lossy()).collect();
        plain(&mut archive, "deleted.files", &serde_json::to_vec(&gone)?)?;
    }
    archive.into_inner()?.file.sync_all()
}

fn plain(archive: &mut tar::Builder<impl Write>, name: &str, content: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o600);
    archive.append_data(&mut header, name, content)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_archive_whose_time_is_up_is_not_written() {
        let directory = tempfile::tempdir().expect("tempdir");
        for part in [criu::IMAGES, criu::UPPER] {
            fs::create_dir(directory.path().join(part)).expect("mkdir");
        }
        let location = directory.path().join("a.tar");
        let part = Part::new(&location, "id");
        let written = |deadline| write(&part, directory.path(), &[], &vec![("status", b"{}".to_vec())], deadline);
        let late = written(Instant::now()).expect_err("late");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        written(Instant::now() + Duration::from_secs(60)).expect("in time");
        part.finish(&location).expect("finished");
        let mut archive = tar::Archive::new(File::open(&location).expect("open"));
        assert!(archive.entries().expect("entries").count() >= 3);
    }
}
