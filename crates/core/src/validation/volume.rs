//! Volumes and their mounts.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Container, PodSecurityContext, PodSpec, Volume, VolumeMount};

use super::{check, data, distinct, one_of, resources, storage};
use crate::field::FieldError;
use crate::names;
use crate::quantity::Quantity;

/// What `hostPath.type` may say; empty checks nothing.
const HOST_PATH_TYPES: &[&str] =
    &["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];

/// What `mountPropagation` may say.
const PROPAGATIONS: &[&str] = &["Bidirectional", "HostToContainer", "None"];

/// Checks the volumes of a pod and returns their names.
pub(super) fn volumes<'a>(spec: &'a PodSpec, path: &str, errors: &mut Vec<FieldError>) -> HashSet<&'a str> {
    let list = spec.volumes.as_deref().unwrap_or(&[]);
    for (n, volume) in list.iter().enumerate() {
        let path = format!("{path}.volumes[{n}]");
        if volume.name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else {
            check(names::dns_label(&volume.name), &volume.name, &format!("{path}.name"), errors);
        }
        source(volume, &path, errors);
    }
    distinct(list.iter().enumerate().map(|(n, v)| (format!("{path}.volumes[{n}].name"), v.name.as_str())), errors);
    list.iter().map(|v| v.name.as_str()).collect()
}

fn source(volume: &Volume, path: &str, errors: &mut Vec<FieldError>) {
    one_source(volume, path, errors);
    data::volume(volume, path, errors);
    if let Some(empty_dir) = &volume.empty_dir {
        let medium = empty_dir.medium.as_deref().unwrap_or("");
        let huge =
            medium == "HugePages" || medium.strip_prefix("HugePages-").is_some_and(|s| Quantity::parse(s).is_ok());
        if !huge && !["", "Memory"].contains(&medium) {
            let supported = ["", "HugePages", "HugePages-2Mi", "Memory"];
            errors.push(FieldError::not_supported(format!("{path}.emptyDir.medium"), medium, &supported));
        }
        if let Some(limit) = &empty_dir.size_limit {
            resources::amount(&limit.0, &format!("{path}.emptyDir.sizeLimit"), errors);
        }
    }
    if let Some(source) = &volume.host_path {
        host_path(&source.path, source.type_.as_deref(), &format!("{path}.hostPath"), errors);
    }
    if let Some(source) = &volume.persistent_volume_claim
        && source.claim_name.is_empty()
    {
        errors.push(FieldError::required(format!("{path}.persistentVolumeClaim.claimName"), ""));
    }
    if let Some(source) = &volume.ephemeral {
        let at = format!("{path}.ephemeral.volumeClaimTemplate");
        match &source.volume_claim_template {
            None => errors.push(FieldError::required(at, "")),
            Some(template) => storage::claim_spec(&template.spec, &format!("{at}.spec"), errors),
        }
    }
    if let Some(source) = &volume.image {
        let at = format!("{path}.image");
        if source.reference.as_deref().unwrap_or_default().is_empty() {
            errors.push(FieldError::required(format!("{at}.reference"), ""));
        }
        if let Some(policy) = &source.pull_policy {
            one_of(policy, &["Always", "IfNotPresent", "Never"], &format!("{at}.pullPolicy"), errors);
        }
    }
}

/// A volume is of one type.
fn one_source(volume: &Volume, path: &str, errors: &mut Vec<FieldError>) {
    let all = serde_json::to_value(volume).unwrap_or_default();
    let mut sources = all.as_object().into_iter().flatten().map(|(name, _)| name).filter(|name| *name != "name");
    sources.next();
    for name in sources {
        errors.push(FieldError::forbidden(format!("{path}.{name}"), "may not specify more than 1 volume type"));
    }
}

