//! The images of the node: every few minutes those that nobody uses go when their disk is too full, or when they were not
//! used for too long; and at once when the node is short of disk.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use podd_core::{
    collection::{ImageSeen, Settings, Shelf},
    pod::{image_names, is_terminal},
};
use podd_cri::{ImageService, RuntimeService, v1};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tracing::{debug, info, warn};

use crate::{
    events::{Recorder, Severity},
    machine::disk,
    source::uid,
    worker::{Lookup, names::POD_UID},
};

/// How often it is asked whether all pods are known, at the start.
const SOON: Duration = Duration::from_millis(500);

/// Who collects images, and dead containers when disk is short.
pub(crate) struct Collector {
    pub(crate) images: Arc<dyn ImageService>,
    pub(crate) runtime: Arc<dyn RuntimeService>,
    pub(crate) pods: Lookup,
    pub(crate) recorder: Recorder,
    pub(crate) node_name: String,
    pub(crate) settings: Settings,
    pub(crate) period: Duration,
    pub(crate) shelf: Mutex<Shelf>,
}

impl Collector {
    /// Looks after images until `shutdown`.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let round = async {
                if let Err(error) = self.round().await {
                    warn!(error, "images were not collected");
                }
                tokio::time::sleep(self.period).await;
            };
            // A removal that is dropped goes on in the runtime; the next round sees what it came to.
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = round => {}
            }
        }
    }

    async fn round(&self) -> Result<(), String> {
        // Images of pods that nobody has named yet would look as if nobody used them.
        while !self.pods.is_complete() {
            tokio::time::sleep(SOON).await;
        }
        let now = Timestamp::now();
        let mut shelf = self.shelf.lock().await;
        let seen = self.look().await?;
        shelf.look(&seen, now);
        self.remove(&shelf.outdated(&seen, &self.settings, now), u64::MAX).await;
        let Some(place) = self.place().await else { return Ok(()) };
        let disk = tokio::task::spawn_blocking(move || disk(&place)).await.ok().and_then(Result::ok);
        let disk = disk.map(|(space, _)| space);
        let Some(wanted) = disk.and_then(|disk| self.settings.to_free(disk)) else { return Ok(()) };
        let wanted = u64::try_from(wanted).unwrap_or(0);
        let freed = self.remove(&shelf.unused(&seen, &self.settings, now), wanted).await;
        info!(wanted, freed, "the disk of images is too full: those that nobody uses go");
        if freed < wanted {
            let message = format!(
                "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, \
                 but only found {freed} bytes eligible to free."
            );
            self.recorder.node(&self.node_name, Severity::Warning, "FreeDiskSpaceFailed", message);
        }
        Ok(())
    }

    /// Removes all that can go at once, for a node that is short of disk: what pods that have ended left in the runtime,
    /// and images that nobody uses.
    pub(crate) async fn remove_all(&self) {
        if !self.pods.is_complete() {
            return;
        }
        self.remove_dead().await;
        let now = Timestamp::now();
        let mut shelf = self.shelf.lock().await;
        match self.look().await {
            Ok(seen) => {
                shelf.look(&seen, now);
                self.remove(&shelf.unused(&seen, &self.settings, now), u64::MAX).await;
            }
            Err(error) => warn!(error, "images were not collected"),
        }
    }

    /// Where the runtime says that images lie.
    pub(crate) async fn place(&self) -> Option<PathBuf> {
        let answer = self.images.image_fs_info(Request::new(v1::ImageFsInfoRequest {})).await.ok()?;
        let first = answer.into_inner().image_filesystems.into_iter().next()?;
        first.fs_id.map(|id| PathBuf::from(id.mountpoint))
    }

    async fn look(&self) -> Result<Vec<ImageSeen>, String> {
        let pods = self.pods.pods();
        let listed = images_in_use(self.images.as_ref(), self.runtime.as_ref(), pods.iter().map(Arc::as_ref)).await;
        let seen =
            |(image, used): (v1::Image, bool)| ImageSeen { id: image.id, size: image.size, pinned: image.pinned, used };
        Ok(listed.map_err(|status| status.message().to_owned())?.into_iter().map(seen).collect())
    }

    /// Removes images one after another until so many bytes are free. Tells how many were freed.
    async fn remove(&self, images: &[&ImageSeen], bytes: u64) -> u64 {
        let mut freed = 0;
        for image in images {
            if freed >= bytes {
                break;
            }
            let spec = v1::ImageSpec { image: image.id.clone(), ..Default::default() };
            match self.images.remove_image(Request::new(v1::RemoveImageRequest { image: Some(spec) })).await {
                Ok(_) => {
                    info!(image = image.id, size = image.size, "an image that nobody uses was removed");
                    freed += image.size;
                }
                Err(status) => warn!(image = image.id, error = status.message(), "an image was not removed"),
            }
        }
        freed
    }

    /// Removes the sandboxes and containers of pods that have ended. Their statuses tell what became of them.
    async fn remove_dead(&self) {
        let sandboxes = self.runtime.list_pod_sandbox(Request::new(v1::ListPodSandboxRequest { filter: None })).await;
        let Ok(sandboxes) = sandboxes else { return };
        let pods = self.pods.pods();
        for sandbox in sandboxes.into_inner().items {
            let ended =
                sandbox.labels.get(POD_UID).is_some_and(|of| pods.iter().any(|pod| uid(pod) == of && is_terminal(pod)));
            if ended && sandbox.state() == v1::PodSandboxState::SandboxNotready {
                let request = v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
                match self.runtime.remove_pod_sandbox(Request::new(request)).await {
                    Ok(_) => info!(sandbox = sandbox.id, "what an ended pod left in the runtime was removed"),
                    Err(status) => {
                        debug!(sandbox = sandbox.id, error = status.message(), "an ended pod was not removed")
                    }
                }
            }
        }
    }
}

/// The images of a runtime, each with whether somebody uses it: a container, or a pod that has not ended.
///
/// # Errors
/// What the runtime says.
pub async fn images_in_use(
    images: &dyn ImageService,
    runtime: &dyn RuntimeService,
    pods: impl Iterator<Item = &Pod>,
) -> Result<Vec<(v1::Image, bool)>, tonic::Status> {
    let mut used = BTreeSet::new();
    let named: BTreeSet<&str> = pods.filter(|pod| !is_terminal(pod)).flat_map(image_names).collect();
    for name in named {
        let spec = v1::ImageSpec { image: name.to_owned(), ..Default::default() };
        let status = v1::ImageStatusRequest { image: Some(spec), verbose: false };
        // A name that means nothing to the runtime is no image of its.
        let Ok(answer) = images.image_status(Request::new(status)).await else { continue };
        used.extend(answer.into_inner().image.map(|image| image.id));
    }
    let containers = runtime.list_containers(Request::new(v1::ListContainersRequest { filter: None })).await?;
    for container in containers.into_inner().containers {
        used.extend([container.image_id, container.image_ref]);
    }
    // After the containers: an image that came meanwhile is young.
    let listed = images.list_images(Request::new(v1::ListImagesRequest { filter: None })).await?;
    let with_use = |image: v1::Image| {
        let names = || image.repo_digests.iter().chain(&image.repo_tags).chain([&image.id]);
        let is_used = names().any(|name| used.contains(name));
        (image, is_used)
    };
    Ok(listed.into_inner().images.into_iter().map(with_use).collect())
}
