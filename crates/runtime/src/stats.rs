//! ContainerStats, PodSandboxStats and their lists: what the cgroup counts, and how big the writable layer is.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use podd_cgroup::Stats;
use podd_cri::v1::{
    ContainerAttributes, ContainerStats, ContainerStatsFilter, CpuUsage, FilesystemIdentifier, FilesystemUsage,
    LinuxPodSandboxStats, MemoryUsage, PodSandboxAttributes, PodSandboxStats, PodSandboxStatsFilter, ProcessUsage,
    SwapUsage, UInt64Value,
};

use crate::clock::now;
use crate::container::Container;
use crate::engine::{Engine, blocking};
use crate::error::{Context, Result};
use crate::records::SandboxStage;
use crate::sandbox::list::selects;
use crate::sandbox::{Sandbox, metadata};

/// How old the size of a writable layer may be: walking it is the dear part of statistics.
const USAGE_AGE: Duration = Duration::from_secs(10);
/// How many files of a writable layer are looked at; a bigger one is reported as far as it was seen.
const USAGE_FILES: u64 = 1_000_000;

/// Sizes of writable layers, and when they were measured.
#[derive(Default)]
pub(crate) struct UsageCache(Mutex<HashMap<String, (Instant, Usage)>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    bytes: u64,
    inodes: u64,
}

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
        blocking(move || self.measure_sandbox(&sandbox)).await
    }

    /// Usage of the ready sandboxes that pass the filter.
    pub(crate) async fn list_sandbox_stats(self: Arc<Self>, filter: PodSandboxStatsFilter) -> Vec<PodSandboxStats> {
        blocking(move || {
            let wanted = |sandbox: &Sandbox| {
                sandbox.status().stage == SandboxStage::Ready
                    && sandbox.id().starts_with(&filter.id)
                    && selects(&filter.label_selector, &sandbox.meta.labels)
            };
            let sandboxes = self.registry.sandboxes();
            let measured = sandboxes.iter().filter(|sandbox| wanted(sandbox)).map(|s| self.measure_sandbox(s));
            // One that was stopped meanwhile has no group to read.
            measured.filter_map(Result::ok).collect()
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
        let (cpu, memory, swap) = counted(&stats, timestamp);
        Ok(ContainerStats {
            attributes: Some(ContainerAttributes {
                id: container.id().to_owned(),
                metadata: Some(container.metadata()),
                labels: container.meta.labels.clone(),
                annotations: container.meta.annotations.clone(),
            }),
            cpu: running.then_some(cpu),
            memory: running.then_some(memory),
            writable_layer: Some(self.writable_layer(container, timestamp)),
            swap: running.then_some(swap),
            io: None,
        })
    }

    fn measure_sandbox(&self, sandbox: &Sandbox) -> Result<PodSandboxStats> {
        let what = || format!("read the statistics of sandbox {}", sandbox.id());
        let group = self.cgroups.group(&sandbox.meta.cgroup_parent).context(what)?;
        let stats = group.stats().context(what)?;
        let timestamp = now();
        let (cpu, memory, _) = counted(&stats, timestamp);
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
                cpu: Some(cpu),
                memory: Some(memory),
                network: None,
                process: Some(ProcessUsage { timestamp, process_count: some(processes) }),
                containers: self.measure_all(running),
                io: None,
            }),
            windows: None,
        })
    }

    fn writable_layer(&self, container: &Container, timestamp: i64) -> FilesystemUsage {
        let paths = self.paths.container(container.id());
        let cache = || self.usage.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = cache().get(container.id()).filter(|(at, _)| at.elapsed() < USAGE_AGE).map(|(_, usage)| *usage);
        let usage = known.unwrap_or_else(|| {
            let usage = usage_of(&paths.upper());
            let mut cache = cache();
            cache.retain(|_, (at, _)| at.elapsed() < USAGE_AGE);
            cache.insert(container.id().to_owned(), (Instant::now(), usage));
            usage
        });
        FilesystemUsage {
            timestamp,
            fs_id: Some(FilesystemIdentifier { mountpoint: self.paths.containers().display().to_string() }),
            used_bytes: some(usage.bytes),
            inodes_used: some(usage.inodes),
        }
    }
}

fn some(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn counted(stats: &Stats, timestamp: i64) -> (CpuUsage, MemoryUsage, SwapUsage) {
    let cpu = stats.cpu.unwrap_or_default();
    let memory = stats.memory.unwrap_or_default();
    let available = memory.limit.map(|limit| limit.saturating_sub(memory.working_set));
    (
        CpuUsage { timestamp, usage_core_nano_seconds: some(cpu.usage_ns), ..CpuUsage::default() },
        MemoryUsage {
            timestamp,
            working_set_bytes: some(memory.working_set),
            available_bytes: available.and_then(some),
            usage_bytes: some(memory.usage),
            rss_bytes: some(memory.rss),
            page_faults: some(memory.page_faults),
            major_page_faults: some(memory.major_page_faults),
            psi: None,
        },
        SwapUsage { timestamp, swap_available_bytes: None, swap_usage_bytes: some(memory.swap) },
    )
}

/// Bytes on disk and inodes below a directory. What goes away while it is looked at is not counted.
fn usage_of(directory: &Path) -> Usage {
    let mut usage = Usage::default();
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            usage.inodes += 1;
            // st_blocks counts 512 bytes each, whatever the file system's block size (stat(2)).
            usage.bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                waiting.push(entry.path());
            }
            if usage.inodes >= USAGE_FILES {
                return usage;
            }
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_counts_what_lies_below_and_follows_no_links() {
        let directory = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(directory.path().join("a")).expect("mkdir");
        std::fs::write(directory.path().join("a/b"), vec![1; 8192]).expect("write");
        std::os::unix::fs::symlink("/", directory.path().join("c")).expect("symlink");
        let usage = usage_of(directory.path());
        assert_eq!(usage.inodes, 3);
        assert!(usage.bytes >= 8192 && usage.bytes < 1 << 20, "{usage:?}");
        assert_eq!(usage_of(Path::new("/does/not/exist")), Usage::default());
    }
}
