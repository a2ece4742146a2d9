//! Archives on their way into a node: every form, from a file and from standard input, through a connection alone; what is
//! broken leaves one message and nothing else.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use podd_tests::{Node, Output, SOON, image, program, wait_for};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// What an archive of [`image::busybox`] is loaded as.
const LOADED: &str = "loaded docker.io/library/busybox:test\n";

fn node() -> Node {
    let mut node = Node::new();
    node.start_agent();
    node
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Loads what `input` is, through standard input.
fn load_from(node: &Node, input: impl Into<Stdio>) -> Output {
    let output = node.command("timeout").arg("60").arg(program()).args(["load", "-"]).stdin(input).output();
    let output = output.expect("podd runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output {
        command: "podd load -".into(),
        code: output.status.code().unwrap_or(-1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// Every file of the image store.
fn store(node: &Node) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut left = vec![node.path().join("root/images")];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().filter_map(Result::ok) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    found
}

/// The members of a docker archive: layer, configuration.
fn members(archive: &Path) -> (Vec<u8>, Vec<u8>) {
    let file = std::fs::File::open(archive).expect("the archive is there");
    let (mut layer, mut config) = (Vec::new(), Vec::new());
    for entry in tar::Archive::new(file).entries().expect("a tar") {
        let mut entry = entry.expect("a member");
        let path = entry.path().expect("a path").into_owned();
        let content = match text(&path) {
            "layer0.tar" => &mut layer,
            "manifest.json" => continue,
            _ => &mut config,
        };
        entry.read_to_end(content).expect("in a file");
    }
    (layer, config)
}

/// An OCI layout with one image in a tar. `change` may spoil the layer after its digest was taken.
fn oci(node: &Node, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let (mut layer, config) = members(&image::busybox(node.path()));
    let part = |kind: &str, content: &[u8]| {
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{}", hex(content)),
            "size": content.len()})
    };
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": part("config.v1+json", &config), "layers": [part("layer.v1.tar", &layer)]});
    let manifest = serde_json::to_vec(&manifest).expect("JSON");
    let mut entry = part("manifest.v1+json", &manifest);
    entry["annotations"] = json!({"io.containerd.image.name": "docker.io/library/oci:test"});
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]})).expect("JSON");
    let layer_name = format!("blobs/sha256/{}", hex(&layer));
    change(&mut layer);
    let path = node.path().join("oci.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&path).expect("a file is made"));
    add(&mut tar, "oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#);
    add(&mut tar, &layer_name, &layer);
    add(&mut tar, &format!("blobs/sha256/{}", hex(&config)), &config);
    add(&mut tar, &format!("blobs/sha256/{}", hex(&manifest)), &manifest);
    add(&mut tar, "index.json", &index);
    tar.finish().expect("the archive is written");
    path
}

fn add(tar: &mut tar::Builder<std::fs::File>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, name, content).expect("the member is written");
}

fn hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn gzip(path: &Path) -> PathBuf {
    assert!(Command::new("gzip").args(["-1kf", text(path)]).status().expect("gzip runs").success());
    path.with_extension("tar.gz")
}

