//! An embedded runtime in network and mount namespaces of its own, for which the test's binary is started once more.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use podd_cri::RuntimeService;
use podd_cri::v1::*;
use podd_runtime::{Config, Runtime};
use podd_tests::image;
use tonic::Request;

/// Says to the second start of the binary that it is inside.
const INSIDE: &str = "PODD_TEST_INSIDE";

/// Runs `work` in namespaces of its own, on a multi-threaded runtime.
pub(crate) fn on_a_node<F: Future<Output = ()>>(name: &str, work: impl FnOnce(Bench) -> F) {
    if std::env::var(INSIDE).as_deref() == Ok(name) {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success());
        on_this_node(work);
        return;
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--include-ignored"])
        .env(INSIDE, name)
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

/// Runs `work` here, and clears its control group whatever happens.
pub(crate) fn on_this_node<F: Future<Output = ()>>(work: impl FnOnce(Bench) -> F) {
    let bench = Bench::new();
    let group = bench.group.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(work(bench))));
    clean(&group);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Kills and removes whatever is left in the test's control group.
fn clean(group: &str) {
    for path in hierarchies(group) {
        remove(&path);
    }
}

/// Where a control group may lie: in each hierarchy of v1, or in the one of v2.
fn hierarchies(group: &str) -> Vec<PathBuf> {
    let tops = std::fs::read_dir("/sys/fs/cgroup").unwrap().map(|top| top.unwrap().path());
    let tops = tops.chain([PathBuf::from("/sys/fs/cgroup")]);
    tops.map(|top| top.join(group.trim_start_matches('/'))).collect()
}

fn remove(path: &Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok) {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    for _ in 0..200 {
        for pid in std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines() {
            let _may_have_ended = Command::new("kill").args(["-9", pid]).status();
        }
        match std::fs::remove_dir(path) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            _ => return,
        }
    }
}

/// Directories and names of one test.
pub(crate) struct Bench {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) group: String,
    pub(crate) boot: String,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("podd-test-").tempdir().unwrap();
        Self { directory, group: format!("/podd-test-r{}", std::process::id()), boot: "first".to_owned() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) async fn open(&self) -> Arc<Runtime> {
        self.open_with(|_| {}).await
    }

    /// With more said about the runtime.
    pub(crate) async fn open_with(&self, change: impl FnOnce(&mut Config)) -> Arc<Runtime> {
        let mut config =
            Config::new(&format!("r{}", std::process::id()), &self.path("root"), &self.path("run")).unwrap();
        config.cgroup_root = self.group.clone().into();
        config.boot_id = self.boot.clone();
        change(&mut config);
        let runtime = Runtime::open(config).await.unwrap();
        let archive = image::busybox(self.directory.path());
        runtime.images().load(std::fs::File::open(archive).unwrap()).await.unwrap();
        runtime
    }

    /// A runtime behind a socket, and a client to it.
    pub(crate) async fn serve(&self) -> (Arc<Runtime>, podd_cri::client::Client) {
        let runtime = self.open().await;
        let socket = self.path("cri.sock");
        let listener = podd_cri::server::bind(&socket).await.unwrap();
        // It ends with the test's process.
        tokio::spawn(podd_cri::server::serve(listener, runtime.clone(), runtime.clone(), std::future::pending()));
        let client = podd_cri::client::connect(&socket).await.unwrap();
        (runtime, client)
    }

    pub(crate) fn sandbox(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.into(),
                namespace: "default".into(),
                uid: format!("uid-{name}"),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: self.path("logs").display().to_string(),
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/pods/{name}", self.group),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(own_pid_namespace()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

/// What a kubelet asks for unless the pod shares its processes.
pub(crate) fn own_pid_namespace() -> NamespaceOption {
    NamespaceOption { pid: NamespaceMode::Container as i32, ..Default::default() }
}

pub(crate) fn container(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(ImageSpec { image: image::BUSYBOX.into(), ..Default::default() }),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(own_pid_namespace()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(crate) async fn run_sandbox(runtime: &dyn RuntimeService, config: &PodSandboxConfig) -> String {
    let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    runtime.run_pod_sandbox(Request::new(request)).await.unwrap().into_inner().pod_sandbox_id
}

pub(crate) async fn create(
    runtime: &dyn RuntimeService,
    sandbox: &str,
    config: &PodSandboxConfig,
    container: ContainerConfig,
) -> String {
    let request = CreateContainerRequest {
        pod_sandbox_id: sandbox.into(),
        config: Some(container),
        sandbox_config: Some(config.clone()),
    };
    runtime.create_container(Request::new(request)).await.unwrap().into_inner().container_id
}

pub(crate) async fn start(runtime: &dyn RuntimeService, id: &str) {
    runtime.start_container(Request::new(StartContainerRequest { container_id: id.into() })).await.unwrap();
}

pub(crate) async fn status(runtime: &dyn RuntimeService, id: &str) -> ContainerStatus {
    let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
    runtime.container_status(Request::new(request)).await.unwrap().into_inner().status.unwrap()
}

pub(crate) async fn exited(runtime: &dyn RuntimeService, id: &str) -> ContainerStatus {
    for _ in 0..2000 {
        let status = status(runtime, id).await;
        if status.state == ContainerState::ContainerExited as i32 {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("container {id} does not end: {:?}", status(runtime, id).await);
}

pub(crate) async fn exec(runtime: &dyn RuntimeService, id: &str, script: &str) -> ExecSyncResponse {
    let cmd = ["sh", "-c", script].map(str::to_owned).to_vec();
    let request = ExecSyncRequest { container_id: id.into(), cmd, timeout: 20 };
    runtime.exec_sync(Request::new(request)).await.unwrap().into_inner()
}

pub(crate) async fn remove_sandbox(runtime: &dyn RuntimeService, id: &str) {
    let stop = StopPodSandboxRequest { pod_sandbox_id: id.into() };
    runtime.stop_pod_sandbox(Request::new(stop)).await.unwrap();
    let remove = RemovePodSandboxRequest { pod_sandbox_id: id.into() };
    runtime.remove_pod_sandbox(Request::new(remove)).await.unwrap();
}

/// Stop of what is gone is fine for a sandbox that was there, and for one that never was.
pub(crate) async fn remove_sandbox_again(runtime: &dyn RuntimeService, id: &str) {
    let remove = RemovePodSandboxRequest { pod_sandbox_id: id.into() };
    runtime.remove_pod_sandbox(Request::new(remove)).await.unwrap();
}

/// Every process in the test's control groups, with its command line.
pub(crate) fn processes(group: &str) -> Vec<(i32, String)> {
    let mut pids: Vec<i32> = hierarchies(group).iter().flat_map(|path| below(path)).collect();
    pids.sort_unstable();
    pids.dedup();
    let title = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ")
    };
    pids.iter().map(|pid| (*pid, title(pid))).collect()
}

fn below(group: &Path) -> Vec<i32> {
    let own = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<i32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in std::fs::read_dir(group).into_iter().flatten().filter_map(Result::ok) {
        if entry.path().is_dir() {
            pids.extend(below(&entry.path()));
        }
    }
    pids
}

/// Kills a process that the test made.
pub(crate) fn kill(pid: i32) {
    Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
}
