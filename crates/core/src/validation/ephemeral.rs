//! Ephemeral containers: what they may not have, and that they are only ever added.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{EphemeralContainer, Pod, PodSpec};

use super::{container, data, lifecycle, probes, security};
use crate::field::FieldError;
use crate::pod::as_container;

const NOT_HERE: &str = "cannot be set for an Ephemeral Container";

/// The ephemeral containers of the spec at `path`.
pub(super) fn of_spec(spec: &PodSpec, path: &str, volumes: &HashSet<&str>, errors: &mut Vec<FieldError>) {
    let others: HashSet<&str> =
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| c.name.as_str()).collect();
    let mut names = others.clone();
    for (n, one) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = format!("{path}.ephemeralContainers[{n}]");
        let plain = as_container(one);
        container::container(&plain, &path, volumes, spec.host_network == Some(true), errors);
        data::environment(&plain, &path, spec.volumes.as_deref().unwrap_or_default(), errors);
        probes::container(&plain, false, &path, errors);
        security::container(&plain, spec, &path, errors);
        lifecycle::ends(&plain, spec, &path, errors);
        if !one.name.is_empty() && !names.insert(&one.name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), one.name.as_str()));
        }
        let target = one.target_container_name.as_deref().unwrap_or_default();
        if !target.is_empty() && !others.contains(target) {
            errors.push(FieldError::not_found(format!("{path}.targetContainerName"), target));
        }
        forbidden(one, &path, errors);
    }
}

/// Whatever others of the pod could rely on.
fn forbidden(one: &EphemeralContainer, path: &str, errors: &mut Vec<FieldError>) {
    let resources = one.resources.as_ref().is_some_and(|r| *r != Default::default());
    let fields = [
        ("ports", one.ports.as_ref().is_some_and(|ports| !ports.is_empty())),
        ("resources", resources),
        ("resizePolicy", one.resize_policy.as_ref().is_some_and(|policy| !policy.is_empty())),
        ("restartPolicy", one.restart_policy.is_some()),
        ("restartPolicyRules", one.restart_policy_rules.as_ref().is_some_and(|rules| !rules.is_empty())),
        ("livenessProbe", one.liveness_probe.is_some()),
        ("readinessProbe", one.readiness_probe.is_some()),
        ("startupProbe", one.startup_probe.is_some()),
        ("lifecycle", one.lifecycle.is_some()),
    ];
    for (name, _) in fields.into_iter().filter(|(_, set)| *set) {
        errors.push(FieldError::forbidden(format!("{path}.{name}"), NOT_HERE));
    }
    for (n, mount) in one.volume_mounts.iter().flatten().enumerate() {
        for (name, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if value.as_deref().is_some_and(|path| !path.is_empty()) {
                errors.push(FieldError::forbidden(format!("{path}.volumeMounts[{n}].{name}"), NOT_HERE));
            }
        }
    }
}

/// A new pod has none.
pub(super) fn on_create(spec: &PodSpec, path: &str, errors: &mut Vec<FieldError>) {
    if spec.ephemeral_containers.as_ref().is_some_and(|all| !all.is_empty()) {
        errors.push(FieldError::forbidden(format!("{path}.ephemeralContainers"), "cannot be set on create"));
    }
}

