//! The end of containers: stopping them with grace, and removing what is left.

use std::time::Duration;

use podd_core::pod::Failure;
use podd_cri::v1;
use tonic::Request;

use super::within;
use crate::worker::services::Services;

/// Sends the stop signal, waits, kills. Ends when the container has.
pub(super) async fn kill(services: &Services, id: &str, grace: Duration) -> Result<(), Failure> {
    // CRI counts whole seconds, and nobody gets less than what was promised.
    let timeout = i64::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
    let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout };
    let deadline = grace.saturating_add(services.settings.call_deadline);
    let call = services.runtime.stop_container(Request::new(request));
    within(deadline, "KillContainerError", call).await.map(|_| ())
}

/// Removes a dead container's record and files.
pub(super) async fn remove(services: &Services, id: &str) -> Result<(), Failure> {
    let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
    let call = services.runtime.remove_container(Request::new(request));
    within(services.settings.call_deadline, "RemoveContainerError", call).await.map(|_| ())
}
