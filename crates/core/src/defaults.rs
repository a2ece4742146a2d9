//! The defaults that Kubernetes' API server writes into a Pod that is silent.
//!
//! Source: `pkg/apis/core/v1/defaults.go` of Kubernetes 1.36, for the fields that podd knows.

mod probes;

use k8s_openapi::{
    api::core::v1::{
        Container, DownwardAPIVolumeFile, EmptyDirVolumeSource, ObjectFieldSelector, Pod, PodSecurityContext, PodSpec,
        ResourceFieldSelector, Volume,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{
    pod::{as_container, of_container},
    qos,
    quantity::Quantity as Amount,
};

/// The grace that a pod gets when its manifest is silent, in seconds.
pub const GRACE_SECONDS: i64 = 30;

/// The mode of files in a volume.
const FILE_MODE: i32 = 0o644;

/// Fills in what the manifest of a Pod left out.
pub fn pod(pod: &mut Pod) {
    if let Some(spec) = &mut pod.spec {
        pod_spec(spec);
    }
}

/// Fills in what a pod template or a Pod's `spec` left out.
pub fn pod_spec(spec: &mut PodSpec) {
    let host_network = spec.host_network == Some(true);
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        container_defaults(container, host_network);
    }
    requests_of_pod(spec);
    for ephemeral in spec.ephemeral_containers.iter_mut().flatten() {
        let mut container = as_container(ephemeral);
        container_defaults(&mut container, host_network);
        *ephemeral = of_container(container, ephemeral.target_container_name.take());
    }
    for volume in spec.volumes.iter_mut().flatten() {
        if volume_has_no_source(volume) {
            volume.empty_dir = Some(EmptyDirVolumeSource::default());
        }
        if let Some(host_path) = &mut volume.host_path {
            host_path.type_.get_or_insert_default();
        }
        if let Some(image) = &mut volume.image {
            set(&mut image.pull_policy, pull_policy(image.reference.as_deref().unwrap_or("")));
        }
        if let Some(template) = volume.ephemeral.as_mut().and_then(|source| source.volume_claim_template.as_mut()) {
            set(&mut template.spec.volume_mode, "Filesystem");
        }
        volume_of_data(volume);
    }
    set(&mut spec.restart_policy, "Always");
    set(&mut spec.dns_policy, "ClusterFirst");
    set(&mut spec.scheduler_name, "default-scheduler");
    spec.termination_grace_period_seconds.get_or_insert(GRACE_SECONDS);
    spec.enable_service_links.get_or_insert(true);
    spec.security_context.get_or_insert_with(PodSecurityContext::default);
}

fn container_defaults(container: &mut Container, host_network: bool) {
    let image = container.image.as_deref().unwrap_or("");
    set(&mut container.image_pull_policy, pull_policy(image));
    set(&mut container.termination_message_path, "/dev/termination-log");
    set(&mut container.termination_message_policy, "File");
    probes::container(container);
    for port in container.ports.iter_mut().flatten() {
        set(&mut port.protocol, "TCP");
        if host_network && port.host_port.is_none_or(|p| p == 0) {
            port.host_port = Some(port.container_port);
        }
    }
    for from in container.env.iter_mut().flatten().filter_map(|variable| variable.value_from.as_mut()) {
        from.field_ref.iter_mut().for_each(field_selector);
        from.resource_field_ref.iter_mut().for_each(resource_selector);
        if let Some(selector) = &mut from.file_key_ref {
            selector.optional.get_or_insert(false);
        }
    }
    let resources = container.resources.get_or_insert_default();
    if let Some(limits) = &resources.limits {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
}

/// A pod that has limits for itself and is silent of its requests asks for what its containers ask for, else for its limits.
fn requests_of_pod(spec: &mut PodSpec) {
    let Some(limits) = spec.resources.as_ref().and_then(|own| own.limits.clone()).filter(|limits| !limits.is_empty())
    else {
        return;
    };
    let asked = qos::OF_PODS.map(|name| (name, qos::containers_request(spec, name)));
    let requests = spec.resources.get_or_insert_default().requests.get_or_insert_default();
    for (name, amount) in asked.into_iter().filter(|(_, amount)| *amount != Amount::ZERO) {
        let text = if name == "memory" { amount.binary() } else { amount.to_string() };
        requests.entry(name.to_owned()).or_insert(Quantity(text));
    }
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
}

/// `Always` for an image whose tag is `latest` or missing, else `IfNotPresent`.
#[must_use]
pub fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or(image);
    let by_digest = image.contains('@');
    let tag = name.split_once('@').map_or(name, |(n, _)| n).split_once(':').map(|(_, tag)| tag);
    match tag {
        _ if by_digest => "IfNotPresent",
        None | Some("latest" | "") => "Always",
        Some(_) => "IfNotPresent",
    }
}

/// Modes, and versions of what is referred to.
fn volume_of_data(volume: &mut Volume) {
    let items = |items: &mut Option<Vec<DownwardAPIVolumeFile>>| {
        for item in items.iter_mut().flatten() {
            item.field_ref.iter_mut().for_each(field_selector);
            item.resource_field_ref.iter_mut().for_each(resource_selector);
        }
    };
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(FILE_MODE);
        items(&mut source.items);
    }
    if let Some(source) = &mut volume.projected {
        source.default_mode.get_or_insert(FILE_MODE);
        for source in source.sources.iter_mut().flatten().filter_map(|source| source.downward_api.as_mut()) {
            items(&mut source.items);
        }
    }
}

