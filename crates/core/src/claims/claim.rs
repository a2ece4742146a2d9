//! What becomes of one claim: which volume it gets, or what it waits for.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{
            LocalVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
            PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
        },
        storage::v1::StorageClass,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};

use super::{
    Action, CLAIM_PROTECTION, ClaimKey, DEFAULT_CLASS, IS_DEFAULT_CLASS, PROVISIONED_BY, PROVISIONER, World, fit,
    is_of, key_of, owner, phase_of, users, volume,
};

pub(super) fn decide<'a>(
    world: &World<'a>,
    claim: &'a PersistentVolumeClaim,
    taken: &mut BTreeMap<String, ClaimKey>,
    actions: &mut Vec<Action>,
) {
    let key = key_of(claim);
    if claim.metadata.deletion_timestamp.is_some() {
        let protected = claim.metadata.finalizers.iter().flatten().any(|name| name == CLAIM_PROTECTION);
        if protected && !users(world, claim).any(|_| true) {
            actions.push(Action::UnprotectClaim(key));
        }
        return;
    }
    if let Some(owner) = owner(claim)
        && !world.pods.iter().any(|pod| pod.metadata.uid.as_ref() == Some(&owner.uid))
    {
        actions.push(Action::DeleteClaim(key));
        return;
    }
    let Some(spec) = &claim.spec else { return };
    match spec.volume_name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => named(world, claim, name, actions),
        None => unnamed(world, claim, taken, actions),
    }
}

/// A claim that names its volume.
fn named(world: &World<'_>, claim: &PersistentVolumeClaim, name: &str, actions: &mut Vec<Action>) {
    let key = key_of(claim);
    let phase = phase_of(claim);
    let Some(volume) = world.volumes.iter().find(|volume| volume.metadata.name.as_deref() == Some(name)) else {
        match phase {
            // It stays so.
            "Lost" => {}
            "Bound" => {
                let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!".to_owned();
                actions.push(Action::Tell { claim: key.clone(), warning: true, reason: "ClaimLost", message });
                actions.push(claim_status(key, "Lost", None));
            }
            _ => pending(claim, key, actions),
        }
        return;
    };
    match volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) {
        Some(bound) if !is_of(bound, claim) => {
            let message = format!("volume \"{name}\" already bound to a different claim.");
            actions.push(Action::Tell { claim: key.clone(), warning: true, reason: "FailedBinding", message });
            pending(claim, key, actions);
        }
        Some(bound) if bound.uid.as_deref().is_some_and(|uid| !uid.is_empty()) => {
            volume::grow(claim, volume, actions);
            bound_status(claim, volume, actions);
        }
        // Set aside for this claim by its name, or free.
        _ => match fit::objection(claim, volume, world.node) {
            None => actions.push(Action::BindVolume { volume: name.to_owned(), claim: Box::new(reference(claim)) }),
            Some(why) => {
                let message = format!("Cannot bind to requested volume \"{name}\": {why}");
                actions.push(Action::Tell { claim: key.clone(), warning: true, reason: "VolumeMismatch", message });
                pending(claim, key, actions);
            }
        },
    }
}

