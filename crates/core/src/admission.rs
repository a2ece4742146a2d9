//! Whether this node takes a pod, beside those that it has taken already. A refused pod is `Failed`
//! for good, with the kubelet's reason; the message names who is in the way.
//!
//! Sources: `pkg/kubelet/lifecycle/predicate.go`, the `NodePorts` and `NodeResourcesFit` filters of
//! the scheduler, Kubernetes 1.36.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::pod::Refusal;
use crate::{qos, sysctl};

/// What the node has for pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocatable {
    /// Processor time, in thousandths of a core.
    pub milli_cpu: i64,
    /// Memory, in bytes.
    pub memory: i64,
    /// Disk for writable layers, logs and emptyDirs, in bytes.
    pub ephemeral_storage: i64,
    /// How many pods.
    pub pods: usize,
}

/// What the node lets a pod ask of its kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Kernel parameters.
    pub sysctls: sysctl::Allowed,
    /// The kernel has AppArmor.
    pub apparmor: bool,
}

/// A port of the node that a pod wants or holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The address it is bound on; unspecified for all of its family.
    pub ip: IpAddr,
    /// The port.
    pub port: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

impl HostPort {
    /// Whether both cannot be bound at once. An address of all interfaces meets every other one:
    /// the empty hostIP stands for both families.
    #[must_use]
    pub fn clashes_with(&self, other: &HostPort) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip.is_unspecified() || other.ip.is_unspecified())
    }
}

/// Whether a pod with this spec and status takes part in admission: it has not ended and is not
/// marked as refused.
#[must_use]
pub fn counts(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Decides on `pod` beside `admitted`, the other pods of the node (those that have ended do not
/// count, and the pod itself is passed over).
///
/// # Errors
/// The first reason against it: `NodePorts`, `OutOfpods`, `OutOfcpu`, `OutOfmemory` or `OutOfephemeral-storage`.
pub fn admit<'a>(
    pod: &Pod,
    admitted: impl IntoIterator<Item = &'a Pod>,
    allocatable: &Allocatable,
) -> Result<(), Refusal> {
    let others: Vec<&Pod> =
        admitted.into_iter().filter(|other| counts(other) && other.metadata.uid != pod.metadata.uid).collect();
    ports(pod, &others)?;
    resources(pod, &others, allocatable)
}

/// Whether the node takes a pod at all, whatever else is on it.
///
/// # Errors
/// The first reason against it: `PodOSNotSupported`, `SysctlForbidden` or `AppArmor`.
pub fn permit(pod: &Pod, rules: &Rules) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS".to_owned();
        return Err(Refusal { reason: "PodOSNotSupported".into(), message });
    }
    let (network, ipc) = (spec.host_network == Some(true), spec.host_ipc == Some(true));
    for wanted in spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten()) {
        if let Err(why) = rules.sysctls.check(&wanted.name, network, ipc) {
            return Err(Refusal { reason: "SysctlForbidden".into(), message: format!("forbidden sysctl: {why}") });
        }
    }
    // A pod that has begun is not asked again: what it has, it has.
    let begun = pod.status.as_ref().and_then(|status| status.phase.as_deref()).is_some_and(|phase| phase != "Pending");
    if !begun && wants_apparmor(spec) {
        let why = match rules.apparmor {
            true => "the agent hands no AppArmor profiles on",
            false => "AppArmor is not enabled on the host",
        };
        return Err(Refusal { reason: "AppArmor".into(), message: format!("Cannot enforce AppArmor: {why}") });
    }
    Ok(())
}

/// Whether a profile is asked for that confines.
fn wants_apparmor(spec: &PodSpec) -> bool {
    let of_pod = spec.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let of_containers = containers.filter_map(|one| one.security_context.as_ref()?.app_armor_profile.as_ref());
    of_pod.into_iter().chain(of_containers).any(|profile| profile.type_ != "Unconfined")
}

/// The ports of the node that a pod wants. Init containers that run to their end count too: the
/// mapping is the sandbox's.
#[must_use]
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let init = spec.init_containers.iter().flatten();
    init.chain(&spec.containers).flat_map(container_ports).collect()
}

