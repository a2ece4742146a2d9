//! The Node object: what this machine has, what of it pods may use, and whether it is well. Written when something has
//! changed, and every five minutes as a sign of life.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler,
        NodeRuntimeHandlerFeatures, NodeStatus, NodeSystemInfo,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, Time},
    },
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use podd_core::{admission::Allocatable, eviction::Condition};
use podd_cri::{RuntimeService, v1};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    Config,
    config::default_node_ip,
    events::{Recorder, Severity},
    machine::Machine,
};

/// How long an unchanged status may stand.
const HEARTBEAT: Duration = Duration::from_secs(300);

/// Everything that the object is made of and that stays.
pub(crate) struct Facts {
    pub(crate) config: Arc<Config>,
    pub(crate) machine: Machine,
    pub(crate) allocatable: Allocatable,
    pub(crate) version: v1::VersionResponse,
}

/// Who keeps the object.
pub(crate) struct Keeper {
    pub(crate) nodes: Api<Node>,
    pub(crate) recorder: Recorder,
    pub(crate) runtime: Arc<dyn RuntimeService>,
    /// What the node is short of.
    pub(crate) conditions: watch::Receiver<Vec<Condition>>,
    /// Whether the machine goes down.
    pub(crate) shutting_down: watch::Receiver<bool>,
    pub(crate) facts: Facts,
}

impl Keeper {
    /// Keeps the object until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let period = self.facts.config.node_status_period;
        let mut published: Option<(NodeStatus, Timestamp)> = None;
        loop {
            let now = Timestamp::now();
            let mut told = runtime_status(self.runtime.as_ref()).await;
            if *self.shutting_down.borrow_and_update() {
                told.status.get_or_insert_default().conditions.insert(0, going_down());
            }
            let old = published.as_ref().map(|(status, _)| status);
            let short = self.conditions.borrow_and_update().clone();
            let status = status(&self.facts, &told, &short, old, now);
            let due = published.as_ref().is_none_or(|(published, at)| {
                !same(published, &status) || now.duration_since(*at).unsigned_abs() >= HEARTBEAT
            });
            if due {
                match publish(&self.nodes, &self.facts, &status).await {
                    Ok(()) => {
                        self.tell(old, &status);
                        published = Some((status, now));
                    }
                    Err(error) => warn!(%error, "publish the node's status"),
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                // None loses anything when it is cancelled.
                Ok(()) = self.conditions.changed() => {}
                Ok(()) = self.shutting_down.changed() => {}
                () = tokio::time::sleep(period) => {}
            }
        }
    }

    /// Records what has changed about the node.
    fn tell(&self, old: Option<&NodeStatus>, new: &NodeStatus) {
        let value = |status: &NodeStatus, kind: &str| find(status, kind).map(|condition| condition.status.clone());
        for (kind, yes, no) in SHORTAGES {
            let was = old.and_then(|old| value(old, kind)).unwrap_or_else(|| "False".into());
            let is = value(new, kind).unwrap_or_else(|| "False".into());
            if was != is {
                let reason = if is == "True" { yes } else { no };
                let name = &self.facts.config.node_name;
                let message = format!("Node {name} status is now: {reason}");
                self.recorder.node(name, Severity::Normal, reason, message);
            }
        }
    }
}

/// The events of conditions: when one comes, when it goes.
const SHORTAGES: [(&str, &str, &str); 3] = [
    ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
    ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
    ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
];

fn find<'a>(status: &'a NodeStatus, kind: &str) -> Option<&'a NodeCondition> {
    status.conditions.as_deref().unwrap_or_default().iter().find(|condition| condition.type_ == kind)
}

/// What makes a node that goes down one that is not ready.
fn going_down() -> v1::RuntimeCondition {
    v1::RuntimeCondition { message: "node is shutting down".into(), ..Default::default() }
}

/// What the runtime says of itself.
async fn runtime_status(runtime: &dyn RuntimeService) -> v1::StatusResponse {
    match runtime.status(tonic::Request::new(v1::StatusRequest { verbose: false })).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            debug!(message = status.message(), "the runtime does not tell its status");
            let unavailable = v1::RuntimeCondition {
                r#type: "RuntimeReady".into(),
                status: false,
                reason: "RuntimeUnavailable".into(),
                message: status.message().to_owned(),
            };
            let status = Some(v1::RuntimeStatus { conditions: vec![unavailable] });
            v1::StatusResponse { status, ..Default::default() }
        }
    }
}

