//! Claims, volumes and classes.

use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeSpec},
    storage::v1::StorageClass,
};
use serde_json::Value;

use super::{check, one_of, resources, volume};
use crate::{field::FieldError, names, quantity::Quantity};

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
/// What a class says of its volumes; `Recycle` is gone from Kubernetes too, but for two drivers.
const CLASS_POLICIES: &[&str] = &["Delete", "Retain"];
const BINDING_MODES: &[&str] = &["Immediate", "WaitForFirstConsumer"];
const CLAIM_IS_FIXED: &str =
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

/// Everything wrong with a claim beside its metadata.
#[must_use]
pub fn claim(claim: &PersistentVolumeClaim) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match &claim.spec {
        Some(spec) => claim_spec(spec, "spec", &mut errors),
        None => errors.push(FieldError::required("spec", "")),
    }
    errors
}

/// Everything wrong with the spec of a claim, or of a template of claims.
pub(super) fn claim_spec(spec: &PersistentVolumeClaimSpec, path: &str, errors: &mut Vec<FieldError>) {
    access_modes(spec.access_modes.as_deref(), path, errors);
    let storage = spec.resources.as_ref().and_then(|wanted| wanted.requests.as_ref()?.get("storage"));
    let at = format!("{path}.resources[storage]");
    match storage {
        None => errors.push(FieldError::required(at, "")),
        Some(amount) => positive(&amount.0, &at, errors),
    }
    class_name(spec.storage_class_name.as_deref(), path, errors);
    if let Some(mode) = &spec.volume_mode {
        one_of(mode, VOLUME_MODES, &format!("{path}.volumeMode"), errors);
    }
    for (key, value) in spec.selector.iter().flat_map(|selector| selector.match_labels.iter().flatten()) {
        let at = format!("{path}.selector.matchLabels");
        check(names::qualified(key), key, &at, errors);
        check(names::label_value(value), value, &at, errors);
    }
    let lacking = [
        (spec.data_source.is_some(), "dataSource", "podd makes empty volumes; fill them from an init container"),
        (spec.data_source_ref.is_some(), "dataSourceRef", "podd makes empty volumes; fill them from an init container"),
        (spec.volume_attributes_class_name.is_some(), "volumeAttributesClassName", "podd's volumes have no attributes"),
    ];
    for (_, field, why) in lacking.iter().filter(|(is_set, ..)| *is_set) {
        errors.push(FieldError::forbidden(format!("{path}.{field}"), *why));
    }
}

/// Everything wrong with turning the claim `old` into `new`.
#[must_use]
pub fn claim_update(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> Vec<FieldError> {
    let mut errors = claim(new);
    let (Some(after), Some(before)) = (&new.spec, &old.spec) else { return errors };
    let mut fixed = after.clone();
    if before.storage_class_name.is_none() {
        // The default class is given to a claim that names none.
        fixed.storage_class_name.clone_from(&before.storage_class_name);
    }
    if before.volume_name.as_deref().unwrap_or_default().is_empty() {
        fixed.volume_name.clone_from(&before.volume_name);
    }
    let status = old.status.as_ref();
    if status.and_then(|status| status.phase.as_deref()) == Some("Bound") {
        fixed.resources.clone_from(&before.resources);
    }
    if fixed != *before {
        errors.push(FieldError::forbidden("spec", CLAIM_IS_FIXED));
    }
    let amount = |spec: &PersistentVolumeClaimSpec| {
        let asked = spec.resources.as_ref().and_then(|wanted| wanted.requests.as_ref()?.get("storage"))?;
        Quantity::parse(&asked.0).ok()
    };
    let has = status.and_then(|status| status.capacity.as_ref()?.get("storage"));
    if let (Some(asked), Some(asked_before), Some(has)) = (amount(after), amount(before), has)
        && asked < asked_before
        && Quantity::parse(&has.0).is_ok_and(|has| asked <= has)
    {
        let detail = format!("field can not be less than status.capacity, which is {}", has.0);
        errors.push(FieldError::forbidden("spec.resources.requests.storage", detail));
    }
    errors
}

/// Everything wrong with a volume beside its metadata.
#[must_use]
pub fn persistent_volume(volume: &PersistentVolume) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(spec) = &volume.spec else {
        return vec![FieldError::required("spec", "")];
    };
    access_modes(spec.access_modes.as_deref(), "spec", &mut errors);
    match spec.capacity.as_ref().and_then(|capacity| capacity.get("storage")) {
        None => errors.push(FieldError::required("spec.capacity", "")),
        Some(amount) => positive(&amount.0, "spec.capacity[storage]", &mut errors),
    }
    source(spec, &mut errors);
    if let Some(policy) = &spec.persistent_volume_reclaim_policy {
        one_of(policy, CLASS_POLICIES, "spec.persistentVolumeReclaimPolicy", &mut errors);
    }
    class_name(spec.storage_class_name.as_deref(), "spec", &mut errors);
    match spec.volume_mode.as_deref() {
        Some("Block") => {
            errors.push(FieldError::forbidden("spec.volumeMode", "podd mounts directories, no block devices"))
        }
        Some(mode) => one_of(mode, VOLUME_MODES, "spec.volumeMode", &mut errors),
        None => {}
    }
    if spec.mount_options.as_ref().is_some_and(|options| !options.is_empty()) {
        errors.push(FieldError::forbidden("spec.mountOptions", "may not specify mount options for this volume type"));
    }
    errors
}

