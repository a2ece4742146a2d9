//! When a pod's status is published: one publication at a time, the newest status wins, and on the way up a status that
//! is about to be overtaken is held back for a moment, so that a pod that starts at once costs one write. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodStatus;

use super::services::PublishError;

/// How long a status is held back while the pod is on its way to another one.
const HOLD_BACK: Duration = Duration::from_millis(100);
/// First and longest wait before a status that was not taken is offered again.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// The state of a pod's publications.
#[derive(Debug, Default)]
pub(crate) struct Publishing {
    /// Since when there is something to tell.
    changed_at: Option<Timestamp>,
    /// What is on its way.
    sent: Option<PodStatus>,
    retry_at: Option<Timestamp>,
    failures: u32,
    /// Whether this worker has computed a status at all.
    own: bool,
    /// There is nobody to tell.
    gone: bool,
}

impl Publishing {
    /// Whether the status that the worker holds is its own, not the object's.
    pub(crate) fn has_own(&self) -> bool {
        self.own
    }

    /// A newer object says whether there is anybody to tell.
    pub(crate) fn object_is_there(&mut self, there: bool) {
        self.gone |= !there;
    }

    /// There is a new status.
    pub(crate) fn changed(&mut self, now: Timestamp) {
        self.own = true;
        self.changed_at.get_or_insert(now);
    }

    /// Whether to publish now. `busy`: the status is about to change. `urgent`: it is the last one, and waited for.
    pub(crate) fn is_due(&self, busy: bool, urgent: bool, now: Timestamp) -> bool {
        let Some(changed_at) = self.changed_at.filter(|_| self.sent.is_none() && (!self.gone || urgent)) else {
            return false;
        };
        let held_back = busy && now < after(changed_at, HOLD_BACK);
        !held_back && (urgent || self.retry_at.is_none_or(|at| at <= now))
    }

    /// When time alone makes a difference.
    pub(crate) fn wake_at(&self, now: Timestamp) -> Option<Timestamp> {
        let changed_at = self.changed_at.filter(|_| self.sent.is_none() && !self.gone)?;
        [Some(after(changed_at, HOLD_BACK)), self.retry_at].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// This one is on its way.
    pub(crate) fn began(&mut self, status: &PodStatus) {
        self.sent = Some(status.clone());
        self.retry_at = None;
    }

    /// It has arrived, or not. True if it was accepted and there is none newer than it.
    pub(crate) fn ended(
        &mut self,
        result: &Result<(), PublishError>,
        newest: Option<&PodStatus>,
        now: Timestamp,
    ) -> bool {
        let sent = self.sent.take();
        match result {
            Ok(()) => {
                self.failures = 0;
                let is_newest = sent.as_ref() == newest;
                self.changed_at = (!is_newest).then_some(now);
                is_newest
            }
            Err(PublishError::Gone) => {
                self.gone = true;
                self.changed_at = None;
                false
            }
            Err(PublishError::Conflict | PublishError::Unavailable(_)) => {
                let (first, longest) = RETRY;
                let wait = (first * 2_u32.pow(self.failures.min(8))).min(longest);
                self.failures = self.failures.saturating_add(1);
                self.retry_at = Some(after(now, wait));
                false
            }
        }
    }
}

/// Our status with the conditions that others wrote into the object's.
pub(super) fn merged(ours: Option<PodStatus>, theirs: Option<PodStatus>) -> Option<PodStatus> {
    let mut status = ours?;
    let is_ours = |kind: &str| podd_core::pod::OUR_CONDITIONS.contains(&kind);
    let foreign = theirs.into_iter().flat_map(|s| s.conditions.unwrap_or_default()).filter(|c| !is_ours(&c.type_));
    let own = status.conditions.take().unwrap_or_default().into_iter().filter(|c| is_ours(&c.type_));
    let conditions: Vec<_> = foreign.chain(own).collect();
    status.conditions = (!conditions.is_empty()).then_some(conditions);
    Some(status)
}

pub(super) fn after(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + milliseconds).expect("a time")
    }

    fn status(phase: &str) -> PodStatus {
        PodStatus { phase: Some(phase.into()), ..Default::default() }
    }

    #[test]
    fn a_status_on_the_way_to_another_is_held_back_a_moment() {
        let mut publishing = Publishing::default();
        assert!(!publishing.is_due(false, false, at(0)));
        publishing.changed(at(0));
        assert!(!publishing.is_due(true, false, at(50)));
        assert_eq!(publishing.wake_at(at(50)), Some(at(100)));
        assert!(publishing.is_due(false, false, at(50)));
        assert!(publishing.is_due(true, false, at(100)));
    }

    #[test]
    fn one_is_on_its_way_at_a_time_and_the_newest_follows() {
        let mut publishing = Publishing::default();
        publishing.changed(at(0));
        publishing.began(&status("Pending"));
        publishing.changed(at(1));
        assert!(!publishing.is_due(false, false, at(500)));
        assert!(!publishing.ended(&Ok(()), Some(&status("Running")), at(500)));
        assert!(publishing.is_due(false, false, at(500)));
        publishing.began(&status("Running"));
        assert!(publishing.ended(&Ok(()), Some(&status("Running")), at(501)));
        assert!(!publishing.is_due(false, false, at(9000)));
    }

    #[test]
    fn what_was_not_taken_is_offered_again_more_and_more_slowly() {
        let mut publishing = Publishing::default();
        publishing.changed(at(0));
        for wait in [200, 400, 800] {
            publishing.began(&status("Running"));
            publishing.ended(&Err(PublishError::Conflict), Some(&status("Running")), at(1000));
            assert!(!publishing.is_due(false, false, at(1000 + wait - 1)));
            assert_eq!(publishing.wake_at(at(1000)), Some(at(1000 + wait)));
            assert!(publishing.is_due(false, false, at(1000 + wait)));
        }
    }

    #[test]
    fn nothing_is_told_where_nobody_listens() {
        let mut publishing = Publishing::default();
        publishing.changed(at(0));
        publishing.began(&status("Running"));
        publishing.ended(&Err(PublishError::Gone), Some(&status("Running")), at(1));
        publishing.changed(at(2));
        assert!(!publishing.is_due(false, false, at(9000)));
    }
}
