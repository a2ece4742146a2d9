//! The same sessions through proxies: over a unix socket, and through a `Router` called in process.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use tower::ServiceExt as _;

use super::*;
use crate::streaming::proxy;

/// Everything goes on to `target`.
fn hop(target: Target) -> Router {
    Router::new().fallback(move |request: Request| {
        let target = target.clone();
        async move { proxy(request, &target).await }
    })
}

/// client → unix socket → router → (in process) router → unix socket → router → streaming server
struct Chain {
    node: Node,
    front: Target,
    _dir: tempfile::TempDir,
}

async fn chain() -> Chain {
    let node = node().await;
    let dir = tempfile::tempdir().unwrap();
    let (front, middle) = (dir.path().join("front.sock"), dir.path().join("middle.sock"));
    let end = hop(Target::Tcp(node.server.address().to_string()));
    let listener = tokio::net::UnixListener::bind(&middle).unwrap();
    tokio::spawn(async move { axum::serve(listener, end).await });
    let inner = hop(Target::Unix(middle));
    let outer = Router::new().fallback(move |request: Request| inner.clone().oneshot(request));
    let listener = tokio::net::UnixListener::bind(&front).unwrap();
    tokio::spawn(async move { axum::serve(listener, outer).await });
    Chain { node, front: Target::Unix(front), _dir: dir }
}

fn path(url: &str) -> String {
    Target::of_url(url).unwrap().1.to_string()
}

#[tokio::test]
async fn a_session_passes_two_proxies_and_a_router() {
    let chain = chain().await;
    let url = chain.node.exec(&["cat"]);
    let mut client = open_at(&chain.front, &path(&url), "v5.channel.k8s.io").await;
    client.say(Channel::Stdin, b"there and back").await;
    let mut said = Said::default();
    client.hear_until(&mut said, |said| said.stdout == "there and back").await;
    let close = client.protocol.close(Channel::Stdin).unwrap();
    client.send(close).await;
    assert_eq!(client.hear_out().await.outcome, Some(Outcome::Success));
    let url = chain.node.exec(&["both"]);
    let said = open_at(&chain.front, &path(&url), "v4.channel.k8s.io").await.hear_out().await;
    assert_eq!(said.outcome, Some(Outcome::Exit(7)));
}

#[tokio::test]
async fn a_client_that_goes_is_missed_at_the_far_end() {
    let chain = chain().await;
    let url = chain.node.exec(&["cat"]);
    let mut client = open_at(&chain.front, &path(&url), "v5.channel.k8s.io").await;
    client.say(Channel::Stdin, b"x").await;
    client.hear_until(&mut Said::default(), |said| said.stdout == "x").await;
    drop(client);
    tokio::time::timeout(SOON, chain.node.commands.ended.notified()).await.expect("stdin ends");
}

#[tokio::test]
async fn a_refusal_comes_back_with_its_body() {
    let chain = chain().await;
    let error = try_open(&chain.front, "/exec/unknown", "v5.channel.k8s.io").await.err();
    let Some(tungstenite::Error::Http(response)) = error else { panic!("{error:?}") };
    assert_eq!(response.status(), 404);
    let body = String::from_utf8(response.body().clone().unwrap()).unwrap();
    assert!(body.contains(r#""reason":"NotFound""#), "{body}");
}

#[tokio::test]
async fn plain_requests_are_streamed_without_the_headers_of_one_hop() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("plain.sock");
    let echo = Router::new().fallback(|request: Request| async move {
        let seen = format!("{} {} {:?}\n", request.method(), request.uri(), request.headers());
        let first = futures::stream::iter([Ok::<_, axum::Error>(Bytes::from(seen))]);
        let rest = request.into_body().into_data_stream();
        Body::from_stream(first.chain(rest))
    });
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move { axum::serve(listener, echo).await });
    let request = Request::builder()
        .method("POST")
        .uri("http://elsewhere/logs/a?follow=true")
        .header("Connection", "keep-alive, X-Mine")
        .header("X-Mine", "1")
        .header("X-Theirs", "2")
        .body(Body::from("the body"))
        .unwrap();
    let response = proxy(request, &Target::Unix(socket)).await;
    assert_eq!(response.status(), 200);
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert!(body.starts_with("POST /logs/a?follow=true "), "{body}");
    assert!(body.contains("x-theirs") && !body.contains("x-mine"), "{body}");
    assert!(body.ends_with("the body"), "{body}");
}

#[tokio::test]
async fn a_next_hop_that_is_not_there_is_a_bad_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = Target::Unix(dir.path().join("nobody.sock"));
    let response = proxy(Request::new(Body::empty()), &nowhere).await;
    assert_eq!(response.status(), 502);
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let status: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status["reason"], "ServiceUnavailable");
}

#[test]
fn only_plain_http_addresses_are_targets() {
    let (target, path) = Target::of_url("http://127.0.0.1:41/exec/abc").unwrap();
    assert_eq!((target, path.as_str()), (Target::Tcp("127.0.0.1:41".into()), "/exec/abc"));
    for url in ["https://127.0.0.1/exec/a", "/exec/a", "http:///exec", "no address"] {
        assert!(Target::of_url(url).is_err(), "{url}");
    }
}
