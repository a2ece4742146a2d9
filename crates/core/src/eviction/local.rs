//! Limits of local storage: what a pod's containers write and log, and what its emptyDirs hold, against its limits. They
//! are no quotas; a pod that is found beyond one is ended.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;

use crate::{qos, quantity::Quantity};

/// What a pod holds on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalUsage {
    /// Bytes of writable layer and logs, by container.
    pub containers: BTreeMap<String, u64>,
    /// What emptyDirs hold, by volume.
    pub volumes: BTreeMap<String, VolumeUsage>,
}

/// What one emptyDir holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeUsage {
    /// How much.
    pub bytes: u64,
    /// It is memory: no part of the pod's disk.
    pub in_memory: bool,
}

/// Whether a pod has any limit that [`over_limit`] looks at; others need not be measured.
#[must_use]
pub fn has_limits(pod: &Pod) -> bool {
    let sizes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let sized = |volume: &k8s_openapi::api::core::v1::Volume| {
        volume.empty_dir.as_ref().is_some_and(|dir| dir.size_limit.is_some() && dir.medium.as_deref() != Some("Memory"))
    };
    sizes.into_iter().any(sized) || containers(pod).any(|container| limit(container).is_some())
}

/// The kubelet's words for the limit that a pod is beyond, if it is beyond one: first its volumes' in their order, then
/// its own, then its containers'.
#[must_use]
pub fn over_limit(pod: &Pod, usage: &LocalUsage) -> Option<String> {
    volume(pod, usage).or_else(|| whole(pod, usage)).or_else(|| container(pod, usage))
}

fn volume(pod: &Pod, usage: &LocalUsage) -> Option<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.into_iter().find_map(|volume| {
        let raw = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
        let limit = Quantity::parse(&raw.0).ok().filter(|limit| *limit > Quantity::ZERO)?;
        let used = usage.volumes.get(&volume.name)?;
        let name = &volume.name;
        (bytes(used.bytes) > limit)
            .then(|| format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{}\". ", raw.0))
    })
}

fn whole(pod: &Pod, usage: &LocalUsage) -> Option<String> {
    let limits: Vec<&RawQuantity> = containers(pod).filter_map(limit).collect();
    let total = qos::pod_limit(pod, "ephemeral-storage").filter(|_| !limits.is_empty())?;
    let volumes = usage.volumes.values().filter(|volume| !volume.in_memory).map(|volume| volume.bytes);
    let used: u64 = usage.containers.values().copied().chain(volumes).sum();
    // One limit is told as it was written; what was added up is written anew.
    let told = match limits[..] {
        [one] => one.0.clone(),
        _ => total.binary(),
    };
    (bytes(used) > total)
        .then(|| format!("Pod ephemeral local storage usage exceeds the total limit of containers {told}. "))
}

fn container(pod: &Pod, usage: &LocalUsage) -> Option<String> {
    pod.spec.iter().flat_map(|spec| &spec.containers).find_map(|container| {
        let raw = limit(container)?;
        let limit = Quantity::parse(&raw.0).ok().filter(|limit| *limit > Quantity::ZERO)?;
        let used = usage.containers.get(&container.name)?;
        let name = &container.name;
        (bytes(*used) > limit)
            .then(|| format!("Container {name} exceeded its local ephemeral storage limit \"{}\". ", raw.0))
    })
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(qos::containers)
}

fn limit(container: &Container) -> Option<&RawQuantity> {
    container.resources.as_ref()?.limits.as_ref()?.get("ephemeral-storage")
}

fn bytes(bytes: u64) -> Quantity {
    Quantity::of(i64::try_from(bytes).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(limits: &[Option<&str>], volumes: Value) -> Pod {
        let container = |(n, limit): (usize, &Option<&str>)| match limit {
            Some(limit) => json!({"name": format!("c{n}"), "resources": {"limits": {"ephemeral-storage": limit}}}),
            None => json!({"name": format!("c{n}")}),
        };
        let containers: Vec<Value> = limits.iter().enumerate().map(container).collect();
        serde_json::from_value(json!({"spec": {"containers": containers, "volumes": volumes}})).expect("a pod")
    }

    fn usage(containers: &[u64], volumes: &[(&str, u64)]) -> LocalUsage {
        let volume = |(name, bytes): &(&str, u64)| {
            ((*name).to_owned(), VolumeUsage { bytes: *bytes, in_memory: *name == "memory" })
        };
        LocalUsage {
            containers: containers.iter().enumerate().map(|(n, bytes)| (format!("c{n}"), *bytes)).collect(),
            volumes: volumes.iter().map(volume).collect(),
        }
    }

    #[test]
    fn what_is_beyond_its_limit_is_named_in_the_kubelets_words() {
        let volumes = json!([{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "w", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}}]);
        let mib = 1 << 20;
        let one = [Some("2Mi"), Some("4Mi")];
        let table = [
            (&one[..], usage(&[mib, mib], &[("v", mib), ("w", mib), ("memory", 7 * mib)]), ""),
            (&one[..], usage(&[0, 0], &[("v", mib + 1)]), "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "),
            (
                &one[..],
                usage(&[mib, 4 * mib], &[("w", mib + 1)]),
                "Pod ephemeral local storage usage exceeds the total limit of containers 6Mi. ",
            ),
            (
                &one[..],
                usage(&[2 * mib + 1, 0], &[]),
                "Container c0 exceeded its local ephemeral storage limit \"2Mi\". ",
            ),
            (
                &[Some("2M"), None],
                usage(&[1, 2_000_000], &[]),
                "Pod ephemeral local storage usage exceeds the total limit of containers 2M. ",
            ),
            (&[None], usage(&[1 << 40], &[("w", 1 << 40)]), ""),
        ];
        for (limits, usage, expected) in table {
            assert_eq!(over_limit(&pod(limits, volumes.clone()), &usage).unwrap_or_default(), expected, "{usage:?}");
        }
    }

    #[test]
    fn pods_without_limits_need_not_be_measured() {
        assert!(!has_limits(&pod(&[None], json!([{"name": "v", "emptyDir": {}}]))));
        let memory = json!([{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]);
        assert!(!has_limits(&pod(&[None], memory)), "the kernel holds it");
        assert!(has_limits(&pod(&[None], json!([{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]))));
        assert!(has_limits(&pod(&[None, Some("1Mi")], json!([]))));
    }

    #[test]
    fn amounts_are_written_with_the_largest_suffix_that_fits() {
        for (bytes, text) in [(0, "0"), (1, "1"), (1024, "1Ki"), (6 << 20, "6Mi"), (1025, "1025"), (1 << 60, "1Ei")] {
            assert_eq!(Quantity::of(bytes).binary(), text);
        }
    }
}
