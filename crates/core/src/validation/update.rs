//! What of a running Pod may change.

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde_json::Value;

use crate::field::FieldError;

const RULE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Everything wrong with turning `old` into `new`, both with their defaults.
#[must_use]
pub fn pod_update(new: &Pod, old: &Pod) -> Vec<FieldError> {
    let mut errors = super::pod(new);
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else {
        return errors;
    };
    if new.containers.len() != old.containers.len() {
        errors.push(FieldError::forbidden("spec.containers", "pod updates may not add or remove containers"));
        return errors;
    }
    super::lifecycle::deadline_update(new.active_deadline_seconds, old.active_deadline_seconds, &mut errors);
    let fixed = |spec: &PodSpec| serde_json::to_value(without_mutable(spec, old)).unwrap_or_default();
    let mut changed = Vec::new();
    differences(&fixed(new), &fixed(old), "spec", &mut changed);
    if !changed.is_empty() {
        let detail = format!("{RULE}; this one changes {}", changed.join(", "));
        errors.push(FieldError::forbidden("spec", detail));
    }
    errors
}

/// The spec with its mutable fields as in `old`.
fn without_mutable(spec: &PodSpec, old: &PodSpec) -> PodSpec {
    let mut fixed = spec.clone();
    fixed.active_deadline_seconds = old.active_deadline_seconds;
    for (container, before) in fixed.containers.iter_mut().zip(&old.containers) {
        container.image.clone_from(&before.image);
    }
    for (container, before) in fixed.init_containers.iter_mut().flatten().zip(old.init_containers.iter().flatten()) {
        container.image.clone_from(&before.image);
    }
    let kept = old.tolerations.as_deref().unwrap_or(&[]);
    if kept.iter().all(|t| fixed.tolerations.as_ref().is_some_and(|now| now.contains(t))) {
        fixed.tolerations.clone_from(&old.tolerations);
    }
    if old.termination_grace_period_seconds.is_some_and(|s| s < 0) && fixed.termination_grace_period_seconds == Some(1)
    {
        fixed.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    fixed
}

/// The paths at which two values differ, the deepest that tell it.
fn differences(new: &Value, old: &Value, path: &str, changed: &mut Vec<String>) {
    match (new, old) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                let missing = Value::Null;
                differences(
                    a.get(name).unwrap_or(&missing),
                    b.get(name).unwrap_or(&missing),
                    &format!("{path}.{name}"),
                    changed,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (n, (a, b)) in a.iter().zip(b).enumerate() {
                differences(a, b, &format!("{path}[{n}]"), changed);
            }
        }
        _ if new != old => changed.push(path.into()),
        _ => {}
    }
}
