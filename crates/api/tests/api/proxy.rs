//! Logs and exec: through a socket to the server, and through another one to a kubelet.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{OriginalUri, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use futures::StreamExt as _;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, LogParams};
use podd_api::KubeletTransport;
use podd_cri::streaming::Target;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

use crate::harness::{PATIENCE, PODS, Reply, Served, pod};

/// A kubelet that answers with what it was asked, and echoes what it is sent.
fn kubelet(more: Arc<Notify>) -> Router {
    Router::new()
        .route("/containerLogs/default/a/c", get(|OriginalUri(uri)| async move { uri.to_string() }))
        .route("/containerLogs/default/slow/c", get(slow_log))
        .route("/containerLogs/default/broken/c", get(|| async { (http::StatusCode::IM_A_TEAPOT, "no tea") }))
        .route("/exec/default/a/c", get(exec))
        .route("/attach/default/a/c", any(told))
        .route("/portForward/default/a", any(told))
        .with_state(more)
}

/// What was asked for.
async fn told(method: Method, OriginalUri(uri): OriginalUri) -> String {
    format!("{method} {uri}")
}

/// A first line at once, a second one when the test says so.
async fn slow_log(State(more): State<Arc<Notify>>) -> Body {
    let first = futures::stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"first\n"))]);
    let second = futures::stream::once(async move {
        more.notified().await;
        Ok(Bytes::from_static(b"second\n"))
    });
    Body::from_stream(first.chain(second))
}

async fn exec(OriginalUri(uri): OriginalUri, upgrade: WebSocketUpgrade) -> Response {
    upgrade.protocols(["v5.channel.k8s.io"]).on_upgrade(move |socket| echo(socket, uri.to_string())).into_response()
}

/// The request to standard error, each piece of standard input back on standard output; when it is closed, the end.
async fn echo(mut socket: WebSocket, asked: String) {
    let frame = |channel: u8, data: &[u8]| Message::Binary([&[channel], data].concat().into());
    let protocol = socket.protocol().and_then(|p| p.to_str().ok()).unwrap_or_default().to_owned();
    socket.send(frame(2, format!("{protocol} {asked}").as_bytes())).await.expect("a listener");
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(data) = message else { continue };
        match data[..] {
            [0, ref data @ ..] => socket.send(frame(1, data)).await.expect("a listener"),
            [255, 0] => break,
            ref other => panic!("an unknown frame {other:?}"),
        }
    }
    let status = json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": "it ended with 3",
        "details": {"causes": [{"reason": "ExitCode", "message": "3"}]},
    });
    socket.send(frame(3, status.to_string().as_bytes())).await.expect("a listener");
    socket.send(Message::Close(None)).await.expect("a listener");
}

fn listen(directory: &Path, name: &str, router: Router) -> PathBuf {
    let path = directory.join(name);
    let listener = UnixListener::bind(&path).expect("a socket");
    tokio::spawn(async move { axum::serve(listener, router).await });
    path
}

/// A client of the server behind a socket, as `podd exec` is one.
fn client(socket: PathBuf) -> kube::Client {
    let connect = move |request: Request<kube::client::Body>| {
        let socket = socket.clone();
        async move {
            let stream = UnixStream::connect(socket).await?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection.with_upgrades());
            Ok::<_, tower::BoxError>(sender.send_request(request).await?)
        }
    };
    kube::Client::new(tower::service_fn(connect), "default")
}

/// A server with pods, and a kubelet behind a socket.
async fn with_kubelet() -> (Served, Arc<Notify>) {
    let served = Served::new().await;
    for name in ["a", "slow", "broken", "unknown"] {
        served.post(PODS, &pod(name)).await.ok(201);
    }
    let more = Arc::new(Notify::new());
    let socket = listen(served.directory.path(), "kubelet", kubelet(Arc::clone(&more)));
    served.api.connect_kubelet(KubeletTransport::Remote(Target::Unix(socket)));
    (served, more)
}

#[tokio::test]
async fn a_log_is_asked_for_with_its_options_and_its_container() {
    let (served, _) = with_kubelet().await;
    let pods: kube::Api<Pod> = kube::Api::default_namespaced(served.client());
    assert_eq!(pods.logs("a", &LogParams::default()).await.expect("a log"), "/containerLogs/default/a/c");
    let options = LogParams { tail_lines: Some(5), timestamps: true, ..LogParams::default() };
    let asked = pods.logs("a", &options).await.expect("a log");
    assert_eq!(asked, "/containerLogs/default/a/c?timestamps=true&tailLines=5");
    // What a kubelet does not know is not passed on.
    let reply = served.get(&format!("{PODS}/a/log?sinceTime=2026-11-26T12%3A00%3A00%2B01%3A00&pretty=true")).await;
    assert_eq!(reply.text, "/containerLogs/default/a/c?sinceTime=2026-11-26T12%3A00%3A00%2B01%3A00");
}

