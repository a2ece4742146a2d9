//! The sandbox whose network the name server listens in.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc};

use podd_cri::{RuntimeService, v1};
use serde_json::Value;
use tonic::{Request, Status};
use tracing::warn;

const ROLE: (&str, &str) = ("podd.io/role", "names");
const NAME: &str = "podd-names";
const NAMESPACE: &str = "podd-system";

/// A sandbox that is ready.
#[derive(Clone, Debug)]
pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) addresses: Vec<IpAddr>,
    /// Its network namespace.
    pub(super) network: PathBuf,
}

/// Finds the sandbox, or makes it. What is left of earlier ones goes.
pub(super) async fn ensure(runtime: &Arc<dyn RuntimeService>) -> Result<Sandbox, String> {
    let told = |what: &str, status: Status| format!("{what}: {}", status.message());
    let mut all = list(runtime).await.map_err(|status| told("list sandboxes", status))?;
    all.sort_by_key(|sandbox| (sandbox.state, -sandbox.created_at));
    let mut ready = None;
    for sandbox in &all {
        if ready.is_none() && sandbox.state == v1::PodSandboxState::SandboxReady as i32 {
            ready = Some(sandbox.id.clone());
            continue;
        }
        // What is in the way of its going is no reason to have no names.
        if let Err(status) = remove(runtime, &sandbox.id).await {
            warn!(id = sandbox.id, message = status.message(), "remove an old sandbox of the name server");
        }
    }
    let id = match ready {
        Some(id) => id,
        None => {
            let attempts = all.iter().filter_map(|sandbox| sandbox.metadata.as_ref()).map(|metadata| metadata.attempt);
            let request = v1::RunPodSandboxRequest {
                config: Some(config(attempts.max().map_or(0, |last| last.saturating_add(1)))),
                ..Default::default()
            };
            let made = runtime.run_pod_sandbox(Request::new(request)).await;
            made.map_err(|status| told("make a sandbox", status))?.into_inner().pod_sandbox_id
        }
    };
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: true };
    let answer = runtime.pod_sandbox_status(Request::new(request)).await;
    let answer = answer.map_err(|status| told("look at a sandbox", status))?.into_inner();
    let network = answer.status.and_then(|status| status.network).unwrap_or_default();
    let more = network.additional_ips.into_iter().map(|ip| ip.ip);
    let addresses = std::iter::once(network.ip).chain(more).filter_map(|ip| ip.parse().ok()).collect();
    let network = network_namespace(answer.info.get("info").map_or("", String::as_str))
        .ok_or("the runtime does not tell the network namespace of its sandboxes")?;
    Ok(Sandbox { id, addresses, network })
}

/// The path that containerd and podd tell in the OCI configuration that they show of a sandbox.
fn network_namespace(info: &str) -> Option<PathBuf> {
    let info: Value = serde_json::from_str(info).ok()?;
    let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array()?;
    let path = namespaces.iter().find(|namespace| namespace["type"] == "network")?["path"].as_str()?;
    Some(path.into()).filter(|_| !path.is_empty())
}

/// Whether a sandbox is the name server's.
pub(crate) fn is_sandbox(labels: &BTreeMap<String, String>) -> bool {
    labels.get(ROLE.0).is_some_and(|role| role == ROLE.1)
}

/// Takes away every sandbox of a name server.
pub(super) async fn remove_all(runtime: &Arc<dyn RuntimeService>) -> Result<(), Status> {
    for sandbox in list(runtime).await? {
        remove(runtime, &sandbox.id).await?;
    }
    Ok(())
}

async fn list(runtime: &Arc<dyn RuntimeService>) -> Result<Vec<v1::PodSandbox>, Status> {
    let label_selector = [(ROLE.0.to_owned(), ROLE.1.to_owned())].into();
    let filter = v1::PodSandboxFilter { label_selector, ..Default::default() };
    let request = v1::ListPodSandboxRequest { filter: Some(filter) };
    Ok(runtime.list_pod_sandbox(Request::new(request)).await?.into_inner().items)
}

async fn remove(runtime: &Arc<dyn RuntimeService>, id: &str) -> Result<(), Status> {
    let stop = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
    runtime.stop_pod_sandbox(Request::new(stop)).await?;
    runtime.remove_pod_sandbox(Request::new(v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() })).await?;
    Ok(())
}

fn config(attempt: u32) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: NAME.to_owned(),
            uid: NAME.to_owned(),
            namespace: NAMESPACE.to_owned(),
            attempt,
        }),
        hostname: NAME.to_owned(),
        labels: [(ROLE.0.to_owned(), ROLE.1.to_owned())].into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig::default()),
        ..Default::default()
    }
}
