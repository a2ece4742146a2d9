//! ContainerStatus.

use std::collections::BTreeMap;

use podd_cri::v1::{
    ContainerResources, ContainerStatus, ContainerStatusResponse, ContainerUser, ImageSpec, LinuxContainerUser, Mount,
};

use super::Container;
use crate::engine::Engine;
use crate::error::Result;
use crate::records::{MountMeta, Stage, mappings};
use crate::signals;

impl Engine {
    /// One container in full.
    pub(crate) fn container_status(&self, id: &str, verbose: bool) -> Result<ContainerStatusResponse> {
        let container = self.registry.container(id)?;
        let info = if verbose { self.describe_container(&container)? } else { BTreeMap::new() };
        Ok(ContainerStatusResponse { status: Some(self.named_status(&container)), info })
    }

    /// The statuses of a sandbox's containers, oldest first.
    pub(crate) fn statuses_in(&self, sandbox: &str) -> Vec<ContainerStatus> {
        let containers = self.registry.containers_in(sandbox);
        let listed = containers.iter().filter(|container| container.is_listed());
        let mut statuses: Vec<ContainerStatus> = listed.map(|container| self.named_status(container)).collect();
        statuses.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        statuses
    }

    /// The status with the name that the image has now: a kubelet makes containers by the image's id, and shows people
    /// what stands here.
    fn named_status(&self, container: &Container) -> ContainerStatus {
        let mut status = container.to_cri();
        if let Ok(image) = self.images.get(&container.meta.image.id)
            && let Some(name) = image.repo_tags.first().or(image.repo_digests.first())
            && let Some(spec) = &mut status.image
        {
            spec.image.clone_from(name);
        }
        status
    }
}

impl Container {
    pub(crate) fn to_cri(&self) -> ContainerStatus {
        let (meta, status) = (&self.meta, self.status());
        let mut cri = ContainerStatus {
            id: meta.id.clone(),
            metadata: Some(self.metadata()),
            state: self.state() as i32,
            created_at: meta.created_at,
            image: Some(meta.image.to_cri()),
            image_ref: meta.image.reference.clone(),
            image_id: meta.image.id.clone(),
            labels: meta.labels.clone(),
            annotations: meta.annotations.clone(),
            mounts: meta.mounts.iter().map(mount).collect(),
            log_path: meta.log_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            resources: Some(ContainerResources { linux: Some((&status.resources).into()), windows: None }),
            user: status.user.as_ref().map(|user| ContainerUser {
                linux: Some(LinuxContainerUser {
                    uid: user.uid.into(),
                    gid: user.gid.into(),
                    supplemental_groups: user.groups.iter().map(|&group| group.into()).collect(),
                }),
            }),
            stop_signal: signals::to_cri(meta.stop_signal),
            ..Default::default()
        };
        match status.stage {
            Stage::Creating | Stage::Created | Stage::Starting => {}
            Stage::Running { started_at } => cri.started_at = started_at,
            Stage::Exited(exit) => {
                cri.started_at = exit.started_at;
                cri.finished_at = exit.finished_at;
                cri.exit_code = exit.code;
                cri.reason = exit.reason.name().to_owned();
                cri.message = exit.message;
            }
        }
        cri
    }
}

fn mount(mount: &MountMeta) -> Mount {
    let ids = mount.ids.clone().unwrap_or_default();
    Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        selinux_relabel: mount.selinux_relabel,
        propagation: mount.propagation,
        uid_mappings: mappings(&ids.uids),
        gid_mappings: mappings(&ids.gids),
        image: mount.image.as_ref().map(|image| ImageSpec {
            image: image.requested.clone(),
            user_specified_image: image.user_specified.clone(),
            image_ref: image.id.clone(),
            ..Default::default()
        }),
        image_sub_path: mount.image.as_ref().map(|image| image.sub_path.clone()).unwrap_or_default(),
    }
}
