//! Version, Status and RuntimeConfig: what the runtime is and can do.

use std::collections::BTreeMap;

use podd_cri::v1::{
    CgroupDriver, LinuxRuntimeConfiguration, RuntimeCondition, RuntimeConfigResponse, RuntimeFeatures, RuntimeHandler,
    RuntimeHandlerFeatures, RuntimeStatus, StatusResponse, VersionResponse,
};

use crate::engine::Engine;
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

    /// A runtime that opened is ready, and so is its network: both are made then, or opening fails.
    pub(crate) fn runtime_status(&self, verbose: bool) -> StatusResponse {
        let condition = |kind: &str| RuntimeCondition { r#type: kind.to_owned(), status: true, ..Default::default() };
        let handler = |name: &str| RuntimeHandler {
            name: name.to_owned(),
            features: Some(RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false }),
        };
        StatusResponse {
            status: Some(RuntimeStatus { conditions: vec![condition("RuntimeReady"), condition("NetworkReady")] }),
            info: if verbose { self.describe() } else { BTreeMap::new() },
            runtime_handlers: vec![handler(""), handler(HANDLER)],
            features: Some(RuntimeFeatures { supplemental_groups_policy: true, user_namespaces_host_network: false }),
        }
    }

    pub(crate) fn runtime_config(&self) -> RuntimeConfigResponse {
        RuntimeConfigResponse {
            linux: Some(LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs as i32 }),
        }
    }

    fn describe(&self) -> BTreeMap<String, String> {
        let config = serde_json::json!({
            "instance": self.config.instance,
            "root": self.config.root,
            "run": self.config.run,
            "cgroupRoot": self.config.cgroup_root,
            "cgroupVersion": format!("{:?}", self.cgroups.version()),
            "capabilities": podd_sys::capability::names(self.bounding),
        });
        BTreeMap::from([("config".to_owned(), config.to_string())])
    }
}
