//! Sandboxes: their configuration from a pod's spec, making, stopping and removing them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodSpec};
use podd_core::{pod::Failure, qos};
use podd_cri::v1;
use tonic::Request;

use super::{super::machine::Order, security, within};
use crate::{
    events::Severity,
    worker::{
        names::identity,
        services::{Prepared, Services, Settings},
    },
};

/// Makes and starts a sandbox.
pub(super) async fn create(services: &Services, order: &Order, attempt: u32) -> Result<(), Failure> {
    let pod = &*order.pod;
    if attempt > 0 {
        let message = "Pod sandbox changed, it will be killed and re-created.";
        services.recorder.pod(pod, Severity::Normal, "SandboxChanged", message);
    }
    let prepared = order.prepared.as_deref().cloned().unwrap_or_default();
    if security::has_own_users(pod) && prepared.users.is_none() {
        // Never with the node's users instead.
        let message = "the pod has no ids of its own yet".to_owned();
        return Err(Failure { reason: "CreatePodSandboxError".into(), message });
    }
    let config = config(pod, attempt, &prepared, &services.settings);
    match run(services, pod, config).await {
        Ok(()) => Ok(()),
        Err(failure) => {
            let message = format!("Failed to create pod sandbox: {}", failure.message);
            services.recorder.pod(pod, Severity::Warning, "FailedCreatePodSandBox", message);
            Err(failure)
        }
    }
}

async fn run(services: &Services, pod: &Pod, config: v1::PodSandboxConfig) -> Result<(), Failure> {
    const REASON: &str = "CreatePodSandboxError";
    let handler = services.objects.runtime_handler(pod).await;
    let runtime_handler = handler.map_err(|message| Failure { reason: REASON.into(), message })?;
    let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler };
    let call = services.runtime.run_pod_sandbox(Request::new(request));
    within(services.settings.call_deadline, REASON, call).await.map(drop)
}

/// Stops a sandbox.
pub(super) async fn stop(services: &Services, pod: &Pod, id: &str) -> Result<(), Failure> {
    let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
    let call = services.runtime.stop_pod_sandbox(Request::new(request));
    match within(services.settings.call_deadline, "KillPodSandboxError", call).await {
        Ok(_) => Ok(()),
        Err(failure) => {
            let message = format!("error killing pod: failed to stop sandbox {id}: {}", failure.message);
            services.recorder.pod(pod, Severity::Warning, "FailedKillPod", message);
            Err(failure)
        }
    }
}

/// Removes a sandbox and the records of its containers.
pub(super) async fn remove(services: &Services, id: &str) -> Result<(), Failure> {
    let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
    let call = services.runtime.remove_pod_sandbox(Request::new(request));
    within(services.settings.call_deadline, "RemovePodSandboxError", call).await.map(|_| ())
}

/// A pod's sandbox in CRI's words.
pub(super) fn config(pod: &Pod, attempt: u32, prepared: &Prepared, settings: &Settings) -> v1::PodSandboxConfig {
    let identity = identity(pod);
    let spec = pod.spec.as_ref();
    let host_network = is_host_network(pod);
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(identity.labels());
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: identity.name.to_owned(),
            uid: identity.uid.to_owned(),
            namespace: identity.namespace.to_owned(),
            attempt,
        }),
        hostname: if host_network { String::new() } else { prepared.hostname.clone() },
        log_directory: identity.log_directory(&settings.log_root).to_string_lossy().into_owned(),
        dns_config: prepared.dns.clone(),
        port_mappings: spec.filter(|_| !host_network).map(port_mappings).unwrap_or_default(),
        labels,
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: prepared.cgroup_parent.clone(),
            security_context: Some(security::of_sandbox(pod, prepared.users.as_ref())),
            sysctls: sysctls(pod),
            overhead: pod.spec.as_ref().and_then(overhead),
            resources: Some(resources(pod)),
        }),
        windows: None,
    }
}

/// The kernel parameters of the pod's namespaces.
fn sysctls(pod: &Pod) -> BTreeMap<String, String> {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let wanted = context.and_then(|context| context.sysctls.as_deref()).unwrap_or_default();
    wanted.iter().map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect()
}

/// Whether the pod shares the node's network.
pub(super) fn is_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
}

/// The ports of the host that lead into the pod.
fn port_mappings(spec: &PodSpec) -> Vec<v1::PortMapping> {
    all_containers(spec).flat_map(|container| container.ports.iter().flatten()).filter_map(port_mapping).collect()
}

fn port_mapping(port: &ContainerPort) -> Option<v1::PortMapping> {
    let host_port = port.host_port.filter(|port| *port != 0)?;
    let protocol = match port.protocol.as_deref() {
        Some("UDP") => v1::Protocol::Udp,
        Some("SCTP") => v1::Protocol::Sctp,
        _ => v1::Protocol::Tcp,
    };
    Some(v1::PortMapping {
        protocol: protocol as i32,
        container_port: port.container_port,
        host_port,
        host_ip: port.host_ip.clone().unwrap_or_default(),
    })
}

pub(super) fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// What the pod's runtime class adds for itself.
fn overhead(spec: &PodSpec) -> Option<v1::LinuxContainerResources> {
    spec.overhead.as_ref()?;
    let (cpu, memory) = (qos::overhead(spec, "cpu"), qos::overhead(spec, "memory"));
    let quota = qos::quota(cpu.milli());
    Some(v1::LinuxContainerResources {
        cpu_period: quota.map_or(0, |_| qos::CPU_PERIOD),
        cpu_quota: quota.unwrap_or(0),
        cpu_shares: qos::shares(cpu.milli()),
        memory_limit_in_bytes: memory.value(),
        ..Default::default()
    })
}

/// What the pod's containers may use in all, for runtimes that want to know it; its cgroup is made already.
fn resources(pod: &Pod) -> v1::LinuxContainerResources {
    let mut bare = pod.clone();
    bare.spec.iter_mut().for_each(|spec| spec.overhead = None);
    let numbers = qos::pod_numbers(&bare);
    v1::LinuxContainerResources {
        cpu_period: numbers.cpu_quota.map_or(0, |_| qos::CPU_PERIOD),
        cpu_quota: numbers.cpu_quota.unwrap_or(0),
        cpu_shares: numbers.cpu_shares,
        memory_limit_in_bytes: numbers.memory.unwrap_or(0),
        ..Default::default()
    }
}
