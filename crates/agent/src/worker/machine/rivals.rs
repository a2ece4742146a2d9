//! How an action stands to one that is under way, and to what was seen.

use podd_core::pod::Action;

/// Whether two patient actions are the same wish; the grace of a stop may differ.
pub(super) fn same(one: &Action, other: &Action) -> bool {
    match (one, other) {
        (Action::KillContainer { id, .. }, Action::KillContainer { id: other, .. })
        | (Action::PreStop { id, .. }, Action::PreStop { id: other, .. }) => id == other,
        _ => one == other,
    }
}

/// Whether a kill ends earlier than the one under way.
pub(super) fn is_sooner(new: &Action, running: &Action) -> bool {
    match (new, running) {
        (Action::KillContainer { deadline: new, .. }, Action::KillContainer { deadline: old, .. }) => new < old,
        _ => false,
    }
}

/// Whether the runtime looks different after it.
pub(super) fn touches_runtime(action: &Action) -> bool {
    match action {
        Action::Prepare
        | Action::InspectImage { .. }
        | Action::PullImage { .. }
        | Action::PostStart { .. }
        | Action::PreStop { .. }
        | Action::PublishFinalStatus
        | Action::Release
        | Action::Suspend
        | Action::DeleteObject => false,
        Action::CreateSandbox { .. }
        | Action::StopSandbox { .. }
        | Action::RemoveSandbox { .. }
        | Action::StartContainer { .. }
        | Action::KillContainer { .. }
        | Action::RemoveContainer { .. } => true,
    }
}
