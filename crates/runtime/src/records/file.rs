//! The file format and the directory of records; knows nothing of what is inside.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::types::VERSION;

/// The ending of a record's file name; the rest is the object's id.
const EXTENSION: &str = "jsonl";
/// How many changed files may wait for their sync; beyond it the writer goes on and the kernel's own write-back does it.
const SYNC_QUEUE: usize = 1024;
/// A record that grew beyond this (many updates of a long-lived container) is rewritten with its last status only.
const COMPACT_ABOVE: u64 = 256 << 10;

/// The first line of a file.
#[derive(Serialize, Deserialize)]
struct Head<M> {
    version: u32,
    meta: M,
}

/// A directory of records, all of one kind: `M` is the immutable part, `S` the status.
pub(crate) struct Records<M, S> {
    directory: PathBuf,
    syncer: Arc<Syncer>,
    kind: PhantomData<fn() -> (M, S)>,
}

/// An open record.
pub(crate) struct Record<S> {
    path: PathBuf,
    head: Vec<u8>,
    file: Mutex<File>,
    syncer: Arc<Syncer>,
    kind: PhantomData<fn(S)>,
}

/// A record read back.
pub(crate) struct Loaded<M, S> {
    pub(crate) meta: M,
    pub(crate) status: S,
    pub(crate) record: Record<S>,
}

impl<M: Serialize + DeserializeOwned, S: Serialize + DeserializeOwned> Records<M, S> {
    /// Opens the directory, making it when it is not there.
    pub(crate) fn open(directory: PathBuf, syncer: Arc<Syncer>) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        Ok(Self { directory, syncer, kind: PhantomData })
    }

    /// Writes a new record with its first status. Fails when the id has one already.
    pub(crate) fn create(&self, id: &str, meta: &M, status: &S) -> io::Result<Record<S>> {
        let path = self.path(id);
        let mut head = serde_json::to_vec(&Head { version: VERSION, meta })?;
        head.push(b'\n');
        let mut file = options().create_new(true).open(&path)?;
        let mut lines = head.clone();
        append_line(&mut lines, status)?;
        if let Err(error) = file.write_all(&lines) {
            // A torn first line is no record; leave nothing for the next start to puzzle over.
            return Err(fs::remove_file(&path).err().unwrap_or(error));
        }
        Ok(self.record(path, head, file))
    }

    /// Reads all records. One that holds no complete status (torn by a power loss, so its object had no effect that
    /// was ever seen) is deleted; one of a newer version is an error, since guessing could lose someone's containers.
    pub(crate) fn load(&self) -> io::Result<Vec<Loaded<M, S>>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != EXTENSION) {
                continue;
            }
            let text = fs::read(&path)?;
            match parse::<M, S>(&text).map_err(|error| about(&path, error))? {
                Some((meta, status, head, end)) => {
                    let file = options().open(&path)?;
                    if end < text.len() {
                        file.set_len(end as u64)?;
                    }
                    found.push(Loaded { meta, status, record: self.record(path, text[..head].to_vec(), file) });
                }
                None => fs::remove_file(&path)?,
            }
        }
        Ok(found)
    }

    /// Waits until what was changed so far is on disk.
    pub(crate) fn flush(&self) {
        self.syncer.stop();
    }

    fn path(&self, id: &str) -> PathBuf {
        self.directory.join(id).with_extension(EXTENSION)
    }

    fn record(&self, path: PathBuf, head: Vec<u8>, file: File) -> Record<S> {
        Record { path, head, file: Mutex::new(file), syncer: Arc::clone(&self.syncer), kind: PhantomData }
    }
}

impl<S: Serialize> Record<S> {
    /// Makes `status` the record's status. It is in the kernel's hands when this returns, on disk a little later.
    pub(crate) fn put(&self, status: &S) -> io::Result<()> {
        let mut line = Vec::with_capacity(512);
        append_line(&mut line, status)?;
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.metadata()?.len() > COMPACT_ABOVE {
            *file = self.rewrite(&line)?;
        } else {
            file.write_all(&line)?;
        }
        self.syncer.later(&file);
        Ok(())
    }

    /// Deletes the record; that it is gone already is fine.
    pub(crate) fn delete(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn rewrite(&self, line: &[u8]) -> io::Result<File> {
        let fresh = self.path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&[&self.head, line].concat())?;
        file.sync_data()?;
        fs::rename(&fresh, &self.path)?;
        options().open(&self.path)
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true).mode(0o600);
    options
}

fn append_line(lines: &mut Vec<u8>, status: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *lines, status)?;
    lines.push(b'\n');
    Ok(())
}

/// Meta, status, the length of the first line, and where the last complete line ends.
type Parsed<M, S> = (M, S, usize, usize);

