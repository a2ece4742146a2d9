//! Claims to storage, volumes and classes: what Kubernetes' binder, provisioner, protection and garbage collection decide,
//! as one plain function. [`decide`] compares the objects and answers with what is to be done now; after each change it is
//! asked again, and a world that is as it should be needs nothing.
//!
//! ```text
//!  claim:   Pending ── a volume fits, or is made by its class ──► Bound ── deleted, no pod uses it ──► gone
//!  volume:  Available ── bound ──► Bound ── its claim is gone ──► Released ── reclaimed (Delete) ──► gone
//! ```
//! A claim and its volume name each other. The volume is written first (`spec.claimRef` with the claim's uid), so that two
//! claims never get one volume, and a crash in between is finished from what is written.

mod fit;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{
            LocalVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
            PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Pod, VolumeNodeAffinity,
        },
        storage::v1::StorageClass,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, OwnerReference},
    },
};

use crate::{pod::is_terminal, quantity};

/// The provisioner of the classes whose volumes podd makes.
pub const PROVISIONER: &str = "podd/local";
/// The class that is always there, and the default one as long as nobody says otherwise.
pub const DEFAULT_CLASS: &str = "podd-local";
/// Keeps a claim while a pod uses it.
pub const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Keeps a volume while a claim is bound to it.
pub const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
/// Says which class is the default one.
pub const IS_DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// All that claims depend on.
#[derive(Debug, Default)]
pub struct World<'a> {
    /// All claims.
    pub claims: Vec<&'a PersistentVolumeClaim>,
    /// All volumes.
    pub volumes: Vec<&'a PersistentVolume>,
    /// All classes.
    pub classes: Vec<&'a StorageClass>,
    /// All pods of the API.
    pub pods: Vec<&'a Pod>,
    /// The node on which volumes are made.
    pub node: &'a str,
    /// The directory in which their data lies.
    pub directory: &'a str,
}

/// A namespaced name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimKey {
    /// The namespace.
    pub namespace: String,
    /// The name in it.
    pub name: String,
}

/// One thing to do. Each is idempotent.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make the claim of a pod's ephemeral volume.
    CreateClaim(Box<PersistentVolumeClaim>),
    /// Delete a claim whose owner is gone.
    DeleteClaim(ClaimKey),
    /// Give a claim that names no class the default one.
    SetClass(ClaimKey, String),
    /// Make a directory, and the volume that stands for it.
    Provision {
        /// For whom.
        claim: ClaimKey,
        /// The volume, bound to the claim already.
        volume: Box<PersistentVolume>,
    },
    /// Write into a volume whose it is.
    BindVolume {
        /// The volume.
        volume: String,
        /// The claim.
        claim: Box<ObjectReference>,
    },
    /// Write into a claim which volume it has.
    BindClaim(ClaimKey, String),
    /// Write a claim's status; capacity and modes are those of its volume.
    ClaimStatus {
        /// The claim.
        claim: ClaimKey,
        /// `Pending`, `Bound` or `Lost`.
        phase: &'static str,
        /// What it has, once it has a volume.
        capacity: Option<String>,
        /// How it may be used.
        access_modes: Vec<String>,
    },
    /// Write a volume's phase.
    VolumeStatus {
        /// The volume.
        volume: String,
        /// `Available`, `Bound`, `Released` or `Failed`.
        phase: &'static str,
        /// Why, where it is not obvious.
        message: Option<String>,
    },
    /// Write a volume's capacity: its claim has grown.
    Grow {
        /// The volume.
        volume: String,
        /// What the claim asks for.
        capacity: String,
    },
    /// Let a deleted claim go: no pod uses it any more.
    UnprotectClaim(ClaimKey),
    /// Let a deleted volume go: no claim has it any more.
    UnprotectVolume(String),
    /// Remove a volume's data, then the volume.
    Reclaim {
        /// The volume.
        volume: String,
        /// Its directory.
        path: String,
    },
    /// Tell what a claim waits for.
    Tell {
        /// The claim.
        claim: ClaimKey,
        /// Whether a person has to act.
        warning: bool,
        /// The event's reason.
        reason: &'static str,
        /// The event's message.
        message: String,
    },
}

/// What is to be done now.
#[must_use]
pub fn decide(world: &World<'_>) -> Vec<Action> {
    let mut actions = Vec::new();
    for pod in &world.pods {
        ephemeral(world, pod, &mut actions);
    }
    // Two claims of one turn must not choose the same volume.
    let mut taken = BTreeMap::new();
    for claim in &world.claims {
        one_claim(world, claim, &mut taken, &mut actions);
    }
    for volume in &world.volumes {
        one_volume(world, volume, &mut actions);
    }
    actions
}

/// The claim of a pod's ephemeral volume: `<pod>-<volume>`.
#[must_use]
pub fn ephemeral_claim_name(pod: &str, volume: &str) -> String {
    format!("{pod}-{volume}")
}

/// A claim that a pod mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted<'a> {
    /// The name of the volume in the pod.
    pub volume: &'a str,
    /// The name of the claim, in the pod's namespace.
    pub claim: String,
    /// The claim must have been made for this pod.
    pub ephemeral: bool,
    /// No container may write to it.
    pub read_only: bool,
}

/// The claims that a pod mounts.
pub fn of_pod(pod: &Pod) -> impl Iterator<Item = Mounted<'_>> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes.iter().filter_map(move |volume| {
        let (claim, read_only) = match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => (source.claim_name.clone(), source.read_only == Some(true)),
            (None, Some(_)) => (ephemeral_claim_name(name, &volume.name), false),
            (None, None) => return None,
        };
        Some(Mounted { volume: &volume.name, claim, ephemeral: volume.ephemeral.is_some(), read_only })
    })
}

