//! ContainerStats, PodSandboxStats and their lists: what the cgroup counts, what went through the pod's interfaces, and
//! how big the writable layer is.

pub(crate) mod interfaces;
pub(crate) mod layers;
pub(crate) mod rates;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use podd_cgroup::{Pressure, PressureLine, Stats};
use podd_cri::v1::{
    ContainerAttributes, ContainerStats, ContainerStatsFilter, CpuUsage, FilesystemIdentifier, FilesystemUsage,
    IoUsage, LinuxPodSandboxStats, MemoryUsage, PodSandboxAttributes, PodSandboxStats, PodSandboxStatsFilter,
    ProcessUsage, PsiData, PsiStats, SwapUsage, UInt64Value,
};

use self::interfaces::Interface;
use crate::clock::now;
use crate::container::Container;
use crate::engine::{Engine, blocking};
use crate::error::{Context, CriError, Result};
use crate::records::{Resources, SandboxStage};
use crate::sandbox::list::selects;
use crate::sandbox::{Sandbox, metadata};
use crate::streams::network_of;

/// How long a shim may take to hand out its network: one that hangs must not hold the statistics of all others up.
const SHIM_PATIENCE: Duration = Duration::from_secs(2);

impl Engine {
    /// Usage of one container.
    pub(crate) async fn container_stats(self: Arc<Self>, id: &str) -> Result<ContainerStats> {
        let container = self.registry.container(id)?;
        blocking(move || self.measure(&container)).await
    }

    /// Usage of the running containers that pass the filter.
    pub(crate) async fn list_container_stats(self: Arc<Self>, filter: ContainerStatsFilter) -> Vec<ContainerStats> {
        blocking(move || {
            let wanted = |container: &Container| {
                container.is_running()
                    && container.id().starts_with(&filter.id)
                    && container.meta.sandbox_id.starts_with(&filter.pod_sandbox_id)
                    && selects(&filter.label_selector, &container.meta.labels)
            };
            self.measure_all(self.registry.containers().into_iter().filter(|container| wanted(container)))
        })
        .await
    }

    /// Usage of one sandbox.
    pub(crate) async fn sandbox_stats(self: Arc<Self>, id: &str) -> Result<PodSandboxStats> {
        let sandbox = self.registry.sandbox(id)?;
        if sandbox.status().stage != SandboxStage::Ready {
            return Err(CriError::Precondition(format!("sandbox {} is not ready; nothing runs in it", sandbox.id())));
        }
        let network = own_network(&sandbox).await;
        blocking(move || {
            let interfaces = interfaces::read(vec![network]).context(|| "read the pod's interfaces")?.pop().flatten();
            self.measure_sandbox(&sandbox, interfaces)
        })
        .await
    }

    /// Usage of the ready sandboxes that pass the filter.
    pub(crate) async fn list_sandbox_stats(
        self: Arc<Self>,
        filter: PodSandboxStatsFilter,
    ) -> Result<Vec<PodSandboxStats>> {
        let wanted = |sandbox: &Arc<Sandbox>| {
            sandbox.id().starts_with(&filter.id) && selects(&filter.label_selector, &sandbox.meta.labels)
        };
        let sandboxes: Vec<_> = self.ready_sandboxes().into_iter().filter(wanted).collect();
        self.with_interfaces(sandboxes, |engine, sandbox, interfaces| engine.measure_sandbox(sandbox, interfaces)).await
    }

    /// Ready sandboxes, oldest first.
    pub(crate) fn ready_sandboxes(&self) -> Vec<Arc<Sandbox>> {
        let mut ready = self.registry.sandboxes();
        ready.retain(|sandbox| sandbox.status().stage == SandboxStage::Ready);
        ready.sort_by(|a, b| (a.meta.created_at, a.id()).cmp(&(b.meta.created_at, b.id())));
        ready
    }

