//! Priority classes and runtime classes: their rules are `podd_core`'s.

use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use podd_core::classes::PREEMPTION;
use podd_core::field::FieldError;
use podd_core::validation;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The value was decoded as its kind before, and every later step keeps its types.
fn typed<T: DeserializeOwned>(class: &Value) -> T {
    serde_json::from_value(class.clone()).expect("it was decoded as its kind before")
}

pub(super) fn default_priority(class: &mut Value) {
    if class["preemptionPolicy"].as_str().unwrap_or_default().is_empty() {
        class["preemptionPolicy"] = PREEMPTION.into();
    }
}

pub(super) fn validate_priority(class: &Value) -> Vec<FieldError> {
    validation::priority_class(&typed(class))
}

pub(super) fn validate_priority_update(new: &Value, old: &Value) -> Vec<FieldError> {
    validation::priority_class_update(&typed::<PriorityClass>(new), &typed(old))
}

pub(super) fn validate_runtime(class: &Value) -> Vec<FieldError> {
    validation::runtime_class(&typed(class))
}

pub(super) fn validate_runtime_update(new: &Value, old: &Value) -> Vec<FieldError> {
    validation::runtime_class_update(&typed::<RuntimeClass>(new), &typed(old))
}