fn field_selector(selector: &mut ObjectFieldSelector) {
    set(&mut selector.api_version, "v1");
}

fn resource_selector(selector: &mut ResourceFieldSelector) {
    selector.divisor.get_or_insert_with(|| Quantity("0".into()));
}

/// A volume that names no source is an emptyDir.
fn volume_has_no_source(volume: &k8s_openapi::api::core::v1::Volume) -> bool {
    let bare = k8s_openapi::api::core::v1::Volume { name: volume.name.clone(), ..Default::default() };
    *volume == bare
}

fn set(field: &mut Option<String>, default: &str) {
    if field.as_deref().is_none_or(str::is_empty) {
        *field = Some(default.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        let table = [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.25", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/a/nginx:2", "IfNotPresent"),
            ("nginx@sha256:aa", "IfNotPresent"),
            ("nginx:latest@sha256:aa", "IfNotPresent"),
        ];
        for (image, policy) in table {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn a_limited_pod_asks_for_what_its_containers_ask_for_else_for_its_limits() {
        let table = [
            (json!({"limits": {"cpu": "2", "memory": "1Gi"}}), json!({"cpu": "1500m", "memory": "1Gi"})),
            (json!({"limits": {"memory": "1Gi"}}), json!({"cpu": "1500m", "memory": "1Gi"})),
            (json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1600m"}}), json!({"cpu": "1600m"})),
            (json!({"requests": {"memory": "1Gi"}}), json!({"memory": "1Gi"})),
        ];
        for (own, want) in table {
            let mut asked: Pod = serde_json::from_value(json!({"spec": {"resources": own, "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "1"}}}, {"name": "b", "resources": {"limits": {"cpu": "500m"}}}]}}))
            .unwrap();
            pod(&mut asked);
            assert_eq!(json!(asked.spec.unwrap().resources.unwrap().requests), want, "{own}");
        }
    }

    #[test]
    fn a_bare_pod_gets_what_kubernetes_would_write() {
        let mut bare: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {
                "hostNetwork": true,
                "containers": [{"name": "c", "image": "i:1", "ports": [{"containerPort": 80}],
                    "resources": {"limits": {"cpu": "1", "memory": "1Mi"}, "requests": {"cpu": "500m"}}}],
                "volumes": [{"name": "v"}, {"name": "h", "hostPath": {"path": "/x"}}]
            }
        }))
        .unwrap();
        pod(&mut bare);
        let spec = serde_json::to_value(bare.spec.unwrap()).unwrap();
        assert_eq!(
            spec,
            json!({
                "hostNetwork": true, "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
                "schedulerName": "default-scheduler", "terminationGracePeriodSeconds": 30,
                "enableServiceLinks": true, "securityContext": {},
                "containers": [{"name": "c", "image": "i:1", "imagePullPolicy": "IfNotPresent",
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "1", "memory": "1Mi"}, "requests": {"cpu": "500m", "memory": "1Mi"}}}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/x", "type": ""}}]
            })
        );
    }
}