fn container_ports(container: &Container) -> impl Iterator<Item = HostPort> + '_ {
    container.ports.iter().flatten().filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let ip = port.host_ip.as_deref().unwrap_or_default();
        Some(HostPort {
            ip: ip.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            port: number,
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
        })
    })
}

fn ports(pod: &Pod, others: &[&Pod]) -> Result<(), Refusal> {
    for wanted in host_ports(pod) {
        let holder = others.iter().find(|other| host_ports(other).iter().any(|held| held.clashes_with(&wanted)));
        if let Some(holder) = holder {
            return Err(Refusal {
                reason: "NodePorts".into(),
                message: format!(
                    "Predicate NodePorts failed: host port {} is held by pod {}",
                    show(&wanted),
                    full_name(holder)
                ),
            });
        }
    }
    Ok(())
}

fn show(port: &HostPort) -> String {
    match port.ip {
        ip if ip == Ipv4Addr::UNSPECIFIED || ip == Ipv6Addr::UNSPECIFIED => {
            format!("{}/{}", port.port, port.protocol)
        }
        IpAddr::V4(ip) => format!("{ip}:{}/{}", port.port, port.protocol),
        IpAddr::V6(ip) => format!("[{ip}]:{}/{}", port.port, port.protocol),
    }
}

fn full_name(pod: &Pod) -> String {
    let part = |value: &Option<String>| value.clone().unwrap_or_default();
    format!("{}/{}", part(&pod.metadata.namespace), part(&pod.metadata.name))
}

