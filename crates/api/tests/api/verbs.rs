//! Every kind under every verb: codes, versions, the `Status` of a refusal.

use serde_json::{Value, json};

use crate::harness::{
    APPLY, JSON, MAPS, MERGE, NAMESPACES, OPERATIONS, PODS, Served, config_map, event, labelled, names, pod, text,
    version,
};

/// What the tests need to know of a kind.
struct Row {
    kind: &'static str,
    plural: &'static str,
    path: &'static str,
    object: fn(&str) -> Value,
    /// A status that may be written, for the kinds that have one.
    status: Option<fn() -> Value>,
    /// A deletion answers with the object.
    returns_deleted: bool,
}

const ROWS: [Row; 6] = [
    Row {
        kind: "Pod",
        plural: "pods",
        path: PODS,
        object: pod,
        status: Some(|| json!({"phase": "Running"})),
        returns_deleted: true,
    },
    Row {
        kind: "Namespace",
        plural: "namespaces",
        path: NAMESPACES,
        object: |name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        status: Some(|| json!({"phase": "Active", "conditions": [{"type": "T", "status": "True"}]})),
        returns_deleted: true,
    },
    Row {
        kind: "Node",
        plural: "nodes",
        path: "/api/v1/nodes",
        object: |name| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {}}),
        status: Some(|| json!({"capacity": {"cpu": "2"}})),
        returns_deleted: false,
    },
    Row {
        kind: "Event",
        plural: "events",
        path: "/api/v1/namespaces/default/events",
        object: event,
        status: None,
        returns_deleted: false,
    },
    Row {
        kind: "ConfigMap",
        plural: "configmaps",
        path: MAPS,
        object: config_map,
        status: None,
        returns_deleted: false,
    },
    Row {
        kind: "Secret",
        plural: "secrets",
        path: "/api/v1/namespaces/default/secrets",
        object: |name| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}),
        status: None,
        returns_deleted: false,
    },
];

impl Row {
    fn one(&self, suffix: &str) -> String {
        format!("{}/a{suffix}", self.path)
    }

    fn labelled(&self, name: &str, value: &str) -> Value {
        labelled((self.object)(name), json!({"test": value}))
    }
}

fn labels(value: &str) -> Value {
    json!({"metadata": {"labels": {"test": value}}})
}

#[tokio::test]
async fn every_kind_is_created_once_and_read_as_it_was_made() {
    let served = Served::new().await;
    for row in &ROWS {
        let before = served.version(row.path).await;
        let made = served.post(row.path, &row.labelled("a", "1")).await.ok(201);
        assert_eq!((&made["kind"], &made["apiVersion"]), (&json!(row.kind), &json!("v1")));
        let metadata = &made["metadata"];
        assert_eq!(metadata["creationTimestamp"], "2026-11-26T12:00:00Z", "{}", row.kind);
        assert_eq!(text(&metadata["uid"]).len(), 36, "{}", row.kind);
        assert!(version(&made) > before, "{}", row.kind);
        assert_eq!(served.get(&row.one("")).await.ok(200), made);

        let again = served.post(row.path, &row.labelled("a", "2")).await;
        assert_eq!(again.refused(), (409, "AlreadyExists"));
        assert_eq!(again.message(), format!("{} \"a\" already exists", row.plural));
        assert_eq!(again.body["details"], json!({"name": "a", "kind": row.plural}));
        assert_eq!(served.get(&row.one("")).await.ok(200), made, "a refused creation changed the object");

        let list = served.get(row.path).await.ok(200);
        assert_eq!(list["kind"], format!("{}List", row.kind));
        assert!(version(&list) >= version(&made));
        assert!(list["items"].as_array().expect("items").contains(&made), "{list}");
    }
}

