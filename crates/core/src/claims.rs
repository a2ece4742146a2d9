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

mod claim;
mod fit;
mod volume;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod},
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
        claim::decide(world, claim, &mut taken, &mut actions);
    }
    for volume in &world.volumes {
        volume::decide(world, volume, &mut actions);
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
