//! Programs that were not written for podd, on its API: kube-rs over the unix socket, and Python's `kubernetes` package through
//! a relay on loopback, since it speaks TCP only.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use http::{HeaderValue, Request, Uri, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Event, Node as KubeNode, Pod};
use kube::api::{Api, AttachParams, ListParams, LogParams, PostParams, ResourceExt as _};
use kube::client::{Body, middleware::BaseUriLayer};
use kube::runtime::wait::{await_condition, conditions, delete::delete_and_finalize};
use kube::runtime::{WatchStreamExt as _, watcher};
use podd_tests::{Node, SOON, wait_for};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tower::Layer as _;

/// How long one step of a client may take.
const LONGEST_STEP: Duration = Duration::from_secs(60);

/// A client as any program would make it: a connection for each request, over the socket.
fn over(socket: &Path) -> kube::Client {
    let socket = socket.to_owned();
    let connect = tower::service_fn(move |mut request: Request<Body>| {
        let socket = socket.clone();
        async move {
            let stream = UnixStream::connect(&socket).await?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection.with_upgrades());
            request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
            Ok::<http::Response<Incoming>, tower::BoxError>(sender.send_request(request).await?)
        }
    });
    kube::Client::new(BaseUriLayer::new(Uri::from_static("http://localhost")).layer(connect), "default")
}

/// A pod that says a word, and works until it is told to end.
fn pod(name: &str) -> Pod {
    let script = "echo hello from $HOSTNAME; trap 'exit 0' TERM; while true; do sleep 0.1; done";
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"made-by": "kube-rs"}},
        "spec": {"terminationGracePeriodSeconds": 5,
            "containers": [{"name": "main", "image": "busybox:test", "command": ["sh", "-c", script]}]},
    });
    serde_json::from_value(pod).expect("a pod")
}

fn phase(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default()
}

