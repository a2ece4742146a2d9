//! Which pods the node ends for its own sake, which it does not take, and in which words.
//!
//! Source: `pkg/kubelet/eviction` of Kubernetes 1.36.

mod local;
mod pressure;
mod rank;
mod threshold;

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

pub use local::{LocalUsage, VolumeUsage, has_limits, over_limit};
pub use pressure::{Observations, Observed, Pressure, Reclaim, Round, admit};
pub use rank::{Candidate, ContainerUse, PodUse, message, rank};
pub use threshold::{Amount, BadThreshold, Condition, Settings, Signal, Threshold, Written, default_hard};

use crate::pod::is_static;

/// `status.reason` of an evicted pod, and the reason of its event.
pub const EVICTED: &str = "Evicted";
/// What a pod may take to end by itself where the node cannot wait.
pub const GRACE: Duration = Duration::from_secs(1);
/// From this priority on a pod is critical.
const CRITICAL: i32 = 2_000_000_000;

/// Whether the node never evicts a pod, and takes it whatever it is short of.
#[must_use]
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || pod.spec.as_ref().and_then(|spec| spec.priority).is_some_and(|priority| priority >= CRITICAL)
}
