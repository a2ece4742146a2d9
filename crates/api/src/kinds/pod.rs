//! Pods: their fields are `podd_core`'s business; binding and deletion are the API's.

use k8s_openapi::api::core::v1::Pod;
use podd_core::field::FieldError;
use podd_core::{defaults, qos, validation, verdict};
use serde_json::{Value, json};

use super::Context;

/// The value was decoded as a Pod before, and every later step keeps its types.
fn typed(pod: &Value) -> Pod {
    serde_json::from_value(pod.clone()).expect("it was decoded as a Pod before")
}

pub(super) fn verdict(pod: &Value) -> (Vec<FieldError>, Vec<String>) {
    let findings = verdict::pod(pod);
    let warnings = findings.without_effect.iter().map(|(path, why)| format!("{path}: no effect: {why}"));
    (findings.refused, warnings.collect())
}

pub(super) fn default(pod: &mut Value) {
    let mut object = typed(pod);
    defaults::pod(&mut object);
    *pod = serde_json::to_value(object).expect("a Pod is JSON");
}

/// There is one node, so binding is part of the creation.
pub(super) fn prepare_create(pod: &mut Value, context: &Context) {
    if !pod["spec"].is_object() {
        // Validation will say that the spec is missing.
        return;
    }
    let class = qos::class(&typed(pod)).name();
    if pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() {
        pod["spec"]["nodeName"] = context.node_name.clone().into();
    }
    pod["status"] = json!({
        "phase": "Pending",
        "qosClass": class,
        "conditions": [{
            "type": "PodScheduled",
            "status": "True",
            "lastTransitionTime": context.now,
        }],
    });
}

/// What a new pod is given where its manifest is silent, beside the defaults.
const GIVEN: [&str; 5] = ["nodeName", "overhead", "preemptionPolicy", "priority", "priorityClassName"];

/// The node was chosen here and not by the client: a manifest that is silent of it says nothing about it, also after one
/// that was printed with it has been applied.
pub(super) fn prepare_update(pod: &mut Value, old: &Value) {
    for field in GIVEN {
        if pod["spec"].is_object() && pod["spec"][field].is_null() && !old["spec"][field].is_null() {
            pod["spec"][field] = old["spec"][field].clone();
        }
    }
}

pub(super) fn validate(pod: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match &typed(pod).spec {
        Some(spec) => validation::pod_spec(spec, "spec", &mut errors),
        None => errors.push(FieldError::required("spec", "")),
    }
    errors
}

pub(super) fn validate_create(pod: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(spec) = &typed(pod).spec {
        validation::pod_spec_create(spec, "spec", &mut errors);
    }
    errors
}

/// What may not change through `ephemeralcontainers` (new, old).
pub(crate) fn validate_ephemeral(new: &Value, old: &Value) -> Vec<FieldError> {
    validation::ephemeral_update(&typed(new), &typed(old))
}

pub(super) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    validation::pod_update(&typed(new), &typed(old))
}

/// Nobody has to be waited for when the pod is over, or when no agent of ours ever ran it.
pub(super) fn grace(pod: &Value, asked: Option<i64>, context: &Context) -> i64 {
    let over = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
    let ours = pod["spec"]["nodeName"].as_str() == Some(context.node_name.as_str());
    if over || !ours {
        return 0;
    }
    let own = || pod["spec"]["terminationGracePeriodSeconds"].as_i64();
    let seconds = asked.or_else(own).unwrap_or(defaults::GRACE_SECONDS);
    if seconds < 0 { 1 } else { seconds }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_and_priority_stay_when_a_manifest_is_silent_of_them() {
        let old = json!({"spec": {"nodeName": "n", "priority": 7}});
        for (new, node) in [(json!({"spec": {}}), json!("n")), (json!({"spec": {"nodeName": "m"}}), json!("m"))] {
            let mut pod = new;
            prepare_update(&mut pod, &old);
            assert_eq!(pod["spec"]["nodeName"], node);
            assert_eq!(pod["spec"]["priority"], 7);
        }
    }
}