#[tokio::test]
async fn a_followed_log_comes_as_it_is_written() {
    let (served, more) = with_kubelet().await;
    use tower::ServiceExt as _;
    let request = Request::get(format!("{PODS}/slow/log?follow=true")).body(Body::empty()).expect("a request");
    let response = served.api.router().oneshot(request).await.expect("an answer");
    let mut body = response.into_body();
    let mut chunk = async || {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("in time").expect("a frame");
        frame.expect("bytes").into_data().expect("data")
    };
    assert_eq!(chunk().await, "first\n");
    more.notify_one();
    assert_eq!(chunk().await, "second\n");
}

#[tokio::test]
async fn exec_carries_bytes_both_ways_and_tells_the_end() {
    let (served, _) = with_kubelet().await;
    let socket = listen(served.directory.path(), "api", served.api.router());
    let pods: kube::Api<Pod> = kube::Api::default_namespaced(client(socket));
    let options = AttachParams::default().stdin(true).stdout(true).stderr(true);
    let command = ["sh", "-c", "echo 'ä & b=c'"];
    let mut process = pods.exec("a", command, &options).await.expect("an upgrade");
    let mut stdin = process.stdin().expect("an input");
    let mut stdout = process.stdout().expect("an output");
    let mut stderr = process.stderr().expect("an error output");
    let ended = process.take_status().expect("a status");

    let talk = async {
        // Every byte, in pieces of several sizes.
        for size in [1, 256, 5000, 100_000] {
            let sent: Vec<u8> = (0..size).map(|n| (n % 256) as u8).collect();
            let mut heard = vec![0; size];
            // At once: the client's buffers are small.
            let say = async {
                stdin.write_all(&sent).await.expect("a write");
                stdin.flush().await.expect("a flush");
            };
            let hear = async { stdout.read_exact(&mut heard).await.expect("an echo") };
            tokio::join!(say, hear);
            assert!(heard == sent, "{size} bytes came back changed");
        }
        stdin.shutdown().await.expect("a close");
        let mut asked = String::new();
        stderr.read_to_string(&mut asked).await.expect("an end");
        assert_eq!(
            asked,
            "v5.channel.k8s.io /exec/default/a/c?input=1&output=1&error=1\
             &command=sh&command=-c&command=echo%20%27%C3%A4%20%26%20b%3Dc%27"
        );
        let status = ended.await.expect("a status");
        assert_eq!((status.status.as_deref(), status.reason.as_deref()), (Some("Failure"), Some("NonZeroExitCode")));
        let causes = status.details.and_then(|details| details.causes).expect("causes");
        assert_eq!(causes[0].message.as_deref(), Some("3"));
    };
    tokio::time::timeout(PATIENCE, talk).await.expect("an end in time");
    tokio::time::timeout(PATIENCE, process.join()).await.expect("an end in time").expect("an orderly end");
}

/// Upgrades are asked for as a browser would: the raw request, and what comes of it.
async fn upgrade(socket: &Path, path: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).await.expect("a connection");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("a write");
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        head.push(tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("in time").expect("a byte"));
    }
    let head = String::from_utf8(head).expect("a head");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code");
    (code, head.to_lowercase())
}

