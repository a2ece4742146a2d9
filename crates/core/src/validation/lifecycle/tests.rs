//! Objections, one per spec, and specs without any.

use serde_json::{Value, json};

use super::*;

/// What is objected to a spec with one regular and one init container, which have these fields too.
fn objections(init: Value, regular: Value) -> Vec<String> {
    let with = |name: &str, more: Value| {
        let mut container = json!({"name": name, "image": "i"});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        container
    };
    let spec = json!({"initContainers": [with("i", init)], "containers": [with("c", regular)]});
    let mut errors = Vec::new();
    of_spec(&serde_json::from_value(spec).unwrap(), "spec", &mut errors);
    errors.iter().map(ToString::to_string).collect()
}

fn rules(rule: Value) -> Value {
    json!({"restartPolicy": "Never", "restartPolicyRules": [rule]})
}

#[test]
fn restart_policies_and_rules_are_checked() {
    let codes = json!({"operator": "In", "values": [1]});
    let table = [
        (json!({"restartPolicy": "Often"}), "spec.containers[0].restartPolicy: Unsupported value: \"Often\""),
        (
            json!({"restartPolicyRules": [{"action": "Restart", "exitCodes": codes}]}),
            "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
        ),
        (
            rules(json!({"action": "Stop", "exitCodes": codes})),
            "spec.containers[0].restartPolicyRules[0].action: Unsupported value: \"Stop\"",
        ),
        (
            rules(json!({"action": "RestartAllContainers", "exitCodes": codes})),
            "spec.containers[0].restartPolicyRules[0].action: Forbidden: podd does not restart all containers",
        ),
        (
            rules(json!({"action": "Restart"})),
            "spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified",
        ),
        (
            rules(json!({"action": "Restart", "exitCodes": {"operator": "Is", "values": [1]}})),
            "spec.containers[0].restartPolicyRules[0].exitCodes.operator: Unsupported value: \"Is\"",
        ),
        (
            rules(json!({"action": "Restart", "exitCodes": {"operator": "In", "values": vec![1; 256]}})),
            "spec.containers[0].restartPolicyRules[0].exitCodes.values: Too long",
        ),
    ];
    for (fields, want) in table {
        let found = objections(json!({}), fields.clone());
        assert!(found.len() == 1 && found[0].starts_with(want), "{fields}\nwant {want}\ngot  {found:#?}");
    }
    let many = json!({"restartPolicy": "Never", "restartPolicyRules": vec![json!({"action": "Restart", "exitCodes": codes}); 21]});
    assert_eq!(objections(json!({}), many).len(), 1);
    assert_eq!(objections(json!({}), rules(json!({"action": "Restart", "exitCodes": codes}))), [""; 0]);
}

#[test]
fn only_a_sidecar_among_the_init_containers_has_hooks() {
    let sleep = json!({"preStop": {"sleep": {"seconds": 1}}});
    let want =
        "spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always";
    assert_eq!(objections(json!({"lifecycle": sleep}), json!({})), [want]);
    assert_eq!(objections(json!({"lifecycle": sleep, "restartPolicy": "Always"}), json!({})), [""; 0]);
}

#[test]
fn a_hook_does_one_thing() {
    let of = |hook: Value| {
        let container = json!({"name": "c", "image": "i", "lifecycle": {"preStop": hook}});
        let spec = json!({"terminationGracePeriodSeconds": 30, "containers": [container]});
        let mut errors = Vec::new();
        of_spec(&serde_json::from_value(spec).unwrap(), "spec", &mut errors);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let at = "spec.containers[0].lifecycle.preStop";
    let table = [
        (json!({}), format!("{at}: Required value: must specify a handler type")),
        (
            json!({"exec": {"command": ["x"]}, "sleep": {"seconds": 1}}),
            format!("{at}.sleep: Forbidden: may not specify more than 1 handler type"),
        ),
        (json!({"exec": {}}), format!("{at}.exec.command: Required value")),
        (
            json!({"sleep": {"seconds": 31}}),
            format!(
                "{at}.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)"
            ),
        ),
        (json!({"sleep": {"seconds": -1}}), format!("{at}.sleep: Invalid value: -1")),
    ];
    for (hook, want) in table {
        let found = of(hook.clone());
        assert!(found.len() == 1 && found[0].starts_with(&want), "{hook}\nwant {want}\ngot  {found:#?}");
    }
    assert_eq!(of(json!({"sleep": {"seconds": 0}})), [""; 0]);
}

#[test]
fn deadlines_signals_and_message_policies_are_checked() {
    let of = |spec: Value| {
        let mut errors = Vec::new();
        of_spec(&serde_json::from_value(spec).unwrap(), "spec", &mut errors);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let signal = |name: &str, os: Value| {
        of(json!({"os": os, "containers": [{"name": "c", "image": "i", "lifecycle": {"stopSignal": name}}]}))
    };
    let linux = || json!({"name": "linux"});
    assert_eq!(
        signal("SIGUSR1", Value::Null),
        ["spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`"]
    );
    for good in ["SIGUSR1", "SIGRTMIN", "SIGRTMIN+15", "SIGRTMAX-14"] {
        assert_eq!(signal(good, linux()), [""; 0], "{good}");
    }
    for bad in ["USR1", "SIGNAL", "SIGRTMIN+16", "SIGRTMAX-15", "SIGRTMIN+01", ""] {
        assert_eq!(signal(bad, linux()).len(), 1, "{bad}");
    }
    let deadline = |seconds: i64| of(json!({"activeDeadlineSeconds": seconds, "containers": []})).len();
    assert_eq!([0, -1, 1, i64::from(i32::MAX), 1 << 31].map(deadline), [1, 1, 0, 0, 1]);
    let policy = |name: &str| objections(json!({}), json!({"terminationMessagePolicy": name})).len();
    assert_eq!(["File", "FallbackToLogsOnError", "Log"].map(policy), [0, 0, 1]);
}

#[test]
fn a_deadline_may_be_set_or_come_earlier() {
    let wrong = |new, old| {
        let mut errors = Vec::new();
        deadline_update(new, old, &mut errors);
        errors.len()
    };
    let table =
        [(Some(5), None), (Some(5), Some(9)), (Some(9), Some(9)), (None, None), (Some(9), Some(5)), (None, Some(5))];
    assert_eq!(table.map(|(new, old)| wrong(new, old)), [0, 0, 0, 0, 1, 1]);
}
