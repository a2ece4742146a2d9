//! The columns of a pod, by kubectl's rules (`printers/internalversion`).

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::table::age;

fn statuses<'a>(pod: &'a Value, list: &str) -> impl DoubleEndedIterator<Item = &'a Value> {
    pod["status"][list].as_array().map(Vec::as_slice).unwrap_or(&[]).iter()
}

/// The names of the sidecars: init containers that go on running beside the others.
fn sidecars(pod: &Value) -> BTreeSet<&str> {
    let inits = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    inits.filter(|one| one["restartPolicy"] == "Always").filter_map(|one| one["name"].as_str()).collect()
}

/// `1/2`: containers that are ready, of all that are to run on.
pub(super) fn ready(pod: &Value, _: Timestamp) -> String {
    let sidecars = sidecars(pod);
    let all = pod["spec"]["containers"].as_array().map_or(0, Vec::len) + sidecars.len();
    let beside = statuses(pod, "initContainerStatuses")
        .filter(|c| c["started"] == true && c["name"].as_str().is_some_and(|name| sidecars.contains(name)));
    let own = statuses(pod, "containerStatuses").filter(|c| c["state"].get("running").is_some());
    let ready = beside.chain(own).filter(|c| c["ready"] == true).count();
    format!("{ready}/{all}")
}

/// The one word that says most about the pod.
pub(super) fn status(pod: &Value, _: Timestamp) -> String {
    let phase = pod["status"]["phase"].as_str().unwrap_or("Unknown");
    let mut word = pod["status"]["reason"].as_str().filter(|r| !r.is_empty()).unwrap_or(phase).to_owned();
    let initializing = init_status(pod);
    match &initializing {
        Some(init) if !is(pod, "Initialized") => word.clone_from(init),
        _ => {
            let mut running = false;
            for container in statuses(pod, "containerStatuses").rev() {
                let state = &container["state"];
                if let Some(reason) = state["waiting"]["reason"].as_str().filter(|r| !r.is_empty()) {
                    word = reason.into();
                } else if let Some(ended) = state.get("terminated") {
                    word = termination(ended);
                } else if container["ready"] == true && state.get("running").is_some() {
                    running = true;
                }
            }
            if word == "Completed" && running {
                word = if is(pod, "Ready") { "Running".into() } else { "NotReady".into() };
            }
        }
    }
    if pod["metadata"].get("deletionTimestamp").is_some_and(|t| !t.is_null()) {
        word =
            if matches!(phase, "Succeeded" | "Failed") && initializing.is_none() { word } else { "Terminating".into() };
    }
    word
}

/// `Init:1/2`, or why an init container does not get on.
fn init_status(pod: &Value) -> Option<String> {
    let all = pod["spec"]["initContainers"].as_array().map_or(0, Vec::len);
    let sidecars = sidecars(pod);
    for (n, container) in statuses(pod, "initContainerStatuses").enumerate() {
        let state = &container["state"];
        let is_sidecar = container["name"].as_str().is_some_and(|name| sidecars.contains(name));
        let ended = state.get("terminated").filter(|t| !t.is_null());
        if ended.is_some_and(|ended| ended["exitCode"] == 0) || (is_sidecar && container["started"] == true) {
            continue;
        }
        if let Some(ended) = ended {
            return Some(format!("Init:{}", termination(ended)));
        }
        return Some(match state["waiting"]["reason"].as_str() {
            Some(reason) if !reason.is_empty() && reason != "PodInitializing" => {
                format!("Init:{reason}")
            }
            _ => format!("Init:{n}/{all}"),
        });
    }
    None
}

fn termination(ended: &Value) -> String {
    match (ended["reason"].as_str().filter(|r| !r.is_empty()), ended["signal"].as_i64().filter(|s| *s != 0)) {
        (Some(reason), _) => reason.into(),
        (None, Some(signal)) => format!("Signal:{signal}"),
        (None, None) => format!("ExitCode:{}", ended["exitCode"].as_i64().unwrap_or(0)),
    }
}

fn is(pod: &Value, condition: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == condition && c["status"] == "True")
}

