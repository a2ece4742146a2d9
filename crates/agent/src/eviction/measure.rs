//! What pods hold: writable layers as the runtime counts them, logs and emptyDirs as they lie on disk. Files are walked on
//! tokio's blocking threads.

use std::{collections::BTreeMap, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use podd_core::eviction::{ContainerUse, LocalUsage, PodUse, VolumeUsage};
use podd_cri::{RuntimeService, v1};

use crate::{
    resources::{NodeResources, chain},
    source::uid,
    worker::names::{CONTAINER_NAME, POD_UID, identity},
};

/// What one pod holds on disk.
///
/// # Errors
/// What the runtime or the kernel says.
pub(super) async fn local(
    runtime: &dyn RuntimeService,
    resources: &NodeResources,
    log_root: &Path,
    pod: &Arc<Pod>,
) -> Result<LocalUsage, String> {
    let selector = BTreeMap::from([(POD_UID.to_owned(), uid(pod).to_owned())]);
    let filter = v1::ContainerStatsFilter { label_selector: selector, ..Default::default() };
    let request = v1::ListContainerStatsRequest { filter: Some(filter) };
    let answer = runtime.list_container_stats(tonic::Request::new(request)).await;
    let listed = answer.map_err(|status| status.message().to_owned())?.into_inner().stats;
    let logs = identity(pod).log_directory(log_root);
    let logged = tokio::task::spawn_blocking(move || logged(&logs)).await.map_err(|error| chain(&error))?;
    let volumes = resources.usage(pod.clone()).await.map_err(|error| chain(&error))?;

    let mut usage = LocalUsage { containers: logged, ..LocalUsage::default() };
    for stats in listed {
        let written = stats.writable_layer.and_then(|layer| layer.used_bytes).map_or(0, |bytes| bytes.value);
        let name = stats.attributes.and_then(|mut container| container.labels.remove(CONTAINER_NAME));
        *usage.containers.entry(name.unwrap_or_default()).or_default() += written;
    }
    let volume = |found: crate::volumes::Usage| VolumeUsage { bytes: found.bytes, in_memory: found.in_memory };
    usage.volumes = volumes.into_iter().map(|(name, found)| (name, volume(found))).collect();
    Ok(usage)
}

/// What these pods use, by uid; `disk` says whether files are counted, too.
///
/// # Errors
/// What the runtime says. A pod whose files cannot be counted is there with what the runtime knows.
pub(super) async fn uses(
    runtime: &dyn RuntimeService,
    resources: &NodeResources,
    log_root: &Path,
    pods: &[Arc<Pod>],
    disk: bool,
) -> Result<BTreeMap<String, PodUse>, String> {
    let request = v1::ListPodSandboxStatsRequest { filter: None };
    let answer = runtime.list_pod_sandbox_stats(tonic::Request::new(request)).await;
    let listed = answer.map_err(|status| status.message().to_owned())?.into_inner().stats;
    let mut uses: BTreeMap<String, PodUse> = BTreeMap::new();
    for mut stats in listed {
        let uid = stats.attributes.as_mut().and_then(|pod| pod.labels.remove(POD_UID));
        if let (Some(uid), Some(linux)) = (uid, stats.linux) {
            uses.insert(uid, of_sandbox(linux));
        }
    }
    for pod in pods.iter().filter(|_| disk) {
        let Some(used) = uses.get_mut(uid(pod)) else { continue };
        let logs = identity(pod).log_directory(log_root);
        for (container, bytes) in tokio::task::spawn_blocking(move || logged(&logs)).await.unwrap_or_default() {
            used.disk += bytes;
            used.containers.entry(container).or_default().disk += bytes;
        }
        let volumes = resources.usage(pod.clone()).await.unwrap_or_default();
        for volume in volumes.values().filter(|volume| !volume.in_memory) {
            used.disk += volume.bytes;
            used.inodes += volume.inodes;
        }
    }
    Ok(uses)
}

fn of_sandbox(stats: v1::LinuxPodSandboxStats) -> PodUse {
    let value = |of: Option<v1::UInt64Value>| of.map_or(0, |of| of.value);
    let memory = |memory: Option<v1::MemoryUsage>| memory.map_or(0, |memory| value(memory.working_set_bytes));
    let mut used = PodUse {
        memory: memory(stats.memory),
        processes: stats.process.map_or(0, |process| value(process.process_count)),
        ..PodUse::default()
    };
    for container in stats.containers {
        let layer = container.writable_layer.unwrap_or_default();
        let (bytes, name) =
            (value(layer.used_bytes), container.attributes.and_then(|mut c| c.labels.remove(CONTAINER_NAME)));
        used.disk += bytes;
        used.inodes += value(layer.inodes_used);
        let one = ContainerUse { memory: memory(container.memory), disk: bytes };
        used.containers.insert(name.unwrap_or_default(), one);
    }
    used
}

/// Bytes of the logs of each container in a pod's directory: those of runs that are over and those that were rotated away
/// too.
fn logged(directory: &Path) -> BTreeMap<String, u64> {
    let containers = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let of_one = |path: &Path| -> u64 {
        let files = std::fs::read_dir(path).into_iter().flatten().flatten();
        // st_blocks counts 512 bytes each (stat(2)).
        files.filter_map(|file| file.metadata().ok()).map(|file| file.blocks() * 512).sum()
    };
    let named = containers.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    named.filter_map(|entry| Some((entry.file_name().into_string().ok()?, of_one(&entry.path())))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_logs_of_a_container_count() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(logged(&directory.path().join("none")).is_empty());
        std::fs::create_dir(directory.path().join("c")).expect("made");
        std::fs::write(directory.path().join(".podd"), "").expect("written");
        for name in ["0.log", "1.log", "1.log.20260101-000000"] {
            std::fs::write(directory.path().join("c").join(name), vec![b'x'; 8192]).expect("written");
        }
        let found = logged(directory.path());
        assert_eq!(found.keys().collect::<Vec<_>>(), ["c"]);
        assert!((3 * 8192..4 * 8192 + 4096).contains(&found["c"]), "{found:?}");
    }
}
