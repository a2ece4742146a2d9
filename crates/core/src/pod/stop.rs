//! The way out: from running containers to nothing, one step at a time, each one only when the one before it is seen
//! to be done. Every step may be repeated and any of them may be the first (after a crash of the agent).

use jiff::Timestamp;

use super::{
    Action, ContainerSeen, LastStep, Resources, SandboxState,
    decide::{Batch, Turn},
};

/// Plans the next step of a pod's end. True when none is left.
pub(super) fn plan(turn: &Turn<'_>, kill_at: Timestamp, last: LastStep, batch: &mut Batch<'_>) -> bool {
    let seen = turn.seen;
    if turn.kill_all_by(batch, kill_at) {
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
    if turn.kill_all_by(batch, kill_at) {
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
