//! Deletion: grace, finalizers, preconditions, and namespaces with what is in them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{JSON, MAPS, NAMESPACES, PODS, Served, config_map, event, pod, text};

const A: &str = "/api/v1/namespaces/default/pods/a";
const MAP: &str = "/api/v1/namespaces/default/configmaps/a";

fn with_finalizers(mut object: Value, finalizers: Value) -> Value {
    object["metadata"]["finalizers"] = finalizers;
    object
}

/// Deadline and grace of an object that goes.
fn marked(object: &Value) -> (String, Value) {
    let metadata = &object["metadata"];
    (text(&metadata["deletionTimestamp"]), metadata["deletionGracePeriodSeconds"].clone())
}

#[tokio::test]
async fn a_grace_shrinks_and_never_grows_and_zero_ends_it() {
    let served = Served::new().await;
    served.post(PODS, &pod("a")).await.ok(201);
    let first = served.delete(A).await.ok(200);
    assert_eq!(marked(&first), ("2026-11-26T12:00:30Z".into(), json!(30)));
    assert_eq!(first["metadata"]["generation"], 2);
    served.pass(Duration::from_secs(4));
    // Neither a second deletion nor a longer grace moves the deadline; a shorter one counts from where it began.
    for (query, deadline, grace) in [
        ("", "2026-11-26T12:00:30Z", 30),
        ("?gracePeriodSeconds=60", "2026-11-26T12:00:30Z", 30),
        ("?gracePeriodSeconds=10", "2026-11-26T12:00:10Z", 10),
        ("?gracePeriodSeconds=20", "2026-11-26T12:00:10Z", 10),
        ("?gracePeriodSeconds=-1", "2026-11-26T12:00:01Z", 1),
    ] {
        let object = served.delete(&format!("{A}{query}")).await.ok(200);
        assert_eq!(marked(&object), (deadline.into(), json!(grace)), "{query}");
        assert_eq!(served.get(A).await.ok(200), object);
    }
    // Nobody takes the mark off.
    let unmark = json!({"metadata": {"deletionTimestamp": null, "deletionGracePeriodSeconds": null}});
    assert_eq!(marked(&served.merge(A, &unmark).await.ok(200)).1, 1);
    let last = served.delete(&format!("{A}?gracePeriodSeconds=0")).await.ok(200);
    assert_eq!(last["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(served.get(A).await.code, 404);
}

#[tokio::test]
async fn a_pod_has_its_own_grace_and_none_when_it_is_over_or_elsewhere() {
    let served = Served::new().await;
    let mut own = pod("a");
    own["spec"]["terminationGracePeriodSeconds"] = 5.into();
    served.post(PODS, &own).await.ok(201);
    assert_eq!(marked(&served.delete(A).await.ok(200)), ("2026-11-26T12:00:05Z".into(), json!(5)));

    let mut elsewhere = pod("b");
    elsewhere["spec"]["nodeName"] = "other".into();
    served.post(PODS, &elsewhere).await.ok(201);
    served.delete(&format!("{PODS}/b")).await.ok(200);
    assert_eq!(served.get(&format!("{PODS}/b")).await.code, 404);

    for phase in ["Failed", "Succeeded"] {
        served.post(PODS, &pod("c")).await.ok(201);
        served.merge(&format!("{PODS}/c/status"), &json!({"status": {"phase": phase}})).await.ok(200);
        served.delete(&format!("{PODS}/c")).await.ok(200);
        assert_eq!(served.get(&format!("{PODS}/c")).await.code, 404, "{phase}");
    }
}

#[tokio::test]
async fn an_object_stays_until_its_last_finalizer_is_off() {
    let served = Served::new().await;
    served.post(MAPS, &with_finalizers(config_map("a"), json!(["x/one", "x/two"]))).await.ok(201);
    let marked = served.delete(MAP).await.ok(200);
    assert_eq!(
        (&marked["kind"], &marked["metadata"]["deletionTimestamp"]),
        (&json!("ConfigMap"), &json!("2026-11-26T12:00:00Z"))
    );
    // Grace 0 is no way around them, and the mark is set once.
    assert_eq!(served.delete(&format!("{MAP}?gracePeriodSeconds=0")).await.ok(200), marked);
    assert_eq!(served.post(MAPS, &config_map("a")).await.refused(), (409, "AlreadyExists"));
    let left = served.merge(MAP, &json!({"metadata": {"finalizers": ["x/two"]}})).await.ok(200);
    assert_eq!(left["metadata"]["finalizers"], json!(["x/two"]));
    assert_eq!(served.get(MAP).await.ok(200), left);
    served.merge(MAP, &json!({"metadata": {"finalizers": null}})).await.ok(200);
    assert_eq!(served.get(MAP).await.code, 404);
    assert_ne!(served.post(MAPS, &config_map("a")).await.ok(201)["metadata"]["uid"], marked["metadata"]["uid"]);
}

#[tokio::test]
async fn a_pod_waits_for_its_grace_and_its_finalizers_in_any_order() {
    let served = Served::new().await;
    for grace_first in [true, false] {
        served.post(PODS, &with_finalizers(pod("a"), json!(["x/y"]))).await.ok(201);
        assert_eq!(marked(&served.delete(A).await.ok(200)).1, 30);
        let none = json!({"metadata": {"finalizers": []}});
        if grace_first {
            served.delete(&format!("{A}?gracePeriodSeconds=0")).await.ok(200);
            assert_eq!(marked(&served.get(A).await.ok(200)).1, 0);
            served.merge(A, &none).await.ok(200);
        } else {
            served.merge(A, &none).await.ok(200);
            assert_eq!(marked(&served.get(A).await.ok(200)).1, 30);
            served.delete(&format!("{A}?gracePeriodSeconds=0")).await.ok(200);
        }
        assert_eq!(served.get(A).await.code, 404, "grace first: {grace_first}");
    }
}

#[tokio::test]
async fn a_deletion_under_a_condition_that_does_not_hold_is_a_conflict() {
    let served = Served::new().await;
    let made = served.post(MAPS, &config_map("a")).await.ok(201);
    let metadata = &made["metadata"];
    let wrong = [
        json!({"uid": "other"}),
        json!({"resourceVersion": "1"}),
        json!({"uid": metadata["uid"], "resourceVersion": "1"}),
    ];
    for conditions in wrong {
        let reply = served.ask("DELETE", MAP, JSON, json!({"preconditions": conditions}).to_string()).await;
        assert_eq!(reply.refused(), (409, "Conflict"), "{conditions}");
        assert!(reply.message().contains("Precondition failed: "), "{}", reply.message());
        assert_eq!(served.get(MAP).await.ok(200), made);
    }
    let right = json!({"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]});
    served.ask("DELETE", MAP, JSON, json!({"preconditions": right}).to_string()).await.ok(200);
    assert_eq!(served.get(MAP).await.code, 404);
}

async fn namespace(served: &Served, name: &str) -> String {
    served.post(NAMESPACES, &json!({"metadata": {"name": name}})).await.ok(201);
    format!("{NAMESPACES}/{name}")
}

#[tokio::test]
async fn a_namespace_takes_its_content_with_it_and_waits_for_the_slow() {
    let served = Served::new().await;
    let ns = namespace(&served, "ns").await;
    let neighbour = namespace(&served, "ns-2").await;
    served.post(&format!("{ns}/pods"), &pod("a")).await.ok(201);
    served.post(&format!("{ns}/configmaps"), &config_map("c")).await.ok(201);
    served
        .post(&format!("{ns}/secrets"), &with_finalizers(json!({"metadata": {"name": "s"}}), json!(["x/y"])))
        .await
        .ok(201);
    let mut happened = event("e");
    happened["involvedObject"]["namespace"] = "ns".into();
    served.post(&format!("{ns}/events"), &happened).await.ok(201);
    served.post(&format!("{neighbour}/configmaps"), &config_map("c")).await.ok(201);

    let going = served.delete(&ns).await.ok(200);
    assert_eq!(
        (&going["status"]["phase"], &going["metadata"]["deletionTimestamp"]),
        (&json!("Terminating"), &json!("2026-11-26T12:00:00Z"))
    );
    for (path, there) in [("pods/a", true), ("configmaps/c", false), ("secrets/s", true), ("events/e", false)] {
        assert_eq!(served.get(&format!("{ns}/{path}")).await.code == 200, there, "{path}");
    }
    // Nothing new, by creation or by apply.
    let reply = served.post(&format!("{ns}/configmaps"), &config_map("d")).await;
    assert_eq!(reply.refused(), (403, "Forbidden"));
    assert_eq!(reply.causes(), [("NamespaceTerminating", "metadata.namespace")]);
    let path = format!("{ns}/configmaps/d?fieldManager=m");
    assert_eq!(served.ask("PATCH", &path, "application/apply-patch+yaml", config_map("d").to_string()).await.code, 403);
    assert_eq!(served.post(NAMESPACES, &json!({"metadata": {"name": "ns"}})).await.refused(), (409, "AlreadyExists"));

    served.merge(&format!("{ns}/secrets/s"), &json!({"metadata": {"finalizers": null}})).await.ok(200);
    assert_eq!(served.get(&ns).await.ok(200)["status"]["phase"], "Terminating");
    served.delete(&format!("{ns}/pods/a?gracePeriodSeconds=0")).await.ok(200);
    assert_eq!(served.get(&ns).await.code, 404);
    // The one whose name begins the same is whole.
    assert_eq!(served.names(&format!("{neighbour}/configmaps")).await, ["c"]);
    // A new one of that name is empty.
    let ns = namespace(&served, "ns").await;
    assert_eq!(served.names(&format!("{ns}/pods")).await, [""; 0]);
}

#[tokio::test]
async fn a_namespace_goes_with_the_last_finalizer_in_it() {
    let served = Served::new().await;
    let ns = namespace(&served, "ns").await;
    for plural in ["configmaps", "pods"] {
        let object = if plural == "pods" { pod("a") } else { config_map("a") };
        served.post(&format!("{ns}/{plural}"), &with_finalizers(object, json!(["x/y"]))).await.ok(201);
    }
    served.delete(&ns).await.ok(200);
    // Its grace is over, its finalizer is not.
    served.delete(&format!("{ns}/pods/a?gracePeriodSeconds=0")).await.ok(200);
    for plural in ["configmaps", "pods"] {
        assert_eq!(served.get(&ns).await.ok(200)["status"]["phase"], "Terminating");
        served.merge(&format!("{ns}/{plural}/a"), &json!({"metadata": {"finalizers": null}})).await.ok(200);
    }
    assert_eq!(served.get(&ns).await.code, 404);
}

#[tokio::test]
async fn an_empty_namespace_goes_at_once_and_one_with_finalizers_when_they_are_off() {
    let served = Served::new().await;
    let ns = namespace(&served, "ns").await;
    served.delete(&ns).await.ok(200);
    assert_eq!(served.get(&ns).await.code, 404);

    served.post(NAMESPACES, &with_finalizers(json!({"metadata": {"name": "ns"}}), json!(["x/y"]))).await.ok(201);
    served.delete(&ns).await.ok(200);
    assert_eq!(served.get(&ns).await.ok(200)["status"]["phase"], "Terminating");
    served.merge(&ns, &json!({"metadata": {"finalizers": null}})).await.ok(200);
    assert_eq!(served.get(&ns).await.code, 404);
}

#[tokio::test]
async fn the_namespaces_that_are_always_there_are_not_deleted() {
    let served = Served::new().await;
    served.post(MAPS, &config_map("a")).await.ok(201);
    let before = served.version(NAMESPACES).await;
    for path in [format!("{NAMESPACES}/default"), format!("{NAMESPACES}/kube-system"), NAMESPACES.to_owned()] {
        assert_eq!(served.delete(&path).await.refused(), (403, "Forbidden"), "{path}");
    }
    assert_eq!(served.names(NAMESPACES).await, ["default", "kube-system"]);
    assert_eq!(served.names(MAPS).await, ["a"]);
    assert_eq!(served.version(NAMESPACES).await, before);
}