async fn within<T>(what: &str, step: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let done = tokio::time::timeout(LONGEST_STEP, step).await;
    done.map_err(|_| anyhow::anyhow!("{what}: not within {LONGEST_STEP:?}"))?
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_rs_runs_a_pod_from_its_creation_to_its_end() -> anyhow::Result<()> {
    let node = Node::with_agent();
    let client = over(&node.path().join("run/podd.sock"));
    assert!(client.apiserver_version().await?.git_version.starts_with("v1.36"));
    let pods: Api<Pod> = Api::default_namespaced(client.clone());

    // A controller's watch stands before there is anything, and sees the whole life.
    let labelled = watcher::Config::default().labels("made-by=kube-rs");
    let mut events = Box::pin(watcher(pods.clone(), labelled).default_backoff());
    let made = pods.create(&PostParams::default(), &pod("a")).await?;
    let uid = made.uid().expect("every object has one");
    assert_eq!(phase(&made), "Pending");
    let mut phases = Vec::new();
    within("the watch sees the pod run", async {
        while phases.last().map(String::as_str) != Some("Running") {
            match events.try_next().await?.expect("a watch does not end") {
                watcher::Event::Apply(seen) | watcher::Event::InitApply(seen) => phases.push(phase(&seen)),
                watcher::Event::Init | watcher::Event::InitDone => {}
                watcher::Event::Delete(_) => anyhow::bail!("deleted by nobody"),
            }
        }
        Ok(())
    })
    .await?;
    within("kube's own condition", async {
        let running = await_condition(pods.clone(), "a", conditions::is_pod_running()).await?;
        assert_eq!(running.and_then(|pod| pod.uid()).as_deref(), Some(uid.as_str()));
        Ok(())
    })
    .await?;
    within("the log comes", async {
        let parameters = LogParams { follow: true, ..LogParams::default() };
        let mut lines = futures::AsyncBufReadExt::lines(pods.log_stream("a", &parameters).await?);
        assert_eq!(lines.try_next().await?.as_deref(), Some("hello from a"));
        Ok(())
    })
    .await?;
    assert_eq!(pods.logs("a", &LogParams::default()).await?, "hello from a\n");

    // What is written goes through, its end is seen, and the exit code is the command's.
    within("a command runs", async {
        let command = ["sh", "-c", "cat; echo wrong >&2; exit 5"];
        let parameters = AttachParams::default().container("main").stdin(true);
        let mut process = pods.exec("a", command, &parameters).await?;
        let mut stdin = process.stdin().expect("asked for");
        let (mut stdout, mut stderr) = (process.stdout().expect("by default"), process.stderr().expect("by default"));
        let status = process.take_status().expect("not taken yet");
        stdin.write_all(b"through\n").await?;
        stdin.shutdown().await?;
        let (mut out, mut err) = (String::new(), String::new());
        stdout.read_to_string(&mut out).await?;
        stderr.read_to_string(&mut err).await?;
        assert_eq!((out.as_str(), err.as_str()), ("through\n", "wrong\n"));
        let status = status.await.expect("a command has an end");
        assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
        let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
        let code = causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
        assert_eq!(code.and_then(|cause| cause.message.as_deref()), Some("5"));
        Ok(())
    })
    .await?;
    // A port that nobody listens on is told of; one that somebody does carries bytes both ways.
    within("ports are forwarded", async {
        let command = ["sh", "-c", "nc -ll -p 8080 -e cat >/dev/null 2>&1 &"];
        let parameters = AttachParams::default().container("main").stderr(false);
        let mut listening = pods.exec("a", command, &parameters).await?;
        let status = listening.take_status().expect("not taken yet").await.expect("a command has an end");
        assert_eq!(status.status.as_deref(), Some("Success"));
        loop {
            let mut ports = pods.portforward("a", &[8080, 9]).await?;
            let closed = ports.take_error(9).expect("asked for").await.expect("nobody listens there");
            assert!(closed.contains("error forwarding port 9 to pod") && closed.contains("refused"), "{closed}");
            let mut open = ports.take_stream(8080).expect("asked for");
            open.write_all(b"through").await?;
            let mut heard = [0; 7];
            // The listener may still be on its way.
            if open.read_exact(&mut heard).await.is_ok() {
                assert_eq!(&heard, b"through");
                return Ok(());
            }
        }
    })
    .await?;
    // What the first process says is heard as it says it.
    within("the container is attached to", async {
        let parameters = AttachParams::default().container("main");
        let mut process = pods.attach("a", &parameters).await?;
        let mut stdout = process.stdout().expect("by default");
        let command = ["sh", "-c", "echo from beside >/proc/1/fd/1"];
        let mut beside = pods.exec("a", command, &parameters).await?;
        beside.take_status().expect("not taken yet").await;
        let mut heard = [0; 12];
        stdout.read_exact(&mut heard).await?;
        assert_eq!(&heard, b"from beside\n");
        Ok(())
    })
    .await?;
    let nodes: Vec<KubeNode> = Api::<KubeNode>::all(client.clone()).list(&ListParams::default()).await?.items;
    assert_eq!(pods.get("a").await?.spec.and_then(|spec| spec.node_name), Some(nodes[0].name_any()));
    // Events are written beside the pod's way, and come when they come.
    let mut told =
        Box::pin(watcher(Api::<Event>::default_namespaced(client), watcher::Config::default()).applied_objects());
    within("the container's start is told", async {
        while let Some(event) = told.try_next().await? {
            let of_the_pod = event.involved_object.uid.as_deref() == Some(&uid);
            if of_the_pod && event.reason.as_deref() == Some("Started") {
                return Ok(());
            }
        }
        anyhow::bail!("a watch does not end")
    })
    .await?;

    within("the pod is deleted", async {
        Ok(delete_and_finalize(pods.clone(), "a", &kube::api::DeleteParams::default()).await?)
    })
    .await?;
    within("the watch sees it go", async {
        let ends = events
            .by_ref()
            .try_filter_map(async |event| Ok(if let watcher::Event::Delete(pod) = event { Some(pod) } else { None }));
        let gone = Box::pin(ends).try_next().await?.expect("a watch does not end");
        assert_eq!(gone.uid().as_deref(), Some(uid.as_str()));
        Ok(())
    })
    .await?;
    assert!(pods.get_opt("a").await?.is_none());
    let left = node.pod_processes();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

/// A way from a port on the node's loopback to the API's socket; it goes with the value.
struct Relay(Child);

impl Relay {
    const ADDRESS: &str = "127.0.0.1:8001";

    fn start(node: &Node) -> Self {
        let listen = "TCP-LISTEN:8001,bind=127.0.0.1,reuseaddr,fork";
        let connect = format!("UNIX-CONNECT:{}", node.path().join("run/podd.sock").display());
        let child = node.command("socat").args([listen, &connect]).stdin(Stdio::null()).spawn();
        let relay = Self(child.expect("nsenter runs"));
        wait_for(SOON, "socat (package socat) listens", || {
            let answer = node.enter(&["curl", "-fsS", &format!("http://{}/version", Self::ADDRESS)]);
            if answer.code == 0 { Ok(()) } else { Err(answer.stderr) }
        });
        relay
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _may_have_ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Debian's interpreter, whose modules are Debian's packages; another may come first on the path.
const PYTHON: &str = "/usr/bin/python3";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients.py");

#[test]
fn pythons_kubernetes_package_runs_a_pod_from_its_creation_to_its_end() {
    let node = Node::with_agent();
    let _relay = Relay::start(&node);
    let told = node.enter(&[PYTHON, SCRIPT, &format!("http://{}", Relay::ADDRESS)]);
    let lines: Vec<&str> = told.ok().lines().collect();
    let wanted = [
        "version v1.36",
        "created Pending",
        "conflict 409 AlreadyExists",
        "watched Running",
        "followed hello from a",
        "log hello from a",
        "exec out='through\\n' err='wrong\\n' code=5",
        "exec at once 'a\\n'",
        "strategic 415 UnsupportedMediaType",
        "labels x=1",
        "nodes 1",
        "event Started",
        "watched DELETED",
        "missing 404 NotFound",
    ];
    assert_eq!(lines, wanted, "{}", told.stderr);
    let left = node.pod_processes();
    assert!(left.is_empty(), "{left:?}");
}
