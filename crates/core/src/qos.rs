//! Quality of service: the class of a pod, and the numbers that the kubelet derives from requests
//! and limits (cgroup shares and quotas, `oom_score_adj`).
//!
//! Sources: `pkg/apis/core/v1/helper/qos`, `pkg/kubelet/cm/helpers_linux.go`,
//! `pkg/kubelet/qos/policy.go` of Kubernetes 1.36.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;

use crate::classes::{NODE_CRITICAL, is_critical};
use crate::pod::is_sidecar;
use crate::quantity::Quantity;

/// The scheduling period of CPU quotas, in microseconds.
pub const CPU_PERIOD: i64 = 100_000;
/// The least CPU quota the kernel takes, in microseconds.
const CPU_QUOTA_MIN: i64 = 1_000;
/// The least CPU shares.
pub const CPU_SHARES_MIN: i64 = 2;
/// The most CPU shares.
pub const CPU_SHARES_MAX: i64 = 262_144;

/// What a pod may say for itself.
pub const OF_PODS: [&str; 2] = ["cpu", "memory"];

/// The class of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Every container has limits for cpu and memory, equal to its requests; or the pod as a whole, where it says them.
    Guaranteed,
    /// Some container asks for something.
    Burstable,
    /// No container asks for anything.
    BestEffort,
}

impl Class {
    /// As in `status.qosClass`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Class::Guaranteed => "Guaranteed",
            Class::Burstable => "Burstable",
            Class::BestEffort => "BestEffort",
        }
    }
}

/// What a container or a pod may use, in the cgroup's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CgroupNumbers {
    /// `cpu.shares`.
    pub cpu_shares: i64,
    /// `cpu.cfs_quota_us` for a period of [`CPU_PERIOD`]; none is unlimited.
    pub cpu_quota: Option<i64>,
    /// `memory.limit_in_bytes`; none is unlimited.
    pub memory: Option<i64>,
}

/// The class of a pod.
#[must_use]
pub fn class(pod: &Pod) -> Class {
    let Some(spec) = &pod.spec else {
        return Class::BestEffort;
    };
    let mut asks = false;
    let mut guaranteed = true;
    // What the pod says as a whole stands for what its containers say.
    let own = spec.resources.as_ref().filter(|_| has_own(spec));
    let of_containers = containers(spec).map(|container| container.resources.as_ref());
    let lists: Vec<_> = if own.is_some() { vec![own] } else { of_containers.collect() };
    for resources in lists {
        for name in ["cpu", "memory"] {
            let request = requested(resources, name).filter(|q| *q != Quantity::ZERO);
            let limit = limited(resources, name).filter(|q| *q != Quantity::ZERO);
            asks |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.or(limit) == limit;
        }
    }
    match (asks, guaranteed) {
        (false, _) => Class::BestEffort,
        (true, true) => Class::Guaranteed,
        (true, false) => Class::Burstable,
    }
}

/// The numbers of the cgroup of one container of a pod. Without a limit of its own it has the pod's.
#[must_use]
pub fn container_numbers(pod: &Pod, container: &Container) -> CgroupNumbers {
    let limit_of = |name| {
        let own = limit(container, name).filter(|q| *q != Quantity::ZERO);
        own.or_else(|| own_limit(pod.spec.as_ref()?, name))
    };
    let cpu_limit = limit_of("cpu");
    let cpu_request = request(container, "cpu").or(cpu_limit);
    CgroupNumbers {
        cpu_shares: shares(cpu_request.unwrap_or_default().milli()),
        cpu_quota: cpu_limit.and_then(|q| quota(q.milli())),
        memory: limit_of("memory").map(Quantity::value).filter(|bytes| *bytes > 0),
    }
}

/// The numbers of a pod's cgroup: what the pod says as a whole; else requests summed, and limits only where every
/// container has one.
/// Init containers run before the regular ones, beside the sidecars before them, so the largest sum at any time counts.
#[must_use]
pub fn pod_numbers(pod: &Pod) -> CgroupNumbers {
    let Some(spec) = &pod.spec else {
        return CgroupNumbers { cpu_shares: CPU_SHARES_MIN, ..Default::default() };
    };
    let all_limit = |name| {
        own_limit(spec, name).is_some() || containers(spec).all(|c| limit(c, name).is_some_and(|q| q > Quantity::ZERO))
    };
    let whole = |name| own_limit(spec, name).unwrap_or_else(|| total(spec, |c| limit(c, name))) + overhead(spec, name);
    let cpu_limit = all_limit("cpu").then(|| whole("cpu").milli());
    CgroupNumbers {
        cpu_shares: shares(pod_request(pod, "cpu").milli()),
        cpu_quota: cpu_limit.and_then(quota),
        memory: all_limit("memory").then(|| whole("memory").value()),
    }
}