fn source(spec: &PersistentVolumeSpec, errors: &mut Vec<FieldError>) {
    // Everything that is no source by its name is told by what it is not.
    let all = serde_json::to_value(spec).unwrap_or_default();
    let known = |name: &str| {
        matches!(
            name,
            "accessModes"
                | "capacity"
                | "claimRef"
                | "mountOptions"
                | "nodeAffinity"
                | "persistentVolumeReclaimPolicy"
                | "storageClassName"
                | "volumeAttributesClassName"
                | "volumeMode"
        )
    };
    let sources: Vec<&String> =
        all.as_object().into_iter().flatten().map(|(name, _)| name).filter(|n| !known(n)).collect();
    if sources.is_empty() {
        errors.push(FieldError::required("spec", "must specify a volume type"));
    }
    for name in sources.iter().skip(1) {
        errors.push(FieldError::forbidden(format!("spec.{name}"), "may not specify more than 1 volume type"));
    }
    for name in sources.iter().take(1).filter(|name| !["hostPath", "local"].contains(&name.as_str())) {
        let why = "podd mounts no network storage; mount it on the node and use hostPath or local";
        errors.push(FieldError::forbidden(format!("spec.{name}"), why));
    }
    if let Some(host_path) = &spec.host_path {
        volume::host_path(&host_path.path, host_path.type_.as_deref(), "spec.hostPath", errors);
    }
    if let Some(local) = &spec.local {
        volume::host_path(&local.path, None, "spec.local", errors);
        if spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref()).is_none() {
            errors.push(FieldError::required("spec.nodeAffinity", "Local volume requires node affinity"));
        }
    }
}

/// Everything wrong with turning the volume `old` into `new`.
#[must_use]
pub fn persistent_volume_update(new: &PersistentVolume, old: &PersistentVolume) -> Vec<FieldError> {
    let mut errors = persistent_volume(new);
    let (Some(after), Some(before)) = (&new.spec, &old.spec) else { return errors };
    if (&after.host_path, &after.local) != (&before.host_path, &before.local) {
        let detail = "spec.persistentvolumesource is immutable after creation";
        errors.push(FieldError::forbidden("spec.persistentvolumesource", detail));
    }
    if after.volume_mode != before.volume_mode {
        errors.push(FieldError::invalid("spec.volumeMode", text(&after.volume_mode), "field is immutable"));
    }
    errors
}

