//! Requests that are refused or cut short, as a client sees them.

use std::time::Duration;

use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;
use crate::{Api, Config};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const PATCH: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A server with a database of its own.
struct Served {
    api: Api,
    _directory: tempfile::TempDir,
}

/// The parts of a response.
struct Reply {
    code: u16,
    headers: HeaderMap,
    body: Value,
}

impl Reply {
    fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

impl Served {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let api = Api::open(Config::new(directory.path().join("db"), "node")).await.unwrap();
        Self { api, _directory: directory }
    }

    async fn ask(&self, method: &str, path: &str, media_type: &str, body: impl Into<Body>) -> Reply {
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, media_type);
        let request = request.body(body.into()).unwrap();
        let (parts, body) = self.api.router().oneshot(request).await.unwrap().into_parts();
        let bytes = tokio::time::timeout(Duration::from_secs(30), body.collect()).await.expect("an answer that ends");
        let bytes = bytes.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap();
        Reply { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn create(&self, path: &str, object: &Value) -> Value {
        let reply = self.ask("POST", path, JSON, object.to_string()).await;
        assert_eq!(reply.code, 201, "{}", reply.message());
        reply.body
    }
}

fn pod() -> Value {
    json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "x"}]}})
}

fn path(suffix: &str) -> String {
    format!("{PODS}/a{suffix}")
}

