//! Security contexts of pods and containers in CRI's words: the container's value goes before the pod's, and where both
//! are silent the node's defaults hold.

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, PodSpec, SELinuxOptions};
use podd_core::pod::Failure;
use podd_cri::v1::{self, security_profile::ProfileType};

use super::{
    paths,
    sandbox::{all_containers, is_host_network},
    start::config_error,
};
use crate::worker::services::Settings;

/// The user that an image's configuration names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ImageUser {
    pub(super) uid: Option<i64>,
    pub(super) name: String,
}

/// What a pod's sandbox may do.
pub(super) fn of_sandbox(pod: &Pod, users: Option<&v1::UserNamespace>) -> v1::LinuxSandboxSecurityContext {
    let spec = pod.spec.as_ref();
    let context = pods(pod);
    let privileged = spec.is_some_and(|spec| all_containers(spec).any(is_privileged));
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, users)),
        selinux_options: context.and_then(|context| context.se_linux_options.as_ref()).map(selinux),
        run_as_user: int(context.and_then(|context| context.run_as_user)),
        run_as_group: int(context.and_then(|context| context.run_as_group.filter(|_| context.run_as_user.is_some()))),
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: supplemental_groups_policy(pod),
        privileged,
        // As the kubelet asks, whatever the containers have: nothing of the pod's runs in the sandbox itself.
        seccomp: Some(profile(ProfileType::RuntimeDefault)),
        ..Default::default()
    }
}

/// What a container may do. `image_user` is asked for where [`needs_image_user`] says so.
pub(super) fn of_container(
    pod: &Pod,
    container: &Container,
    image_user: &ImageUser,
    users: Option<&v1::UserNamespace>,
    settings: &Settings,
) -> Result<v1::LinuxContainerSecurityContext, Failure> {
    verify_non_root(pod, container, image_user).map_err(config_error)?;
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
    let shown = privileged || own.and_then(|own| own.proc_mount.as_deref()) == Some("Unmasked");
    let label = own.and_then(|own| own.se_linux_options.as_ref());
    let label = label.or_else(|| pods(pod).and_then(|pods| pods.se_linux_options.as_ref()));
    Ok(v1::LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options: Some(namespaces(pod, users)),
        selinux_options: label.map(selinux),
        run_as_user: int(uid),
        run_as_username: name,
        run_as_group: int(group),
        readonly_rootfs: own.and_then(|own| own.read_only_root_filesystem) == Some(true),
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: supplemental_groups_policy(pod),
        no_new_privs: own.and_then(|own| own.allow_privilege_escalation) == Some(false),
        masked_paths: paths::masked(shown),
        readonly_paths: paths::read_only(shown),
        seccomp: Some(seccomp(pod, container, settings).map_err(config_error)?),
        ..Default::default()
    })
}

/// A profile that confines is not applied here.
pub(super) fn verify_no_apparmor(container: &Container) -> Result<(), String> {
    let context = container.security_context.as_ref();
    match context.and_then(|context| context.app_armor_profile.as_ref()) {
        Some(profile) if profile.type_ != "Unconfined" => {
            Err("Cannot enforce AppArmor: the agent hands no AppArmor profiles on".to_owned())
        }
        _ => Ok(()),
    }
}

/// Puts a container into the process namespace of another one, unless the pod shares one, or has the node's.
pub(super) fn see_processes_of(target: &str, context: &mut v1::LinuxContainerSecurityContext) {
    if let Some(options) = context.namespace_options.as_mut().filter(|o| o.pid() == v1::NamespaceMode::Container) {
        options.pid = v1::NamespaceMode::Target as i32;
        options.target_id = target.to_owned();
    }
}

/// Whether the image's user has to be known before the container can be made.
pub(super) fn needs_image_user(pod: &Pod, container: &Container) -> bool {
    let (user, group) = user_and_group(pod, container);
    user.is_none() && (group.is_some() || is_non_root(pod, container))
}

/// `runAsNonRoot`, in the kubelet's words: a container that would run as root, or as somebody whose number is not known,
/// is not made.
fn verify_non_root(pod: &Pod, container: &Container, image_user: &ImageUser) -> Result<(), String> {
    if !is_non_root(pod, container) {
        return Ok(());
    }
    let metadata = |value: &Option<String>| value.clone().unwrap_or_default();
    let (name, namespace) = (metadata(&pod.metadata.name), metadata(&pod.metadata.namespace));
    let of = format!("(pod: \"{name}_{namespace}({})\", container: {})", metadata(&pod.metadata.uid), container.name);
    match (user_and_group(pod, container).0, image_user.uid, image_user.name.as_str()) {
        (Some(0), _, _) => Err(format!("container's runAsUser breaks non-root policy {of}")),
        (Some(_), _, _) => Ok(()),
        // An image that names nobody runs as root.
        (None, Some(0), _) | (None, None, "") => {
            Err(format!("container has runAsNonRoot and image will run as root {of}"))
        }
        (None, Some(_), _) => Ok(()),
        (None, None, user) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {of}"
        )),
    }
}

