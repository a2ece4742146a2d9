//! Control groups that another OCI runtime makes beside podd's: with v1 it makes one in every hierarchy that is mounted, and
//! removes only a container's own, not those that lie above it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use podd_cgroup::Layout;

/// Removes a group, with what is left below and what is empty above it, from the hierarchies that podd makes no groups in. A
/// group that is not empty is somebody's and stays.
pub(crate) fn remove_beside(layout: &Layout, group: &Path) {
    let Layout::V1(own) = layout else { return };
    let own: BTreeSet<&Path> = own.values().map(PathBuf::as_path).collect();
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for hierarchy in hierarchies(&table).filter(|hierarchy| !own.contains(hierarchy)) {
        remove(hierarchy, group);
    }
}

/// Where hierarchies are mounted (proc_pid_mounts(5)).
fn hierarchies(table: &str) -> impl Iterator<Item = &Path> {
    table.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        ["cgroup", "cgroup2"].contains(&kind).then_some(Path::new(place))
    })
}

fn remove(hierarchy: &Path, group: &Path) {
    // Above the top there is nothing of anybody's, and the top itself is no group to remove.
    let above = group.ancestors().filter(|path| !path.as_os_str().is_empty() && *path != Path::new("/"));
    for (level, path) in above.enumerate() {
        let directory = hierarchy.join(path.strip_prefix("/").unwrap_or(path));
        if level == 0 {
            remove_below(&directory);
        }
        if fs::remove_dir(&directory).is_err() && directory.exists() {
            return;
        }
    }
}

fn remove_below(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        remove_below(&path);
        // Processes in it are told of elsewhere.
        let _in_use = fs::remove_dir(&path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_in_the_mount_table() {
        let table = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /a cgroup rw,cpu 0 0\ncgroup2 /b cgroup2 rw 0 0\nx\n";
        assert_eq!(hierarchies(table).collect::<Vec<_>>(), [Path::new("/a"), Path::new("/b")]);
    }

    #[test]
    fn a_group_goes_with_what_is_empty_above_it() {
        let top = tempfile::tempdir().unwrap();
        let group = |path: &str| top.path().join(path);
        fs::create_dir_all(group("podd/kubepods/pod1/c/below")).unwrap();
        fs::create_dir_all(group("podd/other")).unwrap();
        remove(top.path(), Path::new("/podd/kubepods/pod1"));
        assert!(!group("podd/kubepods").exists() && group("podd/other").exists());
        remove(top.path(), Path::new("podd/other"));
        assert!(!group("podd").exists() && top.path().exists());
        remove(top.path(), Path::new("/"));
        remove(top.path(), Path::new(""));
        assert!(top.path().exists());
    }
}
