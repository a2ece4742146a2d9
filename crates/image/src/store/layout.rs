//! The files of the store: where each thing lies, and how it gets there and goes away in one step.
//!
//! Small files are synced before they are renamed. Layers are too big for that: they carry a mark with the boot
//! they were unpacked in, which a sync of the whole file system in the background takes off. A mark of another
//! boot means that the power may have gone first, and the layer with it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use super::Index;
use crate::digest::{Digest, SHORT_LEN};
use crate::error::{During as _, Error};

const LAYOUT_VERSION: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const RECORD: &str = "layer.json";
const UNSYNCED: &str = "unsynced";

/// An unpacked layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Layer {
    /// Of this record.
    version: u32,
    pub(crate) diff_id: Digest,
    /// On disk, blocks rounded up.
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    /// The name of its directory, a prefix of its digest.
    #[serde(skip)]
    pub(crate) short: String,
}

impl Layer {
    pub(crate) fn new(diff_id: Digest, bytes: u64, inodes: u64) -> Layer {
        Layer { version: 1, diff_id, bytes, inodes, short: String::new() }
    }
}

/// The directories, and the sync that runs behind.
pub(crate) struct Layout {
    root: PathBuf,
    boot: String,
    next: AtomicU64,
    /// Layers whose mark is still to be taken off.
    unsynced: Mutex<BTreeSet<String>>,
    flusher: Mutex<Option<JoinHandle<()>>>,
    _lock: File,
}

impl Layout {
    /// Makes the directories, takes the lock and empties `tmp`.
    pub(crate) fn open(root: PathBuf, boot: String) -> Result<Layout, Error> {
        for part in ["blobs/sha256", "layers", "tmp"] {
            let path = root.join(part);
            fs::create_dir_all(&path).during("make directory", &path)?;
        }
        let path = root.join("lock");
        let lock = File::create(&path).during("create", &path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(Error::Locked { root }),
            Err(fs::TryLockError::Error(error)) => return Err(error).during("lock", &path),
        }
        let layout = Layout {
            root,
            boot,
            next: AtomicU64::new(0),
            unsynced: Mutex::default(),
            flusher: Mutex::default(),
            _lock: lock,
        };
        let tmp = layout.root.join("tmp");
        for entry in fs::read_dir(&tmp).during("list", &tmp)? {
            remove_path(&entry.during("list", &tmp)?.path())?;
        }
        let version = layout.root.join("oci-layout");
        if !version.exists() {
            layout.write("oci-layout", LAYOUT_VERSION)?;
        }
        Ok(layout)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn layer_fs(&self, layer: &Layer) -> PathBuf {
        self.layer_dir(&layer.short).join("fs")
    }

    fn layer_dir(&self, short: &str) -> PathBuf {
        self.root.join("layers").join(short)
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index.json")
    }

    /// A fresh name for something half-made.
    pub(crate) fn scratch(&self) -> Scratch {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Scratch { path: Some(self.root.join(format!("tmp/{number}"))) }
    }

    /// Writes a small file so that it is there whole or not at all, power cut or not.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let scratch = self.scratch();
        write_synced(scratch.path(), bytes)?;
        scratch.rename(&self.root.join(name))?;
        sync(&self.root)
    }

    pub(crate) fn write_index(&self, index: &Index) -> Result<(), Error> {
        self.write("index.json", &index.to_bytes())
    }

    /// A small blob (manifest, configuration), synced because names will point at it.
    pub(crate) fn small_blob(&self, bytes: &[u8]) -> Result<Scratch, Error> {
        let scratch = self.scratch();
        write_synced(scratch.path(), bytes)?;
        Ok(scratch)
    }

    pub(crate) fn commit_blob(&self, digest: &Digest, scratch: Scratch) -> Result<(), Error> {
        scratch.rename(&self.blob(digest))
    }

    pub(crate) fn remove_blob(&self, digest: &Digest) -> Result<(), Error> {
        remove_path(&self.blob(digest))
    }

    /// Moves a directory that holds an unpacked `fs` to its place, under the shortest name that is not `taken`.
    pub(crate) fn commit_layer(
        &self,
        scratch: Scratch,
        mut layer: Layer,
        taken: &BTreeSet<String>,
    ) -> Result<Layer, Error> {
        let hex = layer.diff_id.hex();
        let short = (SHORT_LEN..=hex.len()).map(|len| &hex[..len]).find(|short| !taken.contains(*short));
        layer.short = short.expect("two digests differ somewhere").to_owned();
        let record = serde_json::to_vec(&layer).expect("strings and numbers always serialise");
        for (name, bytes) in [(RECORD, record.as_slice()), (UNSYNCED, self.boot.as_bytes())] {
            let path = scratch.path().join(name);
            fs::write(&path, bytes).during("write", &path)?;
        }
        scratch.rename(&self.layer_dir(&layer.short))?;
        self.unsynced().insert(layer.short.clone());
        Ok(layer)
    }

    /// Takes a layer or blob out of its place, in one quick step; what it was is removed later, by the caller.
    pub(crate) fn retire_layer(&self, layer: &Layer) -> Result<Scratch, Error> {
        self.unsynced().remove(&layer.short);
        self.retire(&self.layer_dir(&layer.short))
    }