/// Everything wrong with a class beside its metadata.
#[must_use]
pub fn storage_class(class: &StorageClass) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if class.provisioner.is_empty() {
        errors.push(FieldError::required("provisioner", ""));
    } else {
        check(names::qualified(&class.provisioner.to_lowercase()), &class.provisioner, "provisioner", &mut errors);
    }
    if let Some(policy) = &class.reclaim_policy {
        one_of(policy, CLASS_POLICIES, "reclaimPolicy", &mut errors);
    }
    if let Some(mode) = &class.volume_binding_mode {
        one_of(mode, BINDING_MODES, "volumeBindingMode", &mut errors);
    }
    if class.provisioner == crate::claims::PROVISIONER {
        let lacking = [
            (class.parameters.as_ref().is_some_and(|all| !all.is_empty()), "parameters", "podd's provisioner has none"),
            (class.mount_options.as_ref().is_some_and(|all| !all.is_empty()), "mountOptions", "podd makes directories"),
            (
                class.allowed_topologies.as_ref().is_some_and(|all| !all.is_empty()),
                "allowedTopologies",
                "there is one node",
            ),
        ];
        for (_, field, why) in lacking.iter().filter(|(is_set, ..)| *is_set) {
            errors.push(FieldError::forbidden(*field, *why));
        }
    }
    errors
}

/// Everything wrong with turning the class `old` into `new`.
#[must_use]
pub fn storage_class_update(new: &StorageClass, old: &StorageClass) -> Vec<FieldError> {
    let mut errors = storage_class(new);
    let fixed = [
        ("provisioner", new.provisioner != old.provisioner),
        ("parameters", new.parameters != old.parameters),
        ("reclaimPolicy", new.reclaim_policy != old.reclaim_policy),
        ("volumeBindingMode", new.volume_binding_mode != old.volume_binding_mode),
    ];
    for (field, _) in fixed.iter().filter(|(_, changed)| *changed) {
        errors.push(FieldError::forbidden(*field, format!("updates to {field} are forbidden.")));
    }
    errors
}

fn access_modes(modes: Option<&[String]>, path: &str, errors: &mut Vec<FieldError>) {
    let modes = modes.unwrap_or_default();
    let at = format!("{path}.accessModes");
    if modes.is_empty() {
        errors.push(FieldError::required(&*at, "at least 1 access mode is required"));
    }
    for mode in modes.iter().filter(|mode| !ACCESS_MODES.contains(&mode.as_str())) {
        errors.push(FieldError::not_supported(&*at, mode.as_str(), ACCESS_MODES));
    }
    if modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        let detail = match modes {
            [_] => "podd does not keep other pods from a volume; use ReadWriteOnce and let one pod name the claim",
            _ => "may not use ReadWriteOncePod with other access modes",
        };
        errors.push(FieldError::forbidden(at, detail));
    }
}

fn positive(amount: &str, path: &str, errors: &mut Vec<FieldError>) {
    resources::amount(amount, path, errors);
    if Quantity::parse(amount).is_ok_and(|quantity| quantity.value() == 0) {
        errors.push(FieldError::invalid(path, amount, "must be greater than zero"));
    }
}

fn class_name(name: Option<&str>, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        check(names::dns_subdomain(name), name, &format!("{path}.storageClassName"), errors);
    }
}