#[tokio::test]
async fn a_patch_that_builds_too_much_changes_nothing_and_the_server_goes_on() {
    let served = Served::new().await;
    let made = served.create(PODS, &pod()).await;
    // Copies into themselves; arrays in arrays, by way of a field that the type does not have.
    let double = json!({"op": "copy", "from": "/x", "path": "/x/-"});
    let move_on = [
        json!({"op": "move", "from": "/x", "path": "/y"}),
        json!({"op": "add", "path": "/x", "value": []}),
        json!({"op": "move", "from": "/y", "path": "/x/0"}),
    ];
    let start = json!({"op": "add", "path": "/x", "value": []});
    let from_start = |rest: Vec<Value>| [vec![start.clone()], rest].concat();
    let deep = move_on.iter().cycle().take(9_900).cloned().collect();
    for operations in [from_start(vec![double; 60]), from_start(deep)] {
        let reply = served.ask("PATCH", &path(""), PATCH, Value::from(operations).to_string()).await;
        assert_eq!(reply.code, 422, "{}", reply.message());
    }
    let many = vec![json!({"op": "test", "path": "/kind", "value": "Pod"}); 10_001];
    let reply = served.ask("PATCH", &path(""), PATCH, Value::from(many).to_string()).await;
    assert_eq!((reply.code, reply.body["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
    assert!(reply.message().ends_with("operations in a JSON patch is 10000, got 10001"), "{}", reply.message());
    let deep = "[".repeat(110) + &"]".repeat(110);
    let reply = served.ask("PATCH", &path(""), MERGE, format!("{{\"x\":{deep}}}")).await;
    assert_eq!(reply.code, 422, "{}", reply.message());
    let reply = served.ask("PATCH", &format!("{}?fieldManager=m", path("")), APPLY, format!("x: {deep}")).await;
    assert_eq!(reply.code, 422, "{}", reply.message());
    assert_eq!(served.ask("GET", &path(""), "", "").await.body, made);
}

#[tokio::test]
async fn an_object_does_not_grow_beyond_what_a_body_may_have() {
    let served = Served::new().await;
    served.create(PODS, &pod()).await;
    let half = "x".repeat(body::MAX_BODY / 2);
    let annotated = |name: &str| json!({"metadata": {"annotations": {name: half}}}).to_string();
    // Annotations have a limit of their own, conditions have none.
    let reply = served.ask("PATCH", &path(""), MERGE, annotated("a")).await;
    assert_eq!(reply.code, 422, "{}", reply.message());
    let told = |name: &str| json!({"status": {name: half}}).to_string();
    let status = path("/status");
    for media_type in [MERGE, APPLY] {
        let by = |manager: &str| format!("{status}?fieldManager={manager}");
        let first = served.ask("PATCH", &by("one"), media_type, told("message")).await;
        assert_eq!(first.code, 200, "{}", first.message());
        let second = served.ask("PATCH", &by("two"), media_type, told("reason")).await;
        assert_eq!((second.code, second.body["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
        assert!(second.message().ends_with("limit is 3145728"), "{}", second.message());
        let away = json!({"status": {"message": null, "reason": null}}).to_string();
        assert_eq!(served.ask("PATCH", &status, MERGE, away).await.code, 200);
    }
}

#[tokio::test]
async fn a_thousand_unknown_fields_are_not_a_thousand_headers() {
    let served = Served::new().await;
    let mut object = pod();
    for n in 0..1000 {
        object["spec"][format!("unknown{n}")] = n.into();
    }
    let reply = served.ask("POST", PODS, JSON, object.to_string()).await;
    assert_eq!(reply.code, 201, "{}", reply.message());
    let warnings: Vec<_> = reply.headers.get_all(header::WARNING).iter().collect();
    assert_eq!(warnings.len(), 50);
    assert_eq!(warnings[0], "299 - \"unknown field \\\"spec.unknown0\\\"\"");
    assert_eq!(warnings[49], "299 - \"51 more warnings\"");
}

#[tokio::test]
async fn an_object_that_goes_takes_no_new_finalizer_on_any_way() {
    let served = Served::new().await;
    let mut object = pod();
    object["metadata"]["finalizers"] = json!(["x/old"]);
    served.create(PODS, &object).await;
    assert_eq!(served.ask("DELETE", &path(""), "", "").await.code, 200);
    let more = json!({"metadata": {"finalizers": ["x/old", "x/new"]}}).to_string();
    let mut whole = served.ask("GET", &path(""), "", "").await.body;
    whole["metadata"]["finalizers"] = json!(["x/old", "x/new"]);
    let ways = [
        ("PATCH", path(""), MERGE, more.clone()),
        ("PATCH", path("/status"), MERGE, more.clone()),
        ("PATCH", path("?fieldManager=m"), APPLY, more),
        ("PUT", path(""), JSON, whole.to_string()),
    ];
    for (method, path, media_type, body) in ways {
        let reply = served.ask(method, &path, media_type, body).await;
        assert_eq!(reply.code, 422, "{method} {path} {media_type}");
        let cause = &reply.body["details"]["causes"][0];
        assert_eq!((&cause["field"], &cause["reason"]), (&json!("metadata.finalizers"), &json!("FieldValueForbidden")));
        assert!(cause["message"].as_str().unwrap().ends_with("found new finalizers []string{\"x/new\"}"), "{cause}");
    }
    let none = json!({"metadata": {"finalizers": []}}).to_string();
    assert_eq!(served.ask("PATCH", &path(""), MERGE, none).await.code, 200);
}

#[tokio::test]
async fn a_part_of_an_object_is_not_watched() {
    let served = Served::new().await;
    served.create(PODS, &pod()).await;
    for part in ["status", "log", "exec"] {
        let reply = served.ask("GET", &path(&format!("/{part}?watch=true")), "", "").await;
        assert_eq!((reply.code, reply.body["reason"].as_str()), (405, Some("MethodNotAllowed")));
        assert_eq!(reply.message(), format!("watch is not supported on resources of kind \"pods/{part}\""));
    }
    assert_eq!(served.ask("GET", &path("/status?watch=false"), "", "").await.code, 200);
}

#[tokio::test]
async fn a_wrong_type_is_told_with_its_field_by_every_verb() {
    let served = Served::new().await;
    served.create(PODS, &pod()).await;
    let mut wrong = pod();
    wrong["spec"]["containers"][0]["ports"] = json!([{"containerPort": "x"}]);
    let operation = json!([{"op": "replace", "path": "/spec/containers", "value": wrong["spec"]["containers"]}]);
    let ways = [
        ("POST", PODS.to_owned(), JSON, wrong.to_string()),
        ("PUT", path(""), JSON, wrong.to_string()),
        ("PATCH", path(""), MERGE, wrong.to_string()),
        ("PATCH", path("?fieldManager=m"), APPLY, wrong.to_string()),
        ("PATCH", path(""), PATCH, operation.to_string()),
    ];
    for (method, path, media_type, body) in ways {
        let reply = served.ask(method, &path, media_type, body).await;
        let cause = &reply.body["details"]["causes"][0];
        assert_eq!((reply.code, cause["field"].as_str()), (400, Some("spec.containers[0].ports[0].containerPort")));
    }
}

#[tokio::test]
async fn duplicate_fields_are_refused_told_or_let_pass_as_the_client_chose() {
    let served = Served::new().await;
    served.create(PODS, &pod()).await;
    let body = r#"{"metadata": {"labels": {"a": "1", "a": "2"}}}"#;
    for (validation, code, warnings) in [("Strict", 400, 0), ("Warn", 200, 1), ("Ignore", 200, 0)] {
        let reply = served.ask("PATCH", &path(&format!("?fieldValidation={validation}")), MERGE, body).await;
        assert_eq!((reply.code, reply.headers.get_all(header::WARNING).iter().count()), (code, warnings));
    }
    assert_eq!(served.ask("GET", &path(""), "", "").await.body["metadata"]["labels"]["a"], "2");
    let many = format!("{{{}\"kind\": \"Pod\"}}", "\"x\": 1, ".repeat(1000));
    for (validation, code) in [("Strict", 400), ("Warn", 200), ("Ignore", 200)] {
        let reply = served.ask("PATCH", &path(&format!("?fieldValidation={validation}")), MERGE, many.clone()).await;
        assert_eq!(reply.code, code, "{}", reply.message());
    }
}
