//! What others add to a container that CRI's configuration does not say: CDI devices, hooks of the machine's, plugins.

use podd_cgroup::DeviceRule;
use podd_shim::wire::{Device, Mount};

use super::plan::Plan;
use crate::error::{CriError, Result};
use crate::hooks::Hooks;

/// Additions to a container. What has the name of something that is there takes its place.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Edits {
    /// Variables, `NAME=value`.
    pub(crate) env: Vec<String>,
    pub(crate) devices: Vec<Device>,
    /// What the cgroup allows for them.
    pub(crate) rules: Vec<DeviceRule>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) hooks: Hooks,
    /// Supplemental groups of the first process.
    pub(crate) additional_gids: Vec<u32>,
}

impl Edits {
    /// Adds more, behind what is there.
    pub(crate) fn append(&mut self, more: Self) {
        self.env.extend(more.env);
        self.devices.extend(more.devices);
        self.rules.extend(more.rules);
        self.mounts.extend(more.mounts);
        self.hooks.append(more.hooks);
        self.additional_gids.extend(more.additional_gids);
    }
}

impl Plan {
    /// Changes the container that is planned. Hooks come behind those that are there.
    pub(crate) fn edit(&mut self, edits: Edits) -> Result<()> {
        for variable in edits.env {
            let Some((name, _)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) else {
                return Err(CriError::invalid(format!("environment variable {variable:?} is not NAME=value")));
            };
            let same = |have: &&mut String| have.split_once('=').is_some_and(|(own, _)| own == name);
            for env in [&mut self.spec.process.env, &mut self.meta.exec.env] {
                match env.iter_mut().find(same) {
                    Some(have) => have.clone_from(&variable),
                    None => env.push(variable.clone()),
                }
            }
        }
        for device in edits.devices {
            self.spec.devices.retain(|have| have.path != device.path);
            self.spec.devices.push(device);
        }
        self.rules.extend(edits.rules);
        for mount in edits.mounts {
            self.spec.mounts.retain(|have| have.destination != mount.destination);
            self.spec.mounts.push(mount);
        }
        // A mount below another one comes after it.
        self.spec.mounts.sort_by_key(|mount| mount.destination.components().count());
        for gid in edits.additional_gids {
            for user in [&mut self.spec.process.user, &mut self.meta.exec.user] {
                if !user.additional_gids.contains(&gid) {
                    user.additional_gids.push(gid);
                }
            }
        }
        self.add_hooks(edits.hooks);
        Ok(())
    }

    /// Adds hooks, and what hooks need: a bundle, a place to find the root at, a stop for those outside.
    fn add_hooks(&mut self, hooks: Hooks) {
        self.meta.hooks.append(hooks);
        let hooks = &self.meta.hooks;
        if hooks.is_empty() {
            return;
        }
        self.spec.rootfs.mount_point = Some(self.bundle.rootfs());
        let inside = &mut self.spec.hooks;
        inside.bundle.clone_from(&self.bundle.directory);
        inside.annotations.clone_from(&self.hook_annotations);
        inside.pause = !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty();
        inside.create_container.clone_from(&hooks.create_container);
        inside.start_container.clone_from(&hooks.start_container);
    }
}
