//! A container's variables: `valueFrom` and `envFrom`.

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Volume};

use super::super::check;
use super::{field, key, local_path, object_name, resource};
use crate::field::FieldError;
use crate::names;

/// Fields that a variable may be made of, beside single labels and annotations.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Checks where a container's variables come from. `volumes` are the pod's.
pub(in crate::validation) fn environment(
    container: &Container,
    path: &str,
    volumes: &[Volume],
    errors: &mut Vec<FieldError>,
) {
    for (n, variable) in container.env.iter().flatten().enumerate() {
        let Some(from) = &variable.value_from else { continue };
        let path = format!("{path}.env[{n}].valueFrom");
        let literal = variable.value.as_deref().is_some_and(|value| !value.is_empty());
        value_from(from, literal, &path, volumes, errors);
    }
    for (n, from) in container.env_from.iter().flatten().enumerate() {
        let path = format!("{path}.envFrom[{n}]");
        if let Some(prefix) = from.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
            check(names::env_var(prefix), prefix, &format!("{path}.prefix"), errors);
        }
        let references = [
            ("configMapRef", from.config_map_ref.as_ref().map(|reference| &reference.name)),
            ("secretRef", from.secret_ref.as_ref().map(|reference| &reference.name)),
        ];
        match references.iter().filter(|(_, name)| name.is_some()).count() {
            0 => errors.push(FieldError::invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => errors.push(FieldError::invalid(&path, "", "may not have more than one field specified at a time")),
        }
        for (field, name) in references {
            if let Some(name) = name {
                object_name(name, &format!("{path}.{field}.name"), errors);
            }
        }
    }
}

fn value_from(from: &EnvVarSource, literal: bool, path: &str, volumes: &[Volume], errors: &mut Vec<FieldError>) {
    let sources = [
        from.field_ref.is_some(),
        from.resource_field_ref.is_some(),
        from.config_map_key_ref.is_some(),
        from.secret_key_ref.is_some(),
        from.file_key_ref.is_some(),
    ];
    let wrong = match sources.iter().filter(|set| **set).count() {
        0 => Some(
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        _ if literal => Some("may not be specified when `value` is not empty"),
        1 => None,
        _ => Some("may not have more than one field specified at a time"),
    };
    errors.extend(wrong.map(|detail| FieldError::invalid(path, "", detail)));
    if let Some(selector) = &from.field_ref {
        field(selector, ENV_FIELDS, &format!("{path}.fieldRef"), errors);
    }
    if let Some(selector) = &from.resource_field_ref {
        resource(selector, false, &format!("{path}.resourceFieldRef"), errors);
    }
    if let Some(selector) = &from.config_map_key_ref {
        let path = format!("{path}.configMapKeyRef");
        object_name(&selector.name, &format!("{path}.name"), errors);
        key(&selector.key, &format!("{path}.key"), errors);
    }
    if let Some(selector) = &from.secret_key_ref {
        let path = format!("{path}.secretKeyRef");
        object_name(&selector.name, &format!("{path}.name"), errors);
        key(&selector.key, &format!("{path}.key"), errors);
    }
    if let Some(selector) = &from.file_key_ref {
        let path = format!("{path}.fileKeyRef");
        if selector.key.is_empty() {
            errors.push(FieldError::required(format!("{path}.key"), ""));
        } else {
            check(names::env_var(&selector.key), &selector.key, &format!("{path}.key"), errors);
        }
        local_path(&selector.path, &format!("{path}.path"), errors);
        let at = format!("{path}.volumeName");
        match volumes.iter().find(|volume| volume.name == selector.volume_name) {
            _ if selector.volume_name.is_empty() => errors.push(FieldError::required(at, "")),
            None => errors.push(FieldError::not_found(at, selector.volume_name.clone())),
            Some(volume) if volume.empty_dir.is_none() => {
                let detail = "referenced volume must be of type emptyDir";
                errors.push(FieldError::invalid(at, selector.volume_name.clone(), detail));
            }
            Some(_) => {}
        }
    }
}
