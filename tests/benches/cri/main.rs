//! What each call of CRI costs over its socket: `podd cri`, and containerd with runc and CNI beside it where they are
//! installed, in turn, on one node. Then many pods: whether the last cost what the first did, and what each takes.
//!
//! `PODD_BENCH_PODS=50,500` says how many (default `50`), `PODD_BENCH_ROUNDS` how often the single calls are measured.

mod peers;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use peers::{IMAGE, Peer};
use podd_cri::v1::*;
use podd_cri::{ImageService as _, RuntimeService as _};
use podd_tests::Node;
use tonic::{Request, Response, Status};

/// The calls in the order in which a pod goes through them.
const CALLS: [&str; 10] = [
    "RemoveImage",
    "PullImage",
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "ExecSync",
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
];

const START: &[&str] = &["RunPodSandbox", "CreateContainer", "StartContainer"];
const END: &[&str] = &["StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"];

fn main() {
    let node = Node::new();
    let up = node.enter(&["ip", "link", "set", "lo", "up"]);
    assert_eq!(up.code, 0, "{}", up.stderr);
    tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let _registry = peers::registry(&node);
        let mut peers = vec![Peer::podd(&node).await];
        match Peer::containerd(&node).await {
            Some(peer) => peers.push(peer),
            None => println!("containerd, runc or the CNI plugins are not installed: not compared"),
        }
        calls(&node, &peers).await;
        for count in numbers("PODD_BENCH_PODS", &[50]) {
            for peer in &peers {
                many(&node, peer, count).await;
            }
        }
    });
}

fn numbers(variable: &str, usual: &[usize]) -> Vec<usize> {
    let text = std::env::var(variable).unwrap_or_default();
    let given: Vec<usize> = text.split(',').filter_map(|number| number.parse().ok()).collect();
    if given.is_empty() { usual.to_vec() } else { given }
}

/// One round of each peer in turn, so that what else the machine does meets all of them.
async fn calls(node: &Node, peers: &[Peer]) {
    let rounds = numbers("PODD_BENCH_ROUNDS", &[20])[0];
    let mut times: BTreeMap<(&str, &str), Vec<Duration>> = BTreeMap::new();
    for round in 0..rounds {
        for peer in peers {
            let pod = Pod::new(node, peer, &format!("round{round}"));
            for call in CALLS {
                times.entry((call, peer.name)).or_default().push(pod.call(call).await);
            }
        }
    }
    println!("{:<20} {}", "milliseconds, median", peers.iter().map(|p| format!("{:>12}", p.name)).collect::<String>());
    let median = |call: &str, peer: &str| {
        let mut all = times[&(call, peer)].clone();
        all.sort_unstable();
        millis(all[all.len() / 2])
    };
    for call in CALLS {
        row(call, &peers.iter().map(|peer| median(call, peer.name)).collect::<Vec<f64>>());
    }
    let sum = |calls: &[&str], peer: &Peer| calls.iter().map(|call| median(call, peer.name)).sum();
    row("start: first three", &peers.iter().map(|peer| sum(START, peer)).collect::<Vec<f64>>());
    row("end: last four", &peers.iter().map(|peer| sum(END, peer)).collect::<Vec<f64>>());
}

fn row(what: &str, figures: &[f64]) {
    let columns: String = figures.iter().map(|figure| format!("{figure:>12.2}")).collect();
    let ratio = match figures {
        [own, other] => format!("{:>8.0} x", other / own),
        _ => String::new(),
    };
    println!("{what:<20} {columns}{ratio}");
}

