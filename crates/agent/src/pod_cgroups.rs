//! The cgroups around a pod's containers, in the kubelet's tree and numbers:
//!
//! ```text
//! <cgroup root>/kubepods                     allocatable
//!   ├─ pod<uid>                              Guaranteed
//!   ├─ burstable/pod<uid>                    the tier's shares are the sum of its pods' requests
//!   └─ besteffort/pod<uid>                   two shares for the whole tier
//! ```
//! The containers' own groups are the runtime's, beneath `cgroup_parent`.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use podd_cgroup::{Error, Group, Hierarchy, Layout, Limits};
use podd_core::{
    admission::{self, Allocatable},
    qos::{self, Class},
};

/// Top of the tree.
const TOP: &str = "kubepods";
/// How long a group of killed processes may take to empty.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where pods of each class live.
const TIERS: [(Class, &str); 3] = [
    (Class::Guaranteed, "kubepods"),
    (Class::Burstable, "kubepods/burstable"),
    (Class::BestEffort, "kubepods/besteffort"),
];

/// The pod cgroups of one node.
#[derive(Clone, Debug)]
pub(crate) struct PodCgroups {
    hierarchy: Hierarchy,
    pids_limit: Option<i64>,
}

impl PodCgroups {
    /// Pod cgroups in this hierarchy; each pod may have `pids_limit` tasks.
    pub(crate) fn new(hierarchy: Hierarchy, pids_limit: Option<i64>) -> Self {
        Self { hierarchy, pids_limit }
    }

    /// Make the tiers, or find them made. Blocking.
    pub(crate) fn ensure_tiers(&self, allocatable: &Allocatable) -> Result<(), Error> {
        let top = Limits {
            cpu_shares: shares(qos::shares(allocatable.milli_cpu)),
            memory: Some(allocatable.memory),
            ..Default::default()
        };
        self.ensure_group(TOP, &top)?;
        let least = Limits { cpu_shares: shares(qos::CPU_SHARES_MIN), ..Default::default() };
        for (class, path) in TIERS {
            // The Burstable tier's shares follow its pods; what an earlier agent has set stays until they are known.
            let made = self.hierarchy.group(path)?;
            if class == Class::BestEffort || (class == Class::Burstable && !made.exists()) {
                self.ensure_group(path, &least)?;
            }
        }
        Ok(())
    }

    /// Whether a group's swap is bounded by itself, and not together with its memory.
    pub(crate) fn bounds_swap(&self) -> Result<bool, Error> {
        let top = self.hierarchy.group(TOP)?;
        Ok(top.v2_dir().is_some_and(|directory| directory.join("memory.swap.max").exists()))
    }

    /// Make the group of a pod, or find it made, and set its limits. Returns `cgroup_parent` for CRI. Blocking.
    pub(crate) fn ensure(&self, pod: &Pod) -> Result<String, Error> {
        let path = path_of(pod);
        self.ensure_group(&path, &limits_of(pod, self.pids_limit))?;
        Ok(format!("/{}", self.hierarchy.group(&path)?.path().display()))
    }