#[tokio::test]
async fn an_upgrade_is_answered_with_the_kubelets_protocol_and_a_refusal_with_a_code() {
    let (served, _) = with_kubelet().await;
    let socket = listen(served.directory.path(), "api", served.api.router());
    let exec = |pod: &str| format!("{PODS}/{pod}/exec?command=x&stdout=true");
    let (code, head) = upgrade(&socket, &exec("a")).await;
    assert_eq!(code, 101);
    assert!(head.contains("\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n"), "{head}");
    assert!(head.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
    // The kubelet does not know this pod; nobody does the other.
    assert_eq!(upgrade(&socket, &exec("unknown")).await.0, 404);
    assert_eq!(upgrade(&socket, &exec("nobody")).await.0, 404);
    let nobody = served.get(&exec("nobody")).await;
    assert_eq!((nobody.refused(), nobody.message()), ((404, "NotFound"), "pods \"nobody\" not found"));
}

#[tokio::test]
async fn attach_and_port_forwarding_are_asked_for_under_the_kubelets_names() {
    let (served, _) = with_kubelet().await;
    let table = [
        ("attach?stdin=true&stdout=1&tty=true&stderr=false", "/attach/default/a/c?input=1&output=1&tty=1"),
        ("attach?container=c&stderr=true", "/attach/default/a/c?error=1"),
        ("portforward?ports=80&ports=443,8080", "/portForward/default/a?port=80&port=443&port=8080"),
        ("portforward", "/portForward/default/a"),
    ];
    for (asked, told) in table {
        for method in ["GET", "POST"] {
            let reply = served.ask(method, &format!("{PODS}/a/{asked}"), "", "").await;
            assert_eq!(reply.text, format!("{method} {told}"));
        }
    }
}

#[tokio::test]
async fn what_the_kubelet_refuses_is_passed_back_as_it_is() {
    let (served, _) = with_kubelet().await;
    let reply = served.get(&format!("{PODS}/broken/log")).await;
    assert_eq!((reply.code, reply.text.as_str()), (418, "no tea"));
}

#[tokio::test]
async fn without_a_kubelet_or_with_one_that_does_not_answer_there_is_a_status() {
    let served = Served::new().await;
    served.post(PODS, &pod("a")).await.ok(201);
    let paths = [format!("{PODS}/a/log"), format!("{PODS}/a/exec?command=x&stdout=true")];
    for path in &paths {
        let reply = served.get(path).await;
        assert_eq!(reply.refused(), (503, "ServiceUnavailable"), "{path}");
        assert_eq!(reply.body["details"]["retryAfterSeconds"], 1);
        assert_eq!(reply.headers["retry-after"], "1");
    }
    // A socket that is not there, one that nobody listens on, and one whose listener hangs up.
    let directory = served.directory.path();
    let deserted = directory.join("deserted");
    drop(UnixListener::bind(&deserted).expect("a socket"));
    let rude = directory.join("rude");
    let listener = UnixListener::bind(&rude).expect("a socket");
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    for socket in [directory.join("missing"), deserted, rude] {
        served.api.connect_kubelet(KubeletTransport::Remote(Target::Unix(socket.clone())));
        for path in &paths {
            let reply = served.get(path).await;
            assert_eq!(reply.refused(), (502, "ServiceUnavailable"), "{path} {}", socket.display());
        }
    }
    // One that comes later is used.
    let router = kubelet(Arc::new(Notify::new()));
    served.api.connect_kubelet(KubeletTransport::InProcess(router));
    assert_eq!(served.get(&paths[0]).await.text, "/containerLogs/default/a/c");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_the_kubelet_is_asked() {
    let (served, _) = with_kubelet().await;
    let mut two = pod("two");
    two["spec"]["containers"] = json!([{"name": "x", "image": "i"}, {"name": "y", "image": "i"}]);
    served.post(PODS, &two).await.ok(201);
    let mut elsewhere = pod("elsewhere");
    elsewhere["spec"]["nodeName"] = "other".into();
    served.post(PODS, &elsewhere).await.ok(201);
    let table = [
        ("nobody/log", 404),
        ("nobody/exec?command=x&stdout=1", 404),
        ("two/log", 400),
        ("two/exec?command=x&stdout=1", 400),
        ("a/log?container=z", 400),
        ("a/exec?container=z&command=x&stdout=1", 400),
        ("a/exec?stdout=1", 400),
        ("a/exec?command=x", 400),
        ("a/log?tailLines=x", 400),
        ("a/log?tailLines=-1", 422),
        ("a/log?limitBytes=0", 422),
        ("a/log?sinceSeconds=1&sinceTime=2026-11-26T12%3A00%3A00Z", 422),
        ("nobody/attach?stdout=1", 404),
        ("two/attach?stdout=1", 400),
        ("a/attach?container=z&stdout=1", 400),
        ("a/attach?container=c&tty=1", 400),
        ("elsewhere/attach?stdout=1", 503),
        ("nobody/portforward", 404),
        ("a/portforward?ports=0", 422),
        ("a/portforward?ports=80,65536", 422),
        ("a/portforward?ports=http", 422),
        ("elsewhere/portforward?ports=80", 503),
        ("elsewhere/log", 503),
        ("elsewhere/exec?command=x&stdout=1", 503),
    ];
    for (path, code) in table {
        let reply = served.get(&format!("{PODS}/{path}")).await;
        assert_eq!(reply.refused().0, code, "{path}: {}", reply.message());
    }
    assert!(served.get(&format!("{PODS}/two/log")).await.message().contains("choose one of: [x y]"));
    for (method, path) in [
        ("POST", "a/log"),
        ("DELETE", "a/log"),
        ("PUT", "a/exec?command=x&stdout=1"),
        ("DELETE", "a/attach?stdout=1"),
        ("PATCH", "a/portforward"),
    ] {
        let reply: Reply = served.ask(method, &format!("{PODS}/{path}"), "", "").await;
        assert_eq!(reply.refused(), (405, "MethodNotAllowed"), "{method} {path}");
    }
}
