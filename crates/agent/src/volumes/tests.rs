//! Volumes on a real file system.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use k8s_openapi::{
    api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, PodSpec},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use tempfile::TempDir;

use super::*;

struct Place {
    directory: TempDir,
    volumes: Volumes,
}

fn place() -> Place {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let volumes = Volumes::new(directory.path().join("pods"));
    Place { directory, volumes }
}

fn pod(uid: &str, volumes: Vec<Volume>) -> Pod {
    Pod {
        metadata: ObjectMeta { uid: Some(uid.into()), name: Some("p".into()), ..Default::default() },
        spec: Some(PodSpec { volumes: Some(volumes), ..Default::default() }),
        ..Default::default()
    }
}

fn empty_dir(name: &str, medium: &str, limit: Option<&str>) -> Volume {
    Volume {
        name: name.into(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: Some(medium.into()),
            size_limit: limit.map(|l| Quantity(l.into())),
        }),
        ..Default::default()
    }
}

fn host_path(path: &Path, type_: &str) -> Volume {
    Volume {
        name: "h".into(),
        host_path: Some(HostPathVolumeSource { path: path.to_str().expect("utf-8").into(), type_: Some(type_.into()) }),
        ..Default::default()
    }
}

#[test]
fn an_empty_dir_is_open_to_all_and_the_way_to_it_is_not() {
    let place = place();
    let paths = place.volumes.set_up(&pod("u1", vec![empty_dir("cache", "", None)]), &BTreeMap::new()).expect("made");
    let path = &paths["cache"].path;
    assert_eq!(path, &place.directory.path().join("pods/u1/volumes/empty-dir/cache"));
    assert_eq!(fs::metadata(path).expect("there").permissions().mode() & 0o7777, 0o777);
    let above = fs::metadata(place.directory.path().join("pods/u1")).expect("there");
    assert_eq!(above.permissions().mode() & 0o7777, 0o750);
}

#[test]
fn two_pods_with_a_volume_of_one_name_do_not_share_it() {
    let place = place();
    let one = place.volumes.set_up(&pod("u1", vec![empty_dir("cache", "", None)]), &BTreeMap::new()).expect("made");
    let two = place.volumes.set_up(&pod("u2", vec![empty_dir("cache", "", None)]), &BTreeMap::new()).expect("made");
    assert_ne!(one["cache"], two["cache"]);
}

#[test]
fn what_a_workload_wrote_and_the_mode_it_set_survive_a_second_set_up() {
    let place = place();
    let pod = pod("u1", vec![empty_dir("cache", "", None)]);
    let path = place.volumes.set_up(&pod, &BTreeMap::new()).expect("made")["cache"].path.clone();
    fs::write(path.join("file"), "x").expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("changed");
    place.volumes.set_up(&pod, &BTreeMap::new()).expect("found");
    assert_eq!(fs::read_to_string(path.join("file")).expect("there"), "x");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o700);
}

#[test]
fn a_memory_volume_is_a_tmpfs_of_its_limit_mounted_once_and_unmounted_with_the_pod() {
    let place = place();
    let pod = pod("u1", vec![empty_dir("fast", "Memory", Some("1Mi"))]);
    let path = place.volumes.set_up(&pod, &BTreeMap::new()).expect("mounted")["fast"].path.clone();
    fs::write(path.join("file"), "x").expect("written");
    place.volumes.set_up(&pod, &BTreeMap::new()).expect("found");
    assert!(path.join("file").exists(), "a second mount would hide the file");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o1777);
    let size = rustix::fs::statvfs(&path).expect("a file system");
    assert_eq!(size.f_blocks * size.f_frsize, 1 << 20);
    let full = fs::write(path.join("big"), vec![0; 2 << 20]).expect_err("too big");
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
    let line = mounts.lines().find(|line| line.contains(path.to_str().expect("utf-8"))).expect("mounted");
    assert!(line.contains("noswap"), "{line}");
    place.volumes.tear_down("u1").expect("gone");
    assert!(!place.directory.path().join("pods/u1").exists());
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read");
    assert!(!table.contains(place.directory.path().to_str().expect("utf-8")));
}