async fn publish(nodes: &Api<Node>, facts: &Facts, status: &NodeStatus) -> Result<(), kube::Error> {
    let name = &facts.config.node_name;
    if nodes.get_opt(name).await?.is_none() {
        match nodes.create(&PostParams::default(), &object(facts)).await {
            Ok(_) => info!(node = name, "node registered"),
            // Somebody was quicker.
            Err(kube::Error::Api(error)) if error.code == 409 => {}
            Err(error) => return Err(error),
        }
    }
    let patch = Patch::Merge(json!({"status": status}));
    nodes.patch_status(name, &PatchParams::default(), &patch).await.map(drop)
}

fn object(facts: &Facts) -> Node {
    let labels = [
        ("kubernetes.io/hostname", facts.config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture()),
    ];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Node {
        metadata: ObjectMeta {
            name: Some(facts.config.node_name.clone()),
            labels: Some(BTreeMap::from(labels)),
            ..Default::default()
        },
        ..Default::default()
    }
}

fn status(
    facts: &Facts,
    runtime: &v1::StatusResponse,
    short: &[Condition],
    old: Option<&NodeStatus>,
    now: Timestamp,
) -> NodeStatus {
    let Facts { config, machine, allocatable, version } = facts;
    let address = config.node_ip.unwrap_or_else(default_node_ip);
    let resources = |milli_cpu: i64, memory: i64, storage: i64| {
        let cpu = if milli_cpu % 1000 == 0 { (milli_cpu / 1000).to_string() } else { format!("{milli_cpu}m") };
        BTreeMap::from([
            ("cpu".to_owned(), Quantity(cpu)),
            ("memory".to_owned(), Quantity(format!("{}Ki", memory / 1024))),
            ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", storage / 1024))),
            ("pods".to_owned(), Quantity(config.max_pods.to_string())),
        ])
    };
    NodeStatus {
        addresses: Some(vec![
            NodeAddress { address: address.to_string(), type_: "InternalIP".into() },
            NodeAddress { address: config.node_name.clone(), type_: "Hostname".into() },
        ]),
        capacity: Some(resources(machine.milli_cpu, machine.memory, machine.storage)),
        allocatable: Some(resources(allocatable.milli_cpu, allocatable.memory, allocatable.ephemeral_storage)),
        conditions: Some(conditions(runtime.status.as_ref().map_or(&[], |status| &status.conditions), short, old, now)),
        features: runtime
            .features
            .map(|features| NodeFeatures { supplemental_groups_policy: Some(features.supplemental_groups_policy) }),
        runtime_handlers: Some(runtime.runtime_handlers.iter().map(handler).collect()),
        daemon_endpoints: Some(NodeDaemonEndpoints::default()),
        node_info: Some(NodeSystemInfo {
            architecture: architecture().to_owned(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: format!("{}://{}", version.runtime_name, version.runtime_version),
            kernel_version: machine.kernel.clone(),
            kubelet_version: format!("v1.36.0-podd.{}", env!("CARGO_PKG_VERSION")),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".into(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.machine_id.clone(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn handler(handler: &v1::RuntimeHandler) -> NodeRuntimeHandler {
    NodeRuntimeHandler {
        name: Some(handler.name.clone()),
        features: handler.features.as_ref().map(|features| NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
            user_namespaces: Some(features.user_namespaces),
        }),
    }
}

/// The kubelet's conditions, with its reasons.
fn conditions(
    runtime: &[v1::RuntimeCondition],
    short: &[Condition],
    old: Option<&NodeStatus>,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let failed: Vec<&v1::RuntimeCondition> = runtime.iter().filter(|condition| !condition.status).collect();
    let ready = match failed.first() {
        None => ("Ready", "True", "KubeletReady", "podd is posting ready status".to_owned()),
        Some(condition) => {
            let message = match &*condition.reason {
                "" => condition.message.clone(),
                reason => format!("{reason}: {}", condition.message),
            };
            ("Ready", "False", "KubeletNotReady", message)
        }
    };
    let pressure = |kind: Condition, well: [&'static str; 2], ill: [&'static str; 2]| {
        let (value, [reason, message]) = if short.contains(&kind) { ("True", ill) } else { ("False", well) };
        (kind.name(), value, reason, message.to_owned())
    };
    let all = [
        pressure(
            Condition::MemoryPressure,
            ["KubeletHasSufficientMemory", "podd has sufficient memory available"],
            ["KubeletHasInsufficientMemory", "podd has insufficient memory available"],
        ),
        pressure(
            Condition::DiskPressure,
            ["KubeletHasNoDiskPressure", "podd has no disk pressure"],
            ["KubeletHasDiskPressure", "podd has disk pressure"],
        ),
        pressure(
            Condition::PidPressure,
            ["KubeletHasSufficientPID", "podd has sufficient PID available"],
            ["KubeletHasInsufficientPID", "podd has insufficient PID available"],
        ),
    ];
    let made = all.into_iter().chain([ready]).map(|(kind, value, reason, message)| {
        let before = old.and_then(|old| find(old, kind)).filter(|old| old.status == value);
        let since = before.and_then(|old| old.last_transition_time.clone());
        NodeCondition {
            type_: kind.into(),
            status: value.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: since.or(Some(Time(now))),
        }
    });
    made.collect()
}

/// Whether two statuses say the same, their times aside.
fn same(one: &NodeStatus, other: &NodeStatus) -> bool {
    let without_times = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    without_times(one) == without_times(other)
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let machine = Machine {
            milli_cpu: 2000,
            memory: 1 << 30,
            swap: 0,
            storage: 1 << 40,
            kernel: "6.1".into(),
            os_image: "Linux".into(),
            machine_id: "m".into(),
            boot_id: "b".into(),
        };
        let allocatable = Allocatable { milli_cpu: 1500, memory: 1 << 29, ephemeral_storage: 1 << 40, pods: 110 };
        let version = v1::VersionResponse { runtime_name: "podd".into(), ..Default::default() };
        Facts { config: Arc::new(Config::new("n")), machine, allocatable, version }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    #[test]
    fn a_runtime_that_is_not_ready_makes_a_node_that_is_not() {
        let well = status(&facts(), &v1::StatusResponse::default(), &[], None, at(1));
        let find = |status: &NodeStatus| {
            let all = status.conditions.clone().unwrap_or_default();
            all.into_iter().find(|condition| condition.type_ == "Ready").expect("a node has this condition")
        };
        assert_eq!(find(&well).status, "True");
        let bad = v1::RuntimeCondition {
            r#type: "NetworkReady".into(),
            status: false,
            reason: "NoBridge".into(),
            message: "gone".into(),
        };
        let bad = v1::RuntimeStatus { conditions: vec![bad] };
        let bad = v1::StatusResponse { status: Some(bad), ..Default::default() };
        let ill = status(&facts(), &bad, &[], Some(&well), at(9));
        let ready = find(&ill);
        assert_eq!((ready.status.as_str(), ready.message.as_deref()), ("False", Some("NoBridge: gone")));
        assert_eq!(ready.last_transition_time, Some(Time(at(9))));
    }

    #[test]
    fn only_times_differ_in_a_heartbeat() {
        let first = status(&facts(), &v1::StatusResponse::default(), &[], None, at(1));
        let later = status(&facts(), &v1::StatusResponse::default(), &[], Some(&first), at(100));
        assert!(same(&first, &later) && first != later);
        let since = later.conditions.as_deref().expect("conditions")[0].last_transition_time.clone();
        assert_eq!(since, Some(Time(at(1))));
        let allocatable = first.allocatable.as_ref().expect("allocatable");
        assert_eq!((allocatable["cpu"].0.as_str(), allocatable["memory"].0.as_str()), ("1500m", "524288Ki"));
    }

    #[test]
    fn what_the_node_is_short_of_is_a_condition() {
        let told = |short: &[Condition]| {
            let status = status(&facts(), &v1::StatusResponse::default(), short, None, at(1));
            let all = status.conditions.unwrap_or_default().into_iter();
            all.filter(|c| c.status == "True").filter_map(|c| c.reason).collect::<Vec<_>>()
        };
        assert_eq!(told(&[]), ["KubeletReady"]);
        let both = [Condition::DiskPressure, Condition::PidPressure];
        assert_eq!(told(&both), ["KubeletHasDiskPressure", "KubeletHasInsufficientPID", "KubeletReady"]);
    }
}