#[tokio::test]
async fn an_update_takes_the_newest_version_only_and_gives_a_newer_one() {
    let served = Served::new().await;
    for row in &ROWS {
        let first = served.post(row.path, &row.labelled("a", "1")).await.ok(201);
        assert_eq!(served.put(&row.one(""), &first).await.ok(200), first, "what was just made, sent back");
        let mut wanted = first.clone();
        wanted["metadata"]["labels"]["test"] = "2".into();
        let second = served.put(&row.one(""), &wanted).await.ok(200);
        assert_eq!(second["metadata"]["labels"]["test"], "2");
        assert!(version(&second) > version(&first), "{}", row.kind);
        for field in ["uid", "creationTimestamp"] {
            assert_eq!(second["metadata"][field], first["metadata"][field], "{}", row.kind);
        }

        wanted["metadata"]["labels"]["test"] = "3".into();
        let stale = served.put(&row.one(""), &wanted).await;
        assert_eq!(stale.refused(), (409, "Conflict"));
        assert!(stale.message().contains("the object has been modified"), "{}", stale.message());
        assert_eq!(stale.body["details"], json!({"name": "a", "kind": row.plural}));
        let mut other = second.clone();
        other["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000".into();
        assert_eq!(served.put(&row.one(""), &other).await.refused(), (409, "Conflict"));
        assert_eq!(served.get(&row.one("")).await.ok(200), second);

        assert_eq!(served.put(&row.one(""), &second).await.ok(200), second, "an update that changes nothing");
        let mut blind = second.clone();
        blind["metadata"]["labels"]["test"] = "4".into();
        blind["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
        assert_eq!(served.put(&row.one(""), &blind).await.ok(200)["metadata"]["labels"]["test"], "4");
    }
}

#[tokio::test]
async fn every_kind_takes_the_three_kinds_of_patches() {
    let served = Served::new().await;
    for row in &ROWS {
        let mut last = served.post(row.path, &row.labelled("a", "0")).await.ok(201);
        let operations = json!([{"op": "replace", "path": "/metadata/labels/test", "value": "2"}]);
        let mut config = (row.object)("a");
        config["metadata"]["labels"] = json!({"test": "3"});
        let patches = [
            (MERGE, "", labels("1"), "1"),
            (OPERATIONS, "", operations, "2"),
            (APPLY, "?fieldManager=m&force=true", config.clone(), "3"),
        ];
        for (media_type, query, patch, value) in patches {
            let reply = served.ask("PATCH", &row.one(query), media_type, patch.to_string()).await;
            let object = reply.ok(200);
            assert_eq!(object["metadata"]["labels"]["test"], value, "{} {media_type}", row.kind);
            assert!(version(&object) > version(&last), "{} {media_type}", row.kind);
            last = object;
        }
        let none = served.merge(&row.one(""), &json!({"metadata": {}})).await.ok(200);
        assert_eq!(none, last, "a patch that changes nothing");
        // Apply makes what is not there.
        config["metadata"]["name"] = "b".into();
        let path = format!("{}/b?fieldManager=m", row.path);
        let reply = served.ask("PATCH", &path, APPLY, config.to_string()).await;
        assert_eq!(reply.ok(201)["metadata"]["name"], "b");
        // A version in a patch is a condition.
        let mut stale = labels("9");
        stale["metadata"]["resourceVersion"] = "1".into();
        assert_eq!(served.merge(&row.one(""), &stale).await.refused(), (409, "Conflict"), "{}", row.kind);
    }
}

#[tokio::test]
async fn the_status_and_the_rest_are_written_apart() {
    let served = Served::new().await;
    for row in &ROWS {
        let made = served.post(row.path, &row.labelled("a", "1")).await.ok(201);
        let Some(status) = row.status else {
            for (method, media_type) in [("GET", ""), ("PUT", JSON), ("PATCH", MERGE)] {
                let reply = served.ask(method, &row.one("/status"), media_type, made.to_string()).await;
                assert_eq!(reply.refused(), (404, "NotFound"), "{method} {}", row.kind);
            }
            continue;
        };
        let mut sent = made.clone();
        sent["status"] = status();
        // Through the object itself a status is not taken …
        let stays = served.put(&row.one(""), &sent).await.ok(200);
        assert_eq!(stays, made, "{}", row.kind);
        // … and through the status nothing else.
        sent["spec"]["nodeName"] = "elsewhere".into();
        sent["spec"]["podCIDR"] = "10.0.0.0/24".into();
        sent["spec"]["finalizers"] = json!(["x/y"]);
        let written = served.put(&row.one("/status"), &sent).await.ok(200);
        assert_ne!(written["status"], made["status"], "{}", row.kind);
        assert_eq!(written["spec"], made["spec"], "{}", row.kind);
        assert_eq!(written["metadata"]["generation"], made["metadata"]["generation"], "{}", row.kind);
        assert!(version(&written) > version(&made));
        assert_eq!(served.get(&row.one("/status")).await.ok(200), written);
        assert_eq!(served.put(&row.one("/status"), &sent).await.refused(), (409, "Conflict"));
        let patched =
            served.merge(&row.one("/status"), &json!({"status": {"phase": "Terminating"}, "spec": null})).await;
        let patched = patched.ok(200);
        assert_eq!((&patched["status"]["phase"], &patched["spec"]), (&json!("Terminating"), &made["spec"]));
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_by_every_verb_with_its_name() {
    let served = Served::new().await;
    for row in &ROWS {
        let object = (row.object)("a").to_string();
        let mut ways = vec![
            ("GET", row.one(""), "", String::new()),
            ("PUT", row.one(""), JSON, object.clone()),
            ("PATCH", row.one(""), MERGE, labels("1").to_string()),
            ("PATCH", row.one(""), OPERATIONS, "[]".into()),
            ("DELETE", row.one(""), "", String::new()),
        ];
        if row.status.is_some() {
            ways.push(("GET", row.one("/status"), "", String::new()));
            ways.push(("PUT", row.one("/status"), JSON, object.clone()));
            ways.push(("PATCH", row.one("/status?fieldManager=m"), APPLY, object));
        }
        for (method, path, media_type, body) in ways {
            let reply = served.ask(method, &path, media_type, body).await;
            assert_eq!(reply.refused(), (404, "NotFound"), "{method} {path}");
            assert_eq!(reply.message(), format!("{} \"a\" not found", row.plural), "{method} {path}");
            assert_eq!(reply.body["details"], json!({"name": "a", "kind": row.plural}), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_deletion_answers_with_the_object_or_a_status_and_a_collection_with_a_list() {
    let served = Served::new().await;
    for row in &ROWS {
        let made = served.post(row.path, &row.labelled("a", "1")).await.ok(201);
        for (name, value) in [("b", "x"), ("c", "y"), ("d", "x")] {
            served.post(row.path, &row.labelled(name, value)).await.ok(201);
        }
        let gone = served.delete(&row.one("?gracePeriodSeconds=0")).await.ok(200);
        if row.returns_deleted {
            assert_eq!((&gone["kind"], &gone["metadata"]["uid"]), (&json!(row.kind), &made["metadata"]["uid"]));
            assert!(version(&gone) > version(&made));
        } else {
            assert_eq!((&gone["kind"], &gone["status"]), (&json!("Status"), &json!("Success")));
            let details = json!({"name": "a", "kind": row.plural, "uid": made["metadata"]["uid"]});
            assert_eq!(gone["details"], details);
        }
        assert_eq!(served.get(&row.one("")).await.refused(), (404, "NotFound"));

        let path = format!("{}?labelSelector=test%3Dx&gracePeriodSeconds=0", row.path);
        let deleted = served.delete(&path).await.ok(200);
        assert_eq!(deleted["kind"], format!("{}List", row.kind));
        assert_eq!(names(&deleted), ["b", "d"], "{}", row.kind);
        assert_eq!(served.names(&format!("{}?labelSelector=test", row.path)).await, ["c"], "{}", row.kind);
    }
}

#[tokio::test]
async fn a_watch_of_every_kind_tells_of_creation_change_and_end() {
    let served = Served::new().await;
    for row in &ROWS {
        let start = served.version(row.path).await;
        let mut events = served.watch(&format!("{}?watch=true&resourceVersion={start}", row.path)).await;
        served.post(row.path, &(row.object)("a")).await.ok(201);
        served.merge(&row.one(""), &labels("1")).await.ok(200);
        served.delete(&row.one("?gracePeriodSeconds=0")).await.ok(200);
        let mut told = Vec::new();
        while told.last().is_none_or(|(what, _)| what != "DELETED") {
            told.push(events.told().await);
        }
        let wanted: &[&str] = match row.kind {
            // It is marked before it goes.
            "Namespace" => &["ADDED", "MODIFIED", "MODIFIED", "DELETED"],
            _ => &["ADDED", "MODIFIED", "DELETED"],
        };
        assert_eq!(told.iter().map(|(what, _)| what.as_str()).collect::<Vec<_>>(), wanted, "{}", row.kind);
        assert!(told.iter().all(|(_, name)| name == "a"), "{told:?}");
    }
}

#[tokio::test]
async fn a_method_that_a_path_does_not_have_is_not_allowed() {
    let served = Served::new().await;
    for row in &ROWS {
        served.post(row.path, &(row.object)("a")).await.ok(201);
        let object = (row.object)("a").to_string();
        let mut ways = vec![
            ("POST", row.one("")),
            ("PUT", row.path.to_owned()),
            ("PATCH", row.path.to_owned()),
            ("OPTIONS", row.one("")),
        ];
        if row.status.is_some() {
            ways.extend([("POST", row.one("/status")), ("DELETE", row.one("/status"))]);
        }
        for (method, path) in ways {
            let reply = served.ask(method, &path, JSON, object.clone()).await;
            assert_eq!(reply.refused(), (405, "MethodNotAllowed"), "{method} {path}");
        }
        assert_eq!(served.get(&row.one("/nonsense")).await.refused(), (404, "NotFound"));
    }
}

#[tokio::test]
async fn a_body_must_fit_its_path_and_be_readable() {
    let served = Served::new().await;
    for row in &ROWS {
        served.post(row.path, &(row.object)("a")).await.ok(201);
        let with = |field: &str, value: &str| {
            let mut object = (row.object)("a");
            match field {
                "kind" | "apiVersion" => object[field] = value.into(),
                _ => object["metadata"][field] = value.into(),
            }
            object.to_string()
        };
        let mut ways = vec![
            ("POST", row.path.to_owned(), JSON, with("kind", "Other"), 400),
            ("POST", row.path.to_owned(), JSON, with("apiVersion", "v9"), 400),
            ("POST", row.path.to_owned(), JSON, with("resourceVersion", "7"), 400),
            ("POST", row.path.to_owned(), JSON, "{".into(), 400),
            ("POST", row.path.to_owned(), JSON, "[]".into(), 400),
            ("POST", row.path.to_owned(), "text/plain", with("name", "b"), 415),
            ("PUT", row.one(""), JSON, with("name", "b"), 400),
            ("PUT", row.one(""), JSON, with("resourceVersion", "x"), 422),
            ("PATCH", row.one(""), MERGE, "7".into(), 400),
            ("PATCH", row.one(""), OPERATIONS, "{}".into(), 400),
            ("PATCH", row.one(""), JSON, labels("1").to_string(), 415),
            ("PATCH", row.one(""), APPLY, with("name", "a"), 422),
            ("POST", format!("{}?dryRun=Some", row.path), JSON, with("name", "b"), 400),
            ("POST", format!("{}?fieldValidation=Some", row.path), JSON, with("name", "b"), 400),
            ("DELETE", row.one("?propagationPolicy=Some"), "", String::new(), 400),
        ];
        if row.path.contains("default") {
            ways.push(("POST", row.path.to_owned(), JSON, with("namespace", "kube-system"), 400));
            let elsewhere = row.path.replace("default", "nowhere");
            ways.push(("POST", elsewhere, JSON, (row.object)("b").to_string(), 404));
        }
        for (method, path, media_type, body, code) in ways {
            let reply = served.ask(method, &path, media_type, body.clone()).await;
            assert_eq!(reply.refused().0, code, "{method} {path} {media_type} {body}: {}", reply.message());
        }
        let bad = served.post(row.path, &(row.object)("Not_A_Name")).await;
        assert_eq!(bad.refused(), (422, "Invalid"));
        assert_eq!(bad.causes(), [("FieldValueInvalid", "metadata.name")], "{}", row.kind);
        assert_eq!(bad.body["details"]["kind"], row.kind);
    }
}

#[tokio::test]
async fn a_dry_run_answers_as_if_and_stores_nothing() {
    let served = Served::new().await;
    for row in &ROWS {
        let made = served.post(row.path, &row.labelled("a", "1")).await.ok(201);
        let before = served.version(row.path).await;
        let mut changed = made.clone();
        changed["metadata"]["labels"]["test"] = "2".into();
        let create = format!("{}?dryRun=All", row.path);
        let one = row.one("?dryRun=All");
        assert_eq!(served.post(&create, &(row.object)("b")).await.ok(201)["metadata"]["name"], "b");
        assert_eq!(served.post(&create, &(row.object)("a")).await.refused(), (409, "AlreadyExists"));
        assert_eq!(served.put(&one, &changed).await.ok(200)["metadata"]["labels"]["test"], "2");
        assert_eq!(served.merge(&one, &labels("3")).await.ok(200)["metadata"]["labels"]["test"], "3");
        served.delete(&row.one("?dryRun=All&gracePeriodSeconds=0")).await.ok(200);
        served.delete(&format!("{create}&labelSelector=test&gracePeriodSeconds=0")).await.ok(200);
        let in_body = json!({"dryRun": ["All"], "gracePeriodSeconds": 0});
        served.ask("DELETE", &row.one(""), JSON, in_body.to_string()).await.ok(200);
        assert_eq!(served.version(row.path).await, before, "{}", row.kind);
        assert_eq!(served.get(&row.one("")).await.ok(200), made);
        assert_eq!(served.get(&format!("{}/b", row.path)).await.code, 404);
    }
}

#[tokio::test]
async fn an_answer_is_json_or_not_acceptable() {
    use tower::ServiceExt as _;
    let served = Served::new().await;
    let table = [
        ("application/json", 200),
        ("*/*", 200),
        ("application/vnd.kubernetes.protobuf,application/json", 200),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", 200),
        ("application/json;as=Table;v=v1;g=meta.k8s.io", 406),
        ("application/vnd.kubernetes.protobuf", 406),
    ];
    for (accept, code) in table {
        let request = http::Request::get(PODS).header("Accept", accept).body(axum::body::Body::empty());
        let response = served.api.router().oneshot(request.expect("a request")).await.expect("an answer");
        assert_eq!(response.status(), code, "{accept}");
    }
}
