//! A server of one test, its clock, and the objects and answers that the tests speak of.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use futures::StreamExt as _;
use http::{HeaderMap, Request, header};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use podd_api::{Api, Clock, Config};
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// Media types of bodies.
pub(crate) const JSON: &str = "application/json";
pub(crate) const MERGE: &str = "application/merge-patch+json";
pub(crate) const OPERATIONS: &str = "application/json-patch+json";
pub(crate) const APPLY: &str = "application/apply-patch+yaml";

/// The collections that most tests use.
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(crate) const NAMESPACES: &str = "/api/v1/namespaces";

/// The longest that a test waits for an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A server with a database and a clock of its own.
pub(crate) struct Served {
    pub(crate) api: Api,
    pub(crate) directory: tempfile::TempDir,
    time: Arc<Mutex<Timestamp>>,
}

/// The parts of a response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    /// Null when the body is no JSON.
    pub(crate) body: Value,
}

impl Reply {
    pub(crate) async fn of(response: axum::response::Response) -> Self {
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a whole body").to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        let body = serde_json::from_str(&text).unwrap_or_default();
        Self { code: parts.status.as_u16(), headers: parts.headers, text, body }
    }

    /// The object of a success.
    #[track_caller]
    pub(crate) fn ok(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text);
        self.body
    }

    /// Code and reason of a failure, whose body must be a `Status` that says the same.
    #[track_caller]
    pub(crate) fn refused(&self) -> (u16, &str) {
        let status = &self.body;
        let said = [&status["kind"], &status["apiVersion"], &status["status"], &status["code"]];
        assert_eq!(said, [&json!("Status"), &json!("v1"), &json!("Failure"), &json!(self.code)], "{}", self.text);
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/json");
        assert!(!self.message().is_empty(), "{}", self.text);
        (self.code, status["reason"].as_str().expect("a reason"))
    }

    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    /// Reason and field of each cause.
    pub(crate) fn causes(&self) -> Vec<(&str, &str)> {
        let causes = self.body["details"]["causes"].as_array().into_iter().flatten();
        causes.map(|c| (c["reason"].as_str().unwrap_or_default(), c["field"].as_str().unwrap_or_default())).collect()
    }
}

impl Served {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// A server whose settings are changed first.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let time = Arc::new(Mutex::new("2026-11-26T12:00:00Z".parse().expect("a time")));
        let mut config = Config::new(directory.path().join("db"), "node");
        let told = Arc::clone(&time);
        config.clock = Clock(Arc::new(move || *told.lock().unwrap_or_else(PoisonError::into_inner)));
        change(&mut config);
        let api = Api::open(config).await.expect("an open database");
        Self { api, directory, time }
    }

    /// Moves the server's clock.
    pub(crate) fn pass(&self, time: Duration) {
        let mut now = self.time.lock().unwrap_or_else(PoisonError::into_inner);
        *now = now.checked_add(time).expect("a time");
    }

    pub(crate) fn client(&self) -> ::kube::Client {
        ::kube::Client::new(self.api.router(), "default")
    }

    async fn send(&self, method: &str, path: &str, media_type: &str, body: Body) -> axum::response::Response {
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, media_type);
        let answer = self.api.router().oneshot(request.body(body).expect("a request"));
        answer.await.expect("an answer")
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, media_type: &str, body: impl Into<Body>) -> Reply {
        Reply::of(self.send(method, path, media_type, body.into()).await).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, "", "").await
    }

    pub(crate) async fn post(&self, path: &str, object: &Value) -> Reply {
        self.ask("POST", path, JSON, object.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, object: &Value) -> Reply {
        self.ask("PUT", path, JSON, object.to_string()).await
    }

    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> Reply {
        self.ask("PATCH", path, MERGE, patch.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.ask("DELETE", path, "", "").await
    }

    /// Names of a list, in its order.
    pub(crate) async fn names(&self, path: &str) -> Vec<String> {
        names(&self.get(path).await.ok(200))
    }

    /// The version of a collection now.
    pub(crate) async fn version(&self, path: &str) -> u64 {
        version(&self.get(path).await.ok(200))
    }

    /// A watch; the query is the caller's.
    pub(crate) async fn watch(&self, path: &str) -> Events {
        let response = self.send("GET", path, "", Body::empty()).await;
        assert_eq!(response.status(), 200);
        Events { stream: response.into_body().into_data_stream(), read: Vec::new() }
    }
}

/// The events of a watch, as they come.
pub(crate) struct Events {
    stream: BodyDataStream,
    read: Vec<u8>,
}

impl Events {
    /// The next event; none when the watch has ended. Bound by the lifetime of the watch on the runtime's clock.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("an event is JSON"));
            }
            self.read.extend_from_slice(&self.stream.next().await?.expect("bytes"));
        }
    }

    /// The same within [`PATIENCE`]: for tests whose clock is real.
    pub(crate) async fn soon(&mut self) -> Option<Value> {
        tokio::time::timeout(PATIENCE, self.next()).await.expect("an event or the end in time")
    }

    /// Type and name of the next event.
    pub(crate) async fn told(&mut self) -> (String, String) {
        let event = self.soon().await.expect("an event");
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub(crate) fn names(list: &Value) -> Vec<String> {
    list["items"].as_array().expect("items").iter().map(|item| text(&item["metadata"]["name"])).collect()
}

/// The resource version of an object or list.
#[track_caller]
pub(crate) fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse().ok()).expect("a version")
}

pub(crate) fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "x"}]},
    })
}

pub(crate) fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

pub(crate) fn event(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": name},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}, "reason": "Tested",
    })
}

/// The object with these labels.
pub(crate) fn labelled(mut object: Value, labels: Value) -> Value {
    object["metadata"]["labels"] = labels;
    object
}
