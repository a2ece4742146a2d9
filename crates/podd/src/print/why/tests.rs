//! The stories, a row each: what is known, and the sentence that it comes to.

use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:01:00Z".parse().expect("a time")
}

/// A pod of one container `app` with these fields of its spec and status.
fn pod(spec: &Value, container: &Value, status: &Value) -> Value {
    let mut app = json!({"name": "app", "image": "nginx:9"});
    let mut seen = json!({"name": "app", "ready": false, "restartCount": 0});
    let mut whole = json!({"phase": "Pending"});
    for (to, from) in [(&mut app, spec), (&mut seen, container), (&mut whole, status)] {
        for (key, value) in from.as_object().into_iter().flatten() {
            to[key] = value.clone();
        }
    }
    if !container.is_null() {
        whole["containerStatuses"] = json!([seen]);
    }
    json!({"metadata": {"name": "web"}, "spec": {"containers": [app]}, "status": whole})
}

fn event(kind: &str, reason: &str, message: &str, at: &str) -> Value {
    json!({"type": kind, "reason": reason, "message": message, "lastTimestamp": at, "count": 1,
        "involvedObject": {"fieldPath": "spec.containers{app}"}})
}

fn ended(code: i64, reason: &str, start: &str, finish: &str) -> Value {
    json!({"terminated": {"exitCode": code, "reason": reason, "startedAt": format!("2026-01-01T{start}Z"), "finishedAt": format!("2026-01-01T{finish}Z")}})
}

#[test]
fn the_first_sentence_answers_the_question() {
    let none = Value::Null;
    let crash = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 1m20s restarting failed container=app pod=x"}});
    let unhealthy = event(
        "Warning",
        "Unhealthy",
        "Readiness probe failed: HTTP probe failed with statuscode: 503",
        "2026-01-01T00:00:50Z",
    );
    let table = [
        (
            pod(
                &none,
                &json!({"state": crash, "restartCount": 4, "lastState": ended(1, "Error", "00:00:21", "00:00:22")}),
                &none,
            ),
            vec![],
            "pod/web is not Ready: container app exits with code 1 right after its start (5 times); next try in 42 s",
        ),
        (
            pod(
                &json!({"resources": {"limits": {"memory": "16Mi"}}}),
                &json!({"state": crash, "restartCount": 1, "lastState": ended(137, "OOMKilled", "00:00:00", "00:00:30")}),
                &none,
            ),
            vec![],
            "pod/web is not Ready: container app was killed for memory beyond its limit of 16Mi (OOMKilled, code 137), 30 s after its start (2 times); next try in 50 s",
        ),
        (
            pod(
                &none,
                &json!({"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off: not found"}}}),
                &none,
            ),
            vec![],
            "pod/web is not Ready: the image nginx:9 of container app cannot be had: ImagePullBackOff: Back-off: not found",
        ),
        (
            pod(
                &none,
                &json!({"state": {"waiting": {"reason": "CreateContainerConfigError", "message": "configmap \"c\" not found"}}}),
                &none,
            ),
            vec![],
            "pod/web is not Ready: container app cannot be started: CreateContainerConfigError: configmap \"c\" not found",
        ),
        (
            pod(&none, &json!({"state": {"waiting": {"reason": "ContainerCreating"}}}), &none),
            vec![
                event("Warning", "FailedMount", "old", "2026-01-01T00:00:01Z"),
                event("Warning", "FailedMount", "configmap \"c\" not found", "2026-01-01T00:00:09Z"),
            ],
            "pod/web is not Ready: FailedMount: configmap \"c\" not found",
        ),
        (
            pod(&none, &json!({"state": {"waiting": {"reason": "ContainerCreating"}}}), &none),
            vec![],
            "pod/web is not Ready yet: nothing has gone wrong so far",
        ),
        (
            pod(
                &json!({"readinessProbe": {}}),
                &json!({"started": true, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}),
                &none,
            ),
            vec![unhealthy],
            "pod/web is not Ready: container app is running for 60s, but its readiness probe has not passed: Readiness probe failed: HTTP probe failed with statuscode: 503",
        ),
        (
            pod(
                &none,
                &none,
                &json!({"phase": "Failed", "reason": "SysctlForbidden", "message": "forbidden sysctl: x"}),
            ),
            vec![],
            "pod/web has failed: SysctlForbidden: forbidden sysctl: x",
        ),
        (
            pod(&none, &json!({"state": ended(127, "Error", "00:00:00", "00:00:00")}), &json!({"phase": "Failed"})),
            vec![],
            "pod/web has failed: container app exits with code 127 (a program was not found) right after its start",
        ),
        (
            pod(
                &none,
                &json!({"state": ended(0, "Completed", "00:00:00", "00:00:09")}),
                &json!({"phase": "Succeeded"}),
            ),
            vec![],
            "pod/web has succeeded: every container ended with code 0",
        ),
        (
            pod(
                &none,
                &none,
                &json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no volume"}]}),
            ),
            vec![],
            "pod/web is not Ready: Unschedulable: no volume",
        ),
        (
            pod(
                &none,
                &json!({"ready": true, "restartCount": 2, "state": {"running": {}}, "lastState": ended(3, "Error", "00:00:00", "00:00:05")}),
                &json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
            ),
            vec![],
            "pod/web is Ready; container app was restarted 2 times (it exits with code 3, 5 s after its start)",
        ),
    ];
    for (pod, events, wanted) in table {
        assert_eq!(headline(&pod, &events, now()), wanted);
    }
}

