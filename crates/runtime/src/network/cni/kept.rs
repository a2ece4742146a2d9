//! What is kept of a pod's network while plugins have something of it: a record, and its namespace.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use podd_cni::{Attachment, NetworkList};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The form of the record.
const VERSION: u64 = 1;
/// `statfs` of a namespace's file.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// What is kept of an attachment.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    version: u64,
    pub(super) list: NetworkList,
    pub(super) attachment: Attachment,
    /// None while `ADD` has not come to its end.
    pub(super) result: Option<Value>,
}

impl Kept {
    pub(super) fn new(list: NetworkList, attachment: Attachment) -> Self {
        Self { version: VERSION, list, attachment, result: None }
    }

    /// The record in a file; none when there is no file.
    pub(super) fn read(file: &Path) -> Result<Option<Self>> {
        let Some(bytes) = there(fs::read(file))? else { return Ok(None) };
        let value: Value = serde_json::from_slice(&bytes).map_err(broken)?;
        if value.get("version").and_then(Value::as_u64).is_some_and(|version| version > VERSION) {
            return Err(Error::new(ErrorKind::Unsupported, format!("{} is of a newer version", file.display())));
        }
        serde_json::from_value(value).map(Some).map_err(broken)
    }

    /// Written beside and renamed, so that a crash leaves the one or the other.
    pub(super) fn write(&self, file: &Path) -> Result<()> {
        let directory = file.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory)?;
        let new = file.with_extension("new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        File::open(&new)?.sync_all()?;
        fs::rename(&new, file)?;
        // Otherwise the name is not kept after a power loss.
        File::open(directory)?.sync_all()
    }
}

/// Not `serde_json`'s own conversion, which tells an end that came too early from other damage.
fn broken(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::InvalidData, error)
}

/// Mounts a namespace at a path, where plugins find it as long as they want.
pub(super) fn hold(netns: BorrowedFd<'_>, path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    File::create(path)?;
    Ok(rustix::mount::mount_bind(format!("/proc/self/fd/{}", netns.as_raw_fd()), path)?)
}

/// Takes the mount away, and the file. Fine without either.
pub(super) fn let_go(path: &Path) -> Result<()> {
    if is_namespace(path) {
        rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH)?;
    }
    there(fs::remove_file(path)).map(drop)
}

/// Whether a namespace is mounted there: it is not after a boot.
pub(super) fn is_namespace(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| u64::try_from(found.f_type) == Ok(NSFS_MAGIC))
}

/// None for what does not exist.
pub(super) fn there<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_a_newer_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state/a.json");
        assert_eq!(Kept::read(&file).unwrap(), None);
        let list = br#"{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "x", "more": [1]}]}"#;
        let attachment = Attachment {
            container_id: "a".into(),
            netns: "/ns".into(),
            interface: "eth0".into(),
            args: "A=b".into(),
            capabilities: [("mac".to_owned(), "c".into())].into_iter().collect(),
        };
        let mut kept = Kept::new(NetworkList::parse(list).unwrap(), attachment);
        kept.result = Some(serde_json::json!({"ips": []}));
        kept.write(&file).unwrap();
        assert_eq!(Kept::read(&file).unwrap(), Some(kept));
        fs::write(&file, r#"{"version": 2}"#).unwrap();
        assert_eq!(Kept::read(&file).unwrap_err().kind(), ErrorKind::Unsupported);
        fs::write(&file, "{").unwrap();
        assert_eq!(Kept::read(&file).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
