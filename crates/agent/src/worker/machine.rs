//! One pod's worker as a value: events go in, commands come out, nothing is awaited. It decides *when* to look, to decide,
//! to publish and to give up what is under way; *what* to do is `podd_core`'s.
//!
//! ```text
//!            ┌────────────► look ──► status, decide ──┬─► short actions, side by side ──┐
//!            │                ▲                       ├─► patient ones (pull, kill) ──┐ │
//!   a nudge, a wish, time ────┘                       └─► nothing: wait              │ │
//!            ▲                                                                       │ │
//!            └──────────── an end of one that touched the runtime ◄──────────────────┴─┘
//! ```
//! While a short action runs nothing is decided. Beside patient ones deciding goes on: one that the newest decision does
//! not contain any more is given up, and a kill is replaced by one with an earlier deadline.

pub(crate) use self::traffic::{Command, Event, Order};

mod rivals;
#[cfg(test)]
mod tests;
mod traffic;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use podd_core::pod::{
    Action, Decision, Failure, Goal, Memory, NodeFacts, Observation, Outcome, Resources, Target, Watch, decide, status,
    watches,
};
use tracing::{debug, info};

use self::rivals::{is_sooner, same, touches_runtime};
use super::{
    act::Acted,
    publishing::{Publishing, after, merged},
    reports::reports,
    services::{Prepared, PublishError},
    wish::Wish,
};
use crate::probes::Told;

/// First and longest wait before a runtime that did not answer is asked again.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// The worker of one pod.
pub(crate) struct Machine {
    wish: Wish,
    /// The wish's pod with the newest status we know of.
    pod: Arc<Pod>,
    memory: Memory,
    seen: Option<Arc<Observation>>,
    resources: Resources,
    prepared: Option<Arc<Prepared>>,
    acting: BTreeMap<Target, Action>,
    killed: BTreeSet<String>,
    looking: bool,
    /// Something happened since the last look began.
    stale: bool,
    look_failures: u32,
    look_at: Option<Timestamp>,
    /// The next thing to decide is due at this time at the latest.
    wake_at: Option<Timestamp>,
    /// Something may be decided anew without another look.
    undecided: bool,
    publishing: Publishing,
    finished: bool,
}

impl Machine {
    pub(crate) fn new(wish: Wish, memory: Memory) -> Machine {
        Machine {
            pod: wish.pod.clone(),
            wish,
            memory,
            seen: None,
            resources: Resources::Unknown,
            prepared: None,
            acting: BTreeMap::new(),
            killed: BTreeSet::new(),
            looking: false,
            stale: true,
            look_failures: 0,
            look_at: None,
            wake_at: None,
            undecided: true,
            publishing: Publishing::default(),
            finished: false,
        }
    }

    /// The pod with its newest status.
    pub(crate) fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// What was seen last.
    pub(crate) fn seen(&self) -> Option<&Arc<Observation>> {
        self.seen.as_ref()
    }

    /// What is to be persisted.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The probes that are to be made.
    pub(crate) fn watches(&self) -> Vec<Watch> {
        let seen = self.seen.as_ref().filter(|_| !self.finished);
        seen.map(|seen| watches(&self.pod, &self.wish.goal, seen, &self.memory)).unwrap_or_default()
    }

    /// When time alone makes a difference.
    pub(crate) fn wake_at(&self, now: Timestamp) -> Option<Timestamp> {
        if self.finished {
            return None;
        }
        let look = self.look_at.filter(|_| self.stale && !self.looking && !self.is_busy());
        let decide = self.wake_at.filter(|_| !self.looking && !self.is_busy());
        [look, decide, self.publishing.wake_at(now)].into_iter().flatten().min()
    }