/// What a pod asks of the node for `cpu` or `memory`, the overhead of its runtime class included.
#[must_use]
pub fn pod_request(pod: &Pod, name: &str) -> Quantity {
    pod.spec.as_ref().map_or(Quantity::ZERO, |spec| {
        let of_containers = || total(spec, |c| request(c, name).or_else(|| limit(c, name)));
        own_request(spec, name).unwrap_or_else(of_containers) + overhead(spec, name)
    })
}

/// How much a pod may have of a resource: what it says as a whole, else what its containers may have together. None when
/// nothing of it has a limit.
#[must_use]
pub fn pod_limit(pod: &Pod, name: &str) -> Option<Quantity> {
    let spec = pod.spec.as_ref()?;
    if let Some(own) = own_limit(spec, name) {
        return Some(own + overhead(spec, name));
    }
    containers(spec).any(|c| limit(c, name).is_some()).then(|| total(spec, |c| limit(c, name)) + overhead(spec, name))
}

/// What the pod's runtime class adds for itself.
#[must_use]
pub fn overhead(spec: &PodSpec, name: &str) -> Quantity {
    amount(spec.overhead.as_ref(), name).unwrap_or_default()
}

/// What the containers of a pod ask for together: the most at any time.
#[must_use]
pub fn containers_request(spec: &PodSpec, name: &str) -> Quantity {
    total(spec, |c| request(c, name))
}

/// The limit that a pod says for itself.
#[must_use]
pub fn own_limit(spec: &PodSpec, name: &str) -> Option<Quantity> {
    limited(spec.resources.as_ref().filter(|_| OF_PODS.contains(&name)), name).filter(|q| *q != Quantity::ZERO)
}

fn own_request(spec: &PodSpec, name: &str) -> Option<Quantity> {
    requested(spec.resources.as_ref().filter(|_| OF_PODS.contains(&name)), name)
}

/// Whether the pod says resources for itself.
fn has_own(spec: &PodSpec) -> bool {
    spec.resources.as_ref().is_some_and(|own| {
        let lists = own.requests.iter().chain(&own.limits);
        lists.flat_map(BTreeMap::keys).any(|name| OF_PODS.contains(&name.as_str()))
    })
}

/// What a pod asks for beyond its containers is of equal parts theirs.
fn part_of_rest(spec: &PodSpec) -> i64 {
    let Some(own) = own_request(spec, "memory").filter(|q| *q != Quantity::ZERO) else { return 0 };
    let rest = own.value().saturating_sub(containers_request(spec, "memory").value());
    rest / i64::try_from(containers(spec).count().max(1)).unwrap_or(i64::MAX)
}

/// The `oom_score_adj` of a container of a pod, on a node with `memory_capacity` bytes. A sidecar's score is no higher than
/// that of the regular container with the least request, which is the first one to be killed. What the node itself lives by
/// is spared like a guaranteed pod.
#[must_use]
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    match class(pod) {
        _ if is_node_critical(pod) => -997,
        Class::Guaranteed => -997,
        Class::BestEffort => 1000,
        Class::Burstable => {
            let rest = pod.spec.as_ref().map_or(0, part_of_rest);
            let score = |container: &Container| {
                let asked = request(container, "memory").unwrap_or_default().value().saturating_add(rest);
                let part = i128::from(asked) * 1000 / i128::from(memory_capacity.max(1));
                let adjust = 1000 - i64::try_from(part.clamp(0, 1000)).unwrap_or(1000);
                adjust.clamp(3, 999)
            };
            let own = score(container);
            match pod.spec.iter().flat_map(|s| &s.containers).map(score).max() {
                Some(most) if is_sidecar(container) => own.min(most),
                _ => own,
            }
        }
    }
}

/// Whether the pod has the class of what the node lives by, and is critical.
fn is_node_critical(pod: &Pod) -> bool {
    let class = pod.spec.as_ref().and_then(|spec| spec.priority_class_name.as_deref());
    class == Some(NODE_CRITICAL) && is_critical(pod)
}

/// CPU shares for thousandths of a core.
#[must_use]
pub fn shares(milli: i64) -> i64 {
    (milli.saturating_mul(1024) / 1000).clamp(CPU_SHARES_MIN, CPU_SHARES_MAX)
}

/// CPU quota in microseconds for thousandths of a core; none for zero.
#[must_use]
pub fn quota(milli: i64) -> Option<i64> {
    (milli > 0).then(|| (milli.saturating_mul(CPU_PERIOD) / 1000).max(CPU_QUOTA_MIN))
}

pub(crate) fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