/// Everything wrong with the ephemeral containers of `new`, in place of those of `old`: what is there stays as it is. The
/// order of the list does not matter.
#[must_use]
pub fn ephemeral_update(new: &Pod, old: &Pod) -> Vec<FieldError> {
    let mut errors = super::pod(new);
    if old.metadata.annotations.as_ref().is_some_and(|a| a.contains_key("kubernetes.io/config.mirror")) {
        return vec![FieldError::forbidden("", "static pods do not support ephemeral containers")];
    }
    let all = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.clone()).unwrap_or_default();
    let now = all(new);
    for old in all(old) {
        let what = match now.iter().find(|new| new.name == old.name) {
            None => "removed",
            Some(new) if *new != old => "changed",
            Some(_) => continue,
        };
        let detail = format!("existing ephemeral containers \"{}\" may not be {what}", old.name);
        errors.push(FieldError::forbidden("spec.ephemeralContainers", detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(ephemeral: Value) -> Pod {
        let spec = json!({
            "containers": [{"name": "main", "image": "i"}], "initContainers": [{"name": "init", "image": "i"}],
            "ephemeralContainers": ephemeral, "volumes": [{"name": "v", "emptyDir": {}}],
        });
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).unwrap()
    }

    fn with(more: Value) -> Value {
        let mut one = json!({"name": "e", "image": "i"});
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([one])
    }

    #[test]
    fn an_ephemeral_container_has_nothing_that_others_rely_on() {
        let probe = json!({"exec": {"command": ["x"]}});
        let mount = |more: Value| {
            let mut mount = json!({"name": "v", "mountPath": "/v"});
            mount.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"volumeMounts": [mount]})
        };
        let forbidden = |field: &str| Some(format!("spec.ephemeralContainers[0].{field}: Forbidden: {NOT_HERE}"));
        let table = [
            (json!({"targetContainerName": "main", "stdin": true, "tty": true, "resources": {}}), None),
            (json!({"targetContainerName": "init"}), None),
            (
                json!({"targetContainerName": "e"}),
                Some("spec.ephemeralContainers[0].targetContainerName: Not found: \"e\"".into()),
            ),
            (json!({"name": "main"}), Some("spec.ephemeralContainers[0].name: Duplicate value: \"main\"".into())),
            (json!({"name": "init"}), Some("spec.ephemeralContainers[0].name: Duplicate value: \"init\"".into())),
            (json!({"image": ""}), Some("spec.ephemeralContainers[0].image: Required value".into())),
            (json!({"ports": [{"containerPort": 80}]}), forbidden("ports")),
            (json!({"resources": {"limits": {"cpu": "1"}}}), forbidden("resources")),
            (json!({"livenessProbe": probe}), forbidden("livenessProbe")),
            (json!({"readinessProbe": probe}), forbidden("readinessProbe")),
            (json!({"startupProbe": probe}), forbidden("startupProbe")),
            (json!({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}), forbidden("lifecycle")),
            (json!({"restartPolicy": "Always"}), forbidden("restartPolicy")),
            (mount(json!({})), None),
            (mount(json!({"subPath": "a"})), forbidden("volumeMounts[0].subPath")),
            (mount(json!({"subPathExpr": "a"})), forbidden("volumeMounts[0].subPathExpr")),
        ];
        for (more, want) in table {
            let found: Vec<String> =
                super::super::pod(&pod(with(more.clone()))).iter().map(ToString::to_string).collect();
            assert_eq!(found, want.into_iter().collect::<Vec<_>>(), "{more}");
        }
    }

    #[test]
    fn ephemeral_containers_are_only_ever_added() {
        let one = |name: &str, image: &str| json!({"name": name, "image": image});
        let update = |old: Value, new: Value| {
            ephemeral_update(&pod(new), &pod(old)).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        assert_eq!(update(json!([]), json!([one("a", "i")])), none);
        assert_eq!(update(json!([one("a", "i")]), json!([one("b", "i"), one("a", "i")])), none);
        let at = "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"a\" may not be";
        assert_eq!(update(json!([one("a", "i")]), json!([])), [format!("{at} removed")]);
        assert_eq!(update(json!([one("a", "i")]), json!([one("a", "j")])), [format!("{at} changed")]);
    }

    #[test]
    fn a_pod_is_not_created_with_ephemeral_containers() {
        let told = |pod: &Pod| crate::validation::pod_create(pod).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(told(&pod(with(json!({})))), ["spec.ephemeralContainers: Forbidden: cannot be set on create"]);
        assert!(told(&pod(json!([]))).is_empty());
    }
}