    /// Give the Burstable tier the shares of its pods. Blocking.
    pub(crate) fn refresh<'a>(&self, pods: impl IntoIterator<Item = &'a Pod>) -> Result<(), Error> {
        let limits = Limits { cpu_shares: shares(burstable_shares(pods)), ..Default::default() };
        self.hierarchy.group("kubepods/burstable")?.update(&limits)
    }

    /// Remove the group of a pod, killing what is left in it. No such group is success. Blocking, up to ten seconds.
    pub(crate) fn remove(&self, uid: &str) -> Result<(), Error> {
        let mut outcome = Ok(());
        for (_, tier) in TIERS {
            let group = self.hierarchy.group(format!("{tier}/pod{uid}"))?;
            if let Err(error) = kill_and_remove(&group) {
                outcome = Err(error);
            }
        }
        outcome
    }

    /// Remove the tiers when no pod is left in them. Blocking.
    pub(crate) fn remove_tiers(&self) -> Result<(), Error> {
        if self.known_uids().is_empty() { self.hierarchy.group(TOP)?.remove(PATIENCE) } else { Ok(()) }
    }

    /// UIDs of pods that have a group, in any controller's tree. Blocking.
    pub(crate) fn known_uids(&self) -> BTreeSet<String> {
        let root = self.hierarchy.root();
        let mounts: Vec<&PathBuf> = match self.hierarchy.layout() {
            Layout::V1(mounts) => mounts.values().collect(),
            Layout::V2(mount) => vec![mount],
        };
        let directories = mounts.iter().flat_map(|mount| TIERS.map(|(_, tier)| mount.join(root).join(tier)));
        directories.flat_map(|directory| uids_in(&directory)).collect()
    }

    fn ensure_group(&self, path: &str, limits: &Limits) -> Result<(), Error> {
        let group = self.hierarchy.group(path)?;
        if group.exists() { group.update(limits) } else { group.create(limits) }
    }
}

fn kill_and_remove(group: &Group) -> Result<(), Error> {
    // Removal is tried even where killing failed: the group may be empty.
    let killed = group.kill();
    group.remove(PATIENCE).and(killed)
}

fn uids_in(directory: &Path) -> Vec<String> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                tracing::debug!(%error, directory = %directory.display(), "pod cgroups not listed");
            }
            return Vec::new();
        }
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.strip_prefix("pod").map(str::to_owned)).collect()
}

/// The group of a pod beneath the cgroup root.
fn path_of(pod: &Pod) -> String {
    let class = qos::class(pod);
    let tier = TIERS.iter().find(|row| row.0 == class).map_or(TOP, |row| row.1);
    format!("{tier}/pod{}", pod.metadata.uid.as_deref().unwrap_or_default())
}

/// The limits of a pod's group.
fn limits_of(pod: &Pod, pids: Option<i64>) -> Limits {
    let numbers = qos::pod_numbers(pod);
    Limits {
        cpu_shares: shares(numbers.cpu_shares),
        cpu_quota: numbers.cpu_quota,
        cpu_period: numbers.cpu_quota.and(u64::try_from(qos::CPU_PERIOD).ok()),
        memory: numbers.memory,
        pids,
        ..Default::default()
    }
}

/// Shares of the Burstable tier: those of the sum of its pods' requests.
fn burstable_shares<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> i64 {
    let burstable = pods.into_iter().filter(|pod| admission::counts(pod) && qos::class(pod) == Class::Burstable);
    qos::shares(burstable.fold(0_i64, |sum, pod| sum.saturating_add(qos::pod_request(pod, "cpu").milli())))
}