    /// Takes in an event and tells what follows from it.
    pub(crate) fn handle(&mut self, event: Event, node: &NodeFacts, now: Timestamp) -> Vec<Command> {
        let mut commands = Vec::new();
        if self.wake_at.is_some_and(|at| at <= now) {
            self.wake_at = None;
            // Much may have happened during the wait; to look costs little.
            self.stale = true;
            self.undecided = true;
        }
        match event {
            Event::Wish(wish) => self.wish(wish),
            Event::Nudge => self.stale = true,
            Event::Seen(Ok(seen)) => {
                self.looking = false;
                self.look_failures = 0;
                self.look_at = None;
                self.memory.saw(&seen);
                self.seen = Some(Arc::new(seen));
                self.undecided = true;
            }
            Event::Seen(Err(status)) => {
                self.looking = false;
                self.stale = true;
                let (first, longest) = LOOK_AGAIN;
                let wait = (first * 2_u32.pow(self.look_failures.min(8))).min(longest);
                self.look_failures = self.look_failures.saturating_add(1);
                self.look_at = Some(after(now, wait));
                debug!(%status, ?wait, "the runtime does not tell what it has");
            }
            Event::Acted(action, result) => self.acted(&action, result, now, &mut commands),
            Event::Published(result) => self.published(result, now),
            Event::Probed(told) => {
                let Told { container, id, kind, success } = told;
                self.undecided |= self.memory.probed(&self.pod, &container, &id, kind, success);
            }
            Event::Time => {}
        }
        self.step(node, now, &mut commands);
        commands
    }

    fn is_busy(&self) -> bool {
        self.acting.values().any(|action| !action.is_patient())
    }

    fn wish(&mut self, wish: Wish) {
        if wish.pod.spec != self.wish.pod.spec {
            self.memory.spec_changed(&wish.pod);
        }
        // Our own status is newer than the object's; what others write into it is theirs.
        let mut pod = (*wish.pod).clone();
        if self.publishing.has_own() {
            pod.status = merged(self.pod.status.clone(), pod.status.take());
        }
        self.pod = Arc::new(pod);
        self.publishing.object_is_there(wish.published);
        self.wish = wish;
        self.undecided = true;
    }

    fn acted(&mut self, action: &Action, result: Result<Acted, Failure>, now: Timestamp, commands: &mut Vec<Command>) {
        self.acting.remove(&action.target());
        let result = result.map(|acted| {
            if let Some(prepared) = acted.prepared {
                self.prepared = Some(Arc::new(prepared));
            }
            acted.outcome
        });
        self.ended(action, &result, now, commands);
        match (action, &result) {
            (Action::Prepare, Ok(_)) => self.resources = Resources::Prepared,
            (Action::Release | Action::Suspend, Ok(_)) => self.resources = Resources::Released,
            // Half released is not prepared any more.
            (Action::Release | Action::Suspend, Err(_)) => self.resources = Resources::Unknown,
            _ => {}
        }
        if touches_runtime(action) {
            self.stale = true;
        }
        self.undecided = true;
    }

    fn ended(
        &mut self,
        action: &Action,
        result: &Result<Outcome, Failure>,
        now: Timestamp,
        commands: &mut Vec<Command>,
    ) {
        if let Err(failure) = result {
            info!(action = action.verb(), reason = failure.reason, error = failure.message, "an action failed");
        }
        let pulls = self.memory.pulls.clone();
        self.memory.ended(action, result, now);
        if pulls != self.memory.pulls {
            commands.push(Command::Save);
        }
    }

    fn published(&mut self, result: Result<(), PublishError>, now: Timestamp) {
        let is_final = self.acting.get(&Target::Object) == Some(&Action::PublishFinalStatus);
        let sent_newest = self.publishing.ended(&result, self.pod.status.as_ref(), now);
        if !is_final {
            return;
        }
        let outcome = match result {
            Ok(()) if !sent_newest => return,
            // There is nobody left to tell.
            Ok(()) | Err(PublishError::Gone) => Ok(Outcome::Done),
            Err(error) => Err(Failure { reason: "FailedStatusUpdate".into(), message: super::act::chain(&error) }),
        };
        self.acting.remove(&Target::Object);
        self.memory.ended(&Action::PublishFinalStatus, &outcome, now);
        self.undecided = true;
    }

    fn step(&mut self, node: &NodeFacts, now: Timestamp, commands: &mut Vec<Command>) {
        if self.finished {
            return;
        }
        if !self.is_busy() && !self.looking {
            if self.stale && self.look_at.is_none_or(|at| at <= now) {
                (self.looking, self.stale) = (true, false);
                commands.push(Command::Look);
            } else if !self.stale && self.undecided && self.seen.is_some() {
                self.decide(node, now, commands);
            }
        }
        let urgent = self.acting.get(&Target::Object) == Some(&Action::PublishFinalStatus);
        let busy = self.looking || self.acting.iter().any(|(t, a)| !a.is_patient() && *t != Target::Object);
        if let Some(status) = self.pod.status.as_ref().filter(|_| self.publishing.is_due(busy && !urgent, urgent, now))
        {
            self.publishing.began(status);
            commands.push(Command::Publish(self.pod.clone(), Box::new(status.clone())));
        }
    }

