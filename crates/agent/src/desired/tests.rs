//! Sources' changes and what comes of them.

use podd_core::{admission::Rules, sysctl::Allowed};
use serde_json::{Value, json};

use super::*;

const NODE: Allocatable = Allocatable { milli_cpu: 1000, memory: 1 << 30, ephemeral_storage: 1 << 30, pods: 10 };
const BOTH: &[Source] = &[Source::Api, Source::File];

fn pod(name: &str, port: i32, extra: Value) -> Arc<Pod> {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": port}]}]},
    });
    merge(&mut object, extra);
    Arc::new(serde_json::from_value(object).expect("a pod"))
}

fn merge(into: &mut Value, extra: Value) {
    match (into, extra) {
        (Value::Object(into), Value::Object(extra)) => {
            for (key, value) in extra {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, extra) => *into = extra,
    }
}

fn static_pod(name: &str, hash: &str) -> Arc<Pod> {
    pod(name, 0, json!({"metadata": {"annotations": {annotation::SOURCE: "file", annotation::HASH: hash}}}))
}

fn mirror(name: &str, hash: &str) -> Arc<Pod> {
    let annotations = json!({annotation::SOURCE: "file", annotation::MIRROR: hash});
    pod(name, 0, json!({"metadata": {"annotations": annotations, "uid": format!("mirror-{name}-{hash}")}}))
}

/// Commands in short: `+name`, `!name reason`, `-uid`, `=source`.
fn short(commands: &[Command]) -> Vec<String> {
    let name = |pod: &Pod| pod.metadata.name.clone().unwrap_or_default();
    commands
        .iter()
        .map(|command| match command {
            Command::Apply(_, pod) => format!("+{}", name(pod)),
            Command::Refuse(_, pod, refusal) => format!("!{} {}", name(pod), refusal.reason),
            Command::Remove(_, uid) => format!("-{uid}"),
            Command::Synced(source) => format!("={source:?}"),
        })
        .collect()
}

#[test]
fn a_relist_tells_first_what_is_gone_then_what_is_there() {
    let mut desired = Desired::new(NODE, Rules::default());
    let first = desired.take(Source::Api, Change::All(vec![pod("a", 1, json!({})), pod("b", 2, json!({}))]));
    assert_eq!(short(&first), ["+a", "+b", "=Api"]);
    let second = desired.take(Source::Api, Change::All(vec![pod("c", 1, json!({})), pod("b", 2, json!({}))]));
    assert_eq!(short(&second), ["-uid-a", "+b", "+c", "=Api"]);
}

#[test]
fn a_relist_of_one_source_leaves_the_other_alone() {
    let mut desired = Desired::new(NODE, Rules::default());
    desired.take(Source::File, Change::All(vec![static_pod("s", "h")]));
    assert_eq!(short(&desired.take(Source::Api, Change::All(vec![]))), ["=Api"]);
    assert_eq!(desired.pods().count(), 1);
}

#[test]
fn the_second_pod_with_a_port_is_refused_and_stays_refused() {
    let mut desired = Desired::new(NODE, Rules::default());
    assert_eq!(short(&desired.take(Source::Api, Change::Applied(pod("a", 80, json!({}))))), ["+a"]);
    assert_eq!(short(&desired.take(Source::Api, Change::Applied(pod("b", 80, json!({}))))), ["!b NodePorts"]);
    desired.take(Source::Api, Change::Gone(pod("a", 80, json!({}))));
    assert_eq!(short(&desired.take(Source::Api, Change::Applied(pod("b", 80, json!({}))))), ["!b NodePorts"]);
    assert_eq!(short(&desired.take(Source::Api, Change::Applied(pod("c", 80, json!({}))))), ["+c"]);
}

#[test]
fn a_refused_pod_is_in_nobodys_way() {
    let mut desired = Desired::new(NODE, Rules::default());
    let both = json!({"spec": {"containers": [{"name": "c", "ports": [{"hostPort": 80}, {"hostPort": 81}]}]}});
    desired.take(Source::Api, Change::Applied(pod("a", 80, json!({}))));
    assert_eq!(short(&desired.take(Source::Api, Change::Applied(pod("b", 0, both)))), ["!b NodePorts"]);
    assert_eq!(short(&desired.take(Source::Api, Change::Applied(pod("c", 81, json!({}))))), ["+c"]);
}

#[test]
fn a_pod_that_failed_or_is_being_deleted_is_never_refused() {
    let mut desired = Desired::new(NODE, Rules::default());
    desired.take(Source::Api, Change::Applied(pod("a", 80, json!({}))));
    let failed = pod("b", 80, json!({"status": {"phase": "Failed"}}));
    assert_eq!(short(&desired.take(Source::Api, Change::Applied(failed))), ["+b"]);
    let deleted = pod("c", 80, json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    assert_eq!(short(&desired.take(Source::Api, Change::Applied(deleted))), ["+c"]);
}

#[test]
fn after_a_restart_those_that_ran_are_taken_first() {
    let mut desired = Desired::new(NODE, Rules::default());
    let old = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}});
    let running = json!({
        "metadata": {"creationTimestamp": "2026-01-02T00:00:00Z"},
        "status": {"phase": "Running", "startTime": "2026-01-02T00:00:00Z"},
    });
    let commands = desired.take(Source::Api, Change::All(vec![pod("old", 80, old), pod("ran", 80, running)]));
    assert_eq!(short(&commands), ["+ran", "!old NodePorts", "=Api"]);
}

