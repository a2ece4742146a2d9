//! Claims, volumes and classes: their rules are `podd_core`'s; what holds an object back is the API's.

use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use podd_core::claims::{CLAIM_PROTECTION, VOLUME_PROTECTION};
use podd_core::field::FieldError;
use podd_core::validation;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Context;

/// The value was decoded as this type before, and every later step keeps its types.
fn typed<T: DeserializeOwned>(object: &Value) -> T {
    serde_json::from_value(object.clone()).expect("it was decoded as this type before")
}

pub(super) fn default(claim: &mut Value) {
    fill(&mut claim["spec"], "volumeMode", "Filesystem");
}

/// A claim outlives the pods that use it.
pub(super) fn prepare_create(claim: &mut Value, _: &Context) {
    protect(claim, CLAIM_PROTECTION);
    claim["status"] = json!({"phase": "Pending"});
}

pub(super) fn validate(claim: &Value) -> Vec<FieldError> {
    validation::claim(&typed(claim))
}

pub(super) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    validation::claim_update(&typed::<PersistentVolumeClaim>(new), &typed(old))
}

/// What the controller and podd wrote into a claim is not taken back by a manifest that is silent of it.
pub(super) fn prepare_update(claim: &mut Value, old: &Value) {
    for field in ["volumeName", "storageClassName"] {
        if claim["spec"].is_object() && claim["spec"][field].is_null() && !old["spec"][field].is_null() {
            claim["spec"][field] = old["spec"][field].clone();
        }
    }
}

pub(super) fn default_volume(volume: &mut Value) {
    fill(&mut volume["spec"], "volumeMode", "Filesystem");
    fill(&mut volume["spec"], "persistentVolumeReclaimPolicy", "Retain");
    if volume["spec"]["hostPath"].is_object() && volume["spec"]["hostPath"]["type"].is_null() {
        volume["spec"]["hostPath"]["type"] = "".into();
    }
}

/// A volume outlives the claim that is bound to it.
pub(super) fn prepare_create_volume(volume: &mut Value, _: &Context) {
    protect(volume, VOLUME_PROTECTION);
    volume["status"] = json!({"phase": "Pending"});
}

pub(super) fn validate_volume(volume: &Value) -> Vec<FieldError> {
    validation::persistent_volume(&typed(volume))
}

pub(super) fn validate_volume_update(new: &Value, old: &Value) -> Vec<FieldError> {
    validation::persistent_volume_update(&typed::<PersistentVolume>(new), &typed(old))
}

pub(super) fn default_class(class: &mut Value) {
    fill(class, "reclaimPolicy", "Delete");
    fill(class, "volumeBindingMode", "Immediate");
}

pub(super) fn validate_class(class: &Value) -> Vec<FieldError> {
    validation::storage_class(&typed(class))
}

pub(super) fn validate_class_update(new: &Value, old: &Value) -> Vec<FieldError> {
    validation::storage_class_update(&typed::<StorageClass>(new), &typed(old))
}

fn fill(object: &mut Value, field: &str, default: &str) {
    if object.is_object() && object[field].as_str().unwrap_or_default().is_empty() {
        object[field] = default.into();
    }
}

fn protect(object: &mut Value, finalizer: &str) {
    let mut all = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    if !all.iter().any(|name| name == finalizer) {
        all.push(finalizer.into());
    }
    object["metadata"]["finalizers"] = all.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_claim_is_pending_protected_and_a_file_system() {
        let mut claim =
            json!({"metadata": {"name": "c", "finalizers": ["x/y"]}, "spec": {}, "status": {"phase": "Bound"}});
        default(&mut claim);
        let context = Context { node_name: "n".into(), now: String::new() };
        prepare_create(&mut claim, &context);
        prepare_create(&mut claim, &context);
        assert_eq!(claim["metadata"]["finalizers"], json!(["x/y", CLAIM_PROTECTION]));
        assert_eq!(
            (&claim["spec"]["volumeMode"], &claim["status"]["phase"]),
            (&json!("Filesystem"), &json!("Pending"))
        );
    }

    #[test]
    fn a_manifest_that_is_silent_of_the_volume_keeps_it() {
        let old = json!({"spec": {"volumeName": "v", "storageClassName": "s"}});
        let mut new = json!({"spec": {"storageClassName": "t"}});
        prepare_update(&mut new, &old);
        assert_eq!(new, json!({"spec": {"volumeName": "v", "storageClassName": "t"}}));
    }
}
