//! The fake's world in the protocol's messages, and the filters of lists.

use std::collections::BTreeMap;

use super::state::{Container, Life, Sandbox, World};
use crate::v1::*;

/// How a sandbox's namespaces were asked for.
pub(super) fn namespaces(config: &PodSandboxConfig) -> NamespaceOption {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    context.and_then(|context| context.namespace_options.clone()).unwrap_or_default()
}

fn matches(id: &str, wanted: &str, labels: &BTreeMap<String, String>, selector: &BTreeMap<String, String>) -> bool {
    id.starts_with(wanted) && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl Sandbox {
    fn state(&self) -> i32 {
        let ready = PodSandboxState::SandboxReady;
        let not_ready = PodSandboxState::SandboxNotready;
        (if self.ready { ready } else { not_ready }) as i32
    }

    pub(super) fn status(&self) -> PodSandboxStatus {
        let options = Some(namespaces(&self.config));
        PodSandboxStatus {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.state(),
            created_at: self.created_at,
            network: Some(PodSandboxNetworkStatus {
                ip: self.ip.clone().unwrap_or_default(),
                additional_ips: Vec::new(),
            }),
            linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options }) }),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: self.runtime_handler.clone(),
        }
    }

    fn line(&self) -> PodSandbox {
        PodSandbox {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.state(),
            created_at: self.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: self.runtime_handler.clone(),
        }
    }

    fn attributes(&self) -> PodSandboxAttributes {
        PodSandboxAttributes {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
        }
    }
}

impl Container {
    fn state(&self) -> i32 {
        (match self.life {
            Life::Created => ContainerState::ContainerCreated,
            Life::Running { .. } => ContainerState::ContainerRunning,
            Life::Exited { .. } => ContainerState::ContainerExited,
        }) as i32
    }

    pub(super) fn status(&self, log_directory: &str) -> ContainerStatus {
        let mut status = ContainerStatus {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.state(),
            created_at: self.created_at,
            image: self.config.image.clone(),
            image_ref: self.image_id.clone(),
            image_id: self.image_id.clone(),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            mounts: self.config.mounts.clone(),
            log_path: format!("{log_directory}/{}", self.config.log_path),
            resources: Some(ContainerResources { linux: self.resources.clone(), windows: None }),
            stop_signal: self.config.stop_signal,
            ..ContainerStatus::default()
        };
        match &self.life {
            Life::Created => {}
            Life::Running { started_at, .. } => status.started_at = *started_at,
            Life::Exited { started_at, end } => {
                status.started_at = *started_at;
                status.finished_at = end.at;
                status.exit_code = end.code;
                status.reason = end.reason.to_owned();
                status.message.clone_from(&end.message);
            }
        }
        status
    }

    fn line(&self) -> v1_container::Line {
        v1_container::Line {
            id: self.id.clone(),
            pod_sandbox_id: self.sandbox_id.clone(),
            metadata: self.config.metadata.clone(),
            image: self.config.image.clone(),
            image_ref: self.image_id.clone(),
            image_id: self.image_id.clone(),
            state: self.state(),
            created_at: self.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
        }
    }

    pub(super) fn stats(&self, now: i64) -> ContainerStats {
        let zero = || Some(UInt64Value { value: 0 });
        ContainerStats {
            attributes: Some(ContainerAttributes {
                id: self.id.clone(),
                metadata: self.config.metadata.clone(),
                labels: self.config.labels.clone(),
                annotations: self.config.annotations.clone(),
            }),
            cpu: Some(CpuUsage {
                timestamp: now,
                usage_core_nano_seconds: zero(),
                usage_nano_cores: zero(),
                psi: None,
            }),
            memory: Some(MemoryUsage { timestamp: now, working_set_bytes: zero(), ..MemoryUsage::default() }),
            ..ContainerStats::default()
        }
    }

    fn runs(&self) -> bool {
        matches!(self.life, Life::Running { .. })
    }
}

/// The protocol calls a line of the list of containers as we call the thing itself.
mod v1_container {
    pub(super) use crate::v1::Container as Line;
}

