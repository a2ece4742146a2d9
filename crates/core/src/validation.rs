//! Kubernetes' validation of the fields that podd implements: the same field paths, the same
//! messages.
//!
//! Objects come here after the strict decoding (types, unknown fields) and after the verdicts
//! ([`crate::verdict`]) and the defaults ([`crate::defaults`]).

mod class;
mod container;
mod data;
mod ephemeral;
mod lifecycle;
mod metadata;
mod naming;
mod probes;
mod resources;
mod security;
mod storage;
mod update;
mod volume;

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::field::FieldError;
use crate::names;

pub use class::{priority_class, priority_class_update, runtime_class, runtime_class_update};
pub use ephemeral::ephemeral_update;
pub use metadata::{Scope, metadata};
pub use storage::{
    claim, claim_update, persistent_volume, persistent_volume_update, storage_class, storage_class_update,
};
pub use update::pod_update;

/// Everything wrong with a new Pod.
#[must_use]
pub fn pod_create(new: &Pod) -> Vec<FieldError> {
    let mut errors = pod(new);
    if let Some(spec) = &new.spec {
        pod_spec_create(spec, "spec", &mut errors);
    }
    errors
}

/// What a spec may have only once its Pod is there.
pub fn pod_spec_create(spec: &PodSpec, path: &str, errors: &mut Vec<FieldError>) {
    ephemeral::on_create(spec, path, errors);
}

/// Everything wrong with a Pod.
#[must_use]
pub fn pod(pod: &Pod) -> Vec<FieldError> {
    let mut errors = metadata(&pod.metadata, Scope::Namespaced, names::dns_subdomain);
    match &pod.spec {
        Some(spec) => pod_spec(spec, "spec", &mut errors),
        None => errors.push(FieldError::required("spec", "")),
    }
    errors
}

/// Everything wrong with the spec at `path`; also for pod templates.
pub fn pod_spec(spec: &PodSpec, path: &str, errors: &mut Vec<FieldError>) {
    let volumes = volume::volumes(spec, path, errors);
    container::containers(spec, path, &volumes, errors);
    ephemeral::of_spec(spec, path, &volumes, errors);
    lifecycle::of_spec(spec, path, errors);
    container::host_ports_are_distinct(spec, path, errors);
    probes::gates(spec, path, errors);
    if let Some(policy) = &spec.restart_policy {
        one_of(policy, &["Always", "OnFailure", "Never"], &format!("{path}.restartPolicy"), errors);
    }
    if let Some(grace) = spec.termination_grace_period_seconds.filter(|s| *s < 0) {
        errors.push(FieldError::invalid(
            format!("{path}.terminationGracePeriodSeconds"),
            grace,
            "must be greater than or equal to 0",
        ));
    }
    naming::pod(spec, path, errors);
    security::pod(spec, path, errors);
    class::pod(spec, path, errors);
    resources::pod(spec, path, errors);
}

/// Appends an objection when a rule of [`names`] found something.
fn check(wrong: Option<String>, value: &str, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(detail) = wrong {
        errors.push(FieldError::invalid(path, value, detail));
    }
}

fn one_of(value: &str, supported: &[&str], path: &str, errors: &mut Vec<FieldError>) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !supported.contains(&value) {
        errors.push(FieldError::not_supported(path, value, supported));
    }
}

/// Objects to values that stand a second time.
fn distinct<'a>(values: impl Iterator<Item = (String, &'a str)>, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (path, value) in values {
        if !value.is_empty() && !seen.insert(value) {
            errors.push(FieldError::duplicate(path, value));
        }
    }
}

#[cfg(test)]
mod tests;
