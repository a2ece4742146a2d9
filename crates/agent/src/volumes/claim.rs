//! Claims to storage: the directory behind one, handed to the pod's group once per pod, and the directories that podd makes
//! and removes for its own class. They lie beneath `<root>/claims`, outlive pods, and go with their claim.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use k8s_openapi::api::core::v1::{Pod, Volume};
use rustix::fs::Mode;

use super::{
    Plan, VolumeError,
    group::{self, Access, Group},
    host_path, tree,
};
use crate::claims::Found;

/// Open to whoever the pod runs as, as other local provisioners make them.
const OPEN_TO_ALL: Mode = Mode::from_raw_mode(0o777);
/// Only root may look into the directory of all claims.
const PRIVATE: Mode = Mode::from_raw_mode(0o700);

pub(super) fn plan(volume: &Volume, _: &Pod) -> Option<Result<Plan, String>> {
    (volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()).then_some(Ok(Plan::Claim))
}

/// Checks what is behind a claim and hands it to the pod's group. A mark in the pod's directory says that this was done: a
/// container that starts anew finds its files as it left them.
pub(super) fn set_up(marks: &OwnedFd, name: &str, found: &Found, group: Option<Group>) -> Result<(), VolumeError> {
    let invalid = |message: &str| VolumeError::Invalid { volume: name.to_owned(), message: message.to_owned() };
    if let Some(kind) = &found.host_path {
        let expect = host_path::expected(kind).ok_or_else(|| invalid("its hostPath type is unknown"))?;
        host_path::apply(&found.path, expect)?;
    }
    if tree::open_child(marks, name).is_ok() {
        return Ok(());
    }
    if found.deleting {
        return Err(invalid("PVC is being deleted"));
    }
    if found.host_path.is_none() {
        let top = tree::open_directory(&found.path).map_err(|error| VolumeError::io("open", &found.path, error))?;
        if let Some(group) = group {
            let access = if found.read_only { Access::ReadOnly } else { Access::ReadWrite };
            group::hand_over(top.as_fd(), group, access)
                .map_err(|error| VolumeError::io("give to fsGroup", &found.path, error))?;
        }
    }
    let mark = tree::ensure_directory(marks, name, PRIVATE);
    mark.map(drop).map_err(|error| VolumeError::io("mark as ready", &found.path, error))
}

/// Makes the directory of a claim. Blocking.
pub(crate) fn make_directory(directory: &Path, path: &Path) -> io::Result<()> {
    let name = name_beneath(directory, path)?;
    std::fs::create_dir_all(directory)?;
    let all = tree::open_directory(directory)?;
    rustix::fs::fchmod(&all, PRIVATE)?;
    tree::ensure_directory(&all, name, OPEN_TO_ALL)?;
    Ok(rustix::fs::fsync(&all)?)
}

/// Removes the directory of a claim, with all that pods have left in it. Blocking.
pub(crate) fn remove_directory(directory: &Path, path: &Path) -> io::Result<()> {
    let name = name_beneath(directory, path)?;
    let all = match tree::open_directory(directory) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        all => all?,
    };
    match tree::remove(&all, name).first() {
        None => Ok(()),
        Some(left) => Err(io::Error::other(left.to_string())),
    }
}

/// The last part of a path that lies directly in a directory: a volume's path comes from the API, where anybody may have
/// written it.
fn name_beneath<'a>(directory: &Path, path: &'a Path) -> io::Result<&'a str> {
    let name = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.'));
    match name {
        Some(name) if path.parent() == Some(directory) => Ok(name),
        _ => Err(io::Error::other(format!("{} is not in {}", path.display(), directory.display()))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn the_directory_of_a_claim_is_open_and_the_way_to_it_is_not() {
        let place = tempfile::tempdir().expect("a directory");
        let (all, one) = (place.path().join("claims"), place.path().join("claims/pvc-1_n_data"));
        for _ in 0..2 {
            make_directory(&all, &one).expect("made");
        }
        let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o7777;
        assert_eq!((mode(&all), mode(&one)), (0o700, 0o777));
        std::fs::write(one.join("file"), "x").expect("written");
        for _ in 0..2 {
            remove_directory(&all, &one).expect("removed");
        }
        assert!(!one.exists());
        for path in ["/etc", "/", "", "claims/../x"] {
            make_directory(&all, Path::new(path)).expect_err(path);
            remove_directory(&all, Path::new(path)).expect_err(path);
        }
    }

    #[test]
    fn files_are_given_to_the_group_once_for_each_pod() {
        let place = tempfile::tempdir().expect("a directory");
        let data = place.path().join("data");
        std::fs::create_dir(&data).expect("made");
        let file = data.join("file");
        let found = Found { path: data, host_path: None, read_only: false, deleting: false };
        let group = Some(Group { id: 77, on_root_mismatch: false });
        let marks = tree::open_directory(place.path()).expect("open");
        let gid = || std::fs::metadata(&file).expect("there").gid();
        set_up(&marks, "v", &found, group).expect("set up");
        std::fs::write(&file, "x").expect("written");
        std::os::unix::fs::chown(&file, None, Some(5)).expect("changed");
        set_up(&marks, "v", &found, group).expect("set up again");
        assert_eq!(gid(), 5, "the same pod");
        set_up(&marks, "w", &found, group).expect("set up");
        assert_eq!(gid(), 77, "another pod");
    }

    #[test]
    fn a_claim_that_is_being_deleted_serves_only_pods_that_have_it() {
        let place = tempfile::tempdir().expect("a directory");
        let marks = tree::open_directory(place.path()).expect("open");
        let found = Found { path: place.path().to_owned(), host_path: None, read_only: false, deleting: false };
        set_up(&marks, "v", &found, None).expect("set up");
        let deleting = Found { deleting: true, ..found };
        set_up(&marks, "v", &deleting, None).expect("it has it");
        let refused = set_up(&marks, "w", &deleting, None).expect_err("it comes too late");
        assert!(refused.to_string().contains("PVC is being deleted"), "{refused}");
    }
}
