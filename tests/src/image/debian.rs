//! Images made from Debian packages: what apt says that a program needs, down to the C library, unpacked and never installed.
//!
//! Layers are kept under `target/tmp/debian-images`, by the names of their packages, which tell the versions. apt is asked as if
//! nothing were installed, so an image has all that its programs need whatever the machine has.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::architecture;

/// What of the packages is for people, and is left out.
const LEFT_OUT: &[&str] = &["doc", "man", "info", "locale", "lintian", "bash-completion"];
/// What Debian's `usr-merge` makes of these directories; packages may still use the old paths.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib64"];
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image in files, as a registry takes it.
pub struct Image {
    /// From the lowest up.
    pub layers: Vec<Layer>,
    /// The configuration, JSON.
    pub config: Vec<u8>,
}

/// A layer in a file.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The blob.
    pub path: PathBuf,
    /// The blob's media type.
    pub media_type: &'static str,
    /// The blob's digest.
    pub digest: String,
    /// The digest of the blob without compression.
    pub diff_id: String,
}

impl Layer {
    /// An uncompressed layer, written to `path`.
    pub(super) fn plain(path: PathBuf, tar: &[u8]) -> Layer {
        fs::write(&path, tar).expect("the layer is written");
        let digest = digest(&path);
        Layer { path, media_type: PLAIN, diff_id: digest.clone(), digest }
    }

    /// The blob's length in bytes.
    pub fn size(&self) -> u64 {
        fs::metadata(&self.path).expect("the layer is there").len()
    }
}

impl Image {
    /// Puts layers and a configuration (`Entrypoint`, `User`, …) together.
    pub fn new(layers: Vec<Layer>, config: Value) -> Image {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({"architecture": architecture(), "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        Image { config: serde_json::to_vec(&config).expect("JSON"), layers }
    }

    /// The manifest, JSON.
    pub fn manifest(&self) -> Vec<u8> {
        let part = |kind: &str, digest: String, size: u64| json!({"mediaType": kind, "digest": digest, "size": size});
        let layers = self.layers.iter().map(|layer| part(layer.media_type, layer.digest.clone(), layer.size()));
        let size = u64::try_from(self.config.len()).expect("small");
        let manifest = json!({"schemaVersion": 2, "mediaType": super::registry::MANIFEST,
            "config": part("application/vnd.oci.image.config.v1+json", self.id(), size),
            "layers": layers.collect::<Vec<_>>()});
        serde_json::to_vec(&manifest).expect("JSON")
    }

    /// The image's id.
    pub fn id(&self) -> String {
        format!("sha256:{}", super::hex(&self.config))
    }
}

/// A layer of Debian packages and all that they need, except what `below` has already.
///
/// # Panics
/// When apt does not know the packages or cannot download them.
pub fn packages(names: &[&str], below: &[&str]) -> Layer {
    let cache = crate::node::target().join("tmp/debian-images");
    // apt does not tell of what it has already, so it is asked about a place that stays empty.
    let (archives, empty) = (cache.join("archives"), cache.join("empty"));
    for directory in [&archives, &empty] {
        fs::create_dir_all(directory.join("partial")).expect("a directory in target/tmp");
    }
    // Tests are processes of their own, and only one may download.
    let lock = File::create(cache.join("lock")).expect("a file in target/tmp");
    lock.lock().expect("a lock");
    let mut files = needed(&empty, names);
    if !below.is_empty() {
        let has = needed(&empty, below);
        files.retain(|file| !has.contains(file));
    }
    let key = super::hex(files.iter().map(String::as_str).collect::<Vec<_>>().join("\n").as_bytes());
    let kept = cache.join(&key[..16]);
    if !kept.exists() {
        apt(&archives, &["--download-only"], names);
        let work = tempfile::tempdir_in(&cache).expect("a directory in target/tmp");
        unpack(&archives, &files, &work.path().join("tree"));
        pack(work.path());
        fs::rename(work.keep(), &kept).expect("a directory in target/tmp");
    }
    Layer {
        media_type: GZIP,
        digest: digest(&kept.join("layer.tar.gz")),
        diff_id: fs::read_to_string(kept.join("diff_id")).expect("it was written"),
        path: kept.join("layer.tar.gz"),
    }
}

/// A layer of files that `fill` puts into it, in `directory`.
pub fn files(directory: &Path, name: &str, fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Layer {
    let mut tar = tar::Builder::new(Vec::new());
    fill(&mut tar);
    Layer::plain(directory.join(name), &tar.into_inner().expect("in memory"))
}

/// The files of the packages, and of all that they need.
fn needed(empty: &Path, names: &[&str]) -> BTreeSet<String> {
    let text = apt(empty, &["--print-uris"], names);
    // 'http://…/a_1_amd64.deb' a_1_amd64.deb 1234 SHA256:…
    let lines = text.lines().filter(|line| line.starts_with('\''));
    let found: BTreeSet<String> = lines.filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect();
    assert!(!found.is_empty(), "apt tells of no package for {names:?}:\n{text}");
    found
}

/// Asks apt to install packages on a machine that has none.
fn apt(archives: &Path, options: &[&str], names: &[&str]) -> String {
    let output = Command::new("apt-get")
        .args(["-q", "-y", "-o", "Dir::State::status=/dev/null", "-o", "APT::Install-Recommends=false"])
        // root's downloads would otherwise be made by a user who may not write here, after a warning.
        .args(["-o", "APT::Sandbox::User=root", "-o"])
        .arg(format!("Dir::Cache::archives={}", archives.display()))
        .args(options)
        .arg("install")
        .args(names)
        .env("LC_ALL", "C")
        .output()
        .expect("apt-get runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "apt-get install {names:?}: {errors}\n(apt-get update may help)");
    text
}

fn unpack(archives: &Path, files: &BTreeSet<String>, tree: &Path) {
    for name in MERGED {
        fs::create_dir_all(tree.join("usr").join(name)).expect("a directory");
        std::os::unix::fs::symlink(format!("usr/{name}"), tree.join(name)).expect("a link");
    }
    for file in files {
        // `dpkg-deb -x` would replace the links of directories by directories.
        let script = "dpkg-deb --fsys-tarfile \"$1\" | tar --keep-directory-symlink -xpf - -C \"$2\"";
        run(Command::new("bash").args(["-o", "pipefail", "-c", script, "sh"]).arg(archives.join(file)).arg(tree));
    }
    for name in LEFT_OUT {
        match fs::remove_dir_all(tree.join("usr/share").join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("remove {name}: {error}"),
            _ => {}
        }
    }
}

/// Makes `layer.tar.gz` and `diff_id` of `tree`, which goes.
fn pack(work: &Path) {
    let in_order = ["--sort=name", "--mtime=@0", "--numeric-owner", "-C", "tree", "-cf", "layer.tar", "."];
    run(Command::new("tar").args(in_order).current_dir(work));
    fs::remove_dir_all(work.join("tree")).expect("the tree is ours");
    let mut file = File::create(work.join("diff_id")).expect("a file");
    file.write_all(digest(&work.join("layer.tar")).as_bytes()).expect("it is written");
    run(Command::new("gzip").args(["-n", "layer.tar"]).current_dir(work));
}

fn digest(path: &Path) -> String {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path).expect("the file is there"), &mut Writer(&mut hasher)).expect("it is read");
    format!("sha256:{}", hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// A hasher as something to write to.
struct Writer<'a>(&'a mut Sha256);

impl io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("a command runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