fn resources(pod: &Pod, others: &[&Pod], allocatable: &Allocatable) -> Result<(), Refusal> {
    let milli_cpu = |pod: &Pod| qos::pod_request(pod, "cpu").milli();
    let memory = |pod: &Pod| qos::pod_request(pod, "memory").value();
    let storage = |pod: &Pod| qos::pod_request(pod, "ephemeral-storage").value();
    let used = |of: &dyn Fn(&Pod) -> i64| others.iter().fold(0_i64, |sum, other| sum.saturating_add(of(other)));
    let pods = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    // In the order in which the kubelet reports them: it names the first.
    let rows = [
        ("OutOfpods", "pods", 1, pods(others.len()), pods(allocatable.pods)),
        ("OutOfcpu", "cpu", milli_cpu(pod), used(&milli_cpu), allocatable.milli_cpu),
        ("OutOfmemory", "memory", memory(pod), used(&memory), allocatable.memory),
        ("OutOfephemeral-storage", "ephemeral-storage", storage(pod), used(&storage), allocatable.ephemeral_storage),
    ];
    for (reason, resource, requested, used, capacity) in rows {
        if requested > 0 && requested > capacity.saturating_sub(used) {
            return Err(Refusal {
                reason: reason.into(),
                message: format!(
                    "Node didn't have enough resource: {resource}, \
                     requested: {requested}, used: {used}, capacity: {capacity}"
                ),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NODE: Allocatable = Allocatable { milli_cpu: 2000, memory: 1 << 30, ephemeral_storage: 1 << 30, pods: 3 };

    fn pod(name: &str, container: Value) -> Pod {
        let mut object = json!({
            "metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"containers": [{"name": "c"}]},
        });
        if let Value::Object(fields) = container {
            for (key, value) in fields {
                object["spec"]["containers"][0][key] = value;
            }
        }
        serde_json::from_value(object).unwrap()
    }

    fn with_port(name: &str, port: i32, ip: &str, protocol: &str) -> Pod {
        let port = json!({"containerPort": 80, "hostPort": port, "hostIP": ip, "protocol": protocol});
        pod(name, json!({"ports": [port]}))
    }

    fn asking(name: &str, cpu: &str, memory: &str) -> Pod {
        pod(name, json!({"resources": {"requests": {"cpu": cpu, "memory": memory}}}))
    }

    #[test]
    fn a_port_that_is_held_names_its_holder() {
        let holder = with_port("holder", 8080, "", "TCP");
        let refusal = admit(&with_port("late", 8080, "", "TCP"), [&holder], &NODE).unwrap_err();
        assert_eq!(refusal.reason, "NodePorts");
        assert_eq!(
            refusal.message,
            "Predicate NodePorts failed: \
             host port 8080/TCP is held by pod default/holder"
        );
    }

    #[test]
    fn ports_clash_by_number_protocol_and_address() {
        let table = [
            ((80, "", "TCP"), (80, "", "TCP"), true),
            ((80, "", "TCP"), (81, "", "TCP"), false),
            ((80, "", "TCP"), (80, "", "UDP"), false),
            ((80, "127.0.0.1", "TCP"), (80, "127.0.0.2", "TCP"), false),
            ((80, "127.0.0.1", "TCP"), (80, "127.0.0.1", "TCP"), true),
            ((80, "0.0.0.0", "TCP"), (80, "127.0.0.2", "TCP"), true),
            ((80, "127.0.0.1", "TCP"), (80, "", "TCP"), true),
            ((80, "::", "TCP"), (80, "::1", "TCP"), true),
        ];
        for (a, b, clash) in table {
            let held = with_port("a", a.0, a.1, a.2);
            let wanted = with_port("b", b.0, b.1, b.2);
            assert_eq!(admit(&wanted, [&held], &NODE).is_err(), clash, "{a:?} {b:?}");
            assert_eq!(admit(&held, [&wanted], &NODE).is_err(), clash, "{b:?} {a:?}");
        }
    }

    #[test]
    fn a_pod_that_has_ended_holds_nothing() {
        for phase in ["Succeeded", "Failed"] {
            let mut holder = with_port("holder", 8080, "", "TCP");
            holder.status = serde_json::from_value(json!({"phase": phase})).unwrap();
            assert_eq!(admit(&with_port("late", 8080, "", "TCP"), [&holder], &NODE), Ok(()));
        }
    }

    #[test]
    fn a_pod_is_not_in_its_own_way() {
        let pod = with_port("p", 8080, "", "TCP");
        assert_eq!(admit(&pod, [&pod], &NODE), Ok(()));
    }

    #[test]
    fn requests_beyond_what_is_left_are_refused_in_the_kubelets_words() {
        let first = asking("a", "1500m", "512Mi");
        let table = [
            (asking("b", "500m", "512Mi"), None),
            (
                asking("b", "501m", "1"),
                Some(("OutOfcpu", "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000")),
            ),
            (
                asking("b", "0", "513Mi"),
                Some((
                    "OutOfmemory",
                    "Node didn't have enough resource: memory, requested: 537919488, used: 536870912, capacity: 1073741824",
                )),
            ),
        ];
        for (pod, expected) in table {
            let found = admit(&pod, [&first], &NODE).err();
            assert_eq!(found.as_ref().map(|r| (r.reason.as_str(), r.message.as_str())), expected);
        }
    }

    #[test]
    fn disk_that_is_asked_for_is_counted() {
        let asking =
            |name: &str, size: &str| pod(name, json!({"resources": {"requests": {"ephemeral-storage": size}}}));
        let first = asking("a", "600Mi");
        assert_eq!(admit(&asking("b", "424Mi"), [&first], &NODE), Ok(()));
        assert_eq!(admit(&asking("b", "425Mi"), [&first], &NODE).unwrap_err().reason, "OutOfephemeral-storage");
    }

    #[test]
    fn a_pod_that_asks_for_nothing_fits_on_a_full_node() {
        let full = asking("a", "5", "5Gi");
        assert_eq!(admit(&pod("b", json!({})), [&full], &NODE), Ok(()));
    }

    #[test]
    fn the_number_of_pods_is_bounded() {
        let pods: Vec<Pod> = (0..3).map(|n| pod(&n.to_string(), json!({}))).collect();
        assert_eq!(admit(&pod("x", json!({})), &pods[..2], &NODE), Ok(()));
        let refusal = admit(&pod("x", json!({})), &pods, &NODE).unwrap_err();
        assert_eq!(refusal.reason, "OutOfpods");
    }
}
