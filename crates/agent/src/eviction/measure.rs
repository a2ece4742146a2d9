//! What pods hold: writable layers as the runtime counts them, logs and emptyDirs as they lie on disk. Files are walked on
//! tokio's blocking threads.

use std::{collections::BTreeMap, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use podd_core::eviction::{LocalUsage, VolumeUsage};
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
    let identity = identity(pod);
    let logs = log_root.join(format!("{}_{}_{}", identity.namespace, identity.name, identity.uid));
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
