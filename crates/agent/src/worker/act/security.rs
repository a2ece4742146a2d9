//! Security contexts of pods and containers in CRI's words: the container's value goes before the pod's, and where both
//! are silent the node's defaults hold.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use podd_cri::v1;

use super::{
    paths,
    sandbox::{all_containers, is_host_network},
};
use crate::worker::services::Settings;

/// The user that an image's configuration names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ImageUser {
    pub(super) uid: Option<i64>,
    pub(super) name: String,
}

/// What a pod's sandbox may do.
pub(super) fn of_sandbox(pod: &Pod, settings: &Settings) -> v1::LinuxSandboxSecurityContext {
    let spec = pod.spec.as_ref();
    let context = spec.and_then(|spec| spec.security_context.as_ref());
    let privileged = spec.is_some_and(|spec| all_containers(spec).any(is_privileged));
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        run_as_user: int(context.and_then(|context| context.run_as_user)),
        run_as_group: int(context.and_then(|context| context.run_as_group.filter(|_| context.run_as_user.is_some()))),
        privileged,
        seccomp: Some(seccomp(settings)),
        ..Default::default()
    }
}

/// What a container may do. `image_user` matters only where a group is asked for without a user.
pub(super) fn of_container(
    pod: &Pod,
    container: &Container,
    image_user: &ImageUser,
    settings: &Settings,
) -> v1::LinuxContainerSecurityContext {
    let own = container.security_context.as_ref();
    let (user, group) = user_and_group(pod, container);
    let privileged = is_privileged(container);
    let (uid, name) = match (user, group) {
        (Some(user), _) => (Some(user), String::new()),
        (None, None) => (None, String::new()),
        // CRI wants a user beside a group: the image's own.
        (None, Some(_)) => match (image_user.uid, image_user.name.as_str()) {
            (Some(uid), _) => (Some(uid), String::new()),
            (None, "") => (Some(0), String::new()),
            (None, name) => (None, name.to_owned()),
        },
    };
    let capabilities = own.and_then(|own| own.capabilities.as_ref()).map(|wanted| v1::Capability {
        add_capabilities: wanted.add.clone().unwrap_or_default(),
        drop_capabilities: wanted.drop.clone().unwrap_or_default(),
        add_ambient_capabilities: Vec::new(),
    });
    v1::LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options: Some(namespaces(pod)),
        run_as_user: int(uid),
        run_as_username: name,
        run_as_group: int(group),
        readonly_rootfs: own.and_then(|own| own.read_only_root_filesystem) == Some(true),
        no_new_privs: own.and_then(|own| own.allow_privilege_escalation) == Some(false),
        masked_paths: paths::masked(privileged),
        readonly_paths: paths::read_only(privileged),
        seccomp: Some(if privileged { unconfined() } else { seccomp(settings) }),
        ..Default::default()
    }
}

/// Whether the image's user has to be known before the container can be made.
pub(super) fn needs_image_user(pod: &Pod, container: &Container) -> bool {
    matches!(user_and_group(pod, container), (None, Some(_)))
}

fn user_and_group(pod: &Pod, container: &Container) -> (Option<i64>, Option<i64>) {
    let own = container.security_context.as_ref();
    let pods = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let user = own.and_then(|own| own.run_as_user).or_else(|| pods.and_then(|pods| pods.run_as_user));
    let group = own.and_then(|own| own.run_as_group).or_else(|| pods.and_then(|pods| pods.run_as_group));
    (user, group)
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context| context.privileged) == Some(true)
}

/// The namespaces that a pod's containers share.
fn namespaces(pod: &Pod) -> v1::NamespaceOption {
    let spec = pod.spec.as_ref();
    let asked = |field: fn(&PodSpec) -> Option<bool>| spec.and_then(field) == Some(true);
    let pid = if asked(|spec| spec.host_pid) {
        v1::NamespaceMode::Node
    } else if asked(|spec| spec.share_process_namespace) {
        v1::NamespaceMode::Pod
    } else {
        v1::NamespaceMode::Container
    };
    let or_node = |node: bool| if node { v1::NamespaceMode::Node } else { v1::NamespaceMode::Pod };
    v1::NamespaceOption {
        network: or_node(is_host_network(pod)) as i32,
        pid: pid as i32,
        ipc: or_node(asked(|spec| spec.host_ipc)) as i32,
        ..Default::default()
    }
}

fn seccomp(settings: &Settings) -> v1::SecurityProfile {
    if settings.seccomp_default { profile(v1::security_profile::ProfileType::RuntimeDefault) } else { unconfined() }
}

fn unconfined() -> v1::SecurityProfile {
    profile(v1::security_profile::ProfileType::Unconfined)
}

fn profile(kind: v1::security_profile::ProfileType) -> v1::SecurityProfile {
    v1::SecurityProfile { profile_type: kind as i32, localhost_ref: String::new() }
}

fn int(value: Option<i64>) -> Option<v1::Int64Value> {
    value.map(|value| v1::Int64Value { value })
}
