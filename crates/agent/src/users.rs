//! Ids of pods with users of their own (`hostUsers: false`): 65,536 for each pod, as the kubelet gives them. A pod's range
//! is a file in the pod's directory and goes with it, so that an agent that starts anew finds it, and there is no
//! second list that could differ.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use podd_cri::v1;
use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};

/// Ids per pod.
const LENGTH: u32 = 65_536;
/// Name of the file in a pod's directory: the kubelet's name, with the kubelet's content.
const FILE: &str = "userns";
const FILE_NEW: &str = ".userns.new";

/// Why a pod has no ids.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsersError {
    /// Every range has its pod.
    #[error("could not find an empty slot to allocate a user namespace")]
    Exhausted,
    /// A range cannot be read or written.
    #[error("{action} {path}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Mappings {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

/// The ranges beneath one directory of pods.
#[derive(Debug)]
pub(crate) struct Users {
    pods: PathBuf,
    ranges: u32,
    /// Two pods must not look for a free range at once.
    turn: Mutex<()>,
}

impl Users {
    /// Ranges for this many pods, from id 65,536 on. The node's own users are below.
    pub(crate) fn new(pods: PathBuf, ranges: u32) -> Self {
        Self { pods, ranges: ranges.min(u32::MAX / LENGTH - 1), turn: Mutex::new(()) }
    }

    /// The range of a pod, given now if it has none; `directory` is the pod's own. Blocking.
    pub(crate) fn ensure(&self, uid: &str, directory: &OwnedFd) -> Result<v1::UserNamespace, UsersError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = self.read(uid)? {
            return Ok(namespace(first));
        }
        let taken = self.taken()?;
        let free = (1..=self.ranges).map(|slot| slot * LENGTH).find(|first| !taken.contains(first));
        let first = free.ok_or(UsersError::Exhausted)?;
        write(directory, first).map_err(|source| self.io("write", uid, source))?;
        Ok(namespace(first))
    }

    fn taken(&self) -> Result<BTreeSet<u32>, UsersError> {
        let io = |source| UsersError::Io { action: "list", path: self.pods.clone(), source };
        let mut taken = BTreeSet::new();
        for entry in std::fs::read_dir(&self.pods).map_err(io)? {
            if let Ok(uid) = entry.map_err(io)?.file_name().into_string() {
                taken.extend(self.read(&uid)?);
            }
        }
        Ok(taken)
    }

    /// The first id of a pod's range. What cannot be read is an error: whose range it is must not be guessed.
    fn read(&self, uid: &str) -> Result<Option<u32>, UsersError> {
        let text = match std::fs::read(self.pods.join(uid).join(FILE)) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(source) => return Err(self.io("read", uid, source)),
        };
        let odd = |why: String| self.io("read", uid, io::Error::new(io::ErrorKind::InvalidData, why));
        let mappings: Mappings = serde_json::from_slice(&text).map_err(|error| odd(error.to_string()))?;
        match (&mappings.uid_mappings[..], &mappings.gid_mappings[..]) {
            ([one], [other]) if one == other && *one == mapping(one.host_id) && one.host_id.is_multiple_of(LENGTH) => {
                Ok(Some(one.host_id))
            }
            _ => Err(odd(format!("it is no range of {LENGTH} ids for users and groups alike"))),
        }
    }

    fn io(&self, action: &'static str, uid: &str, source: io::Error) -> UsersError {
        UsersError::Io { action, path: self.pods.join(uid).join(FILE), source }
    }
}

fn mapping(first: u32) -> Mapping {
    Mapping { host_id: first, container_id: 0, length: LENGTH }
}

fn namespace(first: u32) -> v1::UserNamespace {
    let ids = vec![v1::IdMapping { host_id: first, container_id: 0, length: LENGTH }];
    v1::UserNamespace { mode: v1::NamespaceMode::Pod as i32, uids: ids.clone(), gids: ids }
}

/// Whole or not at all, also after a power loss: two pods must never have one range.
fn write(directory: &OwnedFd, first: u32) -> io::Result<()> {
    let mappings = Mappings { uid_mappings: vec![mapping(first)], gid_mappings: vec![mapping(first)] };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(rustix::fs::openat(directory, FILE_NEW, flags, Mode::from_raw_mode(0o600))?);
    let written = file.write_all(&serde_json::to_vec(&mappings)?).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| Ok(rustix::fs::renameat(directory, FILE_NEW, directory, FILE)?)) {
        // The half-written file has no meaning; the error is what matters.
        let _ = rustix::fs::unlinkat(directory, FILE_NEW, AtFlags::empty());
        return Err(error);
    }
    Ok(rustix::fs::fsync(directory)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(users: &Users, uid: &str) -> Result<u32, UsersError> {
        std::fs::create_dir_all(users.pods.join(uid)).expect("a directory");
        let directory = std::fs::File::open(users.pods.join(uid)).expect("a directory").into();
        users.ensure(uid, &directory).map(|users| {
            assert_eq!((users.uids.len(), &users.uids), (1, &users.gids));
            assert_eq!((users.uids[0].container_id, users.uids[0].length), (0, LENGTH));
            users.uids[0].host_id
        })
    }

    #[test]
    fn each_pod_has_a_range_of_its_own_until_it_is_gone() {
        let directory = tempfile::tempdir().expect("a directory");
        let users = Users::new(directory.path().to_owned(), 2);
        assert_eq!(first(&users, "a").expect("a range"), 65_536);
        assert_eq!(first(&users, "b").expect("a range"), 131_072);
        assert!(matches!(first(&users, "c"), Err(UsersError::Exhausted)));
        // Somebody who starts anew finds what was given.
        let later = Users::new(directory.path().to_owned(), 2);
        assert_eq!(first(&later, "b").expect("a range"), 131_072);
        std::fs::remove_dir_all(directory.path().join("a")).expect("removed");
        assert_eq!(first(&later, "c").expect("a range"), 65_536);
    }

    #[test]
    fn a_range_that_cannot_be_read_gives_nobody_another_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let users = Users::new(directory.path().to_owned(), 5);
        first(&users, "a").expect("a range");
        for text in ["", "{}", "{\"uidMappings\":[],\"gidMappings\":[]}"] {
            std::fs::write(directory.path().join("a/userns"), text).expect("written");
            let error = first(&users, "b").expect_err("no range").to_string();
            assert!(error.starts_with("read ") && error.ends_with("/a/userns"), "{error}");
        }
    }
}
