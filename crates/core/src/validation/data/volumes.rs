//! Volumes made of ConfigMaps, Secrets and the pod itself.

use std::collections::{BTreeSet, HashSet};

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, Volume};
use serde_json::json;

use super::{field, local_path, object_name, resource};
use crate::field::FieldError;

/// Fields that a file may be made of, beside single labels and annotations.
const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Checks a volume that is made of objects of the API.
pub(in crate::validation) fn volume(volume: &Volume, path: &str, errors: &mut Vec<FieldError>) {
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

fn mode(mode: Option<i32>, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(path, json!(mode), detail));
    }
}
