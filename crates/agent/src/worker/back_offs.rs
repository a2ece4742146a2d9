//! A pod's back-offs on disk (`<pods_dir>/<uid>/back-offs.json`): written before the effect that they count, read back by
//! the next agent, so that a restart of the agent gives no container a free start.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use podd_core::pod::{BackOff, Memory};
use serde::{Deserialize, Serialize};
use tracing::warn;

const NAME: &str = "back-offs.json";
const NEW_NAME: &str = ".back-offs.json.new";
const VERSION: u32 = 1;

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct BackOffs {
    version: u32,
    /// Restarts of crashed containers, by container name.
    crashes: BTreeMap<String, BackOff>,
    /// Failed image pulls, by container name.
    pulls: BTreeMap<String, BackOff>,
}

impl BackOffs {
    /// Those of a memory.
    pub(super) fn of(memory: &Memory) -> BackOffs {
        BackOffs { version: VERSION, crashes: memory.crashes.clone(), pulls: memory.pulls.clone() }
    }

    /// A memory that knows these and nothing else.
    pub(super) fn into_memory(self) -> Memory {
        Memory { crashes: self.crashes, pulls: self.pulls, ..Memory::default() }
    }

    /// Reads what an agent before this one wrote; nothing if there is none, or none that this one understands: a container
    /// then starts once too early. Blocking.
    pub(super) fn load(pod_dir: &Path) -> BackOffs {
        let path = pod_dir.join(NAME);
        let read = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<BackOffs>(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == ErrorKind::NotFound => return BackOffs::default(),
            Err(error) => Err(error),
        };
        match read {
            Ok(found) if found.version == VERSION => found,
            Ok(found) => {
                warn!(path = %path.display(), version = found.version, "back-offs of another version are not read");
                BackOffs::default()
            }
            Err(error) => {
                warn!(path = %path.display(), %error, "back-offs are not read");
                BackOffs::default()
            }
        }
    }

    /// Writes them beside and renames, so that there is always a whole file. Not synced: after a power loss nothing
    /// crashes in a row any more. Blocking.
    pub(super) fn store(&self, pod_dir: PathBuf) -> io::Result<()> {
        std::fs::create_dir_all(&pod_dir)?;
        let new = pod_dir.join(NEW_NAME);
        std::fs::write(&new, serde_json::to_vec(self)?)?;
        std::fs::rename(new, pod_dir.join(NAME))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;

    #[test]
    fn what_was_written_is_read_back_and_what_is_strange_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let pod_dir = directory.path().join("uid");
        assert_eq!(BackOffs::load(&pod_dir), BackOffs::default());
        let mut memory = Memory::default();
        let entry = BackOff { key: "k".into(), wait: Duration::from_secs(20), updated_at: Timestamp::UNIX_EPOCH };
        memory.crashes.insert("a".into(), entry);
        BackOffs::of(&memory).store(pod_dir.clone()).expect("stored");
        assert_eq!(BackOffs::load(&pod_dir).into_memory(), memory);
        for strange in ["{", r#"{"version":2,"crashes":{},"pulls":{}}"#] {
            std::fs::write(pod_dir.join(NAME), strange).expect("written");
            assert_eq!(BackOffs::load(&pod_dir).into_memory(), Memory::default(), "{strange}");
        }
    }
}
