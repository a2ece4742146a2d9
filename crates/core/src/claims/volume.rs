//! What becomes of one volume.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{Action, PROVISIONED_BY, PROVISIONER, VOLUME_PROTECTION, World, fit, is_of};

pub(super) fn decide(world: &World<'_>, volume: &PersistentVolume, actions: &mut Vec<Action>) {
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
    match holder {
        Some(true) => status("Bound", None),
        None if deleting && protected => actions.push(Action::UnprotectVolume(name)),
        None => status("Available", None),
        Some(false) => match (spec.persistent_volume_reclaim_policy.as_deref(), &spec.local) {
            (Some("Delete"), Some(local)) if is_ours(volume) => {
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

/// A directory is as large as its file system: what grows is the number.
pub(super) fn grow(claim: &PersistentVolumeClaim, volume: &PersistentVolume, actions: &mut Vec<Action>) {
    if is_ours(volume) && fit::asked(claim) > fit::capacity(volume) {
        let (volume, capacity) = (volume.metadata.name.clone().unwrap_or_default(), fit::asked_text(claim));
        actions.push(Action::Grow { volume, capacity });
    }
}

/// Whether podd has made this volume.
fn is_ours(volume: &PersistentVolume) -> bool {
    let by = volume.metadata.annotations.as_ref().and_then(|all| all.get(PROVISIONED_BY));
    by.is_some_and(|by| by == PROVISIONER)
}
