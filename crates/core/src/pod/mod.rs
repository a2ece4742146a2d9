//! What a pod needs next, and what is true of it now.
//!
//! [`decide`] compares the wish (a `Pod` and a [`Goal`]) with what was seen ([`Observation`]) and answers with the
//! next batch of [`Action`]s; [`status`] turns the same values into the `PodStatus` that is published. Both are
//! pure. What cannot be observed again (how often a container crashed, what the last pull said) lives in
//! [`Memory`], which changes only through [`Memory::began`] and [`Memory::ended`].
//!
//! ```text
//!           ┌──────────── observe (CRI) ───────────┐
//!           ▼                                      │
//!   Observation, Memory ── decide ──► batch ── act ┤
//!           └───────────── status ──► publish      │
//!                                    update, event, wake_at
//! ```

mod action;
mod back_off;
mod conditions;
mod container_status;
mod containers;
mod deadline;
mod decide;
mod ephemeral;
mod health;
mod images;
mod kill;
mod memory;
mod mounts;
mod observation;
mod phase;
mod sandbox;
mod start;
mod status;
mod stop;
#[cfg(test)]
mod tests;

pub use action::{Action, Crash, Decision, Ending, Failure, Goal, KillReason, LastStep, Outcome, Refusal, Target};
pub use back_off::{BackOff, Limits as BackOffLimits};
pub use conditions::OURS as OUR_CONDITIONS;
pub use containers::{Kind, Member, PullPolicy, RestartPolicy, container_hash, is_sidecar, members, termination_grace};
pub use decide::decide;
pub use ephemeral::{as_container, of_container};
pub use health::{Health, ProbeKind, Watch, watches};
pub use images::{image_names, image_volume};
pub use memory::{Failed, ImageKnown, Kill, Memory, PostStart};
pub use mounts::mounts_recursively_read_only;
pub use observation::{
    ContainerSeen, ContainerState, Exit, NodeFacts, Observation, Resources, SandboxSeen, SandboxState,
};
pub use phase::is_terminal;
pub use status::{is_static, status};
