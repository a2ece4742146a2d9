//! What brings data into containers from elsewhere: `valueFrom` and `envFrom`, and the volumes made of ConfigMaps, Secrets
//! and the pod itself.

use std::collections::{BTreeSet, HashSet};

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, EnvVarSource, KeyToPath, ObjectFieldSelector, ProjectedVolumeSource,
    ResourceFieldSelector, Volume,
};
use serde_json::json;

use super::check;
use crate::field::FieldError;
use crate::names;
use crate::quantity::Quantity;

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
/// Fields that a file may be made of, beside single labels and annotations.
const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
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

/// Checks where a container's variables come from. `volumes` are the pod's.
pub(super) fn environment(container: &Container, path: &str, volumes: &[Volume], errors: &mut Vec<FieldError>) {
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

/// Checks a volume that is made of objects of the API.
pub(super) fn volume(volume: &Volume, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(source) = &volume.config_map {
        let path = format!("{path}.configMap");
        object_name(&source.name, &format!("{path}.name"), errors);
        mode(source.default_mode, &format!("{path}.defaultMode"), errors);
        items(source.items.as_deref(), &path, errors);
    }
    if let Some(source) = &volume.secret {
        let path = format!("{path}.secret");
        object_name(source.secret_name.as_deref().unwrap_or_default(), &format!("{path}.secretName"), errors);
        mode(source.default_mode, &format!("{path}.defaultMode"), errors);
        items(source.items.as_deref(), &path, errors);
    }
    if let Some(source) = &volume.downward_api {
        let path = format!("{path}.downwardAPI");
        mode(source.default_mode, &format!("{path}.defaultMode"), errors);
        downward(source.items.as_deref(), &path, errors);
    }
    if let Some(source) = &volume.projected {
        projected(source, &format!("{path}.projected"), errors);
    }
}

fn projected(projected: &ProjectedVolumeSource, path: &str, errors: &mut Vec<FieldError>) {
    mode(projected.default_mode, &format!("{path}.defaultMode"), errors);
    let mut taken = BTreeSet::new();
    for (n, source) in projected.sources.iter().flatten().enumerate() {
        let path = format!("{path}.sources[{n}]");
        let kinds = [
            source.config_map.is_some(),
            source.secret.is_some(),
            source.downward_api.is_some(),
            source.service_account_token.is_some(),
            source.cluster_trust_bundle.is_some(),
            source.pod_certificate.is_some(),
        ];
        match kinds.iter().filter(|set| **set).count() {
            0 => {
                errors.push(FieldError::required(&path, "must specify one of: `configMap`, `secret` or `downwardAPI`"))
            }
            1 => {}
            _ => errors.push(FieldError::forbidden(&path, "may not specify more than 1 volume type per source")),
        }
        let mut paths = Vec::new();
        if let Some(source) = &source.config_map {
            let path = format!("{path}.configMap");
            object_name(&source.name, &format!("{path}.name"), errors);
            items(source.items.as_deref(), &path, errors);
            paths.extend(paths_of(source.items.as_deref(), &path));
        }
        if let Some(source) = &source.secret {
            let path = format!("{path}.secret");
            object_name(&source.name, &format!("{path}.name"), errors);
            items(source.items.as_deref(), &path, errors);
            paths.extend(paths_of(source.items.as_deref(), &path));
        }
        if let Some(source) = &source.downward_api {
            let path = format!("{path}.downwardAPI");
            downward(source.items.as_deref(), &path, errors);
            let items = source.items.iter().flatten().enumerate();
            paths.extend(items.map(|(n, item)| (format!("{path}.items[{n}].path"), item.path.clone())));
        }
        for (at, path) in paths {
            if !path.is_empty() && !taken.insert(path.clone()) {
                errors.push(FieldError::invalid(at, path, "conflicting duplicate paths"));
            }
        }
    }
}

fn paths_of(items: Option<&[KeyToPath]>, path: &str) -> Vec<(String, String)> {
    let items = items.into_iter().flatten().enumerate();
    items.map(|(n, item)| (format!("{path}.items[{n}].path"), item.path.clone())).collect()
}

fn items(items: Option<&[KeyToPath]>, path: &str, errors: &mut Vec<FieldError>) {
    for (n, item) in items.into_iter().flatten().enumerate() {
        let path = format!("{path}.items[{n}]");
        if item.key.is_empty() {
            errors.push(FieldError::required(format!("{path}.key"), ""));
        }
        local_path(&item.path, &format!("{path}.path"), errors);
        mode(item.mode, &format!("{path}.mode"), errors);
    }
}

fn downward(items: Option<&[DownwardAPIVolumeFile]>, path: &str, errors: &mut Vec<FieldError>) {
    let mut taken = HashSet::new();
    for (n, item) in items.into_iter().flatten().enumerate() {
        let path = format!("{path}.items[{n}]");
        local_path(&item.path, &format!("{path}.path"), errors);
        if !taken.insert(&item.path) {
            errors.push(FieldError::duplicate(format!("{path}.path"), item.path.clone()));
        }
        mode(item.mode, &format!("{path}.mode"), errors);
        match (&item.field_ref, &item.resource_field_ref) {
            (Some(_), Some(_)) => errors.push(FieldError::invalid(
                &path,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            )),
            (Some(selector), None) => field(selector, FILE_FIELDS, &format!("{path}.fieldRef"), errors),
            (None, Some(selector)) => resource(selector, true, &format!("{path}.resourceFieldRef"), errors),
            (None, None) => {
                errors.push(FieldError::required(&path, "one of fieldRef and resourceFieldRef is required"));
            }
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

fn mode(mode: Option<i32>, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(path, json!(mode), detail));
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::Value;

    use super::*;

    /// What is wrong with a pod of this container and these volumes.
    fn wrong(mut container: Value, volumes: Value) -> Vec<String> {
        container["name"] = json!("c");
        container["image"] = json!("i");
        let spec = json!({"containers": [container], "volumes": volumes});
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        crate::defaults::pod(&mut pod);
        super::super::pod(&pod).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn mistakes_of_an_environment_are_told_as_kubernetes_would() {
        let from = |from: Value| json!({"env": [{"name": "A", "valueFrom": from}]});
        let table = [
            (
                from(json!({})),
                "env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`",
            ),
            (
                from(json!({"fieldRef": {"fieldPath": "metadata.name"}, "secretKeyRef": {"name": "s", "key": "k"}})),
                "env[0].valueFrom: Invalid value: \"\": may not have more than one field specified at a time",
            ),
            (
                json!({"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
                "env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            ),
            (from(json!({"fieldRef": {"fieldPath": ""}})), "env[0].valueFrom.fieldRef.fieldPath: Required value"),
            (
                from(json!({"fieldRef": {"fieldPath": "metadata.labels"}})),
                "env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\"",
            ),
            (
                from(json!({"fieldRef": {"fieldPath": "metadata.labels['-']"}})),
                "env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.labels['-']\": name part",
            ),
            (
                from(json!({"resourceFieldRef": {"resource": "limits.gpu"}})),
                "env[0].valueFrom.resourceFieldRef.resource: Unsupported value: \"limits.gpu\"",
            ),
            (
                from(json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}})),
                "env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"2\": only divisor's values 1m and 1 are supported with the cpu resource",
            ),
            (
                from(json!({"resourceFieldRef": {"resource": "limits.memory", "divisor": "1m"}})),
                "env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"1m\": only divisor's values 1, 1k, 1M,",
            ),
            (from(json!({"configMapKeyRef": {"key": "k"}})), "env[0].valueFrom.configMapKeyRef.name: Required value"),
            (
                from(json!({"secretKeyRef": {"name": "s", "key": "a b"}})),
                "env[0].valueFrom.secretKeyRef.key: Invalid value: \"a b\": a valid config key must consist of",
            ),
            (
                from(json!({"fileKeyRef": {"key": "K", "path": "../f", "volumeName": "v"}})),
                "env[0].valueFrom.fileKeyRef.path: Invalid value: \"../f\": must not contain '..'",
            ),
            (
                from(json!({"fileKeyRef": {"key": "K", "path": "f", "volumeName": "w"}})),
                "env[0].valueFrom.fileKeyRef.volumeName: Not found: \"w\"",
            ),
            (
                from(json!({"fileKeyRef": {"key": "K", "path": "f", "volumeName": "h"}})),
                "env[0].valueFrom.fileKeyRef.volumeName: Invalid value: \"h\": referenced volume must be of type emptyDir",
            ),
            (
                json!({"envFrom": [{}]}),
                "envFrom[0]: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
            ),
            (json!({"envFrom": [{"secretRef": {"name": ""}}]}), "envFrom[0].secretRef.name: Required value"),
            (
                json!({"envFrom": [{"prefix": "a=", "secretRef": {"name": "s"}}]}),
                "envFrom[0].prefix: Invalid value: \"a=\"",
            ),
        ];
        let volumes = json!([{"name": "v", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/x"}}]);
        for (container, want) in table {
            let errors = wrong(container.clone(), volumes.clone());
            assert!(
                errors.len() == 1 && errors[0].starts_with(&format!("spec.containers[0].{want}")),
                "{container}\n{errors:?}\n{want}"
            );
        }
    }

    #[test]
    fn mistakes_of_a_volume_are_told_as_kubernetes_would() {
        let table = [
            (json!({"configMap": {}}), "configMap.name: Required value"),
            (json!({"secret": {}}), "secret.secretName: Required value"),
            (
                json!({"secret": {"secretName": "s", "defaultMode": 512}}),
                "secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
            ),
            (
                json!({"configMap": {"name": "m", "items": [{"key": "", "path": "p"}]}}),
                "configMap.items[0].key: Required value",
            ),
            (
                json!({"configMap": {"name": "m", "items": [{"key": "k", "path": "..p"}]}}),
                "configMap.items[0].path: Invalid value: \"..p\": must not start with '..'",
            ),
            (
                json!({"configMap": {"name": "m", "items": [{"key": "k", "path": "/p"}]}}),
                "configMap.items[0].path: Invalid value: \"/p\": must be a relative path",
            ),
            (
                json!({"downwardAPI": {"items": [{"path": "p"}]}}),
                "downwardAPI.items[0]: Required value: one of fieldRef",
            ),
            (
                json!({"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "status.podIP"}}]}}),
                "downwardAPI.items[0].fieldRef.fieldPath: Unsupported value: \"status.podIP\"",
            ),
            (
                json!({"downwardAPI": {"items": [{"path": "p", "resourceFieldRef": {"resource": "limits.cpu"}}]}}),
                "downwardAPI.items[0].resourceFieldRef.containerName: Required value",
            ),
            (json!({"projected": {"sources": [{}]}}), "projected.sources[0]: Required value"),
            (
                json!({"projected": {"sources": [{"secret": {"name": "s"}, "configMap": {"name": "m"}}]}}),
                "projected.sources[0]: Forbidden: may not specify more than 1 volume type per source",
            ),
            (
                json!({"projected": {"sources": [{"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}},
                    {"configMap": {"name": "m", "items": [{"key": "k", "path": "p"}]}}]}}),
                "projected.sources[1].configMap.items[0].path: Invalid value: \"p\": conflicting duplicate paths",
            ),
            (
                json!({"secret": {"secretName": "s"}, "configMap": {"name": "m"}}),
                "secret: Forbidden: may not specify more than 1 volume type",
            ),
        ];
        for (mut volume, want) in table {
            volume["name"] = json!("v");
            let errors = wrong(json!({}), json!([volume]));
            assert!(
                errors.len() == 1 && errors[0].starts_with(&format!("spec.volumes[0].{want}")),
                "{volume}\n{errors:?}\n{want}"
            );
        }
    }

    #[test]
    fn what_is_right_is_not_objected_to() {
        let volumes = json!([
            {"name": "m", "configMap": {"name": "m", "optional": true, "items": [{"key": "k", "path": "a/b", "mode": 0o400}]}},
            {"name": "e", "emptyDir": {}},
            {"name": "d", "downwardAPI": {"items": [
                {"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "a", "fieldRef": {"fieldPath": "metadata.annotations['Example.com/x']"}},
                {"path": "c", "resourceFieldRef": {"containerName": "c", "resource": "requests.memory", "divisor": "1Mi"}}]}},
        ]);
        let env = json!({"envFrom": [{"prefix": "P_", "secretRef": {"name": "s", "optional": true}}], "env": [
            {"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIPs"}}},
            {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
            {"name": "C", "valueFrom": {"fileKeyRef": {"key": "K", "path": "d/f", "volumeName": "e"}}}]});
        assert_eq!(wrong(env, volumes), [""; 0]);
    }
}