    pub(crate) fn retire_blob(&self, digest: &Digest) -> Result<Scratch, Error> {
        self.retire(&self.blob(digest))
    }

    fn retire(&self, from: &Path) -> Result<Scratch, Error> {
        let scratch = self.scratch();
        fs::rename(from, scratch.path()).during("move away", from)?;
        Ok(scratch)
    }

    /// The layers that are whole; what is not is removed.
    pub(crate) fn read_layers(&self) -> Result<Vec<Layer>, Error> {
        let directory = self.root.join("layers");
        let mut layers = Vec::new();
        for entry in fs::read_dir(&directory).during("list", &directory)? {
            let path = entry.during("list", &directory)?.path();
            match self.read_layer(&path) {
                Some(layer) => layers.push(layer),
                None => {
                    tracing::warn!(path = %path.display(), "removing a layer that a crash left behind");
                    remove_path(&path)?;
                }
            }
        }
        Ok(layers)
    }

    fn read_layer(&self, path: &Path) -> Option<Layer> {
        let short = path.file_name()?.to_str()?.to_owned();
        let record = fs::read(path.join(RECORD)).ok()?;
        let mut layer: Layer = serde_json::from_slice(&record).ok()?;
        let known = layer.version == 1 && layer.diff_id.hex().starts_with(&short) && path.join("fs").is_dir();
        match fs::read(path.join(UNSYNCED)) {
            Ok(boot) if boot == self.boot.as_bytes() => {
                self.unsynced().insert(short.clone());
            }
            Ok(_) => return None,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(_) => return None,
        }
        layer.short = short;
        known.then_some(layer)
    }

    /// The blobs that are there, with their sizes; files with other names are removed.
    pub(crate) fn read_blobs(&self) -> Result<Vec<(Digest, u64)>, Error> {
        let directory = self.root.join("blobs/sha256");
        let mut blobs = Vec::new();
        for entry in fs::read_dir(&directory).during("list", &directory)? {
            let entry = entry.during("list", &directory)?;
            let path = entry.path();
            let name = entry.file_name();
            match format!("sha256:{}", name.to_string_lossy()).parse() {
                Ok(digest) => blobs.push((digest, entry.metadata().during("look at", &path)?.len())),
                Err(_) => remove_path(&path)?,
            }
        }
        Ok(blobs)
    }

    /// Syncs the file system and then takes the marks off the layers that were there before.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        let marked = self.unsynced().clone();
        flush(&self.root, &marked)?;
        self.unsynced().retain(|short| !marked.contains(short));
        Ok(())
    }

    /// [`Layout::flush`] behind the caller's back. One at a time: the next pull's flush takes along what this
    /// one misses.
    pub(crate) fn flush_behind(&self) {
        let mut flusher = self.flusher.lock().unwrap_or_else(PoisonError::into_inner);
        let marked = self.unsynced().clone();
        if marked.is_empty() || flusher.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        let root = self.root.clone();
        let work = move || {
            if let Err(error) = flush(&root, &marked) {
                tracing::warn!(%error, "layers could not be synced; a power cut now would cost them");
            }
        };
        *flusher = std::thread::Builder::new().name("image-flush".to_owned()).spawn(work).ok();
    }

    fn unsynced(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        let flusher = self.flusher.lock().unwrap_or_else(PoisonError::into_inner).take();
        if flusher.is_some_and(|running| running.join().is_err()) {
            tracing::error!("the sync of the image store panicked");
        }
    }
}

fn flush(root: &Path, marked: &BTreeSet<String>) -> Result<(), Error> {
    let directory = File::open(root).during("open", root)?;
    rustix::fs::syncfs(&directory).during("sync", root)?;
    for short in marked {
        let mark = root.join("layers").join(short).join(UNSYNCED);
        match fs::remove_file(&mark) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).during("remove", &mark);
            }
            _ => {}
        }
    }
    Ok(())
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut file = File::create(path).during("create", path)?;
    file.write_all(bytes).during("write", path)?;
    file.sync_data().during("sync", path)
}

fn sync(directory: &Path) -> Result<(), Error> {
    let file = File::open(directory).during("open", directory)?;
    file.sync_all().during("sync", directory)
}

/// Removes a file or a tree; one that is gone is removed.
fn remove_path(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.during("remove", path),
    }
}

/// A name in `tmp` for a file or directory in the making. What is still there when this goes is removed.
pub(crate) struct Scratch {
    path: Option<PathBuf>,
}

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        self.path.as_deref().expect("only rename and remove take the path, and they take the scratch with it")
    }

    /// Moves it to its place, over an older file of that name.
    fn rename(mut self, to: &Path) -> Result<(), Error> {
        fs::rename(self.path(), to).during("move to", to)?;
        self.path = None;
        Ok(())
    }

    /// Removes it now, and says how that went.
    pub(crate) fn remove(mut self) -> Result<(), Error> {
        let path = self.path.take().expect("nothing takes the path but what takes the scratch");
        remove_path(&path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(path) = self.path.take()
            && let Err(error) = remove_path(&path)
        {
            tracing::warn!(%error, "left behind until the store is opened again");
        }
    }
}