impl World {
    fn log_directory(&self, container: &Container) -> &str {
        let sandbox = self.sandboxes.get(&container.sandbox_id);
        sandbox.map_or("", |sandbox| sandbox.config.log_directory.as_str())
    }

    pub(super) fn status_of(&self, container: &Container) -> ContainerStatus {
        container.status(self.log_directory(container))
    }

    pub(super) fn statuses_of(&self, sandbox: &str) -> Vec<ContainerStatus> {
        let all = self.containers.values().filter(|container| container.sandbox_id == sandbox);
        all.map(|container| self.status_of(container)).collect()
    }

    pub(super) fn list_sandboxes(&self, filter: Option<PodSandboxFilter>) -> Vec<PodSandbox> {
        let filter = filter.unwrap_or_default();
        let lines = self.sandboxes.values().map(Sandbox::line);
        lines
            .filter(|line| matches(&line.id, &filter.id, &line.labels, &filter.label_selector))
            .filter(|line| filter.state.is_none_or(|wanted| wanted.state == line.state))
            .collect()
    }

    pub(super) fn list_containers(&self, filter: Option<ContainerFilter>) -> Vec<v1_container::Line> {
        let filter = filter.unwrap_or_default();
        let lines = self.containers.values().map(Container::line);
        lines
            .filter(|line| matches(&line.id, &filter.id, &line.labels, &filter.label_selector))
            .filter(|line| line.pod_sandbox_id.starts_with(&filter.pod_sandbox_id))
            .filter(|line| filter.state.is_none_or(|wanted| wanted.state == line.state))
            .collect()
    }

    pub(super) fn container_stats(&self, now: i64, filter: Option<ContainerStatsFilter>) -> Vec<ContainerStats> {
        let filter = filter.unwrap_or_default();
        let running = self.containers.values().filter(|container| container.runs());
        running
            .filter(|c| matches(&c.id, &filter.id, &c.config.labels, &filter.label_selector))
            .filter(|c| c.sandbox_id.starts_with(&filter.pod_sandbox_id))
            .map(|container| container.stats(now))
            .collect()
    }

    pub(super) fn sandbox_stats(&self, now: i64, filter: Option<PodSandboxStatsFilter>) -> Vec<PodSandboxStats> {
        let filter = filter.unwrap_or_default();
        let ready = self.sandboxes.values().filter(|sandbox| sandbox.ready);
        ready
            .filter(|s| matches(&s.id, &filter.id, &s.config.labels, &filter.label_selector))
            .map(|sandbox| {
                let pod_sandbox_id = sandbox.id.clone();
                let of = ContainerStatsFilter { pod_sandbox_id, ..ContainerStatsFilter::default() };
                let containers = self.container_stats(now, Some(of));
                let linux = LinuxPodSandboxStats { containers, ..LinuxPodSandboxStats::default() };
                let attributes = Some(sandbox.attributes());
                PodSandboxStats { attributes, linux: Some(linux), windows: None }
            })
            .collect()
    }

    /// The one metric of the fake, of each running container.
    pub(super) fn metrics(&self, now: i64) -> Vec<PodSandboxMetrics> {
        let ready = self.sandboxes.values().filter(|sandbox| sandbox.ready);
        ready
            .map(|sandbox| {
                let own = self.containers.values().filter(|c| c.sandbox_id == sandbox.id && c.runs());
                let container_metrics = own.map(|container| ContainerMetrics {
                    container_id: container.id.clone(),
                    metrics: vec![Metric {
                        name: descriptor().name,
                        timestamp: now,
                        metric_type: MetricType::Gauge as i32,
                        label_values: vec![container.id.clone()],
                        value: Some(UInt64Value { value: u64::try_from(now / 1_000_000_000).unwrap_or(0) }),
                    }],
                });
                let container_metrics = container_metrics.collect();
                PodSandboxMetrics { pod_sandbox_id: sandbox.id.clone(), metrics: Vec::new(), container_metrics }
            })
            .collect()
    }
}

/// What the fake counts.
pub(super) fn descriptor() -> MetricDescriptor {
    MetricDescriptor {
        name: "container_last_seen".into(),
        help: "Last time a container was seen".into(),
        label_keys: vec!["id".into()],
    }
}