    fn decide(&mut self, node: &NodeFacts, now: Timestamp, commands: &mut Vec<Command>) {
        self.undecided = false;
        let Some(seen) = &self.seen else { return };
        let mut seen = Arc::clone(seen);
        if seen.resources != self.resources {
            Arc::make_mut(&mut seen).resources = self.resources;
        }
        self.seen = Some(seen.clone());
        self.tell(&seen, node, now, commands);
        let decision = decide(&self.pod, &self.wish.goal, &seen, &self.memory, node, now);
        debug!(?decision, goal = ?self.wish.goal, "decided");
        self.wake_at = decision.wake_at;
        self.memory.decided(&decision, &seen);
        if self.abandon(&decision, commands) {
            self.tell(&seen, node, now, commands);
        }
        if decision.finished {
            self.finished = true;
            commands.push(Command::Finish);
            return;
        }
        for action in decision.actions {
            self.begin(action, &seen, node, now, commands);
        }
    }

    /// Computes the status, unless the last word on it was said.
    fn tell(&mut self, seen: &Observation, node: &NodeFacts, now: Timestamp, commands: &mut Vec<Command>) {
        if !self.wish.published || self.memory.final_status_published || matches!(self.wish.goal, Goal::Rest { .. }) {
            return;
        }
        let new = status(&self.pod, &self.wish.goal, seen, &self.memory, node, now);
        if self.pod.status.as_ref() == Some(&new) {
            return;
        }
        let old = self.pod.status.clone().unwrap_or_default();
        commands.extend(reports(&self.pod, &old, &new).into_iter().map(Command::Report));
        if old.phase != new.phase {
            info!(from = old.phase, to = new.phase, "phase");
        }
        self.pod = Arc::new(Pod { status: Some(new), ..(*self.pod).clone() });
        self.publishing.changed(now);
    }

    /// Gives up what is under way and not wanted any more. True if nothing comes in the place of something.
    fn abandon(&mut self, decision: &Decision, commands: &mut Vec<Command>) -> bool {
        let mut called_off = false;
        let wanted = |running: &Action| decision.actions.iter().any(|action| same(action, running));
        let unwanted: Vec<Target> = self
            .acting
            .iter()
            .filter(|(_, action)| action.is_patient() && !wanted(action))
            .map(|(target, _)| target.clone())
            .collect();
        for target in unwanted {
            let action = self.acting.remove(&target);
            let follows = decision.actions.iter().any(|action| action.target() == target);
            if let Some(action) = action.filter(|_| !follows) {
                self.memory.called_off(&action);
                called_off = true;
            }
            commands.push(Command::Abandon(target));
        }
        called_off
    }

    fn begin(
        &mut self,
        action: Action,
        seen: &Observation,
        node: &NodeFacts,
        now: Timestamp,
        commands: &mut Vec<Command>,
    ) {
        let target = action.target();
        if let Some(running) = self.acting.get(&target) {
            if !is_sooner(&action, running) {
                return;
            }
            commands.push(Command::Abandon(target.clone()));
        }
        let crashes = self.memory.crashes.clone();
        self.memory.began(&action, node, now);
        if crashes != self.memory.crashes {
            commands.push(Command::Save);
        }
        self.acting.insert(target, action.clone());
        if action == Action::PublishFinalStatus {
            // Published by `step`, after what may be on its way: an older status never lands on top of the last one.
            self.publishing.changed(now);
            return;
        }
        let ips = match &action {
            Action::StartContainer { sandbox_id, .. } => seen.ips_of(sandbox_id),
            Action::PostStart { id, .. } | Action::PreStop { id, .. } => {
                seen.containers.iter().find(|c| c.id == *id).map(|c| seen.ips_of(&c.sandbox_id)).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let again = match &action {
            Action::PreStop { id, .. } | Action::KillContainer { id, .. } => !self.killed.insert(id.clone()),
            _ => false,
        };
        let order = Order { action, pod: self.pod.clone(), prepared: self.prepared.clone(), ips, again };
        commands.push(Command::Act(Box::new(order)));
    }
}
