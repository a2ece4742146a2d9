//! The database file: every object under `resource/namespace/name`, as a format byte and JSON.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;

use super::cache::{Change, Happened};
use super::object::{Key, Object};
use crate::config::Error;
use crate::kinds::{KINDS, Kind};

const OBJECTS: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
/// The layout of the tables; a database of a newer one is refused.
const FORMAT: u64 = 1;
/// The first byte of every stored object: what follows is its JSON.
const JSON: u8 = 1;
/// Revisions are reserved in blocks, so that none is given out twice even if the last status writes before
/// a crash are lost.
const BLOCK: u64 = 1000;
/// What the storage engine may hold in memory; all objects are in ours already.
const PAGE_CACHE: usize = 2 << 20;

type Source = Box<dyn std::error::Error + Send + Sync>;

pub(super) struct Disk {
    path: PathBuf,
    /// None after a write that failed: the engine takes no more until the file is opened again.
    database: Option<Database>,
    /// What is visible and not written, or not known to be.
    unwritten: BTreeMap<String, Option<Bytes>>,
    /// No revision above this one was ever given out.
    reserved: u64,
}

impl Disk {
    /// Opens or creates the file; returns its objects and the revision to go on from.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<Object>, u64), Error> {
        let failed = |source: Source| Error::Database { path: path.into(), source };
        refuse_newer(path)?;
        let database = open_file(path).map_err(failed)?;
        let (format, revision) = numbers(&database).map_err(failed)?;
        if format > FORMAT {
            return Err(Error::Newer { path: path.into(), found: format, known: FORMAT });
        }
        let objects = load(&database, path)?;
        let (database, unwritten) = (Some(database), BTreeMap::new());
        let mut disk = Self { path: path.into(), database, unwritten, reserved: revision };
        disk.commit(&[], revision).map_err(failed)?;
        Ok((disk, objects, revision))
    }

    /// The newest revision that may be shown before it is written.
    pub(super) fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Whether something visible is not on disk yet.
    pub(super) fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Notes a change that is visible already; the next commit writes it.
    pub(super) fn note(&mut self, change: &Change) {
        let (key, value) = encode(change);
        self.unwritten.insert(key, value);
    }

    /// Notes what is visible under a key whose last write failed, so that the next commit writes it: the failed one may
    /// have reached the disk all the same.
    pub(super) fn note_doubt(&mut self, change: &Change, visible: Option<&Object>) {
        let (key, _) = encode(change);
        self.unwritten.entry(key).or_insert_with(|| visible.map(|object| object.json.clone()));
    }

    /// Writes what was noted and these changes, durably; `newest` is the newest revision in use. When it fails, what was
    /// noted stays noted, and whether `changes` are written is not known.
    pub(super) fn commit(&mut self, changes: &[Change], newest: u64) -> Result<(), Source> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open_file(&self.path)?,
        };
        self.write(&database, changes, newest)?;
        self.database = Some(database);
        Ok(())
    }

    fn write(&mut self, database: &Database, changes: &[Change], newest: u64) -> Result<(), Source> {
        let short = newest + BLOCK / 2 > self.reserved;
        let reserved = if short { newest + BLOCK } else { self.reserved };
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(OBJECTS)?;
            let changes = changes.iter().map(encode);
            for (key, value) in self.unwritten.clone().into_iter().chain(changes) {
                match value {
                    Some(json) => {
                        let mut stored = Vec::with_capacity(json.len() + 1);
                        stored.push(JSON);
                        stored.extend_from_slice(&json);
                        table.insert(key.as_str(), stored.as_slice())?;
                    }
                    None => drop(table.remove(key.as_str())?),
                }
            }
            if reserved != self.reserved {
                transaction.open_table(NUMBERS)?.insert("reserved", reserved)?;
            }
        }
        transaction.commit()?;
        self.reserved = reserved;
        self.unwritten.clear();
        Ok(())
    }
}

fn numbers(database: &Database) -> Result<(u64, u64), Source> {
    let transaction = database.begin_write()?;
    let read = {
        let mut numbers = transaction.open_table(NUMBERS)?;
        transaction.open_table(OBJECTS)?;
        let format = numbers.get("format")?.map(|n| n.value());
        let revision = numbers.get("reserved")?.map_or(1, |n| n.value());
        if format.is_none() {
            numbers.insert("format", FORMAT)?;
        }
        (format.unwrap_or(FORMAT), revision)
    };
    transaction.commit()?;
    Ok(read)
}

