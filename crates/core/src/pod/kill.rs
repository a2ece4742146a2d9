//! The end of containers: for each its preStop hook, then its turn among the others, then its stop signal with what is
//! left of the grace. All of them share one deadline, so that hooks and waiting are paid from the same grace.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    Action, ContainerSeen, ContainerState, KillReason, Kind,
    back_off::add,
    containers::termination_grace,
    decide::{Batch, Turn},
};

/// The least grace a container gets, whatever was asked for.
pub(super) const LEAST_GRACE: Duration = Duration::from_secs(2);

/// Why containers end, and when they are killed at the latest.
#[derive(Clone, Copy, Debug)]
struct End {
    reason: KillReason,
    /// Whether another one follows.
    returns: bool,
    deadline: Timestamp,
}

impl Turn<'_> {
    /// Ends all containers of which `which` is true, with the pod's own grace and in order. False if there was none.
    pub(super) fn kill(
        &self,
        batch: &mut Batch<'_>,
        reason: KillReason,
        which: impl Fn(&ContainerSeen) -> bool,
    ) -> bool {
        let dying = self.alive(which);
        for container in &dying {
            // A container that waited for its turn has waited on the same grace.
            let housed = |c: &&ContainerSeen| c.sandbox_id == container.sandbox_id;
            let begun = self.seen.containers.iter().filter(housed).filter_map(|c| self.memory.kills.get(&c.id));
            let deadline = begun.filter(|kill| kill.reason == reason).map(|kill| kill.deadline).min();
            let deadline = deadline.unwrap_or_else(|| add(self.now, termination_grace(self.pod).max(LEAST_GRACE)));
            self.end(batch, container, &dying, End { reason, returns: false, deadline });
        }
        !dying.is_empty()
    }

    /// Ends all containers by this moment, in order. False if there was none.
    pub(super) fn kill_all_by(&self, batch: &mut Batch<'_>, kill_at: Timestamp) -> bool {
        let dying = self.alive(|_| true);
        for container in &dying {
            self.end(
                batch,
                container,
                &dying,
                End { reason: KillReason::PodStopped, returns: false, deadline: kill_at },
            );
        }
        !dying.is_empty()
    }

    /// Ends one container of a pod that goes on, with this grace. `returns` says that another one follows.
    pub(super) fn kill_one(
        &self,
        batch: &mut Batch<'_>,
        container: &ContainerSeen,
        reason: KillReason,
        grace: Duration,
        returns: bool,
    ) {
        let begun = self.memory.kills.get(&container.id).filter(|kill| kill.reason == reason).map(|kill| kill.deadline);
        let deadline = begun.unwrap_or_else(|| add(self.now, grace.max(LEAST_GRACE)));
        self.end(batch, container, &[], End { reason, returns, deadline });
    }

    fn alive(&self, which: impl Fn(&ContainerSeen) -> bool) -> Vec<&ContainerSeen> {
        self.seen.containers.iter().filter(|c| c.may_run() && which(c)).collect()
    }

    /// Brings a container one step nearer to its end. `dying` end together with it.
    fn end(&self, batch: &mut Batch<'_>, container: &ContainerSeen, dying: &[&ContainerSeen], end: End) {
        batch.ends(&container.id);
        let message = message(container, end);
        // Whatever else asks for the end meanwhile: what the container was promised does not grow. Its turn among the others
        // is a matter of what they all have.
        let promised =
            self.memory.kills.get(&container.id).map_or(end.deadline, |kill| kill.deadline.min(end.deadline));
        let until = |deadline: Timestamp| Duration::try_from(deadline.duration_since(self.now)).unwrap_or_default();
        let left = until(promised);
        if !until(end.deadline).is_zero() {
            if !left.is_zero() && self.has_hook_to_run(container) {
                batch.waits_until(promised);
                return batch.push(Action::PreStop {
                    id: container.id.clone(),
                    container: container.name.clone(),
                    reason: end.reason,
                    message,
                    deadline: promised,
                });
            }
            if dying.iter().any(|other| self.ends_before(other, container)) {
                batch.waits_until(end.deadline);
                return;
            }
        }
        let grace = left.max(LEAST_GRACE);
        batch.push(Action::KillContainer {
            id: container.id.clone(),
            container: container.name.clone(),
            reason: end.reason,
            message,
            grace,
            deadline: add(self.now, grace),
        });
    }

    /// Whether the container's preStop hook is still to be run.
    fn has_hook_to_run(&self, container: &ContainerSeen) -> bool {
        let runs = matches!(container.state, ContainerState::Running { .. });
        let member = self.members.iter().find(|m| m.name() == container.name);
        let hook = member.and_then(|m| m.spec.lifecycle.as_ref()).and_then(|l| l.pre_stop.as_ref());
        runs && hook.is_some() && !self.memory.pre_stopped.contains(&container.id)
    }

    /// Whether `one` ends before `other` may: a sidecar waits for all regular containers, and for the sidecars that were
    /// started after it.
    fn ends_before(&self, one: &ContainerSeen, other: &ContainerSeen) -> bool {
        let place = |c: &ContainerSeen| self.members.iter().position(|m| m.name() == c.name);
        let (Some(one), Some(other)) = (place(one), place(other)) else {
            return false;
        };
        let waits = self.members[other].kind == Kind::Sidecar;
        waits && one > other && matches!(self.members[one].kind, Kind::Sidecar | Kind::Regular)
    }
}

/// The text of the `Killing` event.
fn message(seen: &ContainerSeen, end: End) -> String {
    let name = &seen.name;
    let probe = |kind: &str| {
        let sequel = if end.returns { ", will be restarted" } else { "" };
        format!("Container {name} failed {kind} probe{sequel}")
    };
    match end.reason {
        KillReason::PodStopped | KillReason::SandboxStopped => format!("Stopping container {name}"),
        KillReason::DefinitionChanged => format!("Container {name} definition changed, will be restarted"),
        KillReason::LivenessFailed => probe("liveness"),
        KillReason::StartupFailed => probe("startup"),
        KillReason::StateUnknown => "Container is in \"unknown\" state, try killing it before restart".to_owned(),
        KillReason::PostStartFailed => "FailedPostStartHook".to_owned(),
    }
}
