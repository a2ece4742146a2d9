//! What lies behind the claims of a pod that is about to start, in the kubelet's words where it is not to be had.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::{Api, Client};
use podd_core::{
    claims::{Mounted, is_owned_by, of_pod},
    pod::Failure,
};
use tokio::time::Instant;

use crate::objects::DEADLINE;

/// How long a pod waits for its claims before that is told as a failure, and tried again.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks meanwhile.
const PAUSE: Duration = Duration::from_millis(50);

/// The claims in the API.
#[derive(Clone)]
pub(crate) struct Claims {
    client: Client,
}

/// The volume behind a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where its data lies.
    pub(crate) path: PathBuf,
    /// It is a `hostPath` with this type, which podd leaves to its owner; else a directory that may be handed to a group.
    pub(crate) host_path: Option<String>,
    /// No container may write to it.
    pub(crate) read_only: bool,
    /// The claim is being deleted: only a pod that has it already keeps it.
    pub(crate) deleting: bool,
}

/// Why a claim has no volume yet.
enum Lack {
    /// It may come any moment.
    Wait(String),
    /// Waiting is of no use.
    Fail(String),
}

impl Claims {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// The volumes behind a pod's claims, by the names of the volumes in the pod. Waits for claims that are about to be
    /// bound.
    pub(crate) async fn of(&self, pod: &Pod) -> Result<BTreeMap<String, Found>, Failure> {
        let mut all = BTreeMap::new();
        let end = Instant::now() + PATIENCE;
        for mounted in of_pod(pod) {
            let found = loop {
                match self.one(pod, &mounted).await {
                    Ok(found) => break found,
                    Err(Lack::Wait(_)) if Instant::now() < end => tokio::time::sleep(PAUSE).await,
                    Err(Lack::Wait(why) | Lack::Fail(why)) => {
                        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                        let message = format!("error processing PVC {namespace}/{}: {why}", mounted.claim);
                        return Err(Failure { reason: "FailedMount".into(), message });
                    }
                }
            };
            all.insert(mounted.volume.to_owned(), found);
        }
        Ok(all)
    }

    async fn one(&self, pod: &Pod, mounted: &Mounted<'_>) -> Result<Found, Lack> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), namespace);
        let name = &mounted.claim;
        let claim = in_time(claims.get_opt(name)).await?;
        let Some(claim) = claim else {
            let why = format!("failed to fetch PVC from API server: persistentvolumeclaims \"{name}\" not found");
            // The controller makes that of an ephemeral volume.
            return Err(if mounted.ephemeral { Lack::Wait(why) } else { Lack::Fail(why) });
        };
        if mounted.ephemeral && !is_owned_by(&claim, pod) {
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            return Err(Lack::Wait(format!("PVC was not created for pod {namespace}/{pod} (pod is not owner)")));
        }
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        let spec = claim.spec.clone().unwrap_or_default();
        let Some(volume) = spec.volume_name.filter(|name| !name.is_empty() && phase == "Bound") else {
            return Err(Lack::Wait("PVC is not bound".into()));
        };
        let volumes = Api::<PersistentVolume>::all(self.client.clone());
        let found = in_time(volumes.get_opt(&volume)).await?;
        let Some(spec) = found.and_then(|found| found.spec) else {
            return Err(Lack::Fail(format!("failed to fetch PV \"{volume}\" from API server")));
        };
        if spec.claim_ref.as_ref().and_then(|bound| bound.uid.as_ref()) != claim.metadata.uid.as_ref() {
            return Err(Lack::Fail(format!("PV \"{volume}\" is bound to another claim")));
        }
        let (path, host_path) = match (&spec.local, &spec.host_path) {
            (Some(local), _) => (local.path.clone(), None),
            (None, Some(host)) => (host.path.clone(), Some(host.type_.clone().unwrap_or_default())),
            (None, None) => return Err(Lack::Fail(format!("PV \"{volume}\" is neither local nor a hostPath"))),
        };
        Ok(Found {
            path: path.into(),
            host_path,
            read_only: mounted.read_only,
            deleting: claim.metadata.deletion_timestamp.is_some(),
        })
    }
}

/// A call that takes too long has failed.
async fn in_time<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Lack> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(outcome) => outcome.map_err(|error| Lack::Fail(error.to_string())),
        Err(_) => Err(Lack::Fail("the API does not answer".into())),
    }
}