fn load(database: &Database, path: &Path) -> Result<Vec<Object>, Error> {
    let failed = |source: Source| Error::Database { path: path.into(), source };
    let transaction = database.begin_read().map_err(|e| failed(e.into()))?;
    let table = transaction.open_table(OBJECTS).map_err(|e| failed(e.into()))?;
    let mut objects = Vec::new();
    for entry in table.iter().map_err(|e| failed(e.into()))? {
        let (key, bytes) = entry.map_err(|e| failed(e.into()))?;
        let damaged =
            |source: Source| Error::Damaged { path: PathBuf::from(path), key: key.value().to_owned(), source };
        match decode(key.value(), bytes.value()).map_err(damaged)? {
            Some(object) => objects.push(object),
            // A kind that this version does not serve stays in the file for one that does.
            None => tracing::warn!(key = key.value(), "object of an unknown kind in the database"),
        }
    }
    Ok(objects)
}

/// Secrets are in it: only its owner may read it. A new file's name is durable when this returns.
fn open_file(path: &Path) -> Result<Database, Source> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let file = match options.clone().create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path)?,
        created => {
            let file = created?;
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(directory)?.sync_all()?;
            file
        }
    };
    Ok(Builder::new().set_cache_size(PAGE_CACHE).create_with_backend(FileBackend::new(file)?)?)
}

/// Refuses a database of a newer format before anything opens it for writing, which alters the file. One that was not
/// closed in order can't be read so; it is repaired first, and its format looked at then.
fn refuse_newer(path: &Path) -> Result<(), Error> {
    let Ok(database) = Builder::new().set_cache_size(PAGE_CACHE).open_read_only(path) else { return Ok(()) };
    let found = || -> Result<Option<u64>, Source> {
        let transaction = database.begin_read()?;
        Ok(transaction.open_table(NUMBERS)?.get("format")?.map(|format| format.value()))
    };
    match found() {
        Ok(Some(found)) if found > FORMAT => Err(Error::Newer { path: path.into(), found, known: FORMAT }),
        // Whatever is wrong with it comes up when it is opened.
        _ => Ok(()),
    }
}

fn encode(change: &Change) -> (String, Option<Bytes>) {
    let Object { kind, key, json, .. } = &*change.object;
    let at = format!("{}/{}/{}", kind.resource(), key.namespace, key.name);
    (at, (change.happened != Happened::Deleted).then(|| json.clone()))
}

fn decode(at: &str, stored: &[u8]) -> Result<Option<Object>, Source> {
    let (resource, key) = at.split_once('/').ok_or("the key has no resource")?;
    let (namespace, name) = key.split_once('/').ok_or("the key has no namespace")?;
    let Some(kind) = KINDS.iter().find(|kind: &&Kind| kind.resource() == resource) else {
        return Ok(None);
    };
    let (format, json) = stored.split_first().ok_or("it is empty")?;
    if *format != JSON {
        return Err(format!("its format {format} is unknown").into());
    }
    let value: Value = serde_json::from_slice(json)?;
    let revision = value["metadata"]["resourceVersion"]
        .as_str()
        .and_then(|version| version.parse().ok())
        .ok_or("it has no resource version")?;
    Ok(Some(Object::new(kind, Key::new(namespace, name), revision, &value)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_database_of_a_newer_format_is_refused_and_left_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.redb");
        let (disk, ..) = Disk::open(&path).unwrap();
        let transaction = disk.database.as_ref().unwrap().begin_write().unwrap();
        transaction.open_table(NUMBERS).unwrap().insert("format", FORMAT + 1).unwrap();
        transaction.commit().unwrap();
        drop(disk);
        let before = fs::read(&path).unwrap();
        let refused = Disk::open(&path).err().unwrap();
        assert!(matches!(refused, Error::Newer { found, known, .. } if found == FORMAT + 1 && known == FORMAT));
        assert!(fs::read(&path).unwrap() == before, "the file was altered");
    }

    #[test]
    fn a_newer_database_that_was_not_closed_is_refused_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.redb");
        let (disk, ..) = Disk::open(&path).unwrap();
        let transaction = disk.database.as_ref().unwrap().begin_write().unwrap();
        transaction.open_table(NUMBERS).unwrap().insert("format", FORMAT + 1).unwrap();
        transaction.commit().unwrap();
        let copy = directory.path().join("copy.redb");
        fs::copy(&path, &copy).unwrap();
        assert!(matches!(Disk::open(&copy).err().unwrap(), Error::Newer { .. }));
    }

    #[test]
    fn only_its_owner_may_read_a_database() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.redb");
        Disk::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
