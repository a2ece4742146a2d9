//! Version, Status and RuntimeConfig: what the runtime is and can do.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::PoisonError;

use podd_cri::v1::{
    self, CgroupDriver, LinuxRuntimeConfiguration, RuntimeCondition, RuntimeConfigResponse, RuntimeFeatures,
    RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, StatusResponse, VersionResponse,
};

use crate::config::Handler;
use crate::engine::Engine;
use crate::error::{CriError, Result, excerpt};
use crate::features::Features;
use crate::sandbox::plan::HANDLER;

/// The version of the kubelet's runtime API, which has been this one for ever.
const KUBELET_API: &str = "0.1.0";

impl Engine {
    pub(crate) fn version(&self) -> VersionResponse {
        VersionResponse {
            version: KUBELET_API.to_owned(),
            runtime_name: "podd".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        }
    }

    /// A runtime that opened is ready. So is podd's network; that of CNI is when its configuration can be used.
    pub(crate) fn runtime_status(&self, verbose: bool, features: Features) -> StatusResponse {
        let condition = |kind: &str| RuntimeCondition { r#type: kind.to_owned(), status: true, ..Default::default() };
        let network = match self.cni.choose() {
            Ok(_) => condition("NetworkReady"),
            Err(message) => RuntimeCondition {
                status: false,
                reason: "NetworkPluginNotReady".to_owned(),
                message,
                ..condition("NetworkReady")
            },
        };
        let handler = |name: &str| RuntimeHandler {
            name: name.to_owned(),
            features: Some(RuntimeHandlerFeatures {
                // The shim makes mounts read-only before another runtime's program sees them.
                recursive_read_only_mounts: features.recursive_read_only,
                user_namespaces: features.user_namespaces
                    && !matches!(self.config.handlers.get(name), Some(Handler::Program(_))),
            }),
        };
        StatusResponse {
            status: Some(RuntimeStatus { conditions: vec![condition("RuntimeReady"), network] }),
            info: if verbose { self.describe() } else { BTreeMap::new() },
            runtime_handlers: ["", HANDLER]
                .into_iter()
                .chain(self.config.handlers.keys().map(String::as_str))
                .map(handler)
                .collect(),
            features: Some(RuntimeFeatures {
                supplemental_groups_policy: true,
                // Nothing more is needed: sysfs of the machine's network is mounted before the pod's users come in.
                user_namespaces_host_network: features.user_namespaces,
            }),
        }
    }

    /// Takes note of what the node has learnt. The pods' addresses come from podd's own network or from a CNI plugin,
    /// which have configurations of their own: the range is kept for people to see, and for plugins that ask for it.
    pub(crate) fn update_config(&self, config: v1::RuntimeConfig) -> Result<()> {
        let cidr = config.network_config.unwrap_or_default().pod_cidr;
        let mut ranges = cidr.split(',').map(str::trim).filter(|_| !cidr.is_empty());
        if let Some(wrong) = ranges.find(|range| !is_range(range)) {
            let wrong = excerpt(wrong);
            return Err(CriError::invalid(format!(
                "network_config.pod_cidr {wrong} is no address with a prefix length"
            )));
        }
        tracing::info!(pod_cidr = cidr, "the node's pod range is known");
        *self.pod_cidr.lock().unwrap_or_else(PoisonError::into_inner) = cidr;
        Ok(())
    }

    pub(crate) fn runtime_config(&self) -> RuntimeConfigResponse {
        let driver = match self.config.cgroup_driver {
            crate::CgroupDriver::Cgroupfs => CgroupDriver::Cgroupfs,
            crate::CgroupDriver::Systemd => CgroupDriver::Systemd,
        };
        RuntimeConfigResponse { linux: Some(LinuxRuntimeConfiguration { cgroup_driver: driver as i32 }) }
    }

    fn describe(&self) -> BTreeMap<String, String> {
        let config = serde_json::json!({
            "instance": self.config.instance,
            "root": self.config.root,
            "run": self.config.run,
            "cgroupRoot": self.config.cgroup_root,
            "cgroupVersion": format!("{:?}", self.cgroups.version()),
            "podCIDR": *self.pod_cidr.lock().unwrap_or_else(PoisonError::into_inner),
            "capabilities": podd_sys::capability::names(self.bounding),
        });
        let mut told = BTreeMap::from([("config".to_owned(), config.to_string())]);
        if let Some((config, load)) = self.cni.describe() {
            // containerd's words: tools look for them.
            told.insert("cniconfig".to_owned(), config.to_string());
            told.insert("lastCNILoadStatus".to_owned(), load);
        }
        told
    }
}

/// `10.85.0.0/16`, `fd00::/64`.
fn is_range(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let longest = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_range_is_an_address_with_a_prefix_length_that_it_can_have() {
        for range in ["10.85.0.0/16", "fd00::/64", "0.0.0.0/0"] {
            assert!(is_range(range), "{range}");
        }
        for text in ["", "10.85.0.0", "10.85.0.0/33", "fd00::/129", "10.85/16", "a/1", "10.85.0.0/-1"] {
            assert!(!is_range(text), "{text}");
        }
    }
}
