//! Whose turn it is when the node must have something back, and what the victim is told.

use std::{cmp::Reverse, collections::BTreeMap, fmt::Write as _};

use k8s_openapi::api::core::v1::Pod;

use super::{Reclaim, Signal};
use crate::{qos, quantity::Quantity};

/// What a pod uses of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodUse {
    /// Bytes of memory that cannot go at once.
    pub memory: u64,
    /// Bytes on disk: writable layers, logs, emptyDirs.
    pub disk: u64,
    /// Inodes of those.
    pub inodes: u64,
    /// Processes.
    pub processes: u64,
    /// Memory and disk by container.
    pub containers: BTreeMap<String, ContainerUse>,
}

/// What a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerUse {
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of writable layer and logs.
    pub disk: u64,
}

/// A pod that could go, with what it uses; one of which that is not known goes first.
pub type Candidate<'a> = (&'a Pod, Option<&'a PodUse>);

/// Who goes first: whoever uses more than it asked for, then whoever has the lower priority, then whoever is further above
/// its request. Process ids cannot be asked for: there the priority comes first.
pub fn rank(candidates: &mut [Candidate<'_>], signal: Signal) {
    candidates.sort_by_key(|(pod, used)| {
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        let Some(used) = used else { return (false, false, i32::MIN, Reverse(i128::MAX)) };
        let (used, asked) = match signal.resource() {
            "memory" => (used.memory, qos::pod_request(pod, "memory")),
            "ephemeral-storage" => (used.disk, qos::pod_request(pod, "ephemeral-storage")),
            "inodes" => (used.inodes, Quantity::ZERO),
            _ => return (true, false, priority, Reverse(i128::from(used.processes))),
        };
        let above = i128::from(used) - i128::from(asked.value());
        (true, above <= 0, priority, Reverse(above))
    });
}

/// The kubelet's words to a victim: what was short, how much of it was left, and which containers used more than they had
/// asked for.
#[must_use]
pub fn message(pod: &Pod, used: Option<&PodUse>, reclaim: &Reclaim) -> String {
    let signal = reclaim.threshold.signal;
    let resource = signal.resource();
    let amount = |value: i64| match resource {
        "memory" | "ephemeral-storage" => Quantity::of(value).binary(),
        _ => value.to_string(),
    };
    let (line, left) = (reclaim.threshold.value.of(reclaim.observed.capacity), reclaim.observed.available);
    let mut told = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        amount(line),
        amount(left)
    );
    if resource != "memory" && resource != "ephemeral-storage" {
        return told;
    }
    let spec = pod.spec.iter();
    let containers = spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    for container in containers {
        let Some(used) = used.and_then(|used| used.containers.get(&container.name)) else { continue };
        let used = if resource == "memory" { used.memory } else { used.disk };
        let used = Quantity::of(i64::try_from(used).unwrap_or(i64::MAX));
        let asked = container.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get(resource));
        let request = asked.and_then(|asked| Quantity::parse(&asked.0).ok()).unwrap_or_default();
        if used > request {
            let asked = asked.map_or("0", |asked| &asked.0);
            let _ = write!(
                told,
                "Container {} was using {}, request is {asked}, has larger consumption of {resource}. ",
                container.name,
                used.binary()
            );
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::eviction::{Amount, Observed, Threshold};

    fn pod(name: &str, priority: i32, memory: &str) -> Pod {
        let resources = json!({"requests": {"memory": memory, "ephemeral-storage": memory}});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"priority": priority,
            "containers": [{"name": "c", "resources": resources}, {"name": "d"}]}}))
        .expect("a pod")
    }

    fn uses(mib: u64) -> PodUse {
        PodUse { memory: mib << 20, disk: mib << 20, inodes: mib, processes: mib, ..PodUse::default() }
    }

    #[test]
    fn who_is_above_its_request_goes_first_then_who_counts_less_then_who_is_further_above() {
        let pods = [
            (pod("within", 0, "100Mi"), Some(uses(90))),
            (pod("important", 10, "1Mi"), Some(uses(500))),
            (pod("a-bit-above", 0, "100Mi"), Some(uses(110))),
            (pod("far-above", 0, "10Mi"), Some(uses(60))),
            (pod("unknown", 10, "1Mi"), None),
        ];
        let order = |signal| {
            let mut ranked: Vec<Candidate<'_>> = pods.iter().map(|(pod, used)| (pod, used.as_ref())).collect();
            rank(&mut ranked, signal);
            let names = ranked.iter().map(|(pod, _)| pod.metadata.name.clone().expect("named"));
            names.collect::<Vec<_>>().join(" ")
        };
        let by_request = "unknown far-above a-bit-above important within";
        assert_eq!(order(Signal::MemoryAvailable), by_request);
        assert_eq!(order(Signal::ImagefsAvailable), by_request);
        assert_eq!(order(Signal::NodefsInodesFree), "unknown a-bit-above within far-above important");
        assert_eq!(order(Signal::PidAvailable), "unknown a-bit-above within far-above important");
    }

    #[test]
    fn a_victim_is_told_what_was_short_and_what_it_used() {
        let reclaim = |signal, value| Reclaim {
            threshold: Threshold { signal, value, grace: Duration::ZERO, min_reclaim: None },
            observed: Observed { available: 96 << 20, capacity: 1 << 30 },
        };
        let each = |memory: u64, disk: u64| ContainerUse { memory: memory << 10, disk: disk << 10 };
        let containers = [("c".to_owned(), each(20_480, 1)), ("d".to_owned(), each(64, 7))].into();
        let used = PodUse { containers, ..PodUse::default() };
        let pod = pod("p", 0, "10Mi");
        let low = |resource: &str, line: &str, left: &str| {
            format!("The node was low on resource: {resource}. Threshold quantity: {line}, available: {left}. ")
        };
        let table = [
            (
                reclaim(Signal::MemoryAvailable, Amount::Of(100 << 20)),
                low("memory", "100Mi", "96Mi")
                    + "Container c was using 20Mi, request is 10Mi, has larger consumption of memory. \
                       Container d was using 64Ki, request is 0, has larger consumption of memory. ",
            ),
            (
                reclaim(Signal::NodefsAvailable, Amount::Part(12_500)),
                low("ephemeral-storage", "128Mi", "96Mi")
                    + "Container d was using 7Ki, request is 0, has larger consumption of ephemeral-storage. ",
            ),
            (reclaim(Signal::PidAvailable, Amount::Of(5)), low("pids", "5", &(96 << 20).to_string())),
        ];
        for (reclaim, expected) in table {
            assert_eq!(message(&pod, Some(&used), &reclaim), expected);
        }
    }
}
