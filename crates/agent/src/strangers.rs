//! Sandboxes in the agent's runtime that no pod stands behind, made by hand over its socket (`crictl runp`). The agent
//! leaves them alone while it runs, and takes them away when the node goes down with its pods.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use podd_cri::{RuntimeService, v1};
use tonic::{Request, Status};
use tracing::info;

use crate::{names, worker::names::POD_UID};

/// The grace of a container of which nothing tells it, in seconds, in the API's default.
const DEFAULT_GRACE: u64 = 30;

/// Stops and removes them all; each container has the default grace, or this if it is shorter.
///
/// # Errors
/// Names those that are still there.
pub(crate) async fn remove(runtime: &Arc<dyn RuntimeService>, grace: Option<Duration>) -> Result<(), String> {
    let grace = grace.map_or(DEFAULT_GRACE, |grace| grace.as_secs().min(DEFAULT_GRACE));
    let listed = runtime.list_pod_sandbox(Request::new(v1::ListPodSandboxRequest::default())).await;
    let listed = listed.map_err(|error| format!("list sandboxes: {}", error.message()))?.into_inner().items;
    // The name server's goes with the server, last of all.
    let strangers = listed
        .into_iter()
        .filter(|sandbox| !sandbox.labels.contains_key(POD_UID) && !names::is_sandbox(&sandbox.labels));
    let removals = strangers.map(async |sandbox| {
        let name = sandbox.metadata.map(|metadata| metadata.name).unwrap_or_default();
        info!(id = sandbox.id, name, "a sandbox that no pod stands behind is removed");
        let outcome = remove_one(runtime, &sandbox.id, grace).await;
        outcome.map_err(|error| format!("sandbox {} ({name}): {}", sandbox.id, error.message()))
    });
    let failures: Vec<String> = join_all(removals).await.into_iter().filter_map(Result::err).collect();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

async fn remove_one(runtime: &Arc<dyn RuntimeService>, id: &str, grace: u64) -> Result<(), Status> {
    let filter = v1::ContainerFilter { pod_sandbox_id: id.to_owned(), ..Default::default() };
    let request = v1::ListContainersRequest { filter: Some(filter) };
    let containers = runtime.list_containers(Request::new(request)).await?.into_inner().containers;
    let timeout = i64::try_from(grace).unwrap_or(i64::MAX);
    let stops = containers.into_iter().map(|container| {
        runtime.stop_container(Request::new(v1::StopContainerRequest { container_id: container.id, timeout }))
    });
    for stopped in join_all(stops).await {
        stopped?;
    }
    let stop = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
    runtime.stop_pod_sandbox(Request::new(stop)).await?;
    runtime.remove_pod_sandbox(Request::new(v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() })).await?;
    Ok(())
}
