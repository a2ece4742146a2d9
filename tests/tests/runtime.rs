//! The embedded runtime through CRI in process: sandboxes and containers on the real kernel. Each test runs in network
//! and mount namespaces of its own, for which the test's binary is started once more.

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
fn on_a_node<F: Future<Output = ()>>(name: &str, work: impl FnOnce(Bench) -> F) {
    if std::env::var(INSIDE).as_deref() == Ok(name) {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success());
        let bench = Bench::new();
        let group = bench.group.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(work(bench))));
        clean(&group);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
        return;
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, name)
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

/// Kills and removes whatever is left in the test's control group.
fn clean(group: &str) {
    for top in std::fs::read_dir("/sys/fs/cgroup").unwrap() {
        let path = top.unwrap().path().join(group.trim_start_matches('/'));
        remove(&path);
    }
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
struct Bench {
    directory: tempfile::TempDir,
    group: String,
    boot: String,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("podd-test-").tempdir().unwrap();
        Self { directory, group: format!("/podd-test-r{}", std::process::id()), boot: "first".to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn open(&self) -> Arc<Runtime> {
        let mut config =
            Config::new(&format!("r{}", std::process::id()), &self.path("root"), &self.path("run")).unwrap();
        config.cgroup_root = self.group.clone().into();
        config.boot_id = self.boot.clone();
        let runtime = Runtime::open(config).await.unwrap();
        let archive = image::busybox(self.directory.path());
        runtime.images().load(std::fs::File::open(archive).unwrap()).await.unwrap();
        runtime
    }

    fn sandbox(&self, name: &str) -> PodSandboxConfig {
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
fn own_pid_namespace() -> NamespaceOption {
    NamespaceOption { pid: NamespaceMode::Container as i32, ..Default::default() }
}

fn container(name: &str, script: &str) -> ContainerConfig {
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

async fn run_sandbox(runtime: &Runtime, config: &PodSandboxConfig) -> String {
    let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    runtime.run_pod_sandbox(Request::new(request)).await.unwrap().into_inner().pod_sandbox_id
}

async fn create(runtime: &Runtime, sandbox: &str, config: &PodSandboxConfig, container: ContainerConfig) -> String {
    let request = CreateContainerRequest {
        pod_sandbox_id: sandbox.into(),
        config: Some(container),
        sandbox_config: Some(config.clone()),
    };
    runtime.create_container(Request::new(request)).await.unwrap().into_inner().container_id
}

async fn start(runtime: &Runtime, id: &str) {
    runtime.start_container(Request::new(StartContainerRequest { container_id: id.into() })).await.unwrap();
}

async fn status(runtime: &Runtime, id: &str) -> ContainerStatus {
    let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
    runtime.container_status(Request::new(request)).await.unwrap().into_inner().status.unwrap()
}

async fn exited(runtime: &Runtime, id: &str) -> ContainerStatus {
    for _ in 0..2000 {
        let status = status(runtime, id).await;
        if status.state == ContainerState::ContainerExited as i32 {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("container {id} does not end: {:?}", status(runtime, id).await);
}

async fn exec(runtime: &Runtime, id: &str, script: &str) -> ExecSyncResponse {
    let cmd = ["sh", "-c", script].map(str::to_owned).to_vec();
    let request = ExecSyncRequest { container_id: id.into(), cmd, timeout: 20 };
    runtime.exec_sync(Request::new(request)).await.unwrap().into_inner()
}

async fn remove_sandbox(runtime: &Runtime, id: &str) {
    let stop = StopPodSandboxRequest { pod_sandbox_id: id.into() };
    runtime.stop_pod_sandbox(Request::new(stop)).await.unwrap();
    let remove = RemovePodSandboxRequest { pod_sandbox_id: id.into() };
    runtime.remove_pod_sandbox(Request::new(remove)).await.unwrap();
}

#[test]
fn a_container_runs_logs_and_ends_with_its_exit_code() {
    on_a_node("a_container_runs_logs_and_ends_with_its_exit_code", |bench| async move {
        let runtime = bench.open().await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(&runtime, &pod).await;
        let script = "echo out; echo err >&2; hostname; exit 7";
        let id = create(&runtime, &sandbox, &pod, container("c", script)).await;
        start(&runtime, &id).await;
        let status = exited(&runtime, &id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
        assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at);
        let log = std::fs::read_to_string(bench.path("logs/c.log")).unwrap();
        let mut lines: Vec<&str> = log.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        lines.sort_unstable();
        assert_eq!(lines, ["stderr F err", "stdout F a", "stdout F out"]);
        remove_sandbox(&runtime, &sandbox).await;
        let list = runtime.list_containers(Request::new(ListContainersRequest::default())).await.unwrap();
        assert!(list.into_inner().containers.is_empty());
        runtime.close().await;
    });
}

#[test]
fn containers_of_a_pod_share_network_and_memory_and_nothing_else() {
    on_a_node("containers_of_a_pod_share_network_and_memory_and_nothing_else", |bench| async move {
        let runtime = bench.open().await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(&runtime, &pod).await;
        let first = create(&runtime, &sandbox, &pod, container("one", "httpd -f -p 8080 -h /www")).await;
        let second = create(&runtime, &sandbox, &pod, container("two", "echo x >/dev/shm/x; sleep 1000")).await;
        start(&runtime, &first).await;
        start(&runtime, &second).await;
        let page =
            exec(&runtime, &second, "for i in $(seq 100); do wget -qO- http://127.0.0.1:8080/ && break; done").await;
        assert_eq!(String::from_utf8_lossy(&page.stdout), "hello from busybox\n");
        let shared = exec(&runtime, &first, "cat /dev/shm/x; readlink /proc/self/ns/net /proc/self/ns/uts").await;
        let same = exec(&runtime, &second, "cat /dev/shm/x; readlink /proc/self/ns/net /proc/self/ns/uts").await;
        assert_eq!(shared.stdout, same.stdout, "{}", String::from_utf8_lossy(&shared.stderr));
        let apart = exec(&runtime, &first, "readlink /proc/self/ns/pid; ls /proc | grep -c '^[0-9]'").await;
        let other = exec(&runtime, &second, "readlink /proc/self/ns/pid; ls /proc | grep -c '^[0-9]'").await;
        assert_ne!(apart.stdout, other.stdout);
        remove_sandbox(&runtime, &sandbox).await;
        runtime.close().await;
    });
}

#[test]
fn what_runs_is_taken_over_and_what_ended_meanwhile_is_told() {
    on_a_node("what_runs_is_taken_over_and_what_ended_meanwhile_is_told", |bench| async move {
        let runtime = bench.open().await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(&runtime, &pod).await;
        let stays = create(&runtime, &sandbox, &pod, container("stays", "sleep 1000")).await;
        let ends =
            create(&runtime, &sandbox, &pod, container("ends", "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 3"))
                .await;
        start(&runtime, &stays).await;
        start(&runtime, &ends).await;
        exec(&runtime, &ends, "(sleep 0.3; touch /tmp/go) >/dev/null 2>&1 &").await;
        runtime.close().await;
        drop(runtime);
        tokio::time::sleep(Duration::from_millis(800)).await;
        let runtime = bench.open().await;
        let status = exited(&runtime, &ends).await;
        assert_eq!(status.exit_code, 3);
        assert_eq!(self::status(&runtime, &stays).await.state, ContainerState::ContainerRunning as i32);
        assert_eq!(exec(&runtime, &stays, "echo again").await.stdout, b"again\n");
        remove_sandbox(&runtime, &sandbox).await;
        runtime.close().await;
    });
}