/// A path of the node, of a volume or a persistent volume.
pub(super) fn host_path(value: &str, kind: Option<&str>, path: &str, errors: &mut Vec<FieldError>) {
    let at = format!("{path}.path");
    if value.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else if !value.starts_with('/') {
        errors.push(FieldError::invalid(at, value, "must be an absolute path"));
    } else if value.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(at, value, "must not contain '..'"));
    }
    let kind = kind.unwrap_or("");
    if !kind.is_empty() {
        one_of(kind, HOST_PATH_TYPES, &format!("{path}.type"), errors);
    }
}

/// Who gets the files of volumes.
pub(super) fn group(security: &PodSecurityContext, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(group) = security.fs_group.filter(|group| !(0..=i64::from(i32::MAX)).contains(group)) {
        let range = "must be between 0 and 2147483647, inclusive";
        errors.push(FieldError::invalid(format!("{path}.fsGroup"), group, range));
    }
    if let Some(policy) = &security.fs_group_change_policy {
        one_of(policy, &["Always", "OnRootMismatch"], &format!("{path}.fsGroupChangePolicy"), errors);
    }
}

/// Checks what a container mounts.
pub(super) fn mounts(container: &Container, path: &str, volumes: &HashSet<&str>, errors: &mut Vec<FieldError>) {
    let mut taken = HashSet::new();
    for (n, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = format!("{path}.volumeMounts[{n}]");
        if mount.name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if !volumes.contains(mount.name.as_str()) {
            errors.push(FieldError::not_found(format!("{path}.name"), mount.name.clone()));
        }
        let at = format!("{path}.mountPath");
        if mount.mount_path.is_empty() {
            errors.push(FieldError::required(at, ""));
        } else if !taken.insert(mount.mount_path.as_str()) {
            errors.push(FieldError::invalid(at, mount.mount_path.clone(), "must be unique"));
        }
        sub_path(mount, &path, errors);
        propagation(mount, container, &path, errors);
        recursive_read_only(mount, &path, errors);
    }
}

fn sub_path(mount: &VolumeMount, path: &str, errors: &mut Vec<FieldError>) {
    let plain = mount.sub_path.as_deref().unwrap_or("");
    let expression = mount.sub_path_expr.as_deref().unwrap_or("");
    descending(plain, &format!("{path}.subPath"), errors);
    let at = format!("{path}.subPathExpr");
    if !plain.is_empty() && !expression.is_empty() {
        errors.push(FieldError::invalid(&*at, expression, "subPathExpr and subPath are mutually exclusive"));
    }
    descending(expression, &at, errors);
}

/// A path that stays below where it starts; the empty one does.
pub(super) fn descending(value: &str, path: &str, errors: &mut Vec<FieldError>) {
    if value.starts_with('/') {
        errors.push(FieldError::invalid(path, value, "must be a relative path"));
    }
    if value.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, value, "must not contain '..'"));
    }
}

fn propagation(mount: &VolumeMount, container: &Container, path: &str, errors: &mut Vec<FieldError>) {
    let Some(propagation) = &mount.mount_propagation else { return };
    let at = format!("{path}.mountPropagation");
    let privileged = container.security_context.as_ref().and_then(|security| security.privileged) == Some(true);
    if !PROPAGATIONS.contains(&propagation.as_str()) {
        errors.push(FieldError::not_supported(at, propagation.as_str(), PROPAGATIONS));
    } else if propagation == "Bidirectional" && !privileged {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(at, why));
    }
}

fn recursive_read_only(mount: &VolumeMount, path: &str, errors: &mut Vec<FieldError>) {
    let at = format!("{path}.recursiveReadOnly");
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount.read_only != Some(true) {
                errors.push(FieldError::forbidden(&*at, "may only be specified when readOnly is true"));
            }
            if mount.mount_propagation.as_deref().is_some_and(|propagation| propagation != "None") {
                let why = "may only be specified when mountPropagation is None or not specified";
                errors.push(FieldError::forbidden(at, why));
            }
        }
        Some(other) => {
            errors.push(FieldError::not_supported(at, other, &["Disabled", "Enabled", "IfPossible"]));
        }
    }
}