    /// Measures each sandbox, given its interfaces. One that was stopped meanwhile has nothing to read and is left out.
    pub(crate) async fn with_interfaces<T: Send + 'static>(
        self: Arc<Self>,
        sandboxes: Vec<Arc<Sandbox>>,
        measure: impl Fn(&Self, &Arc<Sandbox>, Option<Vec<Interface>>) -> Result<T> + Send + 'static,
    ) -> Result<Vec<T>> {
        let networks = join_all(sandboxes.iter().map(|sandbox| own_network(sandbox))).await;
        blocking(move || {
            let interfaces = interfaces::read(networks).context(|| "read the pods' interfaces")?;
            let each = sandboxes.iter().zip(interfaces);
            Ok(each.filter_map(|(sandbox, found)| measure(&self, sandbox, found).ok()).collect())
        })
        .await
    }

    fn measure_all(&self, containers: impl Iterator<Item = Arc<Container>>) -> Vec<ContainerStats> {
        // One that has ended meanwhile has no group to read.
        containers.filter_map(|container| self.measure(&container).ok()).collect()
    }

    fn measure(&self, container: &Container) -> Result<ContainerStats> {
        let what = || format!("read the statistics of container {}", container.id());
        let running = container.is_running();
        let stats = if running {
            self.cgroups.group(&container.meta.cgroup).and_then(|group| group.stats()).context(what)?
        } else {
            Stats::default()
        };
        let timestamp = now();
        let nano_cores = || self.rates.nano_cores(container.id(), timestamp, stats.cpu.unwrap_or_default().usage_ns);
        Ok(ContainerStats {
            attributes: Some(ContainerAttributes {
                id: container.id().to_owned(),
                metadata: Some(container.metadata()),
                labels: container.meta.labels.clone(),
                annotations: container.meta.annotations.clone(),
            }),
            cpu: running.then(|| cpu(&stats, timestamp, nano_cores())),
            memory: running.then(|| memory(&stats, timestamp)),
            writable_layer: Some(self.writable_layer(container, timestamp)),
            swap: running.then(|| swap(&stats, timestamp, &container.status().resources)),
            io: running.then(|| io(&stats.pressure, timestamp)).flatten(),
        })
    }

    fn measure_sandbox(&self, sandbox: &Sandbox, interfaces: Option<Vec<Interface>>) -> Result<PodSandboxStats> {
        let what = || format!("read the statistics of sandbox {}", sandbox.id());
        let group = self.cgroups.group(&sandbox.meta.cgroup_parent).context(what)?;
        let stats = group.stats().context(what)?;
        let timestamp = now();
        let nano_cores = self.rates.nano_cores(sandbox.id(), timestamp, stats.cpu.unwrap_or_default().usage_ns);
        let running = self.registry.containers_in(sandbox.id()).into_iter().filter(|container| container.is_running());
        let processes = group.pids().context(what)?.len() as u64;
        Ok(PodSandboxStats {
            attributes: Some(PodSandboxAttributes {
                id: sandbox.id().to_owned(),
                metadata: Some(metadata(&sandbox.meta.owner)),
                labels: sandbox.meta.labels.clone(),
                annotations: sandbox.meta.annotations.clone(),
            }),
            linux: Some(LinuxPodSandboxStats {
                cpu: Some(cpu(&stats, timestamp, nano_cores)),
                memory: Some(memory(&stats, timestamp)),
                network: interfaces.map(|interfaces| interfaces::to_cri(interfaces, timestamp)),
                process: Some(ProcessUsage { timestamp, process_count: some(processes) }),
                containers: self.measure_all(running),
                io: io(&stats.pressure, timestamp),
            }),
            windows: None,
        })
    }

    pub(crate) fn writable_layer(&self, container: &Container, timestamp: i64) -> FilesystemUsage {
        let usage = self.layer_usage(container);
        FilesystemUsage {
            timestamp,
            fs_id: Some(FilesystemIdentifier { mountpoint: self.paths.containers().display().to_string() }),
            used_bytes: some(usage.bytes),
            inodes_used: some(usage.inodes),
        }
    }

    /// How big a container's writable layer is, or was a little while ago.
    pub(crate) fn layer_usage(&self, container: &Container) -> layers::Usage {
        self.layers.usage(container.id(), &self.paths.container(container.id()).upper())
    }
}

