//! A worker as a task: what becomes of its jobs when they panic, are given up or are left at the end.

use std::{net::IpAddr, path::PathBuf, sync::Mutex};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use podd_core::pod::{Goal, LastStep, NodeFacts};
use podd_cri::fake::{Behaviour, FakeRuntime, Fault, Pull, TokioClock};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{
    events::Recorder,
    volumes::SubPath,
    worker::services::{Clock, PodObjects, PodResources, Prepared, Settings},
};

const START: i64 = 1_800_000_000;

/// A node on which preparing panics a few times, and an API that takes every status.
#[derive(Default)]
struct Around {
    panics: Mutex<u32>,
    told: Mutex<Vec<String>>,
}

#[async_trait]
impl PodResources for Around {
    async fn prepare(&self, _: &Pod) -> Result<Prepared, Failure> {
        let panics = {
            let mut left = self.panics.lock().expect("nothing panics with it");
            let panics = *left > 0;
            *left = left.saturating_sub(1);
            panics
        };
        assert!(!panics, "told to panic");
        Ok(Prepared::default())
    }

    async fn hosts_file(&self, _: &Pod, _: &[IpAddr]) -> Result<PathBuf, Failure> {
        Ok("/hosts".into())
    }

    async fn sub_path(&self, _: &Pod, wanted: &SubPath) -> Result<PathBuf, Failure> {
        Ok(wanted.volume.join(&wanted.path))
    }

    async fn suspend(&self, _: &Pod) -> Result<(), Failure> {
        Ok(())
    }

    async fn release(&self, _: &Pod) -> Result<(), Failure> {
        Ok(())
    }
}

#[async_trait]
impl PodObjects for Around {
    async fn runtime_handler(&self, _: &Pod) -> Result<String, String> {
        Ok(String::new())
    }

    async fn publish(&self, _: &Pod, status: &PodStatus) -> Result<(), PublishError> {
        self.told.lock().expect("nothing panics with it").push(status.phase.clone().unwrap_or_default());
        Ok(())
    }

    async fn delete(&self, _: &Pod) -> Result<(), PublishError> {
        Ok(())
    }
}

struct Node {
    fake: FakeRuntime,
    around: Arc<Around>,
    shared: Arc<Shared>,
    directory: TempDir,
}

impl Node {
    fn new() -> Node {
        let start = Timestamp::from_second(START).expect("a time");
        let fake = FakeRuntime::new(TokioClock::new(START * 1_000_000_000));
        let around = Arc::new(Around::default());
        let directory = tempfile::tempdir().expect("a directory");
        let (runtime, images) = fake.services();
        let services = Services {
            runtime,
            images,
            resources: around.clone(),
            objects: around.clone(),
            recorder: Recorder::queue(1).0,
            node: NodeFacts {
                name: "node".into(),
                host_ips: Vec::new(),
                runtime: "fake".into(),
                max_restart_period: Duration::from_secs(300),
                recursive_read_only: true,
            },
            settings: Settings {
                log_root: directory.path().join("logs"),
                pods_dir: directory.path().join("pods"),
                seccomp_default: true,
                seccomp_profiles: "/profiles".into(),
                memory_capacity: 1 << 30,
                swap: None,
                default_limits: Default::default(),
                resync: Duration::from_secs(30),
                call_deadline: Duration::from_secs(20),
            },
            clock: Clock::virtual_from(start),
        };
        let shared = Shared {
            services: Arc::new(services),
            table: Table::default(),
            pulls: Pulls::new(),
            closing: CancellationToken::new(),
        };
        Node { fake, around, shared: Arc::new(shared), directory }
    }

    /// The worker of a pod that shall run.
    fn worker(&self) -> (Handle, tokio::task::JoinHandle<()>) {
        let (handle, worker) = worker(self.shared.clone(), wish());
        (handle, tokio::spawn(worker))
    }

    fn running(&self) -> usize {
        let running = podd_cri::v1::ContainerState::ContainerRunning;
        self.fake.snapshot().containers.iter().filter(|(_, container)| container.state() == running).count()
    }

    /// The worker tells nobody of a container's end; this is the dispatcher's part.
    async fn until(&self, what: &str, seconds: u64, is_true: impl Fn(&Node) -> bool) {
        let end = Instant::now() + Duration::from_secs(seconds);
        while !is_true(self) {
            assert!(Instant::now() < end, "{what}: not after {seconds} s");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn wish() -> Wish {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"restartPolicy": "Always", "containers": [{"name": "a", "image": "a:1"}]},
    });
    Wish { pod: Arc::new(serde_json::from_value(pod).expect("a pod")), goal: Goal::Run, published: true }
}

