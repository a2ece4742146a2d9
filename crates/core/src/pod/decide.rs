//! The next batch of actions for a pod: which of the three plans applies, and the batch they all write into.
//!
//! ```text
//!  Run ──► sandbox serves? ── no ──► kill, stop, prepare, create sandbox ─┐
//!   │             │ yes                                                   │
//!   │             ▼                                                       │
//!   │   init containers, sidecars ──► regular ones in order, restarts ◄───┘
//!   │             │ nothing left to run
//!   ├─ Refuse ────▼
//!   │       wind down: kill, stop sandbox, release; records stay for status and logs
//!  Stop ──► kill, stop sandbox, final status, remove sandbox, release, delete object
//!  End ───► kill, then wind down as above
//!  Rest ──► kill, stop sandbox, suspend; records, files and object stay
//! ```

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{
    Action, ContainerState, Decision, Goal, KillReason, Memory, NodeFacts, Observation, Resources, SandboxState,
    Target,
    containers::{Member, members},
    is_terminal, start, stop,
};

/// What to do next for a pod. `pod.status` is the last published status: a phase that is over stays so.
pub fn decide(
    pod: &Pod,
    goal: &Goal,
    seen: &Observation,
    memory: &Memory,
    node: &NodeFacts,
    now: Timestamp,
) -> Decision {
    let turn = Turn { pod, members: members(pod), seen, memory, node, now };
    let mut batch = Batch::new(memory, now);
    let finished = match goal {
        Goal::Stop { kill_at, last } => stop::plan(&turn, *kill_at, *last, &mut batch),
        Goal::End { kill_at, .. } => {
            if !turn.kill_all_by(&mut batch, *kill_at) {
                turn.wind_down(&mut batch);
            }
            false
        }
        Goal::Rest { kill_at } => stop::plan_rest(&turn, *kill_at, &mut batch),
        Goal::Run if turn.is_past_deadline() => {
            turn.wind_down(&mut batch);
            false
        }
        Goal::Run if !is_terminal(pod) => {
            turn.active_deadline().into_iter().for_each(|at| {
                batch.waits_until(at);
            });
            if start::plan(&turn, &mut batch) == start::Course::Ended {
                batch = Batch::new(memory, now);
                turn.wind_down(&mut batch);
            }
            false
        }
        Goal::Run | Goal::Refuse(_) => {
            turn.wind_down(&mut batch);
            false
        }
    };
    batch.decision(finished)
}

/// The inputs of one decision.
pub(super) struct Turn<'a> {
    pub(super) pod: &'a Pod,
    pub(super) members: Vec<Member<'a>>,
    pub(super) seen: &'a Observation,
    pub(super) memory: &'a Memory,
    pub(super) node: &'a NodeFacts,
    pub(super) now: Timestamp,
}

impl Turn<'_> {
    /// Stops every sandbox that may hold something. False if there was none.
    pub(super) fn stop_sandboxes(&self, batch: &mut Batch<'_>, except: Option<&str>) -> bool {
        let mut any = false;
        for sandbox in &self.seen.sandboxes {
            let stopped = sandbox.state == SandboxState::NotReady && self.memory.stopped.contains(&sandbox.id);
            if !stopped && except != Some(&sandbox.id) {
                batch.push(Action::StopSandbox { id: sandbox.id.clone() });
                any = true;
            }
        }
        any
    }

    /// Ends a pod that has succeeded, failed or been refused: nothing of it runs and the node holds nothing for it,
    /// but its records stay.
    fn wind_down(&self, batch: &mut Batch<'_>) {
        if self.kill(batch, KillReason::SandboxStopped, |_| true) || self.stop_sandboxes(batch, None) {
            return;
        }
        for container in self.seen.containers.iter().filter(|c| c.state == ContainerState::Created) {
            batch.push(Action::RemoveContainer { id: container.id.clone(), container: container.name.clone() });
        }
        if self.seen.resources != Resources::Released {
            batch.push(Action::Release);
        }
    }
}

/// The batch being decided. Actions whose target has just failed are left out until their time.
pub(super) struct Batch<'a> {
    memory: &'a Memory,
    now: Timestamp,
    actions: Vec<Action>,
    ending: BTreeSet<String>,
    wake_at: Option<Timestamp>,
}

impl<'a> Batch<'a> {
    fn new(memory: &'a Memory, now: Timestamp) -> Batch<'a> {
        Batch { memory, now, actions: Vec::new(), ending: BTreeSet::new(), wake_at: None }
    }

    /// Adds an action, or the time at which it may be tried again.
    pub(super) fn push(&mut self, action: Action) {
        // A stop that went well asks for a pause before the next stop, not before the removal.
        let follows_a_stop = matches!(action, Action::RemoveSandbox { .. })
            && self.memory.failures.get(&action.target()).is_some_and(|last| last.failure.is_none());
        if follows_a_stop || self.may_try(&action.target()) {
            self.actions.push(action);
        }
    }

    /// Notes that a container is on its way out, whether it is stopped now or waits.
    pub(super) fn ends(&mut self, id: &str) {
        self.ending.insert(id.to_owned());
    }

    /// Adds an action whose waits were already kept.
    pub(super) fn push_now(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Whether the batch has an action on a target.
    pub(super) fn has(&self, target: &Target) -> bool {
        self.actions.iter().any(|action| action.target() == *target)
    }

    /// Whether a target may be tried now; if not, the batch wakes when it may.
    pub(super) fn may_try(&mut self, target: &Target) -> bool {
        match self.memory.retry_at(target) {
            Some(at) => !self.waits_until(at),
            None => true,
        }
    }

    /// Wakes at a time that is still to come. False if it is past.
    pub(super) fn waits_until(&mut self, at: Timestamp) -> bool {
        if at <= self.now {
            return false;
        }
        self.wake_at = Some(self.wake_at.map_or(at, |wake_at| wake_at.min(at)));
        true
    }

    fn decision(self, finished: bool) -> Decision {
        let settled = self.actions.is_empty() && self.wake_at.is_none();
        Decision {
            actions: self.actions,
            ending: self.ending,
            wake_at: self.wake_at,
            settled,
            finished: finished && settled,
        }
    }
}
