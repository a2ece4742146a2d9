//! Patches: what they change, what they refuse, and who owns what they apply.

use serde_json::{Value, json};

use crate::harness::{APPLY, MAPS, OPERATIONS, PODS, Reply, Served, config_map, labelled, pod};

const A: &str = "/api/v1/namespaces/default/configmaps/a";

async fn operate(served: &Served, operations: &Value) -> Reply {
    served.ask("PATCH", A, OPERATIONS, operations.to_string()).await
}

async fn apply(served: &Served, query: &str, config: &Value) -> Reply {
    served.ask("PATCH", &format!("{A}?{query}"), APPLY, config.to_string()).await
}

fn map(data: Value) -> Value {
    let mut map = config_map("a");
    map["data"] = data;
    map
}

#[tokio::test]
async fn operations_are_done_in_order_and_all_or_none() {
    let served = Served::new().await;
    served.post(MAPS, &map(json!({"x": "1", "a.b": "2"}))).await.ok(201);
    let operations = json!([
        {"op": "test", "path": "/data/x", "value": "1"},
        {"op": "test", "path": "/data/a.b", "value": "2"},
        {"op": "remove", "path": "/data/a.b"},
        {"op": "add", "path": "/data/y", "value": "3"},
        {"op": "copy", "from": "/data/y", "path": "/data/z"},
        {"op": "move", "from": "/data/x", "path": "/data/w"},
        {"op": "replace", "path": "/data/y", "value": "4"},
    ]);
    let reply = operate(&served, &operations).await;
    let patched = reply.ok(200);
    assert_eq!(patched["data"], json!({"w": "1", "y": "4", "z": "3"}));

    for (refused, code) in [
        (
            json!([{"op": "add", "path": "/data/new", "value": "1"}, {"op": "test", "path": "/data/y", "value": "5"}]),
            422,
        ),
        (json!([{"op": "test", "path": "/data/none", "value": "5"}]), 422),
        (json!([{"op": "remove", "path": "/data/none"}]), 422),
        (json!([{"op": "replace", "path": "/data/none", "value": "5"}]), 422),
        (json!([{"op": "add", "path": "/none/x", "value": "5"}]), 422),
        (json!([{"op": "copy", "from": "/data/none", "path": "/data/x"}]), 422),
        (json!([{"op": "add", "path": "/data/not a key", "value": "5"}]), 422),
        (json!([{"op": "add", "path": "/data/number", "value": 5}]), 400),
        (json!([{"op": "replace", "path": "/metadata/name", "value": "b"}]), 400),
        (json!([{"op": "replace", "path": "/kind", "value": "Secret"}]), 400),
        (json!([{"op": "replace", "path": "", "value": 7}]), 400),
        (json!([{"op": "remove", "path": ""}]), 422),
        (json!([{"op": "nonsense", "path": "/data/x"}]), 400),
    ] {
        let reply = operate(&served, &refused).await;
        assert_eq!(reply.refused().0, code, "{refused}: {}", reply.message());
        assert_eq!(served.get(A).await.ok(200), patched, "{refused}");
    }
}

#[tokio::test]
async fn a_merge_patch_sets_replaces_and_takes_away() {
    let served = Served::new().await;
    let made = served.post(MAPS, &labelled(map(json!({"x": "1", "y": "2"})), json!({"l": "1"}))).await.ok(201);
    let patch = json!({"data": {"x": null, "y": "3", "z": "4"}, "metadata": {"labels": null}});
    let patched = served.merge(A, &patch).await.ok(200);
    assert_eq!(patched["data"], json!({"y": "3", "z": "4"}));
    assert!(patched["metadata"].get("labels").is_none());
    // What only the server sets stays.
    let forged = json!({"metadata": {
        "uid": null, "creationTimestamp": "2000-01-01T00:00:00Z", "generation": 9, "managedFields": null,
        "deletionTimestamp": "2000-01-01T00:00:00Z", "namespace": null,
    }});
    let after = served.merge(A, &forged).await.ok(200);
    assert_eq!(after, patched);
    assert_eq!(after["metadata"]["uid"], made["metadata"]["uid"]);
    // Lists are replaced whole.
    served.post(PODS, &pod("p")).await.ok(201);
    let path = format!("{PODS}/p");
    let tolerations = json!([{"key": "k", "operator": "Exists"}]);
    served.merge(&path, &json!({"spec": {"tolerations": tolerations}})).await.ok(200);
    let reply = served.merge(&path, &json!({"spec": {"containers": []}})).await;
    assert_eq!(reply.refused(), (422, "Invalid"), "{}", reply.message());
    // What may not change in a pod.
    let reply = served.merge(&path, &json!({"spec": {"nodeName": "other"}})).await;
    assert_eq!(reply.refused(), (422, "Invalid"));
    assert_eq!(reply.body["details"]["kind"], "Pod");
    assert!(reply.causes().iter().any(|(_, field)| field.starts_with("spec")), "{}", reply.text);
    let image = json!([{"name": "c", "image": "y"}]);
    assert_eq!(served.merge(&path, &json!({"spec": {"containers": image}})).await.ok(200)["metadata"]["generation"], 3);
}