fn total(spec: &PodSpec, of: impl Fn(&Container) -> Option<Quantity>) -> Quantity {
    let mut sidecars = Quantity::ZERO;
    let mut init = Quantity::ZERO;
    for container in spec.init_containers.iter().flatten() {
        let wanted = of(container).unwrap_or_default();
        if is_sidecar(container) {
            sidecars = [sidecars, wanted].into_iter().sum();
            init = init.max(sidecars);
        } else {
            init = init.max([sidecars, wanted].into_iter().sum());
        }
    }
    let running: Quantity = spec.containers.iter().filter_map(&of).chain([sidecars]).sum();
    running.max(init)
}

pub(crate) fn request(container: &Container, name: &str) -> Option<Quantity> {
    requested(container.resources.as_ref(), name)
}

pub(crate) fn limit(container: &Container, name: &str) -> Option<Quantity> {
    limited(container.resources.as_ref(), name)
}

fn requested(resources: Option<&ResourceRequirements>, name: &str) -> Option<Quantity> {
    amount(resources?.requests.as_ref(), name)
}

fn limited(resources: Option<&ResourceRequirements>, name: &str) -> Option<Quantity> {
    amount(resources?.limits.as_ref(), name)
}

/// Validation has refused what does not parse.
fn amount(list: Option<&BTreeMap<String, RawQuantity>>, name: &str) -> Option<Quantity> {
    Quantity::parse(&list?.get(name)?.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(containers: Value, init: Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": containers, "initContainers": init}})).unwrap()
    }

    fn c(requests: Value, limits: Value) -> Value {
        json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
    }

    #[test]
    fn the_class_follows_requests_and_limits() {
        let both = json!({"cpu": "1", "memory": "1Gi"});
        let table = [
            (json!([c(json!({}), json!({}))]), json!([]), Class::BestEffort),
            (json!([c(both.clone(), both.clone())]), json!([]), Class::Guaranteed),
            (json!([c(json!({}), both.clone())]), json!([]), Class::Guaranteed),
            (json!([c(json!({"cpu": "1000m", "memory": "1024Mi"}), both.clone())]), json!([]), Class::Guaranteed),
            (json!([c(json!({"cpu": "1"}), json!({}))]), json!([]), Class::Burstable),
            (json!([c(both.clone(), both.clone()), c(json!({}), json!({}))]), json!([]), Class::Burstable),
            (json!([c(both.clone(), both.clone())]), json!([c(json!({}), json!({}))]), Class::Burstable),
            (json!([c(json!({"cpu": "0"}), json!({"memory": "0"}))]), json!([]), Class::BestEffort),
        ];
        for (containers, init, want) in table {
            assert_eq!(class(&pod(containers.clone(), init)), want, "{containers}");
        }
    }

    #[test]
    fn the_overhead_of_the_runtime_class_is_the_pods() {
        let amounts = json!({"cpu": "100m", "memory": "32Mi"});
        let mut pod = pod(json!([c(amounts.clone(), amounts)]), json!([]));
        let overhead = json!({"cpu": "150m", "memory": "16Mi"});
        pod.spec.as_mut().unwrap().overhead = serde_json::from_value(overhead).unwrap();
        let numbers = pod_numbers(&pod);
        assert_eq!((numbers.cpu_shares, numbers.cpu_quota, numbers.memory), (256, Some(25_000), Some(48 << 20)));
        assert_eq!(pod_request(&pod, "memory").value(), 48 << 20);
        assert_eq!(class(&pod), Class::Guaranteed, "the class is the containers'");
    }

    #[test]
    fn what_a_pod_says_for_itself_goes_before_what_its_containers_say() {
        let small = c(json!({"cpu": "100m", "memory": "64Mi"}), json!({"cpu": "100m", "memory": "64Mi"}));
        let mut pod = pod(json!([small, c(json!({}), json!({}))]), json!([]));
        let both = json!({"cpu": "1", "memory": "1Gi"});
        pod.spec.as_mut().unwrap().resources =
            serde_json::from_value(json!({"requests": both, "limits": both})).unwrap();
        assert_eq!(class(&pod), Class::Guaranteed);
        let whole = CgroupNumbers { cpu_shares: 1024, cpu_quota: Some(100_000), memory: Some(1 << 30) };
        assert_eq!(pod_numbers(&pod), whole);
        let containers = pod.spec.clone().unwrap().containers;
        assert_eq!(container_numbers(&pod, &containers[1]), whole, "the pod's limits");
        let own = CgroupNumbers { cpu_shares: 102, cpu_quota: Some(10_000), memory: Some(64 << 20) };
        assert_eq!(container_numbers(&pod, &containers[0]), own);
        assert_eq!(pod_request(&pod, "memory").value(), 1 << 30);
        // Of a gibibyte less 64 Mi each has half, beside what it asks for.
        let requests = json!({"requests": {"memory": "1Gi"}});
        pod.spec.as_mut().unwrap().resources = serde_json::from_value(requests).unwrap();
        assert_eq!(class(&pod), Class::Burstable);
        let scores: Vec<i64> = containers.iter().map(|one| oom_score_adj(&pod, one, 4 << 30)).collect();
        assert_eq!(scores, [868, 883]);
        assert_eq!(pod_numbers(&pod).memory, None, "not every container is limited");
    }

    #[test]
    fn shares_and_quotas_are_the_kubelets() {
        assert_eq!([0, 1, 2, 100, 500, 1000, 1_000_000].map(shares), [2, 2, 2, 102, 512, 1024, 262_144]);
        assert_eq!(
            [0, 1, 5, 100, 500, 2000].map(quota),
            [None, Some(1000), Some(1000), Some(10_000), Some(50_000), Some(200_000)]
        );
    }

    #[test]
    fn a_pod_is_limited_only_where_every_container_is() {
        let limited = c(json!({"cpu": "250m"}), json!({"cpu": "500m", "memory": "64Mi"}));
        let free = c(json!({"cpu": "250m"}), json!({"memory": "64Mi"}));
        let numbers = pod_numbers(&pod(json!([limited, limited]), json!([])));
        assert_eq!(numbers, CgroupNumbers { cpu_shares: 512, cpu_quota: Some(100_000), memory: Some(128 << 20) });
        let numbers = pod_numbers(&pod(json!([limited, free]), json!([])));
        assert_eq!(numbers, CgroupNumbers { cpu_shares: 512, cpu_quota: None, memory: Some(128 << 20) });
        let big_init = c(json!({"cpu": "2"}), json!({"cpu": "3", "memory": "1Gi"}));
        let numbers = pod_numbers(&pod(json!([limited]), json!([big_init])));
        assert_eq!(numbers, CgroupNumbers { cpu_shares: 2048, cpu_quota: Some(300_000), memory: Some(1 << 30) });
    }

    #[test]
    fn sidecars_count_beside_what_runs_with_them() {
        let asks = |cpu: &str, policy: Value| json!({"name": "c", "restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}});
        let (init, sidecar) = (|cpu| asks(cpu, Value::Null), |cpu| asks(cpu, json!("Always")));
        let table = [
            (vec![sidecar("1"), sidecar("2")], "4"),
            (vec![sidecar("1"), init("5"), sidecar("2")], "6"),
            (vec![init("5"), sidecar("1")], "5"),
            (vec![sidecar("2"), init("1")], "3"),
        ];
        for (inits, want) in table {
            let pod = pod(json!([asks("1", Value::Null)]), json!(inits));
            assert_eq!(pod_request(&pod, "cpu"), Quantity::parse(want).unwrap(), "{inits:?}");
        }
    }

    #[test]
    fn a_sidecar_is_spared_as_long_as_what_it_serves() {
        let sidecar = json!({"name": "s", "restartPolicy": "Always"});
        let asks = |memory: &str| c(json!({"memory": memory}), json!({}));
        // The one with the least request counts; one without a request has none.
        let table = [
            (json!([asks("1Gi")]), 750),
            (json!([asks("1Gi"), asks("2Gi")]), 750),
            (json!([asks("1Gi"), c(json!({}), json!({}))]), 999),
        ];
        for (containers, want) in table {
            let pod = pod(containers.clone(), json!([sidecar]));
            let sidecar = &pod.spec.as_ref().unwrap().init_containers.as_ref().unwrap()[0];
            assert_eq!(oom_score_adj(&pod, sidecar, 4 << 30), want, "{containers}");
        }
    }

    #[test]
    fn what_the_node_lives_by_is_spared() {
        let mut pod = pod(json!([c(json!({}), json!({}))]), json!([]));
        let score = |pod: &Pod| oom_score_adj(pod, &pod.spec.as_ref().unwrap().containers[0], 4 << 30);
        pod.spec.as_mut().unwrap().priority_class_name = Some("system-node-critical".into());
        assert_eq!(score(&pod), 1000, "the name alone is not enough");
        pod.spec.as_mut().unwrap().priority = Some(2_000_001_000);
        assert_eq!(score(&pod), -997);
    }

    #[test]
    fn the_oom_score_follows_the_class_and_the_share_of_memory() {
        let gib = 1 << 30;
        let both = json!({"cpu": "1", "memory": "1Gi"});
        let table = [
            (c(both.clone(), both.clone()), -997),
            (c(json!({}), json!({})), 1000),
            (c(json!({"memory": "1Gi"}), json!({})), 750),
            (c(json!({"cpu": "1"}), json!({})), 999),
            (c(json!({"memory": "4Gi"}), json!({})), 3),
        ];
        for (container, want) in table {
            let pod = pod(json!([container]), json!([]));
            assert_eq!(oom_score_adj(&pod, &pod.spec.as_ref().unwrap().containers[0], 4 * gib), want);
        }
    }
}
