//! The guest's only file system: a cpio archive in the form that the kernel unpacks ("newc", initramfs buffer format).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_000;

#[derive(Default)]
pub(crate) struct Initramfs {
    bytes: Vec<u8>,
    known: BTreeSet<PathBuf>,
}

impl Initramfs {
    pub(crate) fn directory(&mut self, path: impl AsRef<Path>) {
        let path = path.as_ref();
        if path.parent().is_none() || self.known.contains(path) {
            return;
        }
        self.parents(path);
        self.entry(path, DIRECTORY, &[]);
    }

    /// A file, unless there is one of that path.
    pub(crate) fn file(&mut self, path: impl AsRef<Path>, mode: u32, content: &[u8]) {
        let path = path.as_ref();
        if !self.known.contains(path) {
            self.parents(path);
            self.entry(path, FILE | mode, content);
        }
    }

    /// A file of the machine, where it lies there.
    pub(crate) fn copy(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let metadata = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
        self.file(path, metadata.permissions().mode() & 0o7777, &fs::read(path)?);
        Ok(())
    }

    /// A program of the machine at another place, without its symbols, and the libraries that it needs.
    pub(crate) fn program(&mut self, from: &Path, to: impl AsRef<Path>) -> Result<()> {
        let libraries = libraries(from)?;
        let stripped = tempfile::NamedTempFile::new()?;
        let output = Command::new("strip").arg("-o").arg(stripped.path()).arg(from).output()?;
        ensure!(output.status.success(), "strip: {}", String::from_utf8_lossy(&output.stderr));
        self.file(to, 0o755, &fs::read(stripped.path())?);
        libraries.iter().try_for_each(|library| self.copy(library))
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry(Path::new("/TRAILER!!!"), 0, &[]);
        self.bytes
    }

    fn parents(&mut self, path: &Path) {
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) {
        let name = path.to_str().expect("paths of tests are text").trim_start_matches('/');
        let inode = self.known.len() + 1;
        let fields = [inode, mode as usize, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        self.known.insert(path.to_owned());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Paths of the libraries that a program loads, its loader among them; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8(output.stdout)?;
    let paths = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}
