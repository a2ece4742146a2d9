//! The archive of a checkpoint: a tar with `checkpoint/`, `rootfs-diff.tar`, `deleted.files` and the JSON files, as CRI-O
//! and podman write it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

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

/// Writes all of it and syncs it.
pub(super) fn write(
    part: &Part,
    directory: &Path,
    layers: &[PathBuf],
    described: &metadata::Described,
) -> io::Result<()> {
    let file = part.create()?;
    let mut archive = tar::Builder::new(file);
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
    let gone = layer::write(&directory.join(criu::UPPER), layers, io::BufWriter::new(&changed))?;
    changed.rewind()?;
    archive.append_file("rootfs-diff.tar", &mut changed)?;
    if !gone.is_empty() {
        let gone: Vec<_> = gone.iter().map(|path| path.to_string_lossy()).collect();
        plain(&mut archive, "deleted.files", &serde_json::to_vec(&gone)?)?;
    }
    archive.into_inner()?.sync_all()
}

fn plain(archive: &mut tar::Builder<File>, name: &str, content: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o600);
    archive.append_data(&mut header, name, content)
}
