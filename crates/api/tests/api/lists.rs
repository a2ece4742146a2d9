//! Lists: pages, versions, selectors; names that the server makes; discovery; events that end.

use std::time::Duration;

use http::header;
use serde_json::{Value, json};

use crate::harness::{MAPS, NAMESPACES, PODS, Served, config_map, event, labelled, names, pod, text, version};

const EVENTS: &str = "/api/v1/namespaces/default/events";

#[tokio::test]
async fn pages_show_one_state_whatever_happens_in_between() {
    let served = Served::new().await;
    for name in ["a", "b", "c", "d", "e"] {
        served.post(MAPS, &config_map(name)).await.ok(201);
    }
    let whole = served.get(MAPS).await.ok(200);
    let mut items: Vec<Value> = Vec::new();
    let mut token = String::new();
    let mut pages = Vec::new();
    loop {
        let page = served.get(&format!("{MAPS}?limit=2&continue={token}")).await.ok(200);
        assert_eq!(version(&page), version(&whole));
        pages.push((names(&page).len(), page["metadata"]["remainingItemCount"].clone()));
        items.extend(page["items"].as_array().expect("items").clone());
        token = text(&page["metadata"]["continue"]);
        if token.is_empty() {
            break;
        }
        // Behind, at and before the cursor.
        served.delete(&format!("{MAPS}/a")).await;
        served.delete(&format!("{MAPS}/d")).await;
        served.post(MAPS, &config_map("bb")).await;
        served.merge(&format!("{MAPS}/e"), &json!({"data": {"k": "v"}})).await;
    }
    assert_eq!(pages, [(2, json!(3)), (2, json!(1)), (1, Value::Null)]);
    assert_eq!(Value::from(items), whole["items"]);
    assert_eq!(served.names(MAPS).await, ["b", "bb", "c", "e"]);
}

#[tokio::test]
async fn pages_go_on_over_namespaces_and_within_a_selection() {
    let served = Served::new().await;
    served.post(NAMESPACES, &json!({"metadata": {"name": "ns"}})).await.ok(201);
    for (namespace, name) in [("default", "b"), ("ns", "a"), ("default", "a"), ("ns", "b")] {
        let object = labelled(config_map(name), json!({"name": name}));
        served.post(&format!("{NAMESPACES}/{namespace}/configmaps"), &object).await.ok(201);
    }
    let first = served.get("/api/v1/configmaps?limit=3").await.ok(200);
    assert_eq!(names(&first), ["a", "b", "a"]);
    let token = text(&first["metadata"]["continue"]);
    assert_eq!(served.names(&format!("/api/v1/configmaps?limit=3&continue={token}")).await, ["b"]);

    let first = served.get("/api/v1/configmaps?limit=1&labelSelector=name%3Db").await.ok(200);
    assert_eq!(
        (names(&first), first["items"][0]["metadata"]["namespace"].as_str()),
        (vec!["b".into()], Some("default"))
    );
    assert!(first["metadata"].get("remainingItemCount").is_none(), "nobody counts behind a selector");
    let token = text(&first["metadata"]["continue"]);
    let last = served.get(&format!("/api/v1/configmaps?limit=1&labelSelector=name%3Db&continue={token}")).await.ok(200);
    assert_eq!(last["items"][0]["metadata"]["namespace"], "ns");
    assert!(last["metadata"].get("continue").is_none());
}

#[tokio::test]
async fn a_list_is_of_the_version_that_was_asked_for_or_refused() {
    let served = Served::with(|config| config.history = 3).await;
    let a = served.post(MAPS, &config_map("a")).await.ok(201);
    served.post(MAPS, &config_map("b")).await.ok(201);
    let page = served.get(&format!("{MAPS}?limit=1")).await.ok(200);
    let at = version(&a);
    let exact = format!("{MAPS}?resourceVersion={at}&resourceVersionMatch=Exact");
    let then = served.get(&exact).await.ok(200);
    assert_eq!((names(&then), version(&then)), (vec!["a".into()], at));
    for newest in [format!("{MAPS}?resourceVersion={at}"), format!("{MAPS}?resourceVersion=0")] {
        assert_eq!(served.names(&newest).await, ["a", "b"]);
    }
    for name in ["c", "d", "e", "f"] {
        served.post(MAPS, &config_map(name)).await.ok(201);
    }
    let token = text(&page["metadata"]["continue"]);
    let table = [
        (exact, 410, "Expired"),
        (format!("{MAPS}?limit=1&continue={token}"), 410, "Expired"),
        (format!("{MAPS}?continue=nonsense"), 400, "BadRequest"),
        (format!("{MAPS}?limit=-1"), 400, "BadRequest"),
        (format!("{MAPS}?limit=x"), 400, "BadRequest"),
        (format!("{MAPS}?resourceVersion=x"), 400, "BadRequest"),
        (format!("{MAPS}?resourceVersionMatch=Exact"), 400, "BadRequest"),
        (format!("{MAPS}?resourceVersion=1&resourceVersionMatch=Some"), 400, "BadRequest"),
        (format!("{MAPS}?resourceVersion=99999999"), 504, "Timeout"),
    ];
    for (path, code, reason) in table {
        assert_eq!(served.get(&path).await.refused(), (code, reason), "{path}");
    }
}