/// Whether a claim was made for a pod's ephemeral volume.
#[must_use]
pub fn is_owned_by(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    owner(claim).is_some_and(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref())
}

/// Claims of ephemeral volumes are made for pods that are to run.
fn ephemeral(world: &World<'_>, pod: &Pod, actions: &mut Vec<Action>) {
    if is_terminal(pod) || pod.metadata.deletion_timestamp.is_some() {
        return;
    }
    let (Some(name), Some(namespace), Some(uid)) = (&pod.metadata.name, &pod.metadata.namespace, &pod.metadata.uid)
    else {
        return;
    };
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some(template) = volume.ephemeral.as_ref().and_then(|source| source.volume_claim_template.as_ref()) else {
            continue;
        };
        let key = ClaimKey { namespace: namespace.clone(), name: ephemeral_claim_name(name, &volume.name) };
        if world.claims.iter().any(|claim| key_of(claim) == key) {
            continue;
        }
        let meta = template.metadata.clone().unwrap_or_default();
        actions.push(Action::CreateClaim(Box::new(PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(key.name),
                namespace: Some(key.namespace),
                labels: meta.labels,
                annotations: meta.annotations,
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".into(),
                    kind: "Pod".into(),
                    name: name.clone(),
                    uid: uid.clone(),
                    controller: Some(true),
                    block_owner_deletion: Some(true),
                }]),
                ..Default::default()
            },
            spec: Some(template.spec.clone()),
            status: None,
        })));
    }
}

fn one_claim<'a>(
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
            grow(claim, volume, actions);
            bound_status(claim, volume, actions);
        }
        // Set aside for this claim by its name, or free.
        _ => match fit::objection(claim, volume) {
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
            claim_ref(volume).is_none() && !taken.contains_key(&name(volume)) && fit::objection(claim, volume).is_none()
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

fn one_volume(world: &World<'_>, volume: &PersistentVolume, actions: &mut Vec<Action>) {
    let Some(spec) = &volume.spec else { return };
    let name = volume.metadata.name.clone().unwrap_or_default();
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let claim_ref = spec.claim_ref.as_ref().filter(|bound| bound.uid.as_deref().is_some_and(|uid| !uid.is_empty()));
    let holder = claim_ref.map(|bound| world.claims.iter().any(|claim| is_of(bound, claim)));
    let deleting = volume.metadata.deletion_timestamp.is_some();
    let protected = volume.metadata.finalizers.iter().flatten().any(|name| name == VOLUME_PROTECTION);
    let mut status = |wanted: &'static str, message: Option<String>| {
        if phase != wanted {
            actions.push(Action::VolumeStatus { volume: name.clone(), phase: wanted, message });
        }
    };
    let is_ours =
        volume.metadata.annotations.as_ref().and_then(|all| all.get(PROVISIONED_BY)) == Some(&PROVISIONER.to_owned());
    match holder {
        Some(true) => status("Bound", None),
        None if deleting && protected => actions.push(Action::UnprotectVolume(name)),
        None => status("Available", None),
        Some(false) => match (spec.persistent_volume_reclaim_policy.as_deref(), &spec.local) {
            (Some("Delete"), Some(local)) if is_ours => {
                status("Released", None);
                actions.push(Action::Reclaim { volume: name, path: local.path.clone() });
            }
            _ if deleting && protected => actions.push(Action::UnprotectVolume(name)),
            (Some("Delete"), _) => status(
                "Failed",
                Some("podd deletes the data of the volumes that it made only; delete this one by hand".to_owned()),
            ),
            _ => status("Released", None),
        },
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

/// A directory is as large as its file system: what grows is the number.
fn grow(claim: &PersistentVolumeClaim, volume: &PersistentVolume, actions: &mut Vec<Action>) {
    let by_us = volume.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(PROVISIONED_BY));
    if by_us && fit::asked(claim) > fit::capacity(volume) {
        let (volume, capacity) = (volume.metadata.name.clone().unwrap_or_default(), fit::asked_text(claim));
        actions.push(Action::Grow { volume, capacity });
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

/// Pods that use a claim and are not over. Whoever waits for a claim of its own does not use another's of that name.
fn users<'a>(world: &'a World<'_>, claim: &'a PersistentVolumeClaim) -> impl Iterator<Item = &'a Pod> {
    world.pods.iter().copied().filter(|pod| {
        pod.metadata.namespace == claim.metadata.namespace
            && !is_terminal(pod)
            && of_pod(pod).any(|mounted| {
                Some(&mounted.claim) == claim.metadata.name.as_ref() && (!mounted.ephemeral || is_owned_by(claim, pod))
            })
    })
}

/// Whether a volume's reference means this claim: by name, and by uid where it has one.
fn is_of(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && reference.uid.as_ref().is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_ref())
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

fn owner(claim: &PersistentVolumeClaim) -> Option<&OwnerReference> {
    let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.kind == "Pod" && owner.controller == Some(true))
}

fn key_of(claim: &PersistentVolumeClaim) -> ClaimKey {
    let meta = &claim.metadata;
    ClaimKey { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
}

fn phase_of(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// A quantity as a number; none is 0.
fn number(quantity: Option<&Quantity>) -> i64 {
    quantity.and_then(|raw| quantity::Quantity::parse(&raw.0).ok()).map_or(0, |parsed| parsed.value())
}

#[cfg(test)]
mod tests;
