//! How containers run again and end: restart policies and rules, hooks, stop signals, termination messages, and the time that a
//! pod may be active.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, LifecycleHandler, PodSpec};

use super::{one_of, probes};
use crate::field::FieldError;
use crate::pod::is_sidecar;

/// The most rules a container may have.
const RULES_MAX: usize = 20;
/// The longest time a pod may be active, in seconds.
const DEADLINE_MAX: i64 = i32::MAX as i64;
/// The most exit codes a rule may name.
const CODES_MAX: usize = 255;

pub(super) fn of_spec(spec: &PodSpec, path: &str, errors: &mut Vec<FieldError>) {
    for (n, one) in spec.init_containers.iter().flatten().enumerate() {
        let path = format!("{path}.initContainers[{n}]");
        restarts(one, &path, errors);
        ends(one, spec, &path, errors);
        if one.lifecycle.is_some() && !is_sidecar(one) {
            let why = "may not be set for init containers without restartPolicy=Always";
            errors.push(FieldError::forbidden(format!("{path}.lifecycle"), why));
        }
    }
    for (n, one) in spec.containers.iter().enumerate() {
        let path = format!("{path}.containers[{n}]");
        restarts(one, &path, errors);
        ends(one, spec, &path, errors);
    }
    if let Some(seconds) = spec.active_deadline_seconds.filter(|s| !(1..=DEADLINE_MAX).contains(s)) {
        let detail = format!("must be between 1 and {DEADLINE_MAX}, inclusive");
        errors.push(FieldError::invalid(format!("{path}.activeDeadlineSeconds"), seconds, detail));
    }
}

/// Everything wrong with another deadline of a running pod: one may be set, or come earlier.
pub(super) fn deadline_update(new: Option<i64>, old: Option<i64>, errors: &mut Vec<FieldError>) {
    let at = "spec.activeDeadlineSeconds";
    match (new, old) {
        (Some(new), Some(old)) if new > old => {
            errors.push(FieldError::invalid(at, new, "must be less than or equal to previous value"));
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(at, serde_json::Value::Null, detail));
        }
        _ => {}
    }
}

pub(super) fn ends(one: &Container, spec: &PodSpec, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(policy) = &one.termination_message_policy {
        one_of(policy, &["FallbackToLogsOnError", "File"], &format!("{path}.terminationMessagePolicy"), errors);
    }
    let grace = spec.termination_grace_period_seconds;
    for (name, hook) in one.lifecycle.iter().flat_map(|l| [("postStart", &l.post_start), ("preStop", &l.pre_stop)]) {
        if let Some(hook) = hook {
            handler(hook, grace, &format!("{path}.lifecycle.{name}"), errors);
        }
    }
    if let Some(signal) = one.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref()) {
        let at = format!("{path}.lifecycle.stopSignal");
        if spec.os.is_none() {
            errors.push(FieldError::forbidden(at, "may not be set for containers with empty `spec.os.name`"));
        } else if !is_signal(signal) {
            errors.push(FieldError::invalid(at, signal, "must be the name of a signal of Linux, such as SIGUSR1"));
        }
    }
}

/// A hook does one thing.
fn handler(hook: &LifecycleHandler, grace: Option<i64>, path: &str, errors: &mut Vec<FieldError>) {
    let kinds = [
        ("exec", hook.exec.is_some()),
        ("httpGet", hook.http_get.is_some()),
        ("tcpSocket", hook.tcp_socket.is_some()),
        ("sleep", hook.sleep.is_some()),
    ];
    let mut set = kinds.iter().filter(|(_, set)| *set).map(|(name, _)| *name);
    let Some(first) = set.next() else {
        return errors.push(FieldError::required(path, "must specify a handler type"));
    };
    for further in set {
        errors.push(FieldError::forbidden(format!("{path}.{further}"), "may not specify more than 1 handler type"));
    }
    let at = format!("{path}.{first}");
    if let Some(action) = &hook.exec {
        if action.command.as_ref().is_none_or(Vec::is_empty) {
            errors.push(FieldError::required(format!("{at}.command"), ""));
        }
    } else if let Some(action) = &hook.http_get {
        probes::http_get(action, &at, errors);
    } else if let Some(sleep) = &hook.sleep
        && let Some(grace) = grace.filter(|grace| !(0..=*grace).contains(&sleep.seconds))
    {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(FieldError::invalid(at, sleep.seconds, detail));
    }
}

/// Kubernetes' names of signals: the plain ones, and the real-time ones with their distance from either end.
fn is_signal(name: &str) -> bool {
    let Some(short) = name.strip_prefix("SIG") else {
        return false;
    };
    let distance = |text: &str| text.parse::<u32>().ok().filter(|n| !text.starts_with('0') && *n > 0);
    if let Some(above) = short.strip_prefix("RTMIN+") {
        return distance(above).is_some_and(|n| n <= 15);
    }
    if let Some(below) = short.strip_prefix("RTMAX-") {
        return distance(below).is_some_and(|n| n <= 14);
    }
    SIGNALS.contains(&short)
}

/// The signals that are no real-time ones but the two ends of those, without `SIG`.
const SIGNALS: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

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

#[cfg(test)]
mod tests;
