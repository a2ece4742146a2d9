//! What a worker is told to do with its pod, and how a newer wish joins the older one: the newest object wins, a stop is
//! never taken back, its grace only shrinks.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use podd_core::pod::{Ending, Goal, LastStep, Refusal, termination_grace};

/// A pod and what is wanted of it.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    /// The newest object.
    pub(super) pod: Arc<Pod>,
    /// What shall become of it.
    pub(super) goal: Goal,
    /// Whether its status is told to the API. Not while the node puts its pods away to run them again later, and not for
    /// a pod that has no object.
    pub(super) published: bool,
}

impl Wish {
    /// The pod shall run, or end if its object says so.
    pub(super) fn applied(pod: Arc<Pod>, now: Timestamp) -> Wish {
        let goal = match deletion(&pod, now) {
            Some(kill_at) => Goal::Stop { kill_at, last: LastStep::DeleteObject },
            None => Goal::Run,
        };
        Wish { pod, goal, published: true }
    }

    /// The node does not take the pod; if it is being deleted, it is only that.
    pub(super) fn refused(pod: Arc<Pod>, refusal: Refusal, now: Timestamp) -> Wish {
        let wish = Wish::applied(pod, now);
        match wish.goal {
            Goal::Run => Wish { goal: Goal::Refuse(refusal), ..wish },
            _ => wish,
        }
    }

    /// Something of a pod that nobody wants.
    pub(super) fn orphan(pod: Arc<Pod>, grace: Duration, now: Timestamp) -> Wish {
        Wish { pod, goal: Goal::Stop { kill_at: later(now, grace), last: LastStep::Nothing }, published: false }
    }

    /// What runs of a pod that nobody has named yet, on a node that goes down.
    pub(super) fn resting(pod: Arc<Pod>, grace: Duration, now: Timestamp) -> Wish {
        Wish { pod, goal: Goal::Rest { kill_at: later(now, grace) }, published: false }
    }

    /// Whether the pod is on its way out.
    pub(super) fn is_stop(&self) -> bool {
        matches!(self.goal, Goal::Stop { .. })
    }

    /// Joins a newer wish of the pod's source. Gives it back if it has to wait until the pod, whose object is gone, has
    /// ended: it is a new life.
    pub(super) fn join(&mut self, newer: Wish) -> Option<Wish> {
        match (&mut self.goal, &newer.goal) {
            (Goal::Stop { last: LastStep::Nothing, .. }, _) => return Some(newer),
            (Goal::Stop { kill_at, .. }, Goal::Stop { kill_at: earlier, .. }) => *kill_at = (*kill_at).min(*earlier),
            // The node goes down, whatever the source says; what it said is there for the next agent.
            (Goal::Rest { .. }, _) => {}
            // A watch that was behind; a deletion is never taken back.
            (Goal::Stop { .. }, _) => return None,
            (Goal::Refuse(_) | Goal::End { .. }, Goal::Run) | (Goal::End { .. }, Goal::Refuse(_)) => {}
            (Goal::End { kill_at, .. }, Goal::Stop { kill_at: asked, last }) => {
                self.goal = Goal::Stop { kill_at: (*kill_at).min(*asked), last: *last };
            }
            (goal, newer) => *goal = newer.clone(),
        }
        self.pod = newer.pod;
        None
    }

    /// The node ends the pod. False if it is on its way out already, or was never taken.
    pub(super) fn end(&mut self, ending: Ending, kill_at: Timestamp) -> bool {
        let runs = self.goal == Goal::Run;
        if runs {
            self.goal = Goal::End { kill_at, ending };
        }
        runs
    }

    /// The object is gone: what is left is to stop.
    pub(super) fn gone(&mut self, now: Timestamp) {
        let asked = self.pod.metadata.deletion_grace_period_seconds.map(seconds);
        let by = later(now, asked.unwrap_or_else(|| termination_grace(&self.pod)));
        self.stop(by, LastStep::Nothing);
        self.published = false;
    }

    /// The node goes down and gives the pod its own grace, or less. One that is being deleted goes on with that.
    pub(super) fn put_away(&mut self, most: Option<Duration>, now: Timestamp) {
        let own = termination_grace(&self.pod);
        let by = later(now, most.map_or(own, |most| most.min(own)));
        match &mut self.goal {
            Goal::Stop { last, .. } => {
                let last = *last;
                self.stop(by, last);
            }
            Goal::Rest { kill_at } => *kill_at = (*kill_at).min(by),
            goal => {
                *goal = Goal::Rest { kill_at: by };
                self.published = false;
            }
        }
    }

    fn stop(&mut self, by: Timestamp, last: LastStep) {
        let kill_at = match self.goal {
            Goal::Stop { kill_at, .. } | Goal::End { kill_at, .. } | Goal::Rest { kill_at } => kill_at.min(by),
            _ => by,
        };
        self.goal = Goal::Stop { kill_at, last };
    }
}

