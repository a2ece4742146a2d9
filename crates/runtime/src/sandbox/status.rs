//! PodSandboxStatus.

use std::collections::BTreeMap;

use podd_cri::v1::{
    LinuxPodSandboxStatus, Namespace, PodIp, PodSandboxNetworkStatus, PodSandboxStatus, PodSandboxStatusResponse,
};

use super::{Sandbox, metadata};
use crate::clock::now;
use crate::engine::Engine;
use crate::error::Result;

impl Engine {
    /// One sandbox in full, with the statuses of its containers.
    pub(crate) fn sandbox_status(&self, id: &str, verbose: bool) -> Result<PodSandboxStatusResponse> {
        let sandbox = self.registry.sandbox(id)?;
        let info = if verbose { self.describe_sandbox(&sandbox)? } else { BTreeMap::new() };
        Ok(PodSandboxStatusResponse {
            status: Some(sandbox.to_cri()),
            info,
            containers_statuses: self.statuses_in(sandbox.id()),
            timestamp: now(),
        })
    }
}

impl Sandbox {
    pub(crate) fn to_cri(&self) -> PodSandboxStatus {
        let meta = &self.meta;
        let mut ips = self.status().ips.into_iter().map(|ip| ip.to_string());
        PodSandboxStatus {
            id: meta.id.clone(),
            metadata: Some(metadata(&meta.owner)),
            state: self.state() as i32,
            created_at: meta.created_at,
            network: Some(PodSandboxNetworkStatus {
                ip: ips.next().unwrap_or_default(),
                additional_ips: ips.map(|ip| PodIp { ip }).collect(),
            }),
            linux: Some(LinuxPodSandboxStatus {
                namespaces: Some(Namespace { options: Some(meta.namespaces.to_cri()) }),
            }),
            labels: meta.labels.clone(),
            annotations: meta.annotations.clone(),
            runtime_handler: meta.runtime_handler.clone(),
        }
    }
}
