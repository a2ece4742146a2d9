//! Images made on the spot: of busybox, as `docker save` writes them; of [Debian packages](debian), for a [registry].

pub mod debian;
pub mod registry;

use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest as _, Sha256};

/// The name under which [`busybox`] is loaded.
pub const BUSYBOX: &str = "docker.io/library/busybox:test";

/// Where Debian's `busybox-static` puts its program.
const PROGRAM: &str = "/bin/busybox";

/// The commands that are linked to busybox in the image.
const APPLETS: &[&str] = &[
    "sh", "ash", "cat", "chmod", "chown", "cp", "date", "dd", "df", "echo", "env", "false", "grep", "head", "hostname",
    "httpd", "id", "ifconfig", "ip", "kill", "ln", "ls", "mkdir", "mknod", "mount", "mv", "nc", "nproc", "nslookup",
    "ping", "ps", "pwd", "readlink", "rm", "seq", "sleep", "sort", "stat", "stty", "tail", "tee", "test", "top",
    "touch", "tr", "true", "tty", "umount", "uname", "vi", "wc", "wget", "whoami", "yes",
];

/// An archive of a small image with a shell and the usual commands, in `directory`.
pub fn busybox(directory: &Path) -> PathBuf {
    archive(directory, BUSYBOX, json!({"Cmd": ["sh"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}))
}

/// The same file system under another name and with another configuration (`Cmd`, `Entrypoint`, `User`, `StopSignal`, …).
///
/// # Panics
/// When busybox-static is not installed.
pub fn archive(directory: &Path, name: &str, config: serde_json::Value) -> PathBuf {
    stack(directory, name, config, &[layer()])
}

/// As [`archive`], with one file in a layer of its own above the rest.
pub fn with_file(directory: &Path, name: &str, config: serde_json::Value, file: &str, content: &str) -> PathBuf {
    let mut tar = tar::Builder::new(Vec::new());
    add(&mut tar, file, 0o644, content.as_bytes());
    stack(directory, name, config, &[layer(), tar.into_inner().expect("in memory")])
}

/// An archive of an image that holds these files, name and content, each in a layer of its own, the first one lowest.
pub fn of_files(directory: &Path, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let layers: Vec<Vec<u8>> = files
        .iter()
        .map(|(name, content)| {
            let mut tar = tar::Builder::new(Vec::new());
            add(&mut tar, name, 0o644, content.as_bytes());
            tar.into_inner().expect("in memory")
        })
        .collect();
    stack(directory, name, json!({}), &layers)
}

fn stack(directory: &Path, name: &str, config: serde_json::Value, layers: &[Vec<u8>]) -> PathBuf {
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", hex(layer))).collect();
    let configuration = json!({
        "architecture": architecture(), "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let configuration = serde_json::to_vec(&configuration).expect("JSON");
    let config_name = format!("{}.json", hex(&configuration));
    let names: Vec<String> = (0..layers.len()).map(|number| format!("layer{number}.tar")).collect();
    let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": names}]);
    let mut tar = tar::Builder::new(Vec::new());
    for (name, layer) in names.iter().zip(layers) {
        add(&mut tar, name, 0o644, layer);
    }
    add(&mut tar, &config_name, 0o644, &configuration);
    add(&mut tar, "manifest.json", 0o644, &serde_json::to_vec(&manifest).expect("JSON"));
    let path = directory.join(format!("{}.tar", name.replace(['/', ':'], "_")));
    std::fs::write(&path, tar.into_inner().expect("in memory")).expect("the archive is written");
    path
}

/// The same file system in files, as a registry takes it.
///
/// # Panics
/// When busybox-static is not installed.
pub fn in_layers(directory: &Path, config: serde_json::Value) -> debian::Image {
    debian::Image::new(vec![debian::Layer::plain(directory.join("busybox.tar"), &layer())], config)
}

fn layer() -> Vec<u8> {
    let program = std::fs::read(PROGRAM).unwrap_or_else(|error| panic!("{PROGRAM} (package busybox-static): {error}"));
    let mut tar = tar::Builder::new(Vec::new());
    for (directory, mode) in [("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("www", 0o755)] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        tar.append_data(&mut header, directory, &[][..]).expect("in memory");
    }
    add(&mut tar, "bin/busybox", 0o755, &program);
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("in memory");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    add(&mut tar, "etc/passwd", 0o644, passwd.as_bytes());
    add(&mut tar, "etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n");
    add(&mut tar, "www/index.html", 0o644, b"hello from busybox\n");
    tar.into_inner().expect("in memory")
}

fn add(tar: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, name, content).expect("in memory");
}

fn hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
