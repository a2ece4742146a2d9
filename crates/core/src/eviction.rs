//! Which pods the node ends for its own sake, which it does not take, and in which words.
//!
//! Source: `pkg/kubelet/eviction` of Kubernetes 1.36.

mod local;
mod pressure;
mod rank;
mod threshold;

use std::time::Duration;

pub use local::{LocalUsage, VolumeUsage, has_limits, over_limit};
pub use pressure::{Observations, Observed, Pressure, Reclaim, Round, admit};
pub use rank::{Candidate, ContainerUse, PodUse, message, rank};
pub use threshold::{Amount, BadThreshold, Condition, Settings, Signal, Threshold, Written, default_hard};

/// `status.reason` of an evicted pod, and the reason of its event.
pub const EVICTED: &str = "Evicted";
/// What a pod may take to end by itself where the node cannot wait.
pub const GRACE: Duration = Duration::from_secs(1);