fn shares(shares: i64) -> Option<u64> {
    u64::try_from(shares).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(uid: &str, containers: &[(Value, Value)]) -> Pod {
        let containers: Vec<Value> = containers
            .iter()
            .enumerate()
            .map(|(n, (requests, limits))| {
                json!({"name": n.to_string(), "resources": {"requests": requests, "limits": limits}})
            })
            .collect();
        serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": {"containers": containers}})).expect("a pod")
    }

    #[test]
    fn tree_and_numbers_are_the_kubelets() {
        let none = json!({});
        let some = json!({"cpu": "250m", "memory": "64Mi"});
        let more = json!({"cpu": "500m", "memory": "128Mi"});
        // Requests and limits of each container; the path, then shares, quota and memory.
        type Row = (Vec<(Value, Value)>, &'static str, u64, Option<i64>, Option<i64>);
        let table: Vec<Row> = vec![
            (vec![(none.clone(), none.clone())], "kubepods/besteffort/podu", 2, None, None),
            (vec![(some.clone(), some.clone())], "kubepods/podu", 256, Some(25_000), Some(64 << 20)),
            (vec![(some.clone(), more.clone())], "kubepods/burstable/podu", 256, Some(50_000), Some(128 << 20)),
            (vec![(some.clone(), none.clone())], "kubepods/burstable/podu", 256, None, None),
            (
                vec![(some.clone(), more.clone()), (none.clone(), none.clone())],
                "kubepods/burstable/podu",
                256,
                None,
                None,
            ),
        ];
        for (containers, path, shares, quota, memory) in table {
            let pod = pod("u", &containers);
            assert_eq!(path_of(&pod), path, "{containers:?}");
            let limits = limits_of(&pod, Some(1000));
            let found = (limits.cpu_shares, limits.cpu_quota, limits.memory, limits.pids);
            assert_eq!(found, (Some(shares), quota, memory, Some(1000)), "{containers:?}");
            assert_eq!(limits.cpu_period, quota.map(|_| 100_000));
        }
    }

    #[test]
    fn the_burstable_tier_has_the_shares_of_its_running_pods() {
        let asks = |cpu: &str| pod("u", &[(json!({"cpu": cpu}), json!({}))]);
        let guaranteed = pod("g", &[(json!({"cpu": "4", "memory": "1"}), json!({"cpu": "4", "memory": "1"}))]);
        let mut ended = asks("3");
        ended.status = serde_json::from_value(json!({"phase": "Succeeded"})).expect("a status");
        assert_eq!(burstable_shares([]), 2);
        assert_eq!(burstable_shares(&[asks("500m"), asks("1500m"), guaranteed, ended]), 2048);
    }

    /// On the machine's own hierarchies, beneath a group of this test's.
    struct Place(PodCgroups);

    impl Place {
        fn new(name: &str) -> Self {
            let root = format!("/podd-agent-test-{}-{name}", std::process::id());
            Self(PodCgroups::new(Hierarchy::detect(root).expect("cgroups"), Some(100)))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let removed = self.0.hierarchy.group("").and_then(|root| root.remove(PATIENCE));
            assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
        }
    }

    const NODE: Allocatable = Allocatable { milli_cpu: 2000, memory: 1 << 33, ephemeral_storage: 1 << 33, pods: 10 };

    #[test]
    fn pods_of_every_class_come_and_go() {
        let place = Place::new("classes");
        let cgroups = &place.0;
        cgroups.ensure_tiers(&NODE).expect("made");
        cgroups.ensure_tiers(&NODE).expect("found");
        let some = json!({"cpu": "250m", "memory": "64Mi"});
        let pods = [
            pod("best", &[(json!({}), json!({}))]),
            pod("burst", &[(some.clone(), json!({}))]),
            pod("sure", &[(some.clone(), some.clone())]),
        ];
        for pod in &pods {
            let parent = cgroups.ensure(pod).expect("made");
            assert_eq!(cgroups.ensure(pod).expect("found"), parent);
            assert!(parent.starts_with("/podd-agent-test-"), "{parent}");
        }
        cgroups.refresh(&pods).expect("refreshed");
        let uids: Vec<String> = cgroups.known_uids().into_iter().collect();
        assert_eq!(uids, ["best", "burst", "sure"]);
        for uid in uids {
            cgroups.remove(&uid).expect("removed");
            cgroups.remove(&uid).expect("gone already");
        }
        assert!(cgroups.known_uids().is_empty());
        cgroups.remove_tiers().expect("removed");
    }

    #[test]
    fn a_process_left_in_a_pod_is_killed_with_the_group() {
        let place = Place::new("leftover");
        place.0.ensure_tiers(&NODE).expect("made");
        place.0.ensure(&pod("u", &[(json!({}), json!({}))])).expect("made");
        let group = place.0.hierarchy.group("kubepods/besteffort/podu").expect("a group");
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("started");
        for file in group.join_files() {
            fs::write(file, child.id().to_string()).expect("joined");
        }
        // Killed while nobody reaps it: a zombie is in no group any more.
        place.0.remove("u").expect("removed");
        let status = child.wait().expect("ended");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }
}