#[test]
fn an_init_container_is_blamed_before_the_containers_that_wait_for_it() {
    let mut seen = pod(&Value::Null, &json!({"state": {"waiting": {"reason": "PodInitializing"}}}), &Value::Null);
    seen["spec"]["initContainers"] = json!([{"name": "first"}]);
    seen["status"]["initContainerStatuses"] =
        json!([{"name": "first", "state": {"running": {"startedAt": "2026-01-01T00:00:30Z"}}}]);
    assert_eq!(headline(&seen, &[], now()), "pod/web is not Ready: init container first is still running, for 30s");
}

#[test]
fn a_deletion_is_told_with_what_it_waits_for() {
    let mut seen = pod(&Value::Null, &json!({"state": {"running": {}}}), &json!({"phase": "Running"}));
    seen["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:20Z".into();
    assert_eq!(headline(&seen, &[], now()), "pod/web is being deleted: app still running; it is killed in 20 s");
}

#[test]
fn events_that_say_the_same_are_one_and_stand_in_order() {
    let list = [
        event("Warning", "BackOff", "again", "2026-01-01T00:00:50Z"),
        event("Normal", "Pulled", "there", "2026-01-01T00:00:10Z"),
        event("Warning", "BackOff", "again", "2026-01-01T00:00:20Z"),
    ];
    assert_eq!(events(&list, now()), "Events:\n  50s ago        Pulled    there\n  10s ago (x2)   BackOff   again\n");
    assert_eq!(events(&[], now()), "");
}

#[test]
fn the_log_of_a_container_that_waits_is_told_once() {
    let log = |previous, text: &str| Log { container: "app".into(), previous, text: text.into() };
    let waits = pod(
        &Value::Null,
        &json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended(1, "Error", "00:00:00", "00:00:01")}),
        &Value::Null,
    );
    assert_eq!(troubled(&waits), ["app"]);
    assert_eq!(story(&waits, &[], &[log(false, "x\n"), log(true, "x\n")], now()).matches("\n  x\n").count(), 1);
    let told = story(&waits, &[], &[log(false, "x\n"), log(true, "y\n")], now());
    assert!(told.contains("Log of container app, the instance before, last lines:\n  y\n"), "{told}");
}