/// The network namespace of a sandbox that has one of its own and whose shim answers.
async fn own_network(sandbox: &Sandbox) -> Option<OwnedFd> {
    tokio::time::timeout(SHIM_PATIENCE, network_of(sandbox)).await.ok()?.ok()?
}

fn some(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn cpu(stats: &Stats, timestamp: i64, nano_cores: Option<u64>) -> CpuUsage {
    CpuUsage {
        timestamp,
        usage_core_nano_seconds: some(stats.cpu.unwrap_or_default().usage_ns),
        usage_nano_cores: nano_cores.and_then(some),
        psi: psi(stats.pressure.cpu),
    }
}

fn memory(stats: &Stats, timestamp: i64) -> MemoryUsage {
    let memory = stats.memory.unwrap_or_default();
    let available = memory.limit.map(|limit| limit.saturating_sub(memory.working_set));
    MemoryUsage {
        timestamp,
        working_set_bytes: some(memory.working_set),
        available_bytes: available.and_then(some),
        usage_bytes: some(memory.usage),
        rss_bytes: some(memory.rss),
        page_faults: some(memory.page_faults),
        major_page_faults: some(memory.major_page_faults),
        psi: psi(stats.pressure.memory),
    }
}

/// CRI's swap limit is that of memory and swap together. Without both limits nobody can say what is left.
fn swap(stats: &Stats, timestamp: i64, resources: &Resources) -> SwapUsage {
    let used = stats.memory.unwrap_or_default().swap;
    let limit = match (resources.memory_swap_limit, resources.memory_limit) {
        (both, memory) if both > 0 && memory > 0 => u64::try_from(both - memory).ok(),
        _ => None,
    };
    SwapUsage {
        timestamp,
        swap_available_bytes: limit.map(|limit| limit.saturating_sub(used)).and_then(some),
        swap_usage_bytes: some(used),
    }
}

fn io(pressure: &Pressure, timestamp: i64) -> Option<IoUsage> {
    psi(pressure.io).map(|psi| IoUsage { timestamp, psi: Some(psi) })
}

fn psi(pressure: Option<(PressureLine, PressureLine)>) -> Option<PsiStats> {
    let data = |line: PressureLine| PsiData {
        total: line.total_us,
        avg10: line.avg10,
        avg60: line.avg60,
        avg300: line.avg300,
    };
    pressure.map(|(some, full)| PsiStats { full: Some(data(full)), some: Some(data(some)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_left_only_where_both_limits_are_known() {
        let stats =
            Stats { memory: Some(podd_cgroup::MemoryStats { swap: 30, ..Default::default() }), ..Stats::default() };
        let table = [(0, 0, None), (0, 100, None), (100, 100, some(0)), (150, 100, some(20)), (-1, 100, None)];
        for (both, memory, expected) in table {
            let resources = Resources { memory_swap_limit: both, memory_limit: memory, ..Resources::default() };
            assert_eq!(swap(&stats, 1, &resources).swap_available_bytes, expected, "{both} {memory}");
        }
    }

    #[test]
    fn pressure_is_told_where_the_kernel_keeps_it() {
        assert_eq!(psi(None), None);
        let line = |total_us| PressureLine { avg10: 1.5, avg60: 0.5, avg300: 0.25, total_us };
        let told = psi(Some((line(7), line(3)))).expect("told");
        assert_eq!((told.some.map(|line| line.total), told.full.map(|line| line.total)), (Some(7), Some(3)));
    }
}