#[test]
fn a_docker_archive_becomes_an_image_that_can_be_removed() {
    let node = node();
    let before = store(&node);
    let archive = image::busybox(node.path());
    assert_eq!(node.podd(&["load", "-i", text(&archive)]).ok(), LOADED);
    let listed = node.podd(&["images"]);
    let row = listed.ok().lines().nth(1).expect("a row").split_whitespace().collect::<Vec<_>>();
    assert_eq!(row[..2], ["docker.io/library/busybox", "test"]);
    let id = node.podd(&["images", "-q"]).ok().trim().to_owned();
    assert!(id.starts_with(&format!("sha256:{}", row[2])), "{id} {row:?}");
    // Once more is no harm, and makes no second one.
    assert_eq!(node.podd(&["load", text(&archive)]).ok(), LOADED);
    assert_eq!(node.podd(&["images", "-q"]).ok().lines().count(), 1);
    let removed = format!("untagged docker.io/library/busybox:test\ndeleted {id}\n");
    assert_eq!(node.podd(&["rmi", "busybox:test"]).ok(), removed);
    assert_eq!(node.podd(&["images", "-q"]).ok(), "");
    assert!(node.podd(&["rmi", "busybox:test"]).refused().contains("there is no image busybox:test"));
    wait_for(SOON, "nothing but the index is left in the store", || {
        let files = store(&node).into_iter().filter(|path| path.is_file() && !path.ends_with("index.json"));
        let left: Vec<_> = files.filter(|path| !before.contains(path)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

#[test]
fn an_oci_archive_becomes_an_image_under_the_name_it_gives() {
    let node = node();
    let archive = oci(&node, |_| {});
    assert_eq!(node.podd(&["load", "-i", text(&archive)]).ok(), "loaded docker.io/library/oci:test\n");
    let id = node.podd(&["images", "oci", "-q"]).ok().trim().to_owned();
    // The same image in docker's form is the same image.
    assert_eq!(node.podd(&["load", "-i", text(&image::busybox(node.path()))]).ok(), LOADED);
    assert_eq!(node.podd(&["images", "-q"]).ok().trim(), id);
}

#[test]
fn archives_may_be_compressed() {
    let node = node();
    let archive = gzip(&image::busybox(node.path()));
    assert_eq!(node.podd(&["load", "-i", text(&archive)]).ok(), LOADED);
    let archive = gzip(&oci(&node, |_| {}));
    assert_eq!(
        load_from(&node, std::fs::File::open(archive).expect("it is there")).ok(),
        "loaded docker.io/library/oci:test\n"
    );
}

#[test]
fn an_archive_may_come_through_a_pipe() {
    let node = node();
    let archive = image::busybox(node.path());
    let mut cat = Command::new("cat").arg(&archive).stdout(Stdio::piped()).spawn().expect("cat runs");
    assert_eq!(load_from(&node, cat.stdout.take().expect("piped")).ok(), LOADED);
    assert!(cat.wait().expect("it ends").success());
}

#[test]
fn the_agent_need_not_see_the_file() {
    let node = node();
    let archive = image::busybox(node.path());
    // A mount namespace in which the archive lies where the agent has nothing.
    let script = "mount -t tmpfs tmpfs /mnt && cp \"$1\" /mnt/only-here.tar && \"$2\" load -i /mnt/only-here.tar";
    let program = program();
    let command = ["unshare", "--mount", "sh", "-c", script, "sh", text(&archive), text(&program)];
    assert_eq!(node.enter(&command).ok(), LOADED);
    assert!(!Path::new("/mnt/only-here.tar").exists());
}

#[test]
fn a_broken_archive_is_told_once_and_leaves_nothing() {
    let node = node();
    let whole = std::fs::read(image::busybox(node.path())).expect("the archive is there");
    let packed = std::fs::read(gzip(&image::busybox(node.path()))).expect("the archive is there");
    let spoiled = std::fs::read(oci(&node, |layer| layer[100] ^= 1)).expect("the archive is there");
    let before = store(&node);
    let table: &[(&str, &[u8], &str)] = &[
        ("cut in a member", &whole[..whole.len() / 2], "the archive is invalid: "),
        ("cut and compressed", &packed[..packed.len() / 2], "the archive is invalid: "),
        ("not an archive", b"apiVersion: v1\nkind: Pod\n", "the archive is invalid: "),
        ("empty", b"", "neither index.json nor manifest.json"),
        ("a layer with another content", &spoiled, "layer sha256:"),
    ];
    for (what, content, wanted) in table {
        let path = node.path().join("broken.tar");
        std::fs::write(&path, content).expect("a file is written");
        let piped = load_from(&node, std::fs::File::open(&path).expect("it is there"));
        for (refusal, name) in [(node.podd(&["load", "-i", text(&path)]), text(&path)), (piped, "-")] {
            let told = refusal.refused();
            assert!(told.starts_with(&format!("error: load {name}: ")) && told.contains(wanted), "{what}: {told}");
            assert_eq!((told.lines().count(), refusal.stdout.as_str()), (1, ""), "{what}: {told}");
        }
        assert_eq!(node.podd(&["images", "-q"]).ok(), "", "{what}");
        let left: Vec<_> = store(&node).difference(&before).cloned().collect();
        assert!(left.is_empty(), "{what} left {left:?}");
    }
}

#[test]
fn what_cannot_be_read_is_told_without_the_agent() {
    let node = Node::new();
    let missing = node.path().join("missing.tar");
    assert!(node.podd(&["load", "-i", text(&missing)]).refused().contains("missing.tar: No such file or directory"));
    assert!(node.podd(&["load", "-i", text(node.path())]).refused().contains("is a directory"));
    assert!(!node.path().join("run/podd.sock").exists(), "an agent was started");
}

#[test]
fn a_stream_without_end_that_is_no_archive_is_refused_before_it_ends() {
    let node = node();
    let mut yes = Command::new("yes").stdout(Stdio::piped()).spawn().expect("yes runs");
    let refusal = load_from(&node, yes.stdout.take().expect("piped"));
    yes.wait().expect("it ends by SIGPIPE");
    assert!(refusal.refused().starts_with("error: load -: the archive is invalid: "), "{}", refusal.stderr);
}

#[test]
fn a_client_that_goes_away_leaves_nothing() {
    let node = node();
    let before = store(&node);
    let archive = std::fs::read(image::busybox(node.path())).expect("the archive is there");
    let mut command = node.command(program());
    let mut client = command.args(["load", "-"]).stdin(Stdio::piped()).spawn().expect("podd runs");
    let mut stdin = client.stdin.take().expect("piped");
    stdin.write_all(&archive[..archive.len() / 2]).expect("it is read");
    wait_for(SOON, "the agent has some of the archive", || {
        if store(&node) == before { Err(String::new()) } else { Ok(()) }
    });
    client.kill().expect("a child can be killed");
    client.wait().expect("a child can be waited for");
    wait_for(SOON, "the store is as it was", || {
        let now = store(&node);
        if now == before { Ok(()) } else { Err(format!("{now:?}")) }
    });
    assert_eq!(node.podd(&["images", "-q"]).ok(), "");
}

#[test]
fn a_large_archive_needs_little_memory() {
    let node = node();
    let size: u64 = 256 << 20;
    let path = image::busybox(node.path());
    // A member more, which nothing refers to: without the end of the archive, and after it again.
    let mut file = std::fs::File::options().read(true).write(true).open(&path).expect("the archive is there");
    let mut whole = Vec::new();
    file.read_to_end(&mut whole).expect("it is read");
    let large = node.path().join("large.tar");
    let mut out = std::fs::File::create(&large).expect("a file is made");
    let mut header = tar::Header::new_gnu();
    header.set_path("padding").expect("a short name");
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    out.write_all(header.as_bytes()).expect("it is written");
    // A hole in the file; its size is a multiple of the blocks'.
    std::io::Seek::seek(&mut out, std::io::SeekFrom::Current(i64::try_from(size).expect("it fits"))).expect("a file");
    out.write_all(&whole).expect("it is written");
    let before = peak(node.agent_pid());
    assert_eq!(node.podd(&["load", "-i", text(&large)]).ok(), LOADED);
    let grown = peak(node.agent_pid()) - before;
    assert!(grown < 64 << 10, "the agent grew by {grown} KiB for an archive of {} KiB", size >> 10);
}

/// The most memory that a process has had, in KiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("every process has one");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