/// When a pod that is being deleted is killed: its grace after now, but an agent that starts in the middle does not begin
/// it anew. `deletionTimestamp` is the end of the grace, cut to whole seconds.
fn deletion(pod: &Pod, now: Timestamp) -> Option<Timestamp> {
    let end = pod.metadata.deletion_timestamp.as_ref()?.0;
    let grace = pod.metadata.deletion_grace_period_seconds.map_or_else(|| termination_grace(pod), seconds);
    let end = end.checked_add(SignedDuration::from_secs(1)).unwrap_or(end);
    Some(later(now, grace).min(end))
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("a time")
    }

    fn pod(deleted: Option<(i64, i64)>) -> Arc<Pod> {
        let mut pod: Pod =
            serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": []}})).expect("a pod");
        if let Some((end, grace)) = deleted {
            pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(end)));
            pod.metadata.deletion_grace_period_seconds = Some(grace);
        }
        Arc::new(pod)
    }

    fn kill_at(wish: &Wish) -> (i64, LastStep) {
        match wish.goal {
            Goal::Stop { kill_at, last } => (kill_at.duration_since(at(0)).as_secs(), last),
            _ => panic!("not stopped: {wish:?}"),
        }
    }

    #[test]
    fn a_grace_only_shrinks() {
        let mut wish = Wish::applied(pod(Some((30, 30))), at(0));
        assert_eq!(kill_at(&wish), (30, LastStep::DeleteObject));
        assert!(wish.join(Wish::applied(pod(Some((7, 5))), at(2))).is_none());
        assert_eq!(kill_at(&wish), (7, LastStep::DeleteObject));
        assert!(wish.join(Wish::applied(pod(Some((60, 60))), at(3))).is_none());
        assert_eq!(kill_at(&wish), (7, LastStep::DeleteObject));
        wish.put_away(Some(Duration::from_secs(1)), at(3));
        assert_eq!(kill_at(&wish), (4, LastStep::DeleteObject));
    }

    #[test]
    fn a_pod_of_a_node_that_goes_down_gets_its_own_grace_at_most() {
        for (most, grace) in [(None, 30), (Some(5), 5), (Some(90), 30)] {
            let mut wish = Wish::applied(pod(None), at(0));
            wish.put_away(most.map(Duration::from_secs), at(0));
            assert_eq!(wish.goal, Goal::Rest { kill_at: at(grace) });
            assert!(!wish.published);
        }
    }

    #[test]
    fn an_agent_that_was_away_does_not_begin_the_grace_anew() {
        assert_eq!(kill_at(&Wish::applied(pod(Some((30, 30))), at(25))).0, 31);
        assert_eq!(kill_at(&Wish::applied(pod(Some((30, 30))), at(90))).0, 31);
    }

    #[test]
    fn a_deletion_is_never_taken_back() {
        let mut wish = Wish::applied(pod(Some((30, 30))), at(0));
        assert!(wish.join(Wish::applied(pod(None), at(1))).is_none());
        assert!(wish.is_stop());
    }

    #[test]
    fn a_pod_whose_object_is_gone_ends_before_it_lives_again() {
        let mut wish = Wish::applied(pod(None), at(0));
        wish.gone(at(5));
        assert_eq!(kill_at(&wish), (35, LastStep::Nothing));
        assert!(!wish.published);
        assert!(wish.join(Wish::applied(pod(None), at(6))).is_some());
        assert!(wish.is_stop());
    }

    #[test]
    fn a_pod_that_the_node_ends_is_not_taken_up_again() {
        let ending = || Ending { reason: "Evicted".into(), message: "too much".into(), disrupted: false };
        let mut wish = Wish::applied(pod(None), at(0));
        assert!(wish.end(ending(), at(9)));
        assert!(!wish.end(ending(), at(5)), "it is under way");
        assert!(wish.join(Wish::applied(pod(None), at(1))).is_none());
        assert_eq!(wish.goal, Goal::End { kill_at: at(9), ending: ending() });
        assert!(wish.join(Wish::applied(pod(Some((32, 30))), at(2))).is_none());
        assert_eq!(kill_at(&wish), (9, LastStep::DeleteObject), "a deletion gives it no more time");
        assert!(!wish.end(ending(), at(5)));
    }

    #[test]
    fn a_refusal_stays_until_the_pod_is_deleted() {
        let refusal = Refusal { reason: "NodePorts".into(), message: "taken".into() };
        let mut wish = Wish::refused(pod(None), refusal.clone(), at(0));
        assert!(wish.join(Wish::applied(pod(None), at(1))).is_none());
        assert_eq!(wish.goal, Goal::Refuse(refusal));
        assert!(wish.join(Wish::applied(pod(Some((9, 9))), at(1))).is_none());
        assert!(wish.is_stop());
    }
}
