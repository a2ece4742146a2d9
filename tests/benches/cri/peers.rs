//! Who is measured: `podd cri`, and containerd with runc and the bridge plugin, each started for the bench on the bench's
//! own node and taken away with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use podd_cri::client::Client;
use podd_tests::{
    Node,
    image::{self, registry::Registry},
    program, wait_for,
};
use serde_json::json;

/// The image of every container, and of containerd's sandboxes.
pub(crate) const IMAGE: &str = "127.0.0.1:5000/bench:1";
const START: Duration = Duration::from_secs(20);

/// A runtime behind its socket.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) client: Client,
    /// Part of the name of the process that stands beside each pod.
    pub(crate) shim: &'static str,
    process: Child,
}

impl Peer {
    pub(crate) async fn podd(node: &Node) -> Self {
        let socket = node.path().join("run/cri/cri.sock");
        let mut command = node.command(program());
        let process = spawn(node, command.arg("cri"), "podd.txt");
        let client = connect(&socket).await;
        Self { name: "podd", client, shim: "podd-shim", process }
    }

    /// `None` where it is not installed or does not run.
    pub(crate) async fn containerd(node: &Node) -> Option<Self> {
        let is_there = |name: &str| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
        let plugins = ["/opt/cni/bin", "/usr/lib/cni"].into_iter().find(|path| Path::new(path).join("bridge").exists());
        let plugins = plugins.filter(|_| is_there("containerd") && is_there("runc"))?;
        let directory = node.path().join("containerd");
        let socket = directory.join("containerd.sock");
        let mut command = node.command("containerd");
        let configuration = configure(node, &directory, plugins);
        let process = spawn(node, command.args(["--config", text(&configuration)]), "containerd.txt");
        let client = connect(&socket).await;
        Some(Self { name: "containerd", client, shim: "containerd-shim", process })
    }

    /// Memory of the processes beside the pods, in MiB (PSS).
    pub(crate) fn shims(&self, node: &Node) -> f64 {
        let ours = |pid: &i32| {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let directory = text(node.path());
            command.contains(self.shim) && (self.shim == "podd-shim" || command.contains(directory))
        };
        let all = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(ours).map(|pid| kib(pid) as f64 / 1024.0).sum()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let ended = Command::new("kill").arg(self.process.id().to_string()).status();
        assert!(ended.is_ok_and(|status| status.success()), "{} cannot be ended", self.name);
        let _status = self.process.wait();
    }
}

fn configure(node: &Node, directory: &Path, plugins: &str) -> PathBuf {
    let networks = directory.join("net.d");
    std::fs::create_dir_all(&networks).expect("a directory");
    let network = json!({
        "cniVersion": "1.0.0", "name": "bench",
        "plugins": [{
            "type": "bridge", "bridge": "bench0", "isGateway": true, "ipMasq": false,
            "ipam": {
                "type": "host-local", "dataDir": directory.join("addresses"),
                "ranges": [[{"subnet": "10.87.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    });
    std::fs::write(networks.join("10-bench.conflist"), network.to_string()).expect("a file");
    let at = |name: &str| text(&directory.join(name)).to_owned();
    node.file(
        "containerd.toml",
        &format!(
            r#"version = 3
root = "{root}"
state = "{state}"
[grpc]
address = "{socket}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{IMAGE}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dir = "{plugins}"
conf_dir = "{networks}"
[plugins."io.containerd.nri.v1.nri"]
disable = true
"#,
            root = at("root"),
            state = at("state"),
            socket = at("containerd.sock"),
            networks = at("net.d"),
        ),
    )
    .into()
}

fn spawn(node: &Node, command: &mut Command, log: &str) -> Child {
    let log = std::fs::File::create(node.path().join(log)).expect("a file");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it starts")
}

async fn connect(socket: &Path) -> Client {
    wait_for(START, "the runtime listens", || {
        std::os::unix::net::UnixStream::connect(socket).map(drop).map_err(|error| error.to_string())
    });
    podd_cri::client::connect(socket).await.expect("a client")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Proportional memory of a process.
fn kib(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
}

/// A registry that has the image: busybox, which sleeps.
pub(crate) fn registry(node: &Node) -> Registry<'_> {
    let registry = Registry::start(node);
    let image = image::in_layers(node.path(), json!({"Cmd": ["sleep", "1000000"], "Env": ["PATH=/bin"]}));
    registry.push("bench:1", &image);
    registry
}
