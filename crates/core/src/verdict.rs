//! What podd does with each field of a Pod: honoured, without effect on one node, or refused.
//!
//! The table is the whole truth: a field that it does not name is refused by name. A field
//! at its Kubernetes default, null or empty is never refused, so that what `get -o yaml` prints
//! can be applied again.

mod fields;
mod table;

use serde_json::{Value, json};

use crate::field::FieldError;
pub use fields::{Field, field, fields};

use Verdict::{Honoured, NoEffect, Refused};
use table::POD;

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// podd does what the field says. The text names the test that proves it: `FILE::FUNCTION` of `tests/tests`.
    Honoured(&'static str),
    /// Accepted and reported: on one node it has nothing to decide. The text says why.
    NoEffect(&'static str),
    /// Not accepted. The text says why, and what to use instead.
    Refused(&'static str),
}

/// The verdicts on a manifest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Findings {
    /// Fields that podd does not implement.
    pub refused: Vec<FieldError>,
    /// Fields that are accepted without effect, with the reason.
    pub without_effect: Vec<(String, &'static str)>,
}

/// The verdict on a field of the schema, such as `spec.containers[].args`; none if the table does not know it.
#[must_use]
pub fn of(pattern: &str) -> Option<Verdict> {
    row(pattern).or_else(|| row(&as_container(pattern)?))
}

/// All rows: a pattern and its verdict.
pub fn rows() -> impl Iterator<Item = (&'static str, Verdict)> {
    POD.iter().copied()
}

/// The verdicts on every field that a Pod sets.
#[must_use]
pub fn pod(manifest: &Value) -> Findings {
    let mut findings = Findings::default();
    for (path, verdict) in of_manifest(manifest) {
        match verdict {
            Honoured(_) => {}
            NoEffect(why) => findings.without_effect.push((path, why)),
            Refused(why) => findings.refused.push(FieldError::forbidden(&path, why)),
        }
    }
    findings
}

/// Every field that a Pod sets, with the verdict on it; a field is named with all that is below it where one row takes it
/// whole.
#[must_use]
pub fn of_manifest(manifest: &Value) -> Vec<(String, Verdict)> {
    let mut found = Vec::new();
    walk(manifest, "", "", &mut found);
    found
}

fn walk(value: &Value, path: &str, pattern: &str, found: &mut Vec<(String, Verdict)>) {
    if is_empty(value) || (!pattern.is_empty() && is_default(pattern, value)) {
        return;
    }
    // A field that has rows below it is judged by those.
    if !leads_somewhere(pattern) {
        found.push((path.to_owned(), of(pattern).unwrap_or(Refused(table::LATER))));
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let join = |prefix: &str| {
                    if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") }
                };
                walk(inner, &join(path), &join(pattern), found);
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                walk(inner, &format!("{path}[{index}]"), &format!("{pattern}[]"), found);
            }
        }
        // The wrong type; validation says so.
        _ => {}
    }
}

/// The verdict of the longest row that matches.
fn row(pattern: &str) -> Option<Verdict> {
    let matches = |row: &str| match row.strip_suffix(".*") {
        None => row == pattern,
        Some(top) => pattern.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])),
    };
    // A row for the field alone goes before one that takes what is below it too.
    let weight = |row: &str| (row.trim_end_matches(".*").len(), !row.ends_with(".*"));
    POD.iter().filter(|(row, _)| matches(row)).max_by_key(|(row, _)| weight(row)).map(|(_, verdict)| *verdict)
}

/// Init and ephemeral containers follow the rows of containers where they have none of their own.
fn as_container(pattern: &str) -> Option<String> {
    ["spec.initContainers[]", "spec.ephemeralContainers[]"]
        .iter()
        .find_map(|list| pattern.strip_prefix(list))
        .map(|rest| format!("spec.containers[]{rest}"))
}

/// Whether the table has rows below this field.
fn leads_somewhere(pattern: &str) -> bool {
    let below = |pattern: &str| {
        POD.iter().any(|(row, _)| {
            row.strip_prefix(pattern)
                .is_some_and(|rest| (rest.starts_with('.') && rest != ".*") || rest.starts_with("[]"))
        })
    };
    if pattern.is_empty() || below(pattern) {
        return true;
    }
    // A list with a verdict on all that is in it, or a list of containers that follows the rows of containers.
    match pattern {
        "spec.initContainers" | "spec.ephemeralContainers" => !matches!(row(pattern), Some(Refused(_))),
        _ => as_container(pattern).is_some_and(|alias| row(pattern).is_none() && below(&alias)),
    }
}

/// Values that Kubernetes writes itself where a manifest is silent; they ask for nothing.
fn is_default(pattern: &str, value: &Value) -> bool {
    let alias = as_container(pattern);
    let default = match alias.as_deref().unwrap_or(pattern) {
        "spec.dnsPolicy" => json!("ClusterFirst"),
        "spec.schedulerName" => json!("default-scheduler"),
        "spec.enableServiceLinks" | "spec.hostUsers" => json!(true),
        "spec.hostPID" | "spec.hostIPC" | "spec.automountServiceAccountToken" | "spec.setHostnameAsFQDN" => {
            json!(false)
        }
        "spec.priority" => json!(0),
        "spec.preemptionPolicy" => json!("PreemptLowerPriority"),
        "spec.serviceAccount" | "spec.serviceAccountName" => json!("default"),
        "spec.containers[].stdin"
        | "spec.containers[].stdinOnce"
        | "spec.containers[].tty"
        | "spec.containers[].securityContext.runAsNonRoot"
        | "spec.securityContext.runAsNonRoot" => json!(false),
        "spec.containers[].terminationMessagePath" => json!("/dev/termination-log"),
        "spec.containers[].terminationMessagePolicy" => json!("File"),
        "spec.containers[].securityContext.procMount" => json!("Default"),
        "spec.containers[].volumeMounts[].recursiveReadOnly" => json!("Disabled"),
        "spec.containers[].volumeMounts[].mountPropagation" => json!("None"),
        _ => return false,
    };
    *value == default
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
