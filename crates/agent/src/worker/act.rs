//! Executing one action: each is a function here or below, as dumb as possible. What was to be done was decided; what
//! came of it is told in core's words, and recorded as the kubelet's events.

pub(crate) use expand::expand;
pub(super) use image::{Pulled, pull_once};

mod env;
mod env_file;
mod expand;
mod hook;
mod image;
mod mounts;
mod paths;
mod sandbox;
mod security;
mod start;
mod stop;

use std::{sync::Arc, time::Duration};

use podd_core::pod::{Action, Failure, Outcome};
use tonic::{Response, Status};

pub(crate) use crate::resources::chain;

use super::{
    machine::Order,
    pulls::Pulls,
    services::{Prepared, PublishError, Services},
};
use crate::events::Severity;

/// What came of an action that went well.
#[derive(Debug)]
pub(crate) struct Acted {
    pub(crate) outcome: Outcome,
    /// What `Prepare` made.
    pub(crate) prepared: Option<Prepared>,
}

impl Acted {
    fn done() -> Acted {
        Acted::with(Outcome::Done)
    }

    fn with(outcome: Outcome) -> Acted {
        Acted { outcome, prepared: None }
    }
}

/// Executes an order.
pub(crate) async fn act(services: &Arc<Services>, pulls: &Pulls, order: &Order) -> Result<Acted, Failure> {
    let pod = &*order.pod;
    match &order.action {
        Action::Prepare => prepare(services, order).await,
        Action::InspectImage { container, image, pull } => {
            image::inspect(services, pod, container, image, *pull).await.map(Acted::with)
        }
        Action::PullImage { container, image } => {
            image::pull(services, pulls, pod, container, image).await.map(Acted::with)
        }
        Action::CreateSandbox { attempt } => sandbox::create(services, order, *attempt).await.map(|()| Acted::done()),
        Action::StopSandbox { id } => sandbox::stop(services, pod, id).await.map(|()| Acted::done()),
        Action::RemoveSandbox { id } => sandbox::remove(services, id).await.map(|()| Acted::done()),
        Action::StartContainer { container, sandbox_id, restart_count, image_ref, target, .. } => {
            let (restart_count, target) = (*restart_count, target.as_deref());
            let start = start::Start { container, sandbox_id, restart_count, image_ref, target };
            start::start(services, order, &start).await.map(|id| Acted::with(Outcome::Started { id }))
        }
        Action::PostStart { id, container } => {
            hook::post_start(services, order, id, container).await.map(|()| Acted::done())
        }
        Action::PreStop { id, container, message, .. } => {
            killing(services, order, container, message);
            hook::pre_stop(services, order, id, container).await.map(|()| Acted::done())
        }
        Action::KillContainer { id, container, message, grace, .. } => {
            killing(services, order, container, message);
            stop::kill(services, id, *grace).await.map(|()| Acted::done())
        }
        Action::RemoveContainer { id, .. } => stop::remove(services, id).await.map(|()| Acted::done()),
        Action::Release => services.resources.release(pod).await.map(|()| Acted::done()),
        Action::Suspend => services.resources.suspend(pod).await.map(|()| Acted::done()),
        Action::DeleteObject => match services.objects.delete(pod).await {
            Ok(()) | Err(PublishError::Gone) => Ok(Acted::done()),
            Err(error) => Err(Failure { reason: "FailedDelete".into(), message: chain(&error) }),
        },
        // The worker publishes by itself, in order with what it publishes besides.
        Action::PublishFinalStatus => Ok(Acted::done()),
    }
}

/// Tells that a container is being stopped, once.
fn killing(services: &Services, order: &Order, container: &str, message: &str) {
    if !order.again {
        services.recorder.container(&order.pod, container, Severity::Normal, "Killing", message);
    }
}

async fn prepare(services: &Services, order: &Order) -> Result<Acted, Failure> {
    match services.resources.prepare(&order.pod).await {
        Ok(prepared) => Ok(Acted { outcome: Outcome::Done, prepared: Some(prepared) }),
        Err(failure) => {
            services.recorder.pod(&order.pod, Severity::Warning, &failure.reason, failure.message.clone());
            Err(failure)
        }
    }
}

/// Waits for a call to the runtime, but not for ever.
async fn within<T>(
    deadline: Duration,
    reason: &str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(failure(reason, &status)),
        Err(_) => {
            let message = format!("the runtime did not answer within {} s", deadline.as_secs());
            Err(Failure { reason: reason.into(), message })
        }
    }
}

/// The runtime's words, without gRPC's around them.
fn failure(reason: &str, status: &Status) -> Failure {
    let message = if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() };
    Failure { reason: reason.into(), message }
}