fn is_non_root(pod: &Pod, container: &Container) -> bool {
    let own = container.security_context.as_ref().and_then(|own| own.run_as_non_root);
    own.or_else(|| pods(pod).and_then(|pods| pods.run_as_non_root)) == Some(true)
}

fn pods(pod: &Pod) -> Option<&PodSecurityContext> {
    pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref())
}

fn user_and_group(pod: &Pod, container: &Container) -> (Option<i64>, Option<i64>) {
    let own = container.security_context.as_ref();
    let pods = pods(pod);
    let user = own.and_then(|own| own.run_as_user).or_else(|| pods.and_then(|pods| pods.run_as_user));
    let group = own.and_then(|own| own.run_as_group).or_else(|| pods.and_then(|pods| pods.run_as_group));
    (user, group)
}

/// The group of the pod's volumes is one of every container's.
fn supplemental_groups(pod: &Pod) -> Vec<i64> {
    let context = pods(pod);
    let volumes = context.and_then(|context| context.fs_group);
    let more = context.and_then(|context| context.supplemental_groups.clone()).unwrap_or_default();
    volumes.into_iter().chain(more).collect()
}

fn supplemental_groups_policy(pod: &Pod) -> i32 {
    match pods(pod).and_then(|context| context.supplemental_groups_policy.as_deref()) {
        Some("Strict") => v1::SupplementalGroupsPolicy::Strict as i32,
        _ => v1::SupplementalGroupsPolicy::Merge as i32,
    }
}

fn selinux(options: &SELinuxOptions) -> v1::SeLinuxOption {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    v1::SeLinuxOption {
        user: text(&options.user),
        role: text(&options.role),
        r#type: text(&options.type_),
        level: text(&options.level),
    }
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context| context.privileged) == Some(true)
}

/// Whether the pod has users of its own, which must have been given to it.
pub(super) fn has_own_users(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false)
}

/// Shows what is mounted by the pod's own ids.
pub(super) fn map_ids(mounts: &mut [v1::Mount], users: Option<&v1::UserNamespace>) {
    // An image's content is shown by the runtime as it must be.
    for mount in mounts.iter_mut().filter(|mount| mount.image.is_none()) {
        mount.uid_mappings = users.map(|users| users.uids.clone()).unwrap_or_default();
        mount.gid_mappings = users.map(|users| users.gids.clone()).unwrap_or_default();
    }
}

/// The namespaces that a pod's containers share.
fn namespaces(pod: &Pod, users: Option<&v1::UserNamespace>) -> v1::NamespaceOption {
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
        userns_options: Some(match users {
            Some(users) => users.clone(),
            None => v1::UserNamespace { mode: v1::NamespaceMode::Node as i32, ..Default::default() },
        }),
        ..Default::default()
    }
}

/// The container's profile, else the pod's, else the node's default.
fn seccomp(pod: &Pod, container: &Container, settings: &Settings) -> Result<v1::SecurityProfile, String> {
    let own = container.security_context.as_ref().and_then(|own| own.seccomp_profile.as_ref());
    let Some(wanted) = own.or_else(|| pods(pod).and_then(|pods| pods.seccomp_profile.as_ref())) else {
        let default = settings.seccomp_default && !is_privileged(container);
        return Ok(profile(if default { ProfileType::RuntimeDefault } else { ProfileType::Unconfined }));
    };
    match (wanted.type_.as_str(), wanted.localhost_profile.as_deref()) {
        ("Localhost", Some(name)) if !name.is_empty() => Ok(v1::SecurityProfile {
            profile_type: ProfileType::Localhost as i32,
            localhost_ref: settings.seccomp_profiles.join(name).to_string_lossy().into_owned(),
        }),
        ("Localhost", _) => Err("localhostProfile must be set if seccompProfile type is Localhost.".into()),
        ("RuntimeDefault", _) => Ok(profile(ProfileType::RuntimeDefault)),
        _ => Ok(profile(ProfileType::Unconfined)),
    }
}

fn profile(kind: ProfileType) -> v1::SecurityProfile {
    v1::SecurityProfile { profile_type: kind as i32, localhost_ref: String::new() }
}

fn int(value: Option<i64>) -> Option<v1::Int64Value> {
    value.map(|value| v1::Int64Value { value })
}