#[tokio::test]
async fn labels_and_fields_select() {
    let served = Served::new().await;
    let mut other = labelled(pod("b"), json!({"app": "web", "tier": "2"}));
    other["spec"]["nodeName"] = "other".into();
    other["spec"]["restartPolicy"] = "Never".into();
    for object in [labelled(pod("a"), json!({"app": "web"})), other, pod("c")] {
        served.post(PODS, &object).await.ok(201);
    }
    served.merge(&format!("{PODS}/c/status"), &json!({"status": {"phase": "Running"}})).await.ok(200);
    let table: [(&str, &str, &[&str]); 17] = [
        ("app=web", "", &["a", "b"]),
        ("app==web,tier", "", &["b"]),
        ("app!=web", "", &["c"]),
        ("!app", "", &["c"]),
        ("app,!tier", "", &["a"]),
        ("app in (web,db)", "", &["a", "b"]),
        ("tier notin (1,2)", "", &["a", "c"]),
        ("tier>1", "", &["b"]),
        ("tier<2", "", &[]),
        ("", "metadata.name=a", &["a"]),
        ("", "metadata.namespace!=default", &[]),
        ("", "spec.nodeName=node", &["a", "c"]),
        ("", "spec.nodeName!=node", &["b"]),
        ("", "spec.restartPolicy=Never", &["b"]),
        ("", "status.phase=Running", &["c"]),
        ("", "status.phase!=Running,spec.nodeName=node", &["a"]),
        ("app=web", "spec.nodeName=other", &["b"]),
    ];
    for (labels, fields, wanted) in table {
        let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let path = format!("{PODS}?labelSelector={}&fieldSelector={}", encoded(labels), encoded(fields));
        assert_eq!(served.names(&path).await, wanted, "{labels:?} {fields:?}");
    }
    for wrong in ["labelSelector=a%3D%3D%3Db", "labelSelector=%2C", "fieldSelector=spec.nonsense%3D1"] {
        assert_eq!(served.get(&format!("{PODS}?{wrong}")).await.refused(), (400, "BadRequest"), "{wrong}");
        // What can't be read must not select everything.
        assert_eq!(served.delete(&format!("{PODS}?{wrong}")).await.code, 400, "{wrong}");
    }
    assert_eq!(served.names(PODS).await, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_generated_name_is_new_each_time_and_a_given_one_wins() {
    let served = Served::new().await;
    let generated = json!({"metadata": {"generateName": "web-"}});
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let made = served.post(MAPS, &generated).await.ok(201);
        let name = text(&made["metadata"]["name"]);
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert_eq!(made["metadata"]["generateName"], "web-");
        assert!(seen.insert(name));
    }
    assert_eq!(served.names(MAPS).await, seen.into_iter().collect::<Vec<_>>());
    let both = json!({"metadata": {"generateName": "web-", "name": "a"}});
    assert_eq!(served.post(MAPS, &both).await.ok(201)["metadata"]["name"], "a");
    let none = served.post(MAPS, &json!({"metadata": {}})).await;
    assert_eq!((none.refused(), none.causes()), ((422, "Invalid"), vec![("FieldValueRequired", "metadata.name")]));
}

#[tokio::test]
async fn an_event_ends_an_hour_after_it_last_happened() {
    let Served { api, directory, .. } = {
        let served = Served::new().await;
        served.post(EVENTS, &event("older")).await.ok(201);
        served.pass(Duration::from_secs(1));
        served.post(EVENTS, &event("old")).await.ok(201);
        served.post(EVENTS, &event("repeated")).await.ok(201);
        served.pass(Duration::from_secs(50 * 60));
        let again = json!({"lastTimestamp": "2026-11-26T12:50:00Z", "count": 2});
        served.merge(&format!("{EVENTS}/repeated"), &again).await.ok(200);
        served.post(EVENTS, &event("new")).await.ok(201);
        served
    };
    api.shutdown().await.expect("an orderly end");
    // A server looks through its events when it starts.
    let table = [("13:00:01", "older", &["new", "old", "repeated"][..]), ("13:00:02", "old", &["new", "repeated"])];
    for (time, gone, left) in table {
        let database = directory.path().join("db");
        let now: jiff::Timestamp = format!("2026-11-26T{time}Z").parse().expect("a time");
        let served = Served::with(|config| {
            config.database = database;
            config.clock = podd_api::Clock(std::sync::Arc::new(move || now));
        })
        .await;
        let list = served.get(EVENTS).await.ok(200);
        if names(&list) != left {
            let mut events = served.watch(&format!("{EVENTS}?watch=true&resourceVersion={}", version(&list))).await;
            assert_eq!(events.told().await, ("DELETED".into(), gone.into()));
        }
        assert_eq!(served.names(EVENTS).await, left, "{time}");
        served.api.shutdown().await.expect("an orderly end");
    }
}

#[tokio::test]
async fn discovery_tells_every_kind_in_both_forms() {
    let served = Served::new().await;
    let client = served.client();
    assert!(!client.apiserver_version().await.expect("a version").git_version.is_empty());
    assert_eq!(client.list_core_api_versions().await.expect("versions").versions, ["v1"]);
    let groups = client.list_api_groups().await.expect("groups").groups;
    for name in ["node.k8s.io", "scheduling.k8s.io", "storage.k8s.io"] {
        let group = groups.iter().find(|group| group.name == name).expect("a group");
        assert_eq!(group.versions[0].group_version, format!("{name}/v1"));
        let list = client.list_api_group_resources(&format!("{name}/v1")).await.expect("resources");
        for resource in list.resources {
            let listed = served.get(&format!("/apis/{name}/v1/{}", resource.name)).await.ok(200);
            assert_eq!(listed["kind"], format!("{}List", resource.kind));
        }
    }
    let list = client.list_core_api_resources("v1").await.expect("resources");
    let mut found: Vec<&str> = list.resources.iter().map(|resource| resource.name.as_str()).collect();
    found.sort_unstable();
    let wanted = [
        "configmaps",
        "events",
        "namespaces",
        "namespaces/status",
        "nodes",
        "nodes/status",
        "persistentvolumeclaims",
        "persistentvolumeclaims/status",
        "persistentvolumes",
        "persistentvolumes/status",
        "pods",
        "pods/attach",
        "pods/ephemeralcontainers",
        "pods/exec",
        "pods/log",
        "pods/portforward",
        "pods/status",
        "secrets",
    ];
    assert_eq!(found, wanted);
    // What is told can be done: every main resource has its list, in and out of a namespace.
    for resource in list.resources.iter().filter(|resource| !resource.name.contains('/')) {
        assert_eq!(resource.verbs.len(), 8, "{}", resource.name);
        let listed = served.get(&format!("/api/v1/{}", resource.name)).await.ok(200);
        assert_eq!(listed["kind"], format!("{}List", resource.kind));
        let within = served.get(&format!("{NAMESPACES}/default/{}", resource.name)).await.code;
        assert_eq!(within, if resource.namespaced { 200 } else { 404 }, "{}", resource.name);
    }
    for (subresource, wanted) in [
        ("pods/attach", "create get"),
        ("pods/ephemeralcontainers", "get patch update"),
        ("pods/exec", "create get"),
        ("pods/portforward", "create get"),
    ] {
        let mut resources = list.resources.iter();
        let found = resources.find(|resource| resource.name == subresource);
        assert_eq!(found.map(|resource| resource.verbs.join(" ")).as_deref(), Some(wanted), "{subresource}");
    }
    let pods = list.resources.iter().find(|resource| resource.name == "pods").expect("pods");
    assert_eq!(pods.short_names.as_deref(), Some(&["po".to_owned()][..]));

    // As kube's discovery walks it, in one request and in many.
    let plain = kube::discovery::Discovery::new(client.clone()).run().await.expect("a walk");
    let aggregated = kube::discovery::Discovery::new(client.clone()).run_aggregated().await.expect("a walk");
    for walked in [plain, aggregated] {
        let core = walked.get("").expect("the core group");
        let mut kinds: Vec<String> = core.recommended_resources().into_iter().map(|(of, _)| of.kind).collect();
        kinds.sort_unstable();
        assert_eq!(
            kinds,
            ["ConfigMap", "Event", "Namespace", "Node", "PersistentVolume", "PersistentVolumeClaim", "Pod", "Secret"]
        );
        let (_, pod) = core.recommended_kind("Pod").expect("pods");
        let mut parts: Vec<&str> = pod.subresources.iter().map(|(of, _)| of.plural.as_str()).collect();
        parts.sort_unstable();
        assert_eq!(parts.len(), 6, "{parts:?}");
        assert!(pod.supports_operation("deletecollection"));
    }
    for missing in ["/api/v2", "/apis/apps", "/apis/apps/v1", "/nonsense", "/api/v1/deployments"] {
        assert_eq!(served.get(missing).await.refused(), (404, "NotFound"), "{missing}");
    }
    for health in ["/healthz", "/livez", "/readyz"] {
        let reply = served.get(health).await;
        assert_eq!((reply.code, reply.text.as_str()), (200, "ok"));
        assert!(reply.headers.contains_key(header::CONTENT_TYPE));
    }
}
