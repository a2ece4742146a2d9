//! Security contexts of pods and containers, which of the node's namespaces a pod may share, and its operating system.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext, Sysctl,
};

use super::{one_of, volume};
use crate::field::FieldError;
use crate::sysctl::{self, Namespace};

/// The largest user or group id that Kubernetes takes.
const ID_MAX: i64 = i32::MAX as i64;
/// What a profile of a container may be.
const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
/// The longest name of an AppArmor profile.
const APPARMOR_MAX: usize = 4095;

/// The pod's own context, and its namespaces.
pub(super) fn pod(spec: &PodSpec, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(context) = &spec.security_context {
        pod_context(context, spec, &format!("{path}.securityContext"), errors);
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        errors.push(FieldError::invalid(
            format!("{path}.shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        ));
    }
    if let Some(os) = &spec.os {
        one_of(&os.name, &["linux", "windows"], &format!("{path}.os.name"), errors);
    }
    if spec.host_users == Some(false) {
        own_users(spec, path, errors);
    }
}

/// The context of a container of this pod.
pub(super) fn container(container: &Container, spec: &PodSpec, path: &str, errors: &mut Vec<FieldError>) {
    let Some(context) = &container.security_context else { return };
    let path = &format!("{path}.securityContext");
    ids(&[("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)], path, errors);
    seccomp(context.seccomp_profile.as_ref(), path, errors);
    apparmor(context.app_armor_profile.as_ref(), path, errors);
    if let Some(mount) = &context.proc_mount {
        let path = format!("{path}.procMount");
        one_of(mount, &["Default", "Unmasked"], &path, errors);
        if mount == "Unmasked" && spec.host_users != Some(false) {
            errors.push(FieldError::invalid(path, mount.as_str(), "`hostUsers` must be false to use `Unmasked`"));
        }
    }
    escalation(context, path, errors);
}

fn pod_context(context: &PodSecurityContext, spec: &PodSpec, path: &str, errors: &mut Vec<FieldError>) {
    ids(&[("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)], path, errors);
    for (n, group) in context.supplemental_groups.iter().flatten().enumerate() {
        ids(&[(&format!("supplementalGroups[{n}]"), Some(*group))], path, errors);
    }
    volume::group(context, path, errors);
    if let Some(policy) = &context.supplemental_groups_policy {
        one_of(policy, &["Merge", "Strict"], &format!("{path}.supplementalGroupsPolicy"), errors);
    }
    if let Some(policy) = &context.se_linux_change_policy {
        one_of(policy, &["MountOption", "Recursive"], &format!("{path}.seLinuxChangePolicy"), errors);
    }
    seccomp(context.seccomp_profile.as_ref(), path, errors);
    apparmor(context.app_armor_profile.as_ref(), path, errors);
    sysctls(context.sysctls.as_deref().unwrap_or_default(), spec, &format!("{path}.sysctls"), errors);
}

fn sysctls(wanted: &[Sysctl], spec: &PodSpec, path: &str, errors: &mut Vec<FieldError>) {
    let mut seen = std::collections::HashSet::new();
    for (n, Sysctl { name, .. }) in wanted.iter().enumerate() {
        let path = format!("{path}[{n}].name");
        if name.is_empty() {
            errors.push(FieldError::required(path, ""));
            continue;
        }
        if !sysctl::is_name(name) {
            errors.push(FieldError::invalid(path.clone(), name.as_str(), sysctl::RULE));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(path.clone(), name.as_str()));
        }
        let shared = match sysctl::namespace(name) {
            Some(Namespace::Net) if spec.host_network == Some(true) => "hostNetwork",
            Some(Namespace::Ipc) if spec.host_ipc == Some(true) => "hostIPC",
            _ => continue,
        };
        let detail = format!("may not be specified when '{shared}' is true");
        errors.push(FieldError::invalid(path, name.as_str(), detail));
    }
}

/// A pod with users of its own shares nothing else with the node.
fn own_users(spec: &PodSpec, path: &str, errors: &mut Vec<FieldError>) {
    const WHEN: &str = "when `hostUsers` is false";
    let shared = [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)];
    for (name, _) in shared.into_iter().filter(|(_, asked)| *asked == Some(true)) {
        errors.push(FieldError::forbidden(format!("{path}.{name}"), WHEN));
    }
    let lists =
        [("containers", &spec.containers[..]), ("initContainers", spec.init_containers.as_deref().unwrap_or_default())];
    for (list, containers) in lists {
        for (n, one) in containers.iter().enumerate() {
            if one.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()) {
                errors.push(FieldError::forbidden(format!("{path}.{list}[{n}].volumeDevices"), WHEN));
            }
        }
    }
}

fn seccomp(profile: Option<&SeccompProfile>, path: &str, errors: &mut Vec<FieldError>) {
    let Some(profile) = profile else { return };
    let path = format!("{path}.seccompProfile");
    profile_type(&profile.type_, &path, "type is required when seccompProfile is set", errors);
    let path = format!("{path}.localhostProfile");
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => {
            errors.push(FieldError::required(path, "must be set when seccomp type is Localhost"));
        }
        ("Localhost", Some(file)) if file.starts_with('/') => {
            errors.push(FieldError::invalid(path, file.as_str(), "must be a relative path"));
        }
        ("Localhost", Some(file)) if file.split('/').any(|part| part == "..") => {
            errors.push(FieldError::invalid(path, file.as_str(), "must not contain '..'"));
        }
        ("Localhost", Some(_)) | (_, None) => {}
        (_, Some(file)) => {
            let detail = "can only be set when seccomp type is Localhost";
            errors.push(FieldError::invalid(path, file.as_str(), detail));
        }
    }
}

fn apparmor(profile: Option<&AppArmorProfile>, path: &str, errors: &mut Vec<FieldError>) {
    let Some(profile) = profile else { return };
    let path = format!("{path}.appArmorProfile");
    profile_type(&profile.type_, &path, "type is required when appArmorProfile is set", errors);
    let path = format!("{path}.localhostProfile");
    const MISSING: &str = "must be set when AppArmor type is Localhost";
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => errors.push(FieldError::required(path, MISSING)),
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                errors.push(FieldError::invalid(path.clone(), name.as_str(), "must not be padded with whitespace"));
            } else if name.is_empty() {
                errors.push(FieldError::required(path.clone(), MISSING));
            }
            if name.len() > APPARMOR_MAX {
                errors.push(FieldError::too_long(path, APPARMOR_MAX));
            }
        }
        (_, None) => {}
        (_, Some(name)) => {
            let detail = "can only be set when AppArmor type is Localhost";
            errors.push(FieldError::invalid(path, name.as_str(), detail));
        }
    }
}

fn profile_type(kind: &str, path: &str, missing: &str, errors: &mut Vec<FieldError>) {
    let path = format!("{path}.type");
    if kind.is_empty() {
        errors.push(FieldError::required(path, missing));
    } else if !PROFILES.contains(&kind) {
        errors.push(FieldError::not_supported(path, kind, PROFILES));
    }
}

fn escalation(context: &SecurityContext, path: &str, errors: &mut Vec<FieldError>) {
    if context.allow_privilege_escalation != Some(false) {
        return;
    }
    let text = || serde_json::to_value(context).unwrap_or_default();
    if context.privileged == Some(true) {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.push(FieldError::invalid(path, text(), detail));
    }
    let added = context.capabilities.as_ref().and_then(|capabilities| capabilities.add.as_ref());
    if added.is_some_and(|added| added.iter().any(|name| name == "CAP_SYS_ADMIN")) {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
        errors.push(FieldError::invalid(path, text(), detail));
    }
}

fn ids(ids: &[(&str, Option<i64>)], path: &str, errors: &mut Vec<FieldError>) {
    for (name, id) in ids {
        if let Some(id) = id.filter(|id| !(0..=ID_MAX).contains(id)) {
            let detail = "must be between 0 and 2147483647, inclusive";
            errors.push(FieldError::invalid(format!("{path}.{name}"), id, detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn objections(spec: Value) -> Vec<String> {
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let mut errors = Vec::new();
        pod(&spec, "spec", &mut errors);
        for (n, one) in spec.containers.iter().enumerate() {
            container(one, &spec, &format!("spec.containers[{n}]"), &mut errors);
        }
        errors.iter().map(ToString::to_string).collect()
    }

    fn of_pod(context: Value) -> Value {
        json!({"containers": [], "securityContext": context})
    }

    fn of_container(context: Value) -> Value {
        json!({"containers": [{"name": "c", "securityContext": context}]})
    }

    #[test]
    fn each_mistake_is_told_in_kubernetes_words() {
        let sysctls = |name: &str| json!([{"name": name, "value": "1"}]);
        let table = [
            (
                of_pod(json!({"supplementalGroups": [1, -1]})),
                "spec.securityContext.supplementalGroups[1]: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            ),
            (
                of_pod(json!({"supplementalGroupsPolicy": "None"})),
                "spec.securityContext.supplementalGroupsPolicy: Unsupported value: \"None\": supported values: \"Merge\", \"Strict\"",
            ),
            (
                of_pod(json!({"seccompProfile": {"type": ""}})),
                "spec.securityContext.seccompProfile.type: Required value: type is required when seccompProfile is set",
            ),
            (
                of_container(json!({"seccompProfile": {"type": "None"}})),
                "spec.containers[0].securityContext.seccompProfile.type: Unsupported value: \"None\": supported values: \"Localhost\", \"RuntimeDefault\", \"Unconfined\"",
            ),
            (
                of_pod(json!({"seccompProfile": {"type": "Localhost"}})),
                "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
            ),
            (
                of_pod(json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "/x"}})),
                "spec.securityContext.seccompProfile.localhostProfile: Invalid value: \"/x\": must be a relative path",
            ),
            (
                of_pod(json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "a/../../x"}})),
                "spec.securityContext.seccompProfile.localhostProfile: Invalid value: \"a/../../x\": must not contain '..'",
            ),
            (
                of_pod(json!({"seccompProfile": {"type": "Unconfined", "localhostProfile": "x"}})),
                "spec.securityContext.seccompProfile.localhostProfile: Invalid value: \"x\": can only be set when seccomp type is Localhost",
            ),
            (
                of_pod(json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": " x"}})),
                "spec.securityContext.appArmorProfile.localhostProfile: Invalid value: \" x\": must not be padded with whitespace",
            ),
            (
                of_container(json!({"appArmorProfile": {"type": "RuntimeDefault", "localhostProfile": "x"}})),
                "spec.containers[0].securityContext.appArmorProfile.localhostProfile: Invalid value: \"x\": can only be set when AppArmor type is Localhost",
            ),
            (
                of_container(json!({"procMount": "Unmasked"})),
                "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
            ),
            (
                of_container(json!({"procMount": "None"})),
                "spec.containers[0].securityContext.procMount: Unsupported value: \"None\": supported values: \"Default\", \"Unmasked\"",
            ),
            (of_pod(json!({"sysctls": sysctls("")})), "spec.securityContext.sysctls[0].name: Required value"),
            (
                of_pod(json!({"sysctls": sysctls("net..x")})),
                "spec.securityContext.sysctls[0].name: Invalid value: \"net..x\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            ),
            (
                json!({"containers": [], "hostNetwork": true,
                    "securityContext": {"sysctls": sysctls("net/ipv4/tcp_syncookies")}}),
                "spec.securityContext.sysctls[0].name: Invalid value: \"net/ipv4/tcp_syncookies\": may not be specified when 'hostNetwork' is true",
            ),
            (
                json!({"containers": [], "hostIPC": true, "securityContext": {"sysctls": sysctls("kernel.shm_rmid_forced")}}),
                "spec.securityContext.sysctls[0].name: Invalid value: \"kernel.shm_rmid_forced\": may not be specified when 'hostIPC' is true",
            ),
            (
                json!({"containers": [], "hostUsers": false, "hostPID": true}),
                "spec.hostPID: Forbidden: when `hostUsers` is false",
            ),
            (
                json!({"containers": [], "os": {"name": "plan9"}}),
                "spec.os.name: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\"",
            ),
            (
                json!({"containers": [], "hostPID": true, "shareProcessNamespace": true}),
                "spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
            ),
        ];
        for (spec, want) in table {
            assert_eq!(objections(spec.clone()), [want], "{spec}");
        }
        let twice = json!([{"name": "kernel.msgmax", "value": "1"}, {"name": "kernel.msgmax", "value": "2"}]);
        let want = "spec.securityContext.sysctls[1].name: Duplicate value: \"kernel.msgmax\"";
        assert_eq!(objections(of_pod(json!({"sysctls": twice}))), [want]);
    }

    #[test]
    fn what_makes_sense_is_not_objected_to() {
        let context = json!({"supplementalGroups": [0, 5], "supplementalGroupsPolicy": "Strict",
            "seccompProfile": {"type": "Localhost", "localhostProfile": "a/b..json"}, "runAsNonRoot": true,
            "appArmorProfile": {"type": "Unconfined"}, "sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]});
        let container = json!({"name": "c", "securityContext": {"procMount": "Unmasked"}});
        let spec = json!({"hostUsers": false, "containers": [container], "securityContext": context});
        assert_eq!(objections(spec), [""; 0]);
    }
}