#[tokio::test]
async fn a_conflict_of_appliers_names_fields_and_owners_and_force_settles_it() {
    let served = Served::new().await;
    let mine = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"x": "1", "y": "1", "z": "1"}});
    apply(&served, "fieldManager=one", &mine).await.ok(201);
    let theirs = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"x": "2", "y": "2", "z": "1"}});
    let before = served.get(A).await.ok(200);
    let refused = apply(&served, "fieldManager=two", &theirs).await;
    assert_eq!(refused.refused(), (409, "Conflict"));
    assert_eq!(refused.causes(), [("FieldManagerConflict", ".data.x"), ("FieldManagerConflict", ".data.y")]);
    assert_eq!(refused.body["details"]["causes"][0]["message"], "conflict with \"one\"");
    assert!(refused.message().starts_with("Apply failed with 2 conflicts: "), "{}", refused.message());
    assert_eq!(served.get(A).await.ok(200), before);

    let forced = apply(&served, "fieldManager=two&force=true", &theirs).await.ok(200);
    assert_eq!(forced["data"], json!({"x": "2", "y": "2", "z": "1"}));
    // The first one owns only what both want now; leaving it out takes nothing away from the second.
    let less = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {}});
    assert_eq!(apply(&served, "fieldManager=one", &less).await.ok(200)["data"], forced["data"]);
    assert_eq!(
        apply(&served, "fieldManager=two", &less).await.ok(200).get("data").cloned().unwrap_or(json!({})),
        json!({})
    );
}

#[tokio::test]
async fn an_updater_owns_what_it_changed() {
    let served = Served::new().await;
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"x": "1"}});
    apply(&served, "fieldManager=one", &config).await.ok(201);
    served.merge(&format!("{A}?fieldManager=hand"), &json!({"data": {"x": "2"}})).await.ok(200);
    let refused = apply(&served, "fieldManager=one", &config).await;
    assert_eq!((refused.refused(), refused.causes()), ((409, "Conflict"), vec![("FieldManagerConflict", ".data.x")]));
    assert!(refused.message().contains("conflict with \"hand\""), "{}", refused.message());
    // The same value is no conflict.
    let same = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"x": "2"}});
    apply(&served, "fieldManager=one", &same).await.ok(200);
}

#[tokio::test]
async fn the_options_of_an_apply_are_checked_before_the_object() {
    let served = Served::new().await;
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let nameless = apply(&served, "", &config).await;
    assert_eq!(
        (nameless.refused(), nameless.causes()),
        ((422, "Invalid"), vec![("FieldValueRequired", "fieldManager")])
    );
    let forced = served.merge(&format!("{A}?force=true"), &json!({})).await;
    assert_eq!((forced.refused(), forced.causes()), ((422, "Invalid"), vec![("FieldValueForbidden", "force")]));
    let long = apply(&served, &format!("fieldManager={}", "m".repeat(129)), &config).await;
    assert_eq!(long.refused(), (400, "BadRequest"));
    let managed = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"managedFields": []}});
    assert_eq!(apply(&served, "fieldManager=m", &managed).await.refused(), (400, "BadRequest"));
    // An identity in a configuration is that of an object which is there.
    let known = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"uid": "u"}});
    assert_eq!(apply(&served, "fieldManager=m", &known).await.refused(), (409, "Conflict"));
    assert_eq!(served.get(A).await.code, 404);
}