/// Pods that stay: latency of the first and of the last tenth, memory beside each.
async fn many(node: &Node, peer: &Peer, count: usize) {
    let mut pods = Vec::with_capacity(count);
    let mut times = Vec::with_capacity(count);
    let before = peer.shims(node);
    for number in 0..count {
        let pod = Pod::new(node, peer, &format!("many{number}"));
        let mut time = Duration::ZERO;
        for call in START {
            time += pod.call(call).await;
        }
        times.push(time);
        pods.push(pod);
    }
    let each = (peer.shims(node) - before) / count as f64;
    let tenth = (count / 10).max(1);
    let mean = |times: &[Duration]| millis(times.iter().sum::<Duration>()) / times.len() as f64;
    println!(
        "{count} pods of {}: {:.2} ms each, the first tenth {:.2}, the last {:.2}, the slowest {:.2}; shim {each:.3} MiB (PSS)",
        peer.name,
        mean(&times),
        mean(&times[..tenth]),
        mean(&times[count - tenth..]),
        times.iter().max().copied().map_or(0.0, millis),
    );
    let begin = Instant::now();
    for pod in &pods {
        for call in &END[2..] {
            pod.call(call).await;
        }
    }
    println!("  and their end: {:.2} ms each", millis(begin.elapsed()) / count as f64);
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// One pod of one container, by its calls.
struct Pod<'a> {
    peer: &'a Peer,
    config: PodSandboxConfig,
    sandbox: std::cell::OnceCell<String>,
    container: std::cell::OnceCell<String>,
}

impl<'a> Pod<'a> {
    fn new(node: &Node, peer: &'a Peer, name: &str) -> Self {
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("{name}-{}", peer.name),
                namespace: "bench".to_owned(),
                attempt: 0,
            }),
            log_directory: node.path().join("logs").join(name).display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/podd-test-{}/{}", node.instance(), peer.name),
                ..Default::default()
            }),
            ..Default::default()
        };
        Self { peer, config, sandbox: Default::default(), container: Default::default() }
    }

    /// How long a call takes.
    async fn call(&self, name: &str) -> Duration {
        let runtime = &self.peer.client;
        let (sandbox, container) = (self.sandbox.get().cloned(), self.container.get().cloned());
        let (pod_sandbox_id, container_id) = (sandbox.unwrap_or_default(), container.unwrap_or_default());
        let begin = Instant::now();
        let image = Some(ImageSpec { image: IMAGE.to_owned(), ..Default::default() });
        let outcome = match name {
            "RemoveImage" => done(runtime.remove_image(Request::new(RemoveImageRequest { image })).await),
            "PullImage" => {
                done(runtime.pull_image(Request::new(PullImageRequest { image, ..Default::default() })).await)
            }
            "RunPodSandbox" => {
                let config = Some(self.config.clone());
                let request = RunPodSandboxRequest { config, ..Default::default() };
                let id = runtime.run_pod_sandbox(Request::new(request)).await.map(|r| r.into_inner().pod_sandbox_id);
                id.map(|id| self.sandbox.set(id).expect("once"))
            }
            "CreateContainer" => {
                let metadata = Some(ContainerMetadata { name: "c".to_owned(), attempt: 0 });
                let script = "trap 'exit 0' TERM; sleep 1000000 & wait";
                let command = ["sh", "-c", script].map(str::to_owned).to_vec();
                let log_path = "c.log".to_owned();
                let config = Some(ContainerConfig { metadata, image, command, log_path, ..Default::default() });
                let sandbox_config = Some(self.config.clone());
                let request = CreateContainerRequest { pod_sandbox_id, config, sandbox_config };
                let id = runtime.create_container(Request::new(request)).await.map(|r| r.into_inner().container_id);
                id.map(|id| self.container.set(id).expect("once"))
            }
            "StartContainer" => {
                done(runtime.start_container(Request::new(StartContainerRequest { container_id })).await)
            }
            "ExecSync" => {
                let request = ExecSyncRequest { container_id, cmd: vec!["true".to_owned()], timeout: 10 };
                done(runtime.exec_sync(Request::new(request)).await)
            }
            "StopContainer" => {
                done(runtime.stop_container(Request::new(StopContainerRequest { container_id, timeout: 30 })).await)
            }
            "RemoveContainer" => {
                done(runtime.remove_container(Request::new(RemoveContainerRequest { container_id })).await)
            }
            "StopPodSandbox" => {
                done(runtime.stop_pod_sandbox(Request::new(StopPodSandboxRequest { pod_sandbox_id })).await)
            }
            "RemovePodSandbox" => {
                done(runtime.remove_pod_sandbox(Request::new(RemovePodSandboxRequest { pod_sandbox_id })).await)
            }
            other => panic!("{other}"),
        };
        let time = begin.elapsed();
        outcome.unwrap_or_else(|status| panic!("{name} of {}: {status}", self.peer.name));
        time
    }
}

fn done<T>(answer: Result<Response<T>, Status>) -> Result<(), Status> {
    answer.map(drop)
}