fn text(value: &Option<String>) -> Value {
    value.clone().map_or(Value::Null, Value::String)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claimed(more: Value) -> PersistentVolumeClaim {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    #[track_caller]
    fn is_told(errors: &[FieldError], want: &str) {
        assert!(errors.len() == 1 && errors[0].to_string().starts_with(want), "want {want}\ngot  {errors:#?}");
    }

    #[test]
    fn each_mistake_in_a_claim_is_told_as_kubernetes_would() {
        assert_eq!(claim(&claimed(json!({}))), []);
        let table = [
            (json!({"accessModes": []}), "spec.accessModes: Required value: at least 1 access mode is required"),
            (
                json!({"accessModes": ["RWO"]}),
                "spec.accessModes: Unsupported value: \"RWO\": supported values: \"ReadOnlyMany\"",
            ),
            (
                json!({"accessModes": ["ReadWriteOncePod", "ReadOnlyMany"]}),
                "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
            ),
            (
                json!({"accessModes": ["ReadWriteOncePod"]}),
                "spec.accessModes: Forbidden: podd does not keep other pods from a volume; use ReadWriteOnce",
            ),
            (json!({"resources": {}}), "spec.resources[storage]: Required value"),
            (
                json!({"resources": {"requests": {"storage": "0"}}}),
                "spec.resources[storage]: Invalid value: \"0\": must be greater than zero",
            ),
            (json!({"storageClassName": "A_b"}), "spec.storageClassName: Invalid value: \"A_b\""),
            (json!({"volumeMode": "Raw"}), "spec.volumeMode: Unsupported value: \"Raw\""),
            (
                json!({"dataSource": {"kind": "VolumeSnapshot", "name": "s"}}),
                "spec.dataSource: Forbidden: podd makes empty",
            ),
        ];
        for (spec, want) in table {
            is_told(&claim(&claimed(spec)), want);
        }
    }

    #[test]
    fn of_a_claim_only_the_size_may_change_and_it_only_grows() {
        let mut old = claimed(json!({}));
        assert_eq!(claim_update(&claimed(json!({"storageClassName": "x", "volumeName": "v"})), &old), []);
        let bigger = json!({"resources": {"requests": {"storage": "2Gi"}}});
        is_told(&claim_update(&claimed(bigger.clone()), &old), "spec: Forbidden: spec is immutable after creation");
        let status = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
        old.status = serde_json::from_value(status).unwrap();
        assert_eq!(claim_update(&claimed(bigger), &old), []);
        // A claim may have got more than it asked for.
        let mut rich = old.clone();
        rich.status = serde_json::from_value(json!({"phase": "Bound", "capacity": {"storage": "9Gi"}})).unwrap();
        assert_eq!(claim_update(&claimed(json!({})), &rich), []);
        let smaller = json!({"resources": {"requests": {"storage": "1Mi"}}});
        let want = "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity";
        is_told(&claim_update(&claimed(smaller), &old), want);
        let other = json!({"accessModes": ["ReadWriteMany"]});
        is_told(&claim_update(&claimed(other), &old), "spec: Forbidden: spec is immutable");
    }

    #[test]
    fn each_mistake_in_a_volume_or_a_class_is_told() {
        let volume = |more: Value| {
            let mut spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let volume: PersistentVolume = serde_json::from_value(json!({"spec": spec})).unwrap();
            persistent_volume(&volume)
        };
        assert_eq!(volume(json!({"hostPath": {"path": "/x"}})), []);
        let table = [
            (json!({}), "spec: Required value: must specify a volume type"),
            (json!({"hostPath": {"path": "x"}}), "spec.hostPath.path: Invalid value: \"x\": must be an absolute path"),
            (
                json!({"local": {"path": "/x"}}),
                "spec.nodeAffinity: Required value: Local volume requires node affinity",
            ),
            (json!({"nfs": {"server": "s", "path": "/"}}), "spec.nfs: Forbidden: podd mounts no network storage"),
            (json!({"hostPath": {"path": "/x"}, "capacity": {}}), "spec.capacity: Required value"),
            (
                json!({"hostPath": {"path": "/x"}, "persistentVolumeReclaimPolicy": "Recycle"}),
                "spec.persistentVolumeReclaimPolicy: Unsupported value: \"Recycle\"",
            ),
        ];
        for (spec, want) in table {
            is_told(&volume(spec), want);
        }
        let class = |value: Value| serde_json::from_value::<StorageClass>(value).unwrap();
        let plain = class(json!({"provisioner": "podd/local", "reclaimPolicy": "Delete"}));
        assert_eq!(storage_class(&plain), []);
        is_told(&storage_class(&class(json!({"provisioner": ""}))), "provisioner: Required value");
        is_told(
            &storage_class_update(&class(json!({"provisioner": "podd/local", "reclaimPolicy": "Retain"})), &plain),
            "reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.",
        );
    }
}
