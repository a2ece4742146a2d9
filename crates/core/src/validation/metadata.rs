//! The metadata of any object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::check;
use crate::field::FieldError;
use crate::names;

/// Whether a kind lives in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// It does.
    Namespaced,
    /// It belongs to the cluster.
    Cluster,
}

/// Everything wrong with an object's metadata; `name_rule` is one of [`names`].
#[must_use]
pub fn metadata(meta: &ObjectMeta, scope: Scope, name_rule: fn(&str) -> Option<String>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = meta.name.as_deref().unwrap_or("");
    let prefix = meta.generate_name.as_deref().unwrap_or("");
    if !prefix.is_empty() {
        // A generated name ends in letters and digits, so a dash at the end of the prefix is fine.
        check(name_rule(&format!("{}x", prefix.trim_end_matches('-'))), prefix, "metadata.generateName", &mut errors);
    }
    if !name.is_empty() {
        check(name_rule(name), name, "metadata.name", &mut errors);
    } else if prefix.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    }
    let namespace = meta.namespace.as_deref().unwrap_or("");
    match scope {
        Scope::Cluster if !namespace.is_empty() => {
            errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
        }
        Scope::Namespaced if !namespace.is_empty() => {
            check(names::dns_label(namespace), namespace, "metadata.namespace", &mut errors);
        }
        _ => {}
    }
    labels_and_annotations(meta, &mut errors);
    errors
}

fn labels_and_annotations(meta: &ObjectMeta, errors: &mut Vec<FieldError>) {
    for (key, value) in meta.labels.iter().flatten() {
        check(names::qualified(key), key, "metadata.labels", errors);
        check(names::label_value(value), value, "metadata.labels", errors);
    }
    let mut bytes = 0;
    for (key, value) in meta.annotations.iter().flatten() {
        check(names::qualified(&key.to_lowercase()), key, "metadata.annotations", errors);
        bytes += key.len() + value.len();
    }
    if bytes > names::ANNOTATIONS_MAX {
        errors.push(FieldError::too_long("metadata.annotations", names::ANNOTATIONS_MAX));
    }
}