/// `3 (2m ago)`: all restarts, and when the last one was.
pub(super) fn restarts(pod: &Value, now: Timestamp) -> String {
    // While init containers run, their restarts are the ones that matter; then those of sidecars and the others.
    let sidecars = sidecars(pod);
    let initializing = init_status(pod).is_some() && !is(pod, "Initialized");
    let inits = statuses(pod, "initContainerStatuses")
        .filter(|c| initializing || c["name"].as_str().is_some_and(|name| sidecars.contains(name)));
    let own = statuses(pod, "containerStatuses").filter(|_| !initializing);
    let counted: Vec<&Value> = inits.chain(own).collect();
    let count: i64 = counted.iter().filter_map(|c| c["restartCount"].as_i64()).sum();
    let last = counted.iter().filter_map(|c| c["lastState"]["terminated"]["finishedAt"].as_str()).max();
    match last.filter(|_| count > 0) {
        Some(at) => format!("{count} ({} ago)", age(Some(at), now)),
        None => count.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_word_says_most_about_a_pod() {
        let running = json!({"name": "a", "ready": true, "state": {"running": {}}});
        let table = [
            (json!({"status": {"phase": "Pending"}}), "Pending"),
            (json!({"status": {"phase": "Running", "containerStatuses": [running]}}), "Running"),
            (
                json!({"status": {"phase": "Running", "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}, running]}}),
                "CrashLoopBackOff",
            ),
            (
                json!({"status": {"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}}),
                "Completed",
            ),
            (
                json!({"status": {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]}}),
                "OOMKilled",
            ),
            (
                json!({"status": {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"signal": 9, "exitCode": 137}}}]}}),
                "Signal:9",
            ),
            (
                json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}],
                "containerStatuses": [running, {"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}}),
                "NotReady",
            ),
            (json!({"status": {"phase": "Failed", "reason": "Evicted"}}), "Evicted"),
            (
                json!({"metadata": {"deletionTimestamp": "x"}, "status": {"phase": "Running", "containerStatuses": [running]}}),
                "Terminating",
            ),
            (
                json!({"spec": {"initContainers": [1, 2]}, "status": {"phase": "Pending", "initContainerStatuses": [
                {"state": {"terminated": {"exitCode": 0}}}, {"state": {"running": {}}}]}}),
                "Init:1/2",
            ),
            (
                json!({"spec": {"initContainers": [1]}, "status": {"phase": "Pending", "initContainerStatuses": [
                {"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}}),
                "Init:CrashLoopBackOff",
            ),
            (
                json!({"spec": {"initContainers": [1]}, "status": {"phase": "Pending", "initContainerStatuses": [
                {"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}}),
                "Init:Error",
            ),
        ];
        for (pod, want) in table {
            assert_eq!(status(&pod, Timestamp::UNIX_EPOCH), want, "{pod}");
        }
    }

    #[test]
    fn sidecars_count_with_the_containers_beside_which_they_run() {
        let running = json!({"name": "web", "ready": true, "restartCount": 1, "state": {"running": {}}});
        let side = |started: bool, ready: bool| json!({"name": "side", "started": started, "ready": ready, "restartCount": 2, "state": {"running": {}}});
        let init = json!({"name": "init", "restartCount": 4, "state": {"terminated": {"exitCode": 0}}});
        let pod = |inits: Value, own: Value| {
            json!({"spec": {"containers": [{}], "initContainers": [{"name": "init"}, {"name": "side", "restartPolicy": "Always"}]},
                "status": {"phase": "Running", "initContainerStatuses": inits, "containerStatuses": own}})
        };
        let all = |pod: &Value| {
            let now = Timestamp::UNIX_EPOCH;
            format!("{} {} {}", ready(pod, now), status(pod, now), restarts(pod, now))
        };
        assert_eq!(all(&pod(json!([init, side(true, true)]), json!([running]))), "2/2 Running 3");
        assert_eq!(all(&pod(json!([init, side(true, false)]), json!([running]))), "1/2 Running 3");
        assert_eq!(all(&pod(json!([init, side(false, false)]), json!([]))), "0/2 Init:1/2 6");
    }
}