/// A claim that takes what fits, or has it made.
fn unnamed(
    world: &World<'_>,
    claim: &PersistentVolumeClaim,
    taken: &mut BTreeMap<String, ClaimKey>,
    actions: &mut Vec<Action>,
) {
    let key = key_of(claim);
    let name = |volume: &PersistentVolume| volume.metadata.name.clone().unwrap_or_default();
    let claim_ref = |volume: &PersistentVolume| volume.spec.as_ref().and_then(|spec| spec.claim_ref.clone());
    let ours = world.volumes.iter().find(|volume| claim_ref(volume).is_some_and(|bound| is_of(&bound, claim)));
    if let Some(volume) = ours {
        let has_uid = claim_ref(volume).is_some_and(|bound| bound.uid.is_some_and(|uid| !uid.is_empty()));
        if !has_uid {
            actions.push(Action::BindVolume { volume: name(volume), claim: Box::new(reference(claim)) });
        }
        actions.push(Action::BindClaim(key, name(volume)));
        return;
    }
    let Some(class) = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()) else {
        match default_class(world) {
            Some(class) => actions.push(Action::SetClass(key, class)),
            None => {
                let message = "no persistent volumes available for this claim and no storage class is set".to_owned();
                actions.push(Action::Tell { claim: key.clone(), warning: false, reason: "FailedBinding", message });
                pending(claim, key, actions);
            }
        }
        return;
    };
    let found = world.classes.iter().find(|known| known.metadata.name.as_deref() == Some(class));
    let waits = found.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    let wanted = users(world, claim).any(|pod| pod.metadata.deletion_timestamp.is_none());
    if !waits || wanted {
        let free = world.volumes.iter().filter(|volume| {
            claim_ref(volume).is_none()
                && !taken.contains_key(&name(volume))
                && fit::objection(claim, volume, world.node).is_none()
        });
        if let Some(volume) = free.min_by_key(|volume| fit::capacity(volume)) {
            taken.insert(name(volume), key.clone());
            actions.push(Action::BindVolume { volume: name(volume), claim: Box::new(reference(claim)) });
            return;
        }
    }
    let (warning, reason, message) = match found {
        None if class.is_empty() => (
            false,
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set".to_owned(),
        ),
        None => (
            true,
            "ProvisioningFailed",
            format!(
                "storageclass.storage.k8s.io \"{class}\" not found; podd's own class is {DEFAULT_CLASS}, and a StorageClass \
                 with this name and the provisioner {PROVISIONER} makes it another name for that"
            ),
        ),
        Some(_) if waits && !wanted => {
            (false, "WaitForFirstConsumer", "waiting for first consumer to be created before binding".to_owned())
        }
        Some(class) if class.provisioner == PROVISIONER => match fit::cannot_be_made(claim) {
            None => {
                let volume = Box::new(provisioned(world, claim, class));
                actions.push(Action::Provision { claim: key, volume });
                return;
            }
            Some(why) => (true, "ProvisioningFailed", why),
        },
        Some(class) if class.provisioner == "kubernetes.io/no-provisioner" => (
            false,
            "FailedBinding",
            "no persistent volumes available for this claim, and its class makes none".to_owned(),
        ),
        Some(class) => (
            false,
            "ExternalProvisioning",
            format!(
                "Waiting for a volume to be created either by the external provisioner '{}' or manually by the system \
                 administrator. If volume creation is delayed, please verify that the provisioner is running and \
                 correctly registered.",
                class.provisioner
            ),
        ),
    };
    actions.push(Action::Tell { claim: key.clone(), warning, reason, message });
    pending(claim, key, actions);
}

/// The volume that a class makes for a claim: a directory of the node.
fn provisioned(world: &World<'_>, claim: &PersistentVolumeClaim, class: &StorageClass) -> PersistentVolume {
    let key = key_of(claim);
    let name = format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default());
    let here = NodeSelectorRequirement {
        key: "kubernetes.io/hostname".into(),
        operator: "In".into(),
        values: Some(vec![world.node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![here]), ..Default::default() };
    let spec = claim.spec.clone().unwrap_or_default();
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            annotations: Some([(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())].into()),
            ..Default::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: Some([("storage".to_owned(), Quantity(fit::asked_text(claim)))].into()),
            claim_ref: Some(reference(claim)),
            local: Some(LocalVolumeSource {
                path: format!("{}/{name}_{}_{}", world.directory, key.namespace, key.name),
                fs_type: None,
            }),
            mount_options: None,
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector { node_selector_terms: vec![term] }),
            }),
            persistent_volume_reclaim_policy: Some(class.reclaim_policy.clone().unwrap_or_else(|| "Delete".into())),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: Some("Filesystem".into()),
            ..Default::default()
        }),
        status: None,
    }
}

fn bound_status(claim: &PersistentVolumeClaim, volume: &PersistentVolume, actions: &mut Vec<Action>) {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage")).map(|q| q.0.clone());
    let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.clone()).unwrap_or_default();
    let status = claim.status.as_ref();
    let shown = status.and_then(|status| status.capacity.as_ref()?.get("storage")).map(|q| &q.0);
    if phase_of(claim) != "Bound" || shown != capacity.as_ref() {
        let claim = key_of(claim);
        actions.push(Action::ClaimStatus { claim, phase: "Bound", capacity, access_modes: modes });
    }
}

fn pending(claim: &PersistentVolumeClaim, key: ClaimKey, actions: &mut Vec<Action>) {
    if phase_of(claim) != "Pending" {
        actions.push(claim_status(key, "Pending", None));
    }
}

fn claim_status(claim: ClaimKey, phase: &'static str, capacity: Option<String>) -> Action {
    Action::ClaimStatus { claim, phase, capacity, access_modes: Vec::new() }
}

/// The newest class that calls itself the default one.
fn default_class(world: &World<'_>) -> Option<String> {
    let is_default = |class: &&&StorageClass| {
        let says = class.metadata.annotations.as_ref().and_then(|all| all.get(IS_DEFAULT_CLASS));
        says.is_some_and(|says| says == "true")
    };
    let newest = |class: &&&StorageClass| class.metadata.creation_timestamp.clone();
    world.classes.iter().filter(is_default).max_by_key(newest)?.metadata.name.clone()
}

fn reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        name: claim.metadata.name.clone(),
        namespace: claim.metadata.namespace.clone(),
        uid: claim.metadata.uid.clone(),
        ..Default::default()
    }
}
