//! Server-side apply as its users see it: what is kept, what goes, who conflicts with whom.

use serde_json::{Value, json};

use super::{POD, Who, apply, update};

fn who(manager: &str) -> Who {
    Who { manager: manager.into(), api_version: "v1".into(), subresource: "", now: "2026-11-26T12:00:00Z".into() }
}

fn pod(labels: Value, containers: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": labels},
        "spec": {"containers": containers},
    })
}

/// Applies without force.
fn applied(live: Option<&Value>, config: &Value, manager: &str) -> Value {
    apply(&POD, live, config, &who(manager), false).unwrap_or_else(|conflicts| panic!("{conflicts:?}"))
}

#[test]
fn what_a_manager_leaves_out_goes_and_what_others_own_stays() {
    let first = pod(json!({"a": "1", "b": "2"}), json!([{"name": "c", "image": "x"}]));
    let live = applied(None, &first, "one");
    let live = applied(Some(&live), &json!({"metadata": {"labels": {"other": "3"}}}), "two");
    let live = applied(Some(&live), &pod(json!({"b": "2"}), json!([{"name": "c", "image": "x"}])), "one");
    assert_eq!(live["metadata"]["labels"], json!({"b": "2", "other": "3"}));
}

#[test]
fn a_field_of_two_managers_goes_only_when_both_leave_it_out() {
    let with = pod(json!({"a": "1"}), json!([]));
    let without = pod(json!({}), json!([]));
    let live = applied(Some(&applied(None, &with, "one")), &with, "two");
    let live = applied(Some(&live), &without, "one");
    assert_eq!(live["metadata"]["labels"]["a"], "1");
    let live = applied(Some(&live), &without, "two");
    assert_eq!(live["metadata"]["labels"]["a"], Value::Null);
}

#[test]
fn another_value_for_a_field_of_somebody_else_is_a_conflict_that_force_settles() {
    let live = applied(None, &pod(json!({"a": "1"}), json!([])), "one");
    let other = json!({"metadata": {"labels": {"a": "2"}}});
    let conflicts = apply(&POD, Some(&live), &other, &who("two"), false).unwrap_err();
    assert_eq!(conflicts.len(), 1, "{conflicts:?}");
    assert_eq!((conflicts[0].path.as_str(), conflicts[0].manager.as_str()), (".metadata.labels.a", "\"one\""));
    let live = apply(&POD, Some(&live), &other, &who("two"), true).unwrap();
    assert_eq!(live["metadata"]["labels"]["a"], "2");
    // It is the second one's now: the first conflicts.
    assert!(apply(&POD, Some(&live), &pod(json!({"a": "1"}), json!([])), &who("one"), false).is_err());
}

#[test]
fn containers_are_merged_by_name_in_the_order_of_the_configuration() {
    let live = applied(None, &pod(json!({}), json!([{"name": "a", "image": "x"}, {"name": "b", "image": "y"}])), "one");
    let config = json!({"spec": {"containers": [{"name": "c", "image": "z"}, {"name": "b", "tty": true}]}});
    let live = applied(Some(&live), &config, "two");
    let wanted =
        json!([{"name": "c", "image": "z"}, {"name": "a", "image": "x"}, {"name": "b", "image": "y", "tty": true}]);
    assert_eq!(live["spec"]["containers"], wanted);
}

#[test]
fn an_update_takes_the_fields_that_it_changes() {
    let live = applied(None, &pod(json!({"a": "1", "b": "2"}), json!([])), "one");
    let mut changed = live.clone();
    changed["metadata"]["labels"]["a"] = "9".into();
    update(&POD, Some(&live), &mut changed, &who("editor"));
    let conflicts = apply(&POD, Some(&changed), &pod(json!({"a": "1", "b": "2"}), json!([])), &who("one"), false);
    let conflicts = conflicts.unwrap_err();
    assert_eq!(conflicts.iter().map(|c| c.path.as_str()).collect::<Vec<_>>(), [".metadata.labels.a"]);
    assert!(conflicts[0].manager.starts_with("\"editor\" using v1 at "), "{}", conflicts[0].manager);
}

#[test]
fn the_same_configuration_again_changes_nothing() {
    let config = pod(json!({"a": "1"}), json!([{"name": "c", "image": "x", "ports": [{"containerPort": 80}]}]));
    let live = applied(None, &config, "one");
    assert_eq!(applied(Some(&live), &config, "one"), live);
}
