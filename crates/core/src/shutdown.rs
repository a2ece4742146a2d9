//! The end of pods when the machine goes down: who ends when, with how much time.
//!
//! Source: `pkg/kubelet/nodeshutdown` of Kubernetes 1.36.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;

use crate::{
    classes::has_critical_priority,
    pod::{Ending, Refusal, is_terminal, termination_grace},
};

/// How long the machine waits for its pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Periods {
    /// In all; nothing at all means that it does not wait.
    pub total: Duration,
    /// Of that for critical pods, which end after all others.
    pub critical: Duration,
}

/// Pods that end side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Which.
    pub pods: Vec<Arc<Pod>>,
    /// How long the next group waits for them.
    pub period: Duration,
}

/// The groups in their order. One that is empty, and takes no time, is left out.
#[must_use]
pub fn groups(pods: &[Arc<Pod>], periods: &Periods) -> Vec<Group> {
    let live = pods.iter().filter(|pod| !is_terminal(pod)).cloned();
    let (critical, others): (Vec<_>, Vec<_>) = live.partition(|pod| has_critical_priority(pod));
    let first = Group { pods: others, period: periods.total.saturating_sub(periods.critical) };
    let second = Group { pods: critical, period: periods.critical };
    [first, second].into_iter().filter(|group| !group.pods.is_empty()).collect()
}

/// What a pod may take to end: its own grace, or what its group has if that is less.
#[must_use]
pub fn grace(pod: &Pod, group: &Group) -> Duration {
    termination_grace(pod).min(group.period)
}

/// Why pods end then.
#[must_use]
pub fn ending() -> Ending {
    Ending {
        reason: "Terminated".into(),
        message: "Pod was terminated in response to imminent node shutdown.".into(),
        disrupted: true,
    }
}

/// Why no pod is taken meanwhile.
#[must_use]
pub fn refusal() -> Refusal {
    Refusal { reason: "NodeShutdown".into(), message: "Pod was rejected as the node is shutting down.".into() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, priority: i32, grace: u64, phase: &str) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": name}, "status": {"phase": phase},
            "spec": {"priority": priority, "terminationGracePeriodSeconds": grace, "containers": []}});
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn critical_pods_end_last_and_nobody_has_more_than_its_group() {
        let pods = [
            pod("db", 0, 100, "Running"),
            pod("dns", 2_000_000_000, 30, "Running"),
            pod("web", 5, 7, "Pending"),
            pod("job", 0, 30, "Succeeded"),
        ];
        let told = |periods: Periods, pods: &[Arc<Pod>]| {
            let one = |group: &Group, pod: &Pod| {
                format!("{} {}", pod.metadata.name.as_deref().unwrap_or(""), grace(pod, group).as_secs())
            };
            let all = groups(pods, &periods);
            all.iter().map(|g| g.pods.iter().map(|p| one(g, p)).collect::<Vec<_>>().join(", ")).collect::<Vec<_>>()
        };
        let seconds = Duration::from_secs;
        let periods = Periods { total: seconds(30), critical: seconds(10) };
        assert_eq!(told(periods, &pods), ["db 20, web 7", "dns 10"]);
        assert_eq!(told(periods, &pods[1..2]), ["dns 10"], "nobody waits for nobody");
        assert_eq!(told(Periods { total: seconds(30), critical: seconds(30) }, &pods), ["db 0, web 0", "dns 30"]);
    }
}
