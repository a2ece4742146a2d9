//! What goes into a [`Machine`](super::Machine) and what comes out of it.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use podd_core::pod::{Action, Failure, Observation, Target};

use super::super::{
    act::Acted,
    reports::Report,
    services::{Prepared, PublishError},
    wish::Wish,
};
use crate::probes::Told;

/// What happens to a worker.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, on its way from a job to the machine")]
pub(crate) enum Event {
    /// Something else is wanted.
    Wish(Wish),
    /// Something may have happened to the pod.
    Nudge,
    /// A look is over.
    Seen(Result<Observation, tonic::Status>),
    /// An action has ended.
    Acted(Action, Result<Acted, Failure>),
    /// A publication has ended.
    Published(Result<(), PublishError>),
    /// A probe has told something.
    Probed(Told),
    /// It is time.
    Time,
}

/// What a worker is to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Look at the pod, and tell.
    Look,
    /// Do this, and tell.
    Act(Box<Order>),
    /// Give up what is under way for this target.
    Abandon(Target),
    /// Publish this status of this pod, and tell.
    Publish(Arc<Pod>, Box<PodStatus>),
    /// Write the back-offs before anything that follows.
    Save,
    /// Record an event.
    Report(Report),
    /// Nothing of the pod is left to do, ever.
    Finish,
}

/// An action with all that its execution needs.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) action: Action,
    pub(crate) pod: Arc<Pod>,
    pub(crate) prepared: Option<Arc<Prepared>>,
    /// Addresses of the sandbox of the container that is started, or whose hook is run.
    pub(crate) ips: Vec<IpAddr>,
    /// Whether the same container was told to stop before: the event is not repeated.
    pub(crate) again: bool,
}
