//! How containers run again and end: restart policies and rules.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, PodSpec};

use super::one_of;
use crate::field::FieldError;
use crate::pod::is_sidecar;

/// The most rules a container may have.
const RULES_MAX: usize = 20;
/// The most exit codes a rule may name.
const CODES_MAX: usize = 255;

pub(super) fn of_spec(spec: &PodSpec, path: &str, errors: &mut Vec<FieldError>) {
    for (n, one) in spec.init_containers.iter().flatten().enumerate() {
        let path = format!("{path}.initContainers[{n}]");
        restarts(one, &path, errors);
        if !is_sidecar(one) {
            no_life_of_its_own(one, &path, errors);
        }
    }
    for (n, one) in spec.containers.iter().enumerate() {
        restarts(one, &format!("{path}.containers[{n}]"), errors);
    }
}

fn restarts(one: &Container, path: &str, errors: &mut Vec<FieldError>) {
    let rules = one.restart_policy_rules.as_deref().unwrap_or_default();
    let at = format!("{path}.restartPolicy");
    match one.restart_policy.as_deref() {
        Some(policy) => one_of(policy, &["Always", "Never", "OnFailure"], &at, errors),
        None if !rules.is_empty() => {
            errors.push(FieldError::required(at, "must specify restartPolicy when restart rules are used"));
        }
        None => {}
    }
    let at = format!("{path}.restartPolicyRules");
    if rules.len() > RULES_MAX {
        errors.push(FieldError::too_long(&at, RULES_MAX));
    }
    for (n, one) in rules.iter().enumerate() {
        rule(one, &format!("{at}[{n}]"), errors);
    }
}

fn rule(rule: &ContainerRestartRule, path: &str, errors: &mut Vec<FieldError>) {
    if rule.action == "RestartAllContainers" {
        let why = "podd does not restart all containers in place; let the rules of each container name the exit code";
        errors.push(FieldError::forbidden(format!("{path}.action"), why));
    } else {
        one_of(&rule.action, &["Restart"], &format!("{path}.action"), errors);
    }
    let at = format!("{path}.exitCodes");
    let Some(codes) = &rule.exit_codes else {
        return errors.push(FieldError::required(at, "must be specified"));
    };
    if !["In", "NotIn"].contains(&codes.operator.as_str()) {
        errors.push(FieldError::not_supported(format!("{at}.operator"), codes.operator.as_str(), &["In", "NotIn"]));
    }
    if codes.values.as_ref().is_some_and(|values| values.len() > CODES_MAX) {
        errors.push(FieldError::too_long(format!("{at}.values"), CODES_MAX));
    }
}

/// What an init container that is no sidecar can't have: it ends by itself, and nobody waits for it to serve.
fn no_life_of_its_own(one: &Container, path: &str, errors: &mut Vec<FieldError>) {
    let fields = [
        ("lifecycle", one.lifecycle.is_some()),
        ("livenessProbe", one.liveness_probe.is_some()),
        ("readinessProbe", one.readiness_probe.is_some()),
        ("startupProbe", one.startup_probe.is_some()),
    ];
    for (field, _) in fields.iter().filter(|(_, set)| *set) {
        let why = "may not be set for init containers without restartPolicy=Always";
        errors.push(FieldError::forbidden(format!("{path}.{field}"), why));
    }
}

#[cfg(test)]
mod tests;