#[test]
fn a_mirror_is_never_run() {
    let mut desired = Desired::new(NODE, Rules::default());
    assert_eq!(desired.take(Source::Api, Change::Applied(mirror("s", "h"))), []);
    assert_eq!(desired.pods().count(), 0);
}

#[test]
fn mirrors_follow_the_static_pods() {
    let mut desired = Desired::new(NODE, Rules::default());
    desired.take(
        Source::File,
        Change::All(vec![static_pod("new", "1"), static_pod("kept", "1"), static_pod("edited", "2")]),
    );
    assert_eq!(desired.mirror_actions(BOTH), [], "the API has not been read yet");
    desired.take(Source::Api, Change::All(vec![mirror("kept", "1"), mirror("edited", "1"), mirror("orphan", "1")]));
    let expected = [
        MirrorAction::Delete(mirror("edited", "1")),
        MirrorAction::Delete(mirror("orphan", "1")),
        MirrorAction::Create(static_pod("new", "1")),
    ];
    assert_eq!(desired.mirror_actions(BOTH), expected);
    desired.take(Source::Api, Change::Gone(mirror("edited", "1")));
    assert!(desired.mirror_actions(BOTH).contains(&MirrorAction::Create(static_pod("edited", "2"))));
}

#[test]
fn a_mirror_that_a_person_deletes_goes_at_once_and_comes_back() {
    let mut desired = Desired::new(NODE, Rules::default());
    desired.take(Source::File, Change::All(vec![static_pod("s", "1")]));
    desired.take(Source::Api, Change::All(vec![mirror("s", "1")]));
    let mut ending = (*mirror("s", "1")).clone();
    ending.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time");
    let ending = Arc::new(ending);
    desired.take(Source::Api, Change::Applied(ending.clone()));
    assert_eq!(desired.mirror_actions(BOTH), [MirrorAction::Delete(ending.clone())]);
    desired.take(Source::Api, Change::Gone(ending));
    assert_eq!(desired.mirror_actions(BOTH), [MirrorAction::Create(static_pod("s", "1"))]);
}

#[test]
fn no_mirror_is_removed_before_the_manifests_were_read() {
    let mut desired = Desired::new(NODE, Rules::default());
    desired.take(Source::Api, Change::All(vec![mirror("s", "1")]));
    assert_eq!(desired.mirror_actions(BOTH), []);
    desired.take(Source::File, Change::All(vec![]));
    assert_eq!(desired.mirror_actions(BOTH), [MirrorAction::Delete(mirror("s", "1"))]);
}

#[test]
fn what_the_node_does_not_permit_is_refused_for_good() {
    let rules = Rules { sysctls: Allowed::new(&["kernel.msg*".to_owned()]).expect("names"), apparmor: false };
    let mut desired = Desired::new(NODE, rules);
    let with = |context: Value| json!({"spec": {"securityContext": context}});
    let sysctl = |name: &str| with(json!({"sysctls": [{"name": name, "value": "1"}]}));
    let profile = |kind: &str| with(json!({"appArmorProfile": {"type": kind}}));
    let table = [
        (sysctl("kernel.shm_rmid_forced"), "+a"),
        (sysctl("kernel.msgmax"), "+a"),
        (sysctl("kernel.shmmax"), "!a SysctlForbidden"),
        (profile("Unconfined"), "+a"),
        (profile("RuntimeDefault"), "!a AppArmor"),
        (json!({"spec": {"os": {"name": "linux"}}}), "+a"),
        (json!({"spec": {"os": {"name": "windows"}}}), "!a PodOSNotSupported"),
    ];
    for (extra, want) in table {
        let pod = pod("a", 80, extra.clone());
        assert_eq!(short(&desired.take(Source::Api, Change::Applied(pod.clone()))), [want], "{extra}");
        desired.take(Source::Api, Change::Gone(pod));
    }
}

#[test]
fn a_node_that_is_short_of_memory_or_goes_down_refuses_new_pods() {
    let mut desired = Desired::new(NODE, Rules::default());
    desired.short_of(vec![Condition::MemoryPressure], false);
    let asks = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"memory": "1Mi"}}}]}});
    let begun = json!({"status": {"startTime": "2027-01-15T08:00:00Z"}});
    let pods = vec![pod("new", 0, json!({})), pod("asks", 0, asks), pod("begun", 0, begun)];
    let told = desired.take(Source::Api, Change::All(pods));
    assert_eq!(short(&told), ["+begun", "+asks", "!new Evicted", "=Api"]);
    desired.short_of(Vec::new(), true);
    assert_eq!(short(&desired.take(Source::Api, Change::Applied(pod("last", 0, json!({}))))), ["!last NodeShutdown"]);
    desired.short_of(Vec::new(), false);
    let later = desired.take(Source::Api, Change::Applied(pod("later", 0, json!({}))));
    assert_eq!(short(&later), ["+later"]);
}
