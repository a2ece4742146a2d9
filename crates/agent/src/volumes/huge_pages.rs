//! emptyDir with `medium: HugePages` or `HugePages-<size>`: a hugetlbfs of the pod's own, where the node has such pages.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Pod;
use podd_core::quantity::Quantity;
use rustix::io::Result;

use super::{VolumeError, empty_dir, group::Group};

/// The prefix of the resources that stand for them.
const RESOURCE: &str = "hugepages-";

/// The size of the pages that a medium asks for; none if it asks for something else.
pub(super) fn size_of_medium(medium: &str, pod: &Pod) -> Option<std::result::Result<u64, String>> {
    let rest = medium.strip_prefix("HugePages")?;
    let sizes = sizes(pod);
    Some(match rest.strip_prefix('-') {
        Some(size) => bytes(size).ok_or_else(|| format!("medium {medium:?}: {size:?} is no size")),
        None if !rest.is_empty() => return None,
        None => match sizes.as_slice() {
            [size] => bytes(size).ok_or_else(|| format!("{RESOURCE}{size} is no size")),
            [] => Err("medium \"HugePages\" can't be used if no container requests huge pages".to_owned()),
            _ => Err("medium \"HugePages\" can't be used if containers request multiple huge page sizes".to_owned()),
        },
    })
}

/// The sizes of the huge pages that a pod's containers request.
fn sizes(pod: &Pod) -> Vec<&str> {
    let containers =
        pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let requests = containers.flat_map(|container| {
        let resources = container.resources.iter();
        resources.flat_map(|wanted| wanted.requests.iter().flatten().chain(wanted.limits.iter().flatten()))
    });
    let mut sizes: Vec<&str> = requests.filter_map(|(name, _)| name.strip_prefix(RESOURCE)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

fn bytes(size: &str) -> Option<u64> {
    let size = Quantity::parse(size).ok()?.value();
    u64::try_from(size).ok().filter(|size| *size > 0)
}

/// Whether the node has pages of this size.
pub(super) fn check(volume: &str, size: u64) -> std::result::Result<(), VolumeError> {
    check_in(Path::new("/sys/kernel/mm/hugepages"), volume, size)
}

fn check_in(all: &Path, volume: &str, size: u64) -> std::result::Result<(), VolumeError> {
    let path: PathBuf = all.join(format!("hugepages-{}kB", size / 1024)).join("nr_hugepages");
    let count = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
    if count > 0 {
        return Ok(());
    }
    let message = format!(
        "the node has no huge pages of {} KiB; writing their number to {} reserves some",
        size / 1024,
        path.display()
    );
    Err(VolumeError::Invalid { volume: volume.to_owned(), message })
}

/// The hugetlbfs, mounted once.
pub(super) fn ensure(parent: &OwnedFd, name: &str, size: u64, group: Option<Group>) -> Result<()> {
    let directory = empty_dir::ensure_directory(parent, name, None)?;
    if empty_dir::is_mount_point(&directory)? {
        return Ok(());
    }
    let mut options = empty_dir::top_of(0o777, group);
    options.push(("pagesize", size.to_string()));
    empty_dir::mount(&directory, "hugetlbfs", &options)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(resources: serde_json::Value) -> Pod {
        let containers = json!([{"name": "c", "resources": {"requests": resources}}]);
        serde_json::from_value(json!({"spec": {"containers": containers}})).expect("a pod")
    }

    #[test]
    fn the_size_comes_from_the_medium_or_else_from_the_requests() {
        let two = pod(json!({"hugepages-2Mi": "2Mi"}));
        let both = pod(json!({"hugepages-2Mi": "2Mi", "hugepages-1Gi": "1Gi"}));
        assert_eq!(size_of_medium("HugePages-1Gi", &two), Some(Ok(1 << 30)));
        assert_eq!(size_of_medium("HugePages", &two), Some(Ok(2 << 20)));
        assert!(size_of_medium("HugePages", &both).is_some_and(|size| size.is_err()));
        assert!(size_of_medium("HugePages", &pod(json!({}))).is_some_and(|size| size.is_err()));
        assert!(size_of_medium("HugePages-much", &two).is_some_and(|size| size.is_err()));
        assert_eq!(size_of_medium("Memory", &two), None);
    }

    #[test]
    fn pages_that_the_node_lacks_are_refused_by_their_size() {
        let place = tempfile::tempdir().expect("a directory");
        for (name, count) in [("hugepages-2048kB", "4\n"), ("hugepages-1048576kB", "0\n")] {
            std::fs::create_dir(place.path().join(name)).expect("made");
            std::fs::write(place.path().join(name).join("nr_hugepages"), count).expect("written");
        }
        check_in(place.path(), "v", 2 << 20).expect("there are some");
        for size in [1 << 30, 64 << 10] {
            let refused = check_in(place.path(), "v", size).expect_err("there are none").to_string();
            assert!(refused.contains(&format!("no huge pages of {} KiB", size / 1024)), "{refused}");
        }
    }
}
