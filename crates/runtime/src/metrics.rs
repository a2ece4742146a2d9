//! ListMetricDescriptors, ListPodSandboxMetrics, StreamPodSandboxMetrics: what a kubelet without cAdvisor shows under
//! `/metrics/cadvisor`, by cAdvisor's names. Values are whole numbers, as CRI has them: times in seconds, sizes in bytes.

mod processes;
mod samples;
mod table;

use std::sync::Arc;

use podd_cri::v1::{ContainerMetrics, ListMetricDescriptorsResponse, MetricDescriptor, PodSandboxMetrics};

use self::processes::Processes;
use self::samples::{Measured, Samples};
use crate::clock::now;
use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Context, Result};
use crate::records::Stage;
use crate::sandbox::Sandbox;
use crate::stats::interfaces::Interface;

impl Engine {
    /// What the metrics are, and which labels their values have.
    pub(crate) fn metric_descriptors(&self) -> ListMetricDescriptorsResponse {
        let descriptor = |row: &table::Row| MetricDescriptor {
            name: row.name.to_owned(),
            help: row.help.to_owned(),
            label_keys: table::BASE.iter().chain(row.labels).map(|key| (*key).to_owned()).collect(),
        };
        ListMetricDescriptorsResponse { descriptors: table::ROWS.iter().map(descriptor).collect() }
    }

    /// The metrics of the ready sandboxes and of what runs in them.
    pub(crate) async fn sandbox_metrics(self: Arc<Self>) -> Result<Vec<PodSandboxMetrics>> {
        let sandboxes = self.ready_sandboxes();
        self.with_interfaces(sandboxes, |engine, sandbox, interfaces| {
            Ok(engine.metrics_of(sandbox, interfaces.unwrap_or_default()))
        })
        .await
    }

    fn metrics_of(&self, sandbox: &Sandbox, interfaces: Vec<Interface>) -> PodSandboxMetrics {
        let owner = &sandbox.meta.owner;
        let mut pod = Samples::new([&owner.name, &owner.namespace, "", sandbox.id(), ""], now());
        pod.network(&interfaces);
        let running = self.registry.containers_in(sandbox.id()).into_iter().filter(|container| container.is_running());
        // One that has ended meanwhile has nothing to read.
        let containers = running.filter_map(|container| self.container_metrics(sandbox, &container).ok());
        PodSandboxMetrics {
            pod_sandbox_id: sandbox.id().to_owned(),
            container_metrics: containers.collect(),
            metrics: pod.finish(),
        }
    }

    fn container_metrics(&self, sandbox: &Sandbox, container: &Container) -> Result<ContainerMetrics> {
        let what = || format!("read the statistics of container {}", container.id());
        let group = self.cgroups.group(&container.meta.cgroup).context(what)?;
        let filesystem = rustix::fs::statvfs(self.paths.containers()).context(what)?;
        let status = container.status();
        let measured = Measured {
            now: now(),
            started_at: match status.stage {
                Stage::Running { started_at } => started_at,
                _ => 0,
            },
            stats: group.stats().context(what)?,
            details: group.details(),
            processes: Processes::look(&group.pids().context(what)?, status.pid),
            layer: self.layer_usage(container),
            filesystem_bytes: filesystem.f_blocks.saturating_mul(filesystem.f_frsize),
            filesystem_inodes: filesystem.f_files,
            filesystem_inodes_free: filesystem.f_ffree,
            resources: status.resources,
        };
        let owner = &sandbox.meta.owner;
        let image = &container.meta.image;
        let image = if image.user_specified.is_empty() { &image.requested } else { &image.user_specified };
        let labels = [&owner.name, &owner.namespace, &container.meta.owner.name, container.id(), image];
        let mut samples = Samples::new(labels, measured.now);
        samples.container(&measured);
        Ok(ContainerMetrics { container_id: container.id().to_owned(), metrics: samples.finish() })
    }
}
