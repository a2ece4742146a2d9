//! The next batch of actions for a pod.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{Decision, Goal, Memory, NodeFacts, Observation};

/// What to do next for a pod. `pod.status` is the last published status: a phase that is over stays so.
pub fn decide(
    _pod: &Pod,
    _goal: &Goal,
    _seen: &Observation,
    _memory: &Memory,
    _node: &NodeFacts,
    _now: Timestamp,
) -> Decision {
    Decision::default()
}
