//! `activeDeadlineSeconds`: how long a pod may be active on the node before it is ended.

use std::time::Duration;

use jiff::Timestamp;

use super::{back_off::add, decide::Turn, is_terminal};

/// `status.reason` and `status.message` of a pod that was active for too long.
pub(super) const EXCEEDED: (&str, &str) =
    ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline");

impl Turn<'_> {
    /// When the pod is ended, counted from its start as it was published; none before that.
    pub(super) fn active_deadline(&self) -> Option<Timestamp> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?;
        let started_at = self.pod.status.as_ref()?.start_time.as_ref()?.0;
        Some(add(started_at, Duration::from_secs(u64::try_from(seconds).unwrap_or(0))))
    }

    /// Whether the pod has been active for too long, and has not come to its end otherwise.
    pub(super) fn is_past_deadline(&self) -> bool {
        !is_terminal(self.pod) && self.active_deadline().is_some_and(|at| at <= self.now)
    }
}