#[test]
fn removal_never_follows_a_link_out_of_the_pod() {
    let place = place();
    let outside = place.directory.path().join("outside");
    fs::create_dir(&outside).expect("made");
    fs::write(outside.join("precious"), "x").expect("written");
    let path =
        place.volumes.set_up(&pod("u1", vec![empty_dir("cache", "", None)]), &BTreeMap::new()).expect("made")["cache"]
            .path
            .clone();
    symlink(&outside, path.join("to-directory")).expect("linked");
    symlink(outside.join("precious"), path.join("to-file")).expect("linked");
    symlink("/", path.join("root")).expect("linked");
    fs::create_dir(path.join("sub")).expect("made");
    symlink("../../../../..", path.join("sub/up")).expect("linked");
    place.volumes.tear_down("u1").expect("gone");
    assert_eq!(fs::read_to_string(outside.join("precious")).expect("untouched"), "x");
    assert!(!path.exists());
}

#[test]
fn a_pod_directory_that_is_a_link_is_unlinked_and_its_target_kept() {
    let place = place();
    let outside = place.directory.path().join("outside");
    fs::create_dir_all(outside.join("d")).expect("made");
    fs::create_dir(place.directory.path().join("pods")).expect("made");
    symlink(&outside, place.directory.path().join("pods/u1")).expect("linked");
    assert!(place.volumes.set_up(&pod("u1", vec![empty_dir("cache", "", None)]), &BTreeMap::new()).is_err());
    place.volumes.tear_down("u1").expect("gone");
    assert!(outside.join("d").exists());
    assert!(fs::symlink_metadata(place.directory.path().join("pods/u1")).is_err());
}

#[test]
fn a_tree_deeper_than_any_path_or_descriptor_table_is_removed() {
    let place = place();
    let path =
        place.volumes.set_up(&pod("u1", vec![empty_dir("cache", "", None)]), &BTreeMap::new()).expect("made")["cache"]
            .path
            .clone();
    let mut here = tree::open_directory(&path).expect("open");
    for _ in 0..5000 {
        rustix::fs::mkdirat(&here, "a-name-of-some-length-so-that-paths-overflow", Mode::from_raw_mode(0o000))
            .expect("made");
        here = tree::open_child(&here, "a-name-of-some-length-so-that-paths-overflow").expect("open");
    }
    drop(here);
    place.volumes.tear_down("u1").expect("gone");
    assert!(!place.directory.path().join("pods/u1").exists());
}

