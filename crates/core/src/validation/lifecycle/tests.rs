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
fn only_a_sidecar_among_the_init_containers_has_hooks_and_probes() {
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        let want = format!(
            "spec.initContainers[0].{field}: Forbidden: may not be set for init containers without restartPolicy=Always"
        );
        assert_eq!(objections(json!({field: {}}), json!({})), [want]);
        assert_eq!(objections(json!({field: {}, "restartPolicy": "Always"}), json!({})), [""; 0]);
    }
}
