//! What brings data into containers from elsewhere: `valueFrom` and `envFrom`, and the volumes made of ConfigMaps, Secrets
//! and the pod itself. Here is what both can name: fields and resources of the pod, objects and their keys.

mod environment;
mod volumes;

use k8s_openapi::api::core::v1::{ObjectFieldSelector, ResourceFieldSelector};

use super::check;
use crate::field::FieldError;
use crate::names;
use crate::quantity::Quantity;

pub(super) use environment::environment;
pub(super) use volumes::volume;

/// Resources that a container may be told.
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const CPU_DIVISORS: &[&str] = &["1m", "1"];
const BYTE_DIVISORS: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

fn field(selector: &ObjectFieldSelector, supported: &[&str], path: &str, errors: &mut Vec<FieldError>) {
    if let Some(version) = selector.api_version.as_deref().filter(|version| !matches!(*version, "" | "v1")) {
        let detail = format!("error converting fieldPath: unsupported pod version: {version}");
        errors.push(FieldError::invalid(format!("{path}.fieldPath"), selector.field_path.clone(), detail));
    }
    let at = format!("{path}.fieldPath");
    let text = selector.field_path.as_str();
    if text.is_empty() {
        errors.push(FieldError::required(at, ""));
        return;
    }
    let subscripted = text.strip_suffix("']").and_then(|text| text.split_once("['"));
    let rule = match subscripted {
        Some(("metadata.labels", key)) => names::qualified(key),
        Some(("metadata.annotations", key)) => names::qualified(&key.to_lowercase()),
        Some((path, _)) => Some(format!("error converting fieldPath: field label not supported: {path}")),
        None if supported.contains(&text) => None,
        None => {
            errors.push(FieldError::not_supported(at, text, supported));
            return;
        }
    };
    check(rule, text, &at, errors);
}

fn resource(selector: &ResourceFieldSelector, of_volume: bool, path: &str, errors: &mut Vec<FieldError>) {
    if of_volume && selector.container_name.as_deref().unwrap_or_default().is_empty() {
        errors.push(FieldError::required(format!("{path}.containerName"), ""));
    }
    let name = selector.resource.as_str();
    let huge = name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-");
    if name.is_empty() {
        errors.push(FieldError::required(format!("{path}.resource"), ""));
        return;
    }
    if !huge && !RESOURCES.contains(&name) {
        errors.push(FieldError::not_supported(format!("{path}.resource"), name, RESOURCES));
        return;
    }
    let Some(divisor) = selector.divisor.as_ref().map(|divisor| divisor.0.as_str()) else { return };
    let at = format!("{path}.divisor");
    let (allowed, kind) = match name.split_once('.') {
        Some((_, "cpu")) => (CPU_DIVISORS, "cpu"),
        Some((_, kind)) => (BYTE_DIVISORS, kind),
        None => (BYTE_DIVISORS, name),
    };
    let amount = |text: &str| Quantity::parse(text).ok();
    match amount(divisor) {
        None => {
            errors.push(FieldError::invalid(
                at,
                divisor,
                "must be a quantity, such as 1, 1m (of cpu) or 1Mi (of memory)",
            ));
        }
        Some(Quantity::ZERO) => {}
        found if allowed.iter().any(|allowed| amount(allowed) == found) => {}
        Some(_) => {
            let list = match kind {
                "cpu" => "1m and 1".to_owned(),
                _ => allowed.join(", "),
            };
            let detail = format!("only divisor's values {list} are supported with the {kind} resource");
            errors.push(FieldError::invalid(at, divisor, detail));
        }
    }
}

fn object_name(name: &str, path: &str, errors: &mut Vec<FieldError>) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
}

fn key(key: &str, path: &str, errors: &mut Vec<FieldError>) {
    if key.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else {
        check(names::config_key(key), key, path, errors);
    }
}

/// A path beneath a volume that no name of the volume's own is in the way of.
fn local_path(text: &str, path: &str, errors: &mut Vec<FieldError>) {
    let wrong = if text.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    } else if text.starts_with('/') {
        "must be a relative path"
    } else if text.split('/').any(|part| part == "..") {
        "must not contain '..'"
    } else if text.starts_with("..") {
        "must not start with '..'"
    } else {
        return;
    };
    errors.push(FieldError::invalid(path, text, wrong));
}

#[cfg(test)]
mod tests;