#[test]
fn pipes_sockets_odd_names_and_names_of_our_own_are_removed() {
    let place = place();
    let path =
        place.volumes.set_up(&pod("u1", vec![empty_dir("cache", "", None)]), &BTreeMap::new()).expect("made")["cache"]
            .path
            .clone();
    let here = tree::open_directory(&path).expect("open");
    rustix::fs::mknodat(&here, "pipe", rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("made");
    let _socket = std::os::unix::net::UnixListener::bind(path.join("socket")).expect("bound");
    rustix::fs::mkdirat(&here, &b"\xff\n name"[..], Mode::from_raw_mode(0o700)).expect("made");
    for name in [".gone.1", ".gone.2/.gone.1/x", ".cache.new"] {
        fs::create_dir_all(path.join(name)).expect("made");
    }
    fs::write(path.join(".gone.2/.gone.1/file"), "x").expect("written");
    place.volumes.tear_down("u1").expect("gone");
    assert!(!path.exists());
}

#[test]
fn a_mount_that_was_left_inside_is_detached_and_what_it_shows_is_kept() {
    let place = place();
    let path =
        place.volumes.set_up(&pod("u1", vec![empty_dir("cache", "", None)]), &BTreeMap::new()).expect("made")["cache"]
            .path
            .clone();
    let outside = place.directory.path().join("outside");
    fs::create_dir(&outside).expect("made");
    fs::write(outside.join("precious"), "x").expect("written");
    fs::create_dir(path.join("in side")).expect("made");
    rustix::mount::mount_bind(&outside, path.join("in side")).expect("bound");
    place.volumes.tear_down("u1").expect("gone");
    assert!(outside.join("precious").exists());
    assert!(!path.exists());
}

#[test]
fn removal_without_unmounting_stops_at_the_mount() {
    let place = place();
    let base = place.directory.path();
    fs::create_dir_all(base.join("tree/mount")).expect("made");
    fs::create_dir(base.join("outside")).expect("made");
    fs::write(base.join("outside/precious"), "x").expect("written");
    rustix::mount::mount_bind(base.join("outside"), base.join("tree/mount")).expect("bound");
    let errors = tree::remove(tree::open_directory(base).expect("open"), "tree");
    assert!(!errors.is_empty());
    assert!(base.join("outside/precious").exists());
    mounts::unmount_beneath(base).expect("unmounted");
}

#[test]
fn removing_twice_or_what_never_was_is_success() {
    let place = place();
    place.volumes.tear_down("never").expect("nothing there");
    place.volumes.set_up(&pod("u1", vec![empty_dir("cache", "", None)]), &BTreeMap::new()).expect("made");
    place.volumes.tear_down("u1").expect("gone");
    place.volumes.tear_down("u1").expect("gone");
    assert!(place.volumes.known_uids().expect("listed").is_empty());
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let place = place();
    for uid in ["", "..", ".", "a/b", "a\0b"] {
        assert!(place.volumes.set_up(&pod(uid, vec![]), &BTreeMap::new()).is_err(), "{uid:?}");
        assert!(place.volumes.tear_down(uid).is_err(), "{uid:?}");
    }
    for name in ["", "..", "a/../../b", ".hidden"] {
        assert!(
            place.volumes.set_up(&pod("u1", vec![empty_dir(name, "", None)]), &BTreeMap::new()).is_err(),
            "{name:?}"
        );
    }
}

#[test]
fn a_kind_that_is_not_in_the_table_is_refused_by_name() {
    let place = place();
    let volume = Volume { name: "claims".into(), ..Default::default() };
    let error = place.volumes.set_up(&pod("u1", vec![volume]), &BTreeMap::new()).expect_err("refused");
    assert_eq!(error.to_string(), "volume \"claims\": its kind is not implemented");
    let error = place
        .volumes
        .set_up(&pod("u1", vec![empty_dir("big", "HugePages-12Mi", None)]), &BTreeMap::new())
        .expect_err("refused");
    assert!(error.to_string().contains("no huge pages of 12288 KiB"));
}

#[test]
fn host_path_types_are_checked_as_the_kubelet_checks_them() {
    let place = place();
    let base = place.directory.path();
    fs::create_dir(base.join("dir")).expect("made");
    fs::write(base.join("file"), "").expect("written");
    let _socket = std::os::unix::net::UnixListener::bind(base.join("socket")).expect("bound");
    let null = Path::new("/dev/null");
    let all = ["dir", "file", "socket", "missing"].map(|name| base.join(name));
    // Type, which of directory, file, socket, nothing and /dev/null it takes, and the kubelet's word for it.
    let table = [
        ("", [true, true, true, true, true], ""),
        ("Directory", [true, false, false, false, false], "directory"),
        ("File", [false, true, false, false, false], "file"),
        ("Socket", [false, false, true, false, false], "socket file"),
        ("CharDevice", [false, false, false, false, true], "character device"),
        ("BlockDevice", [false, false, false, false, false], "block device"),
    ];
    for (type_, takes, word) in table {
        for (path, takes) in all.iter().map(PathBuf::as_path).chain([null]).zip(takes) {
            let outcome = place.volumes.set_up(&pod("u1", vec![host_path(path, type_)]), &BTreeMap::new());
            match outcome {
                Ok(paths) => assert!(takes && paths["h"].path == path, "{type_} {path:?}"),
                Err(error) => {
                    assert!(!takes, "{type_} {path:?}: {error}");
                    let text = format!("hostPath type check failed: {} is not a {word}", path.display());
                    assert_eq!(error.to_string(), text);
                }
            }
        }
    }
}

#[test]
fn host_paths_are_created_with_upstreams_modes_and_left_when_the_pod_goes() {
    let place = place();
    let base = place.directory.path();
    let directory = base.join("new/dir");
    place.volumes.set_up(&pod("u1", vec![host_path(&directory, "DirectoryOrCreate")]), &BTreeMap::new()).expect("made");
    let file = directory.join("file");
    place.volumes.set_up(&pod("u1", vec![host_path(&file, "FileOrCreate")]), &BTreeMap::new()).expect("made");
    place.volumes.tear_down("u1").expect("gone");
    assert_eq!(fs::metadata(&directory).expect("kept").mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(&file).expect("kept").mode() & 0o7777, 0o644);
    let wrong = place.volumes.set_up(&pod("u1", vec![host_path(&file, "DirectoryOrCreate")]), &BTreeMap::new());
    assert!(wrong.expect_err("refused").to_string().ends_with("is not a directory"));
}