fn parse<M: DeserializeOwned, S: DeserializeOwned>(text: &[u8]) -> io::Result<Option<Parsed<M, S>>> {
    let Some(head) = text.iter().position(|&byte| byte == b'\n').map(|at| at + 1) else { return Ok(None) };
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    // After a power loss the file can have its length but not its bytes: such a first line is no JSON at all.
    let Ok(Version { version }) = serde_json::from_slice(&text[..head]) else { return Ok(None) };
    if version > VERSION {
        return Err(io::Error::other(format!("is of version {version}, this podd knows up to {VERSION}")));
    }
    let meta = serde_json::from_slice::<Head<M>>(&text[..head])?.meta;
    let mut last = None;
    let mut at = head;
    while let Some(length) = text[at..].iter().position(|&byte| byte == b'\n') {
        let Ok(status) = serde_json::from_slice::<S>(&text[at..at + length]) else { break };
        at += length + 1;
        last = Some((status, at));
    }
    Ok(last.map(|(status, end)| (meta, status, head, end)))
}

fn about(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Syncs changed files on a thread of its own, so that nobody waits for the disk.
pub(crate) struct Syncer {
    queue: Mutex<Option<SyncSender<File>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Syncer {
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        let (queue, files) = sync_channel(SYNC_QUEUE);
        let thread = std::thread::Builder::new().name("podd-sync".into()).spawn(move || sync_all(&files))?;
        Ok(Arc::new(Self { queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)) }))
    }

    fn later(&self, file: &File) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(queue), Ok(file)) = (queue.as_ref(), file.try_clone()) {
            // A full queue is no error: the kernel writes the page back by itself within half a minute.
            let _full = queue.try_send(file);
        }
    }

    /// Syncs what is queued and ends the thread.
    pub(crate) fn stop(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that syncs records panicked");
        }
    }
}

fn sync_all(files: &Receiver<File>) {
    for file in files {
        if let Err(error) = file.sync_data() {
            tracing::warn!(%error, "sync a record");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Meta {
        name: String,
    }

    fn records(directory: &Path) -> (Records<Meta, u32>, Arc<Syncer>) {
        let syncer = Syncer::start().expect("start a thread");
        (Records::open(directory.to_owned(), Arc::clone(&syncer)).expect("open"), syncer)
    }

    fn check(tail: &[u8], expected: Option<u32>) {
        let directory = tempfile::tempdir().expect("tempdir");
        let (all, _syncer) = records(directory.path());
        let record = all.create("a", &Meta { name: "n".into() }, &1).expect("create");
        record.put(&2).expect("put");
        let path = directory.path().join("a.jsonl");
        let mut text = fs::read(&path).expect("read");
        if tail == b"torn head" {
            text.truncate(5);
        } else if tail == b"zeroes" {
            text.fill(0);
        } else {
            text.extend_from_slice(tail);
        }
        fs::write(&path, text).expect("write");
        let found = all.load().expect("load");
        assert_eq!(found.first().map(|loaded| loaded.status), expected, "{}", String::from_utf8_lossy(tail));
        match found.first() {
            Some(loaded) => {
                loaded.record.put(&9).expect("put");
                assert_eq!(all.load().expect("load")[0].status, 9);
            }
            None => assert!(!path.exists()),
        }
    }

    #[test]
    fn the_last_complete_status_counts_whatever_a_crash_tore() {
        check(b"", Some(2));
        check(b"3\n", Some(3));
        check(b"3", Some(2));
        check(b"{\"sta", Some(2));
        check(b"\0\0\0\0\n", Some(2));
        check(b"torn head", None);
        check(b"zeroes", None);
    }

    #[test]
    fn a_newer_version_is_refused_and_kept() {
        let directory = tempfile::tempdir().expect("tempdir");
        let (all, _syncer) = records(directory.path());
        let path = directory.path().join("a.jsonl");
        fs::write(&path, "{\"version\":999,\"meta\":{\"other\":1}}\n1\n").expect("write");
        let error = all.load().err().expect("refused").to_string();
        assert!(error.contains("a.jsonl: is of version 999"), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn a_long_lived_record_is_compacted() {
        let directory = tempfile::tempdir().expect("tempdir");
        let (all, syncer) = records(directory.path());
        let record = all.create("a", &Meta { name: "n".repeat(3000) }, &1).expect("create");
        for status in 0..60_000 {
            record.put(&status).expect("put");
        }
        syncer.stop();
        let length = fs::metadata(directory.path().join("a.jsonl")).expect("stat").len();
        assert!(length <= COMPACT_ABOVE + 64, "{length}");
        let loaded = all.load().expect("load").remove(0);
        assert_eq!((loaded.status, loaded.meta.name.len()), (59_999, 3000));
    }

    #[test]
    fn an_id_has_one_record_and_deleting_it_twice_is_fine() {
        let directory = tempfile::tempdir().expect("tempdir");
        let (all, _syncer) = records(directory.path());
        let record = all.create("a", &Meta { name: "n".into() }, &1).expect("create");
        assert!(all.create("a", &Meta { name: "n".into() }, &1).is_err());
        record.delete().expect("delete");
        record.delete().expect("delete again");
        assert!(all.load().expect("load").is_empty());
    }
}