fn stop() -> Wish {
    let kill_at = Timestamp::from_second(START + 3600).expect("a time");
    Wish { goal: Goal::Stop { kill_at, last: LastStep::DeleteObject }, ..wish() }
}

#[tokio::test(start_paused = true)]
async fn an_action_that_panics_has_failed_and_is_tried_again() {
    let node = Node::new();
    *node.around.panics.lock().expect("whole") = 2;
    let (_handle, task) = node.worker();
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(*node.around.panics.lock().expect("whole"), 1, "not at once");
    node.until("it runs", 5, |node| node.running() == 1).await;
    assert!(!task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_hangs_does_not_keep_the_worker_of_a_pod_that_goes() {
    let node = Node::new();
    node.fake.pull("a:1", Pull { after: Duration::from_secs(600), error: None });
    let (handle, task) = node.worker();
    tokio::time::sleep(Duration::from_secs(2)).await;
    handle.tell(stop());
    tokio::time::timeout(Duration::from_secs(5), task).await.expect("it ends").expect("well");
    assert_eq!(node.around.told.lock().expect("whole").last().map(String::as_str), Some("Failed"));
}

#[tokio::test(start_paused = true)]
async fn a_kill_that_was_replaced_tells_nothing_when_it_ends() {
    let node = Node::new();
    node.fake.behave("a", [Behaviour::run_forever().on_stop(podd_cri::fake::OnStop::Ignore)]);
    let (handle, task) = node.worker();
    node.until("it runs", 5, |node| node.running() == 1).await;
    handle.tell(stop());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let kill_at = Timestamp::from_second(START + 15).expect("a time");
    handle.tell(Wish { goal: Goal::Stop { kill_at, last: LastStep::DeleteObject }, ..wish() });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(node.running(), 1, "it has its grace");
    tokio::time::timeout(Duration::from_secs(8), task).await.expect("it ends").expect("well");
    assert!(node.fake.snapshot().containers.is_empty());
    let calls = node.fake.take_calls();
    assert_eq!(calls.iter().filter(|call| call.name == "StopContainer").count(), 2, "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_back_off_is_on_disk_before_the_restart_that_it_counts() {
    let node = Node::new();
    node.fake.behave("a", [Behaviour::exit_after(Duration::from_secs(1), 1), Behaviour::run_forever()]);
    let path = node.directory.path().join("pods/u/back-offs.json");
    let (handle, _task) = node.worker();
    node.until("it ran", 5, |node| !node.fake.snapshot().containers.is_empty()).await;
    node.until("it crashed", 5, |node| node.running() == 0).await;
    assert!(!path.exists(), "a first start is no restart");
    let _first_start = node.fake.take_calls();
    // Hangs, so that what is on disk was there before.
    node.fake.inject("CreateContainer", Fault::Hang, 1);
    handle.wake();
    node.until("it is being restarted", 5, |node| {
        node.fake.take_calls().iter().filter(|call| call.name == "CreateContainer").count() > 0
    })
    .await;
    let written = std::fs::read_to_string(path).expect("it is there");
    assert!(written.contains("\"a\""), "{written}");
}

/// Closes a worker in the middle of a call that takes so long; how long that took, and what came of it.
async fn close_during(call: &'static str, fault: Fault) -> (Duration, Node) {
    let node = Node::new();
    node.fake.inject(call, fault, 1);
    let (_handle, task) = node.worker();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    node.shared.closing.cancel();
    task.await.expect("well");
    (began.elapsed(), node)
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_closed_lets_a_short_action_end() {
    let (took, node) = close_during("RunPodSandbox", Fault::Delay(Duration::from_secs(3))).await;
    assert_eq!(took.as_secs(), 2, "{took:?}");
    assert_eq!(node.fake.snapshot().sandboxes.len(), 1);
    assert_eq!(node.running(), 0, "nothing was begun after it");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_closed_does_not_wait_for_ever_nor_for_a_pull() {
    let (took, node) = close_during("RunPodSandbox", Fault::Hang).await;
    assert_eq!(took.as_secs(), CLOSE_PATIENCE.as_secs(), "{took:?}");
    assert!(node.fake.snapshot().sandboxes.is_empty());
    let (took, _) = close_during("PullImage", Fault::Hang).await;
    assert_eq!(took.as_secs(), 0, "{took:?}");
}
