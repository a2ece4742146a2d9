//! A registry on a node: Debian's `docker-registry`, on the node's loopback. Images are pushed with curl.

use std::path::Path;
use std::process::{Child, Stdio};

use super::debian::Image;
use crate::{Node, SOON, wait_for};

/// The media type of a manifest.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A registry; ended with the value.
pub struct Registry<'a> {
    node: &'a Node,
    child: Child,
}

impl<'a> Registry<'a> {
    /// Where it listens: nothing else does in the node's network.
    pub const ADDRESS: &'static str = "127.0.0.1:5000";

    /// Starts one whose images lie in the node's directory, and waits until it answers.
    ///
    /// # Panics
    /// When docker-registry is not installed.
    pub fn start(node: &'a Node) -> Self {
        Self::start_with(node, "")
    }

    /// As [`Registry::start`], for users only: lines of htpasswd(1), with bcrypt. Nothing can be pushed.
    ///
    /// # Panics
    /// When docker-registry is not installed.
    pub fn start_for(node: &'a Node, users: &str) -> Self {
        let users = node.file("registry.users", users);
        Self::start_with(node, &format!("auth:\n  htpasswd: {{realm: tests, path: {users}}}\n"))
    }

    fn start_with(node: &'a Node, more: &str) -> Self {
        let (data, address) = (node.path().join("registry"), Self::ADDRESS);
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp:\n  addr: {address}\n{more}",
            data.display()
        );
        let config = node.file("registry.yml", &config);
        let mut command = node.command("docker-registry");
        command.args(["serve", &config]).env("OTEL_TRACES_EXPORTER", "none");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let registry = Self { node, child: child.expect("nsenter runs") };
        wait_for(SOON, "docker-registry (package docker-registry) answers", || {
            let answer = node.enter(&["curl", "-sS", &format!("http://{address}/v2/")]);
            if answer.code == 0 { Ok(()) } else { Err(answer.stderr) }
        });
        registry
    }

    /// Pushes an image under a name (`nginx:1`).
    ///
    /// # Panics
    /// When the registry does not take it.
    pub fn push(&self, name: &str, image: &Image) {
        let (repository, tag) = name.split_once(':').expect("a name and a tag");
        for layer in &image.layers {
            self.put_blob(repository, &layer.path, &layer.digest);
        }
        let config = self.node.file("pushed-config.json", &String::from_utf8_lossy(&image.config));
        self.put_blob(repository, Path::new(&config), &image.id());
        let manifest = self.node.file("pushed-manifest.json", &String::from_utf8_lossy(&image.manifest()));
        let url = format!("http://{}/v2/{repository}/manifests/{tag}", Self::ADDRESS);
        let kind = format!("Content-Type: {MANIFEST}");
        self.node
            .enter(&["curl", "-fsS", "-X", "PUT", "-H", &kind, "--data-binary", &format!("@{manifest}"), &url])
            .ok();
    }

    fn put_blob(&self, repository: &str, blob: &Path, digest: &str) {
        let url = format!("http://{}/v2/{repository}/blobs/uploads/", Self::ADDRESS);
        let begun = self.node.enter(&["curl", "-fsS", "-o", "/dev/null", "-D", "-", "-X", "POST", &url]);
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("location").then(|| value.trim().to_owned())
        };
        let place = begun.ok().lines().find_map(header).expect("the registry says where to");
        let (blob, place) = (format!("@{}", blob.display()), format!("{place}&digest={digest}"));
        let kind = "Content-Type: application/octet-stream";
        self.node.enter(&["curl", "-fsS", "-X", "PUT", "-H", kind, "--data-binary", &blob, &place]).ok();
    }
}

impl Drop for Registry<'_> {
    fn drop(&mut self) {
        let _may_have_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
