//! Paths in volumes on a real file system, with links that lead out.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    sync::atomic::{AtomicBool, Ordering},
};

use tempfile::TempDir;

use super::*;

/// A volume with a neighbour that nobody may touch.
struct Place {
    directory: TempDir,
    volumes: Volumes,
}

impl Drop for Place {
    fn drop(&mut self) {
        // Else the directory cannot be removed.
        let _ = self.volumes.tear_down("u");
    }
}

fn place() -> Place {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for name in ["volume", "outside"] {
        fs::create_dir(directory.path().join(name)).expect("made");
    }
    fs::write(directory.path().join("outside/precious"), "x").expect("written");
    let volumes = Volumes::new(directory.path().join("pods"));
    Place { directory, volumes }
}

impl Place {
    fn volume(&self) -> PathBuf {
        self.directory.path().join("volume")
    }

    fn bind(&self, path: &str) -> Result<PathBuf, VolumeError> {
        self.volumes.bind_sub_path(
            "u",
            &SubPath {
                container: "c".into(),
                index: 0,
                volume: self.volume(),
                path: path.into(),
                written: path.into(),
            },
        )
    }

    fn mounted(&self) -> usize {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("read");
        table.lines().filter(|line| line.contains(self.directory.path().to_str().expect("utf-8"))).count()
    }
}

#[test]
fn a_missing_path_is_made_with_the_mode_of_the_volume_and_bound() {
    let place = place();
    fs::set_permissions(place.volume(), fs::Permissions::from_mode(0o2775)).expect("changed");
    let bound = place.bind("a/b").expect("bound");
    fs::write(bound.join("file"), "through the bind").expect("written");
    assert_eq!(fs::read_to_string(place.volume().join("a/b/file")).expect("there"), "through the bind");
    for path in ["a", "a/b"] {
        let mode = fs::metadata(place.volume().join(path)).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o2775, "{path}");
    }
}

#[test]
fn binding_again_shows_what_the_path_names_now_and_leaves_one_mount() {
    let place = place();
    fs::write(place.volume().join("file"), "a file").expect("written");
    for path in ["d", "d", "file", "d", "e"] {
        place.bind(path).expect("bound");
        assert_eq!(place.mounted(), 1, "{path}");
    }
    let bound = place.bind("file").expect("bound");
    assert_eq!(fs::read_to_string(bound).expect("a file"), "a file");
    place.volumes.tear_down("u").expect("gone");
    assert_eq!(place.mounted(), 0);
    assert_eq!(fs::read_to_string(place.volume().join("file")).expect("kept"), "a file");
}

#[test]
fn links_are_followed_inside_the_volume_and_nowhere_else() {
    let place = place();
    fs::create_dir(place.volume().join("real")).expect("made");
    symlink("real", place.volume().join("inside")).expect("linked");
    let bound = place.bind("inside/new").expect("bound");
    assert!(place.volume().join("real/new").is_dir() && bound.is_dir());
    let outside = place.directory.path().join("outside");
    symlink(&outside, place.volume().join("absolute")).expect("linked");
    symlink("../outside", place.volume().join("up")).expect("linked");
    symlink("/proc/self/cwd", place.volume().join("magic")).expect("linked");
    for path in ["absolute", "absolute/new", "up", "up/new", "up/precious", "magic", "..", "a/../../outside", "/etc"] {
        let refused = place.bind(path).expect_err(path);
        assert!(matches!(refused, VolumeError::LeadsOut(_)), "{path}: {refused}");
    }
    symlink("nowhere", place.volume().join("dangling")).expect("linked");
    place.bind("dangling/new").expect_err("a link to nothing is no directory");
    let left: Vec<_> = fs::read_dir(outside).expect("read").map(|entry| entry.expect("read").file_name()).collect();
    assert_eq!(left, ["precious"]);
}

#[test]
fn a_link_that_is_swapped_in_meanwhile_never_leads_out() {
    let place = place();
    let (volume, outside) = (place.volume(), place.directory.path().join("outside"));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let path = volume.join("x");
            while !over.load(Ordering::Relaxed) {
                let _ = fs::create_dir(&path);
                let _ = fs::rename(&path, volume.join("y"));
                let _ = symlink(&outside, &path);
                let _ = fs::remove_file(&path);
                let _ = fs::remove_dir_all(volume.join("y"));
            }
        });
        for _ in 0..500 {
            if let Ok(bound) = place.bind("x/y/z") {
                assert!(!bound.join("precious").exists());
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    let left: Vec<_> = fs::read_dir(&outside).expect("read").map(|entry| entry.expect("read").file_name()).collect();
    assert_eq!(left, ["precious"], "nothing was made outside");
}

#[test]
fn what_is_mounted_in_a_shared_volume_survives_the_end_of_a_path_that_showed_it() {
    let place = place();
    // A volume that is a shared mount, with a mount inside.
    rustix::mount::mount_bind(place.volume(), place.volume()).expect("bound");
    rustix::mount::mount_change(place.volume(), rustix::mount::MountPropagationFlags::SHARED).expect("shared");
    fs::create_dir_all(place.volume().join("d/inner")).expect("made");
    let bound = place.bind("d").expect("bound");
    rustix::mount::mount_bind(place.directory.path().join("outside"), place.volume().join("d/inner")).expect("bound");
    assert!(bound.join("inner/precious").exists(), "it travels to the bound path");
    place.volumes.tear_down("u").expect("gone");
    assert!(place.volume().join("d/inner/precious").exists(), "and stays where it came from");
    for path in ["d/inner", ""] {
        rustix::mount::unmount(place.volume().join(path), UnmountFlags::DETACH).expect("unmounted");
    }
}

#[test]
fn a_shared_volume_is_bound_once_and_mounts_travel_through_it() {
    let place = place();
    let pod = place.volumes.pod_directory("u").expect("made");
    let shared = place.volumes.share(&pod, "u", "v", &place.volume()).expect("shared");
    assert_eq!(place.volumes.share(&pod, "u", "v", &place.volume()).expect("found"), shared);
    assert_eq!(place.mounted(), 1);
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read");
    let line = table.lines().find(|line| line.contains(shared.to_str().expect("utf-8"))).expect("mounted");
    assert!(line.contains(" shared:"), "{line}");
    place.volumes.tear_down("u").expect("gone");
    assert_eq!(place.mounted(), 0);
}
