//! Whether a volume is what a claim asks for.

use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use super::number;

/// The label that holds a node's name.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Why a volume does not fit a claim whose pods run on this node; none if it does.
pub(super) fn objection(claim: &PersistentVolumeClaim, volume: &PersistentVolume, node: &str) -> Option<&'static str> {
    let (Some(wanted), Some(spec)) = (&claim.spec, &volume.spec) else { return Some("spec is missing") };
    let class = |name: &Option<String>| name.clone().unwrap_or_default();
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".into());
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if volume.metadata.deletion_timestamp.is_some() {
        Some("it is being deleted")
    } else if asked(claim) > capacity(volume) {
        Some("requested PV is too small")
    } else if class(&wanted.storage_class_name) != class(&spec.storage_class_name) {
        Some("storageClassName does not match")
    } else if mode(&wanted.volume_mode) != mode(&spec.volume_mode) {
        Some("incompatible volumeMode")
    } else if wanted.access_modes.iter().flatten().any(|mode| !modes.contains(mode)) {
        Some("incompatible accessMode")
    } else if !wanted.selector.as_ref().is_none_or(|selector| selects(selector, volume)) {
        Some("its labels do not match the selector")
    } else if !is_reached(spec, node) {
        Some("its nodeAffinity does not match this node")
    } else {
        None
    }
}

/// Whether a volume can be used on the node. Terms are alternatives; of the node's labels only its name is known here, so
/// that other labels decide nothing.
fn is_reached(volume: &PersistentVolumeSpec, node: &str) -> bool {
    let required = volume.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|required| {
        required.node_selector_terms.iter().any(|term| {
            let by_name = term.match_expressions.iter().flatten().filter(|one| one.key == HOSTNAME);
            by_name.into_iter().all(|one| {
                let named = one.values.iter().flatten().any(|value| value == node);
                match one.operator.as_str() {
                    "In" => named,
                    "NotIn" => !named,
                    "DoesNotExist" => false,
                    _ => true,
                }
            })
        })
    })
}

/// Why no volume can be made for a claim; none if one can.
pub(super) fn cannot_be_made(claim: &PersistentVolumeClaim) -> Option<String> {
    let spec = claim.spec.as_ref()?;
    if spec.selector.is_some() {
        return Some("claim.Spec.Selector is not supported for dynamic provisioning".to_owned());
    }
    (spec.volume_mode.as_deref() == Some("Block")).then(|| "podd makes directories, no block devices".to_owned())
}

/// What a claim asks for, in bytes.
pub(super) fn asked(claim: &PersistentVolumeClaim) -> i64 {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    number(requests.and_then(|requests| requests.get("storage")))
}

/// The same as it is written.
pub(super) fn asked_text(claim: &PersistentVolumeClaim) -> String {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    requests.and_then(|requests| requests.get("storage")).map_or("0".to_owned(), |quantity| quantity.0.clone())
}

/// What a volume has, in bytes.
pub(super) fn capacity(volume: &PersistentVolume) -> i64 {
    number(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage")))
}

fn selects(selector: &LabelSelector, volume: &PersistentVolume) -> bool {
    let labels = volume.metadata.labels.clone().unwrap_or_default();
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|one| {
            let found = labels.get(&one.key);
            let among = found.is_some_and(|value| one.values.iter().flatten().any(|wanted| wanted == value));
            match one.operator.as_str() {
                "In" => among,
                "NotIn" => !among,
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}
