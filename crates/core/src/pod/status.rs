//! The status of a pod.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::{Goal, Memory, NodeFacts, Observation};

/// What is true of a pod now. `pod.status` is the last published status.
pub fn status(
    _pod: &Pod,
    _goal: &Goal,
    _seen: &Observation,
    _memory: &Memory,
    _node: &NodeFacts,
    _now: Timestamp,
) -> PodStatus {
    PodStatus::default()
}
