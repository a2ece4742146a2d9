//! Doing what was decided for claims: writes to the API, directories on the node. Each is idempotent.

use std::{fmt::Debug, io, path::Path};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use podd_core::claims::{
    Action, CLAIM_PROTECTION, ClaimKey, DEFAULT_CLASS, IS_DEFAULT_CLASS, PROVISIONER, VOLUME_PROTECTION,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tracing::info;

use super::{Controller, Seen};
use crate::{
    events::{Record, Severity},
    volumes,
};

/// Why an action failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The API refused, or did not answer.
    #[error("write to the API")]
    Api(#[from] kube::Error),
    /// The node refused.
    #[error("the directory of a claim")]
    Directory(#[from] io::Error),
}

impl Controller {
    /// The class that every node has.
    pub(super) async fn ensure_class(&self) -> Result<(), kube::Error> {
        let class = StorageClass {
            metadata: ObjectMeta {
                name: Some(DEFAULT_CLASS.into()),
                annotations: Some([(IS_DEFAULT_CLASS.to_owned(), "true".to_owned())].into()),
                ..Default::default()
            },
            provisioner: PROVISIONER.into(),
            reclaim_policy: Some("Delete".into()),
            volume_binding_mode: Some("WaitForFirstConsumer".into()),
            allow_volume_expansion: Some(true),
            ..Default::default()
        };
        found(Api::<StorageClass>::all(self.client.clone()).create(&PostParams::default(), &class).await)
    }

    /// Does one thing.
    pub(super) async fn act(&self, seen: &Seen, action: &Action) -> Result<(), Error> {
        match action {
            Action::CreateClaim(claim) => {
                let namespace = claim.metadata.namespace.clone().unwrap_or_default();
                found(self.claims(&namespace).create(&PostParams::default(), claim).await)?;
            }
            Action::DeleteClaim(key) => {
                let uid = seen.claims.get(&key.namespace, &key.name).and_then(|claim| claim.metadata.uid.clone());
                let only = DeleteParams {
                    preconditions: Some(Preconditions { uid, resource_version: None }),
                    ..DeleteParams::default()
                };
                gone(self.claims(&key.namespace).delete(&key.name, &only).await)?;
            }
            Action::SetClass(key, class) => {
                self.patch_claim(seen, key, json!({"spec": {"storageClassName": class}})).await?;
            }
            Action::Provision { claim, volume } => {
                let path = volume.spec.as_ref().and_then(|spec| spec.local.as_ref()).map(|local| local.path.clone());
                let (directory, path) = (self.directory.clone(), path.unwrap_or_default());
                blocking(move || volumes::make_claim_directory(&directory, Path::new(&path))).await?;
                let volumes = Api::<PersistentVolume>::all(self.client.clone());
                found(volumes.create(&PostParams::default(), volume).await)?;
                let name = volume.metadata.name.clone().unwrap_or_default();
                info!(namespace = claim.namespace, claim = claim.name, volume = name, "volume made");
                let message = format!("Successfully provisioned volume {name}");
                self.tell(seen, claim, Severity::Normal, "ProvisioningSucceeded", message);
            }
            Action::BindVolume { volume, claim } => {
                self.patch_volume(seen, volume, json!({"spec": {"claimRef": claim}})).await?;
            }
            Action::BindClaim(key, volume) => {
                self.patch_claim(seen, key, json!({"spec": {"volumeName": volume}})).await?;
            }
            Action::ClaimStatus { claim, phase, capacity, access_modes } => {
                let capacity = capacity.as_ref().map(|capacity| json!({"storage": capacity}));
                let modes = Some(access_modes).filter(|modes| !modes.is_empty());
                let patch = json!({"status": {"phase": phase, "capacity": capacity, "accessModes": modes}});
                let claims = self.claims(&claim.namespace);
                status(&claims, &claim.name, patch).await?;
            }
            Action::VolumeStatus { volume, phase, message } => {
                let patch = json!({"status": {"phase": phase, "message": message}});
                status(&Api::<PersistentVolume>::all(self.client.clone()), volume, patch).await?;
            }
            Action::Grow { volume, capacity } => {
                self.patch_volume(seen, volume, json!({"spec": {"capacity": {"storage": capacity}}})).await?;
            }
            Action::UnprotectClaim(key) => {
                let Some(claim) = seen.claims.get(&key.namespace, &key.name) else { return Ok(()) };
                let left = without(&claim.metadata, CLAIM_PROTECTION);
                self.patch_claim(seen, key, json!({"metadata": {"finalizers": left}})).await?;
            }
            Action::UnprotectVolume(volume) => self.unprotect(seen, volume).await?,
            Action::Reclaim { volume, path } => {
                let (directory, data) = (self.directory.clone(), path.clone());
                blocking(move || volumes::remove_claim_directory(&directory, Path::new(&data))).await?;
                info!(volume, "volume reclaimed");
                let volumes = Api::<PersistentVolume>::all(self.client.clone());
                gone(volumes.delete(volume, &DeleteParams::default()).await)?;
                self.unprotect(seen, volume).await?;
            }
            Action::Tell { claim, warning, reason, message } => {
                let severity = if *warning { Severity::Warning } else { Severity::Normal };
                self.tell(seen, claim, severity, reason, message.clone());
            }
        }
        Ok(())
    }

    fn claims(&self, namespace: &str) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Changes a claim as it was seen; one that has changed since is decided on again.
    async fn patch_claim(&self, seen: &Seen, key: &ClaimKey, patch: Value) -> Result<(), Error> {
        let Some(claim) = seen.claims.get(&key.namespace, &key.name) else { return Ok(()) };
        patch_seen(&self.claims(&key.namespace), &claim.metadata, patch).await
    }

    async fn patch_volume(&self, seen: &Seen, name: &str, patch: Value) -> Result<(), Error> {
        let Some(volume) = seen.volumes.get("", name) else { return Ok(()) };
        patch_seen(&Api::<PersistentVolume>::all(self.client.clone()), &volume.metadata, patch).await
    }

    async fn unprotect(&self, seen: &Seen, name: &str) -> Result<(), Error> {
        let Some(volume) = seen.volumes.get("", name) else { return Ok(()) };
        let left = without(&volume.metadata, VOLUME_PROTECTION);
        let volumes = Api::<PersistentVolume>::all(self.client.clone());
        let patch = json!({"metadata": {"uid": volume.metadata.uid, "finalizers": left}});
        gone(volumes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await)
    }

    pub(super) fn tell(&self, seen: &Seen, key: &ClaimKey, severity: Severity, reason: &str, message: String) {
        let uid = seen.claims.get(&key.namespace, &key.name).and_then(|claim| claim.metadata.uid.clone());
        self.recorder.record(Record {
            subject: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("PersistentVolumeClaim".into()),
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
                uid,
                ..Default::default()
            },
            severity,
            reason: reason.into(),
            message,
            at: Timestamp::now(),
        });
    }
}

/// With the version that was seen as precondition. A conflict is no failure: the newer object is on its way.
async fn patch_seen<K>(objects: &Api<K>, seen: &ObjectMeta, mut patch: Value) -> Result<(), Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    patch["metadata"]["uid"] = json!(seen.uid);
    patch["metadata"]["resourceVersion"] = json!(seen.resource_version);
    let name = seen.name.as_deref().unwrap_or_default();
    gone(objects.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await)
}

async fn status<K>(objects: &Api<K>, name: &str, patch: Value) -> Result<(), Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    gone(objects.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await)
}

/// What is gone, or has changed meanwhile, needs nothing more.
fn gone<T>(outcome: Result<T, kube::Error>) -> Result<(), Error> {
    match outcome {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        outcome => Ok(outcome.map(drop)?),
    }
}

/// What is there already need not be made.
fn found<T: Serialize>(outcome: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match outcome {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// The finalizers of an object but one.
fn without(meta: &ObjectMeta, finalizer: &str) -> Vec<String> {
    meta.finalizers.iter().flatten().filter(|name| *name != finalizer).cloned().collect()
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
