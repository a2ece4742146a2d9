//! The way out: from running containers to nothing, one step at a time, each one only when the one before it is seen
//! to be done. Every step may be repeated and any of them may be the first (after a crash of the agent).

use std::time::Duration;

use jiff::Timestamp;

use super::{
    Action, ContainerSeen, KillReason, LastStep, Resources, SandboxState,
    back_off::add,
    decide::{Batch, Turn, kill_message},
};

/// The least grace a container gets, whatever was asked for.
pub(super) const LEAST_GRACE: Duration = Duration::from_secs(2);

/// Plans the next step of a pod's end. True when none is left.
pub(super) fn plan(turn: &Turn<'_>, kill_at: Timestamp, last: LastStep, batch: &mut Batch<'_>) -> bool {
    let seen = turn.seen;
    let mut alive = seen.containers.iter().filter(|c| c.may_run()).peekable();
    if alive.peek().is_some() {
        alive.for_each(|container| batch.push(kill_by(container, kill_at, turn.now)));
        return false;
    }

    let mut ready = seen.sandboxes.iter().filter(|s| s.state == SandboxState::Ready).peekable();
    if ready.peek().is_some() {
        ready.for_each(|s| batch.push(Action::StopSandbox { id: s.id.clone() }));
        return false;
    }

    if last == LastStep::DeleteObject && !turn.memory.final_status_published && !turn.memory.object_deleted {
        batch.push(Action::PublishFinalStatus);
        return false;
    }

    if !seen.sandboxes.is_empty() || !seen.containers.is_empty() {
        for sandbox in &seen.sandboxes {
            batch.push(Action::RemoveSandbox { id: sandbox.id.clone() });
        }
        // A sandbox takes its containers with it; what it left behind, or lost, goes on its own.
        let housed = |c: &&ContainerSeen| seen.sandboxes.iter().any(|s| s.id == c.sandbox_id);
        for container in seen.containers.iter().filter(|c| !housed(c)) {
            batch.push(Action::RemoveContainer { id: container.id.clone(), container: container.name.clone() });
        }
        return false;
    }

    if seen.resources != Resources::Released {
        batch.push(Action::Release);
        return false;
    }
    if last == LastStep::DeleteObject && !turn.memory.object_deleted {
        batch.push(Action::DeleteObject);
        return false;
    }
    true
}

/// Plans the next step of a pod whose node goes down. True when none is left.
pub(super) fn plan_rest(turn: &Turn<'_>, kill_at: Timestamp, batch: &mut Batch<'_>) -> bool {
    let mut alive = turn.seen.containers.iter().filter(|c| c.may_run()).peekable();
    if alive.peek().is_some() {
        alive.for_each(|container| batch.push(kill_by(container, kill_at, turn.now)));
        return false;
    }
    if turn.stop_sandboxes(batch, None) {
        return false;
    }
    if turn.seen.resources != Resources::Released {
        batch.push(Action::Suspend);
        return false;
    }
    true
}

fn kill_by(container: &ContainerSeen, kill_at: Timestamp, now: Timestamp) -> Action {
    let left = Duration::try_from(kill_at.duration_since(now)).unwrap_or_default();
    let grace = left.max(LEAST_GRACE);
    Action::KillContainer {
        id: container.id.clone(),
        container: container.name.clone(),
        reason: KillReason::PodStopped,
        message: kill_message(container, KillReason::PodStopped),
        grace,
        deadline: add(now, grace),
    }
}
