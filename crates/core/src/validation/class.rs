//! Priority classes and runtime classes, and the fields of a Pod that have to do with them.

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::scheduling::v1::PriorityClass;

use super::{check, one_of, resources};
use crate::classes::{HIGHEST_PRIORITY, SYSTEM_PRIORITIES};
use crate::field::FieldError;
use crate::names;

const PREEMPTIONS: &[&str] = &["PreemptLowerPriority", "Never"];
const IMMUTABLE: &str = "field is immutable";

pub(super) fn pod(spec: &PodSpec, path: &str, errors: &mut Vec<FieldError>) {
    for (field, name) in
        [("priorityClassName", &spec.priority_class_name), ("runtimeClassName", &spec.runtime_class_name)]
    {
        if let Some(name) = name.as_deref().filter(|name| !name.is_empty()) {
            check(names::dns_subdomain(name), name, &format!("{path}.{field}"), errors);
        }
    }
    if let Some(policy) = &spec.preemption_policy {
        one_of(policy, PREEMPTIONS, &format!("{path}.preemptionPolicy"), errors);
    }
    if let Some(overhead) = &spec.overhead {
        let amounts = ResourceRequirements { limits: Some(overhead.clone()), ..Default::default() };
        resources::resources(&amounts, &format!("{path}.overhead"), errors);
    }
}

/// Everything wrong with a priority class, its metadata aside.
#[must_use]
pub fn priority_class(class: &PriorityClass) -> Vec<FieldError> {
    const RESERVED: &str = "priority class names with 'system-' prefix are reserved for system use only. error: ";
    let mut errors = Vec::new();
    let name = class.metadata.name.as_deref().unwrap_or_default();
    let system = SYSTEM_PRIORITIES.iter().find(|(system, _)| *system == name).map(|(_, value)| *value);
    let why = match system {
        Some(value) if Some(value) != class.value => Some(format!("value of {name} PriorityClass must be {value}")),
        Some(_) if class.global_default == Some(true) => Some(format!("globalDefault of {name} must be false")),
        None if name.starts_with("system-") => Some(format!("{name} is not a known system priority class")),
        _ => None,
    };
    errors.extend(why.map(|why| FieldError::forbidden("metadata.name", format!("{RESERVED}{why}"))));
    if system.is_none() && class.value > Some(HIGHEST_PRIORITY) {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_PRIORITY}");
        errors.push(FieldError::forbidden("value", detail));
    }
    if let Some(policy) = &class.preemption_policy {
        one_of(policy, PREEMPTIONS, "preemptionPolicy", &mut errors);
    }
    errors
}

/// What of a priority class may not change.
#[must_use]
pub fn priority_class_update(new: &PriorityClass, old: &PriorityClass) -> Vec<FieldError> {
    let mut errors = priority_class(new);
    if new.value != old.value {
        errors.push(FieldError::forbidden("value", "may not be changed in an update."));
    }
    if new.preemption_policy != old.preemption_policy {
        let value = new.preemption_policy.clone().unwrap_or_default();
        errors.push(FieldError::invalid("preemptionPolicy", value, IMMUTABLE));
    }
    errors
}

/// Everything wrong with a runtime class, its metadata aside.
#[must_use]
pub fn runtime_class(class: &RuntimeClass) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match class.handler.as_str() {
        "" => errors.push(FieldError::required("handler", "")),
        handler => check(names::dns_label(handler), handler, "handler", &mut errors),
    }
    if let Some(fixed) = class.overhead.as_ref().and_then(|overhead| overhead.pod_fixed.clone()) {
        let amounts = ResourceRequirements { limits: Some(fixed), ..Default::default() };
        resources::resources(&amounts, "overhead.podFixed", &mut errors);
    }
    let selector = class.scheduling.iter().flat_map(|scheduling| scheduling.node_selector.iter().flatten());
    for (key, value) in selector {
        check(names::qualified(key), key, "scheduling.nodeSelector", &mut errors);
        check(names::label_value(value), value, "scheduling.nodeSelector", &mut errors);
    }
    errors
}

/// What of a runtime class may not change.
#[must_use]
pub fn runtime_class_update(new: &RuntimeClass, old: &RuntimeClass) -> Vec<FieldError> {
    let mut errors = runtime_class(new);
    if new.handler != old.handler {
        errors.push(FieldError::invalid("handler", new.handler.clone(), IMMUTABLE));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn priority(more: Value) -> PriorityClass {
        let mut class = json!({"metadata": {"name": "high"}, "value": 5});
        class.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(class).unwrap()
    }

    fn runtime(handler: &str, overhead: Value) -> RuntimeClass {
        serde_json::from_value(json!({"metadata": {"name": "c"}, "handler": handler, "overhead": overhead})).unwrap()
    }

    #[test]
    fn a_priority_class_keeps_to_the_rules() {
        let table = [
            (json!({}), None),
            (json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000}), None),
            (
                json!({"value": 1_000_000_001}),
                Some("value: Forbidden: maximum allowed value of a user defined priority is 1000000000"),
            ),
            (
                json!({"metadata": {"name": "system-x"}}),
                Some(
                    "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-x is not a known system priority class",
                ),
            ),
            (
                json!({"preemptionPolicy": "Sometimes"}),
                Some(
                    "preemptionPolicy: Unsupported value: \"Sometimes\": supported values: \"PreemptLowerPriority\", \"Never\"",
                ),
            ),
        ];
        for (more, want) in table {
            assert_eq!(told(priority_class(&priority(more.clone()))), Vec::from_iter(want), "{more}");
        }
        let changed = priority_class_update(&priority(json!({"value": 6})), &priority(json!({})));
        assert_eq!(told(changed), ["value: Forbidden: may not be changed in an update."]);
    }

    #[test]
    fn a_runtime_class_keeps_to_the_rules() {
        assert_eq!(told(runtime_class(&runtime("podd", json!({"podFixed": {"cpu": "1"}})))), [""; 0]);
        assert_eq!(told(runtime_class(&runtime("", json!(null)))), ["handler: Required value"]);
        assert!(told(runtime_class(&runtime("A_b", json!(null))))[0].starts_with("handler: Invalid value: \"A_b\""));
        let negative = told(runtime_class(&runtime("h", json!({"podFixed": {"memory": "-1"}}))));
        assert!(negative[0].starts_with("overhead.podFixed.limits.memory: Invalid value"), "{negative:?}");
        let changed = runtime_class_update(&runtime("a", json!(null)), &runtime("b", json!(null)));
        assert_eq!(told(changed), ["handler: Invalid value: \"a\": field is immutable"]);
    }
}
