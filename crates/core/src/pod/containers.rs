//! The containers of a pod as a list with kinds: the order in which they start, and the rules that come with each
//! kind, are data here, so that `decide` and `status` never ask which field of the spec a container came from.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};

/// Which list of the spec a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Runs to its end, alone, before anything after it.
    Init,
    /// Runs as long as the pod.
    Regular,
}

/// What happens to a container that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// It is started again.
    Always,
    /// It is started again if its exit code is not 0.
    OnFailure,
    /// It stays.
    Never,
}

/// When a container's image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Before each start.
    Always,
    /// When the runtime does not have it.
    IfNotPresent,
    /// Not at all.
    Never,
}

/// One container of a pod with its kind and its policies resolved.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Its spec.
    pub spec: &'a Container,
    /// What happens after its end.
    pub restart: RestartPolicy,
    /// When its image is pulled.
    pub pull: PullPolicy,
}

impl<'a> Member<'a> {
    /// Its name.
    pub fn name(&self) -> &'a str {
        &self.spec.name
    }

    /// Its image as the spec names it; empty when the spec has none.
    pub fn image(&self) -> &'a str {
        self.spec.image.as_deref().unwrap_or_default()
    }

    /// The key of its crash back-off: another image or other resources start a new one.
    pub fn back_off_key(&self) -> String {
        let resources = self.spec.resources.as_ref().map(serde_json::to_string);
        format!("{} {}", self.image(), resources.and_then(Result::ok).unwrap_or_default())
    }

    /// Whether an instance that ended with this code is followed by another one.
    pub fn restarts_after(&self, exit_code: i32) -> bool {
        match self.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit_code != 0,
            RestartPolicy::Never => false,
        }
    }
}

/// The pod's containers in the order in which they start: init containers, then regular ones, each in list order.
pub fn members(pod: &Pod) -> Vec<Member<'_>> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let policy = restart_policy(pod);
    let init = spec.init_containers.iter().flatten().map(|c| Member {
        kind: Kind::Init,
        spec: c,
        // An init container that has succeeded is done, whatever the pod's policy.
        restart: if policy == RestartPolicy::Never { RestartPolicy::Never } else { RestartPolicy::OnFailure },
        pull: pull_policy(c),
    });
    let regular =
        spec.containers.iter().map(|c| Member { kind: Kind::Regular, spec: c, restart: policy, pull: pull_policy(c) });
    init.chain(regular).collect()
}

/// The grace period of a deletion that names none.
pub fn termination_grace(pod: &Pod) -> Duration {
    let seconds = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// A short name for the part of a definition whose change replaces a running container: name and image.
pub fn container_hash(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    let bytes = container.name.bytes().chain([0]).chain(image.bytes());
    // FNV-1a, 32 bits: stable over releases, which the standard hashers are not.
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{hash:x}")
}

/// The pod's restart policy as a value; absent is Always.
pub(super) fn restart_policy(pod: &Pod) -> RestartPolicy {
    match pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

fn pull_policy(container: &Container) -> PullPolicy {
    let image = container.image.as_deref().unwrap_or_default();
    match container.image_pull_policy.as_deref().unwrap_or_else(|| crate::defaults::pull_policy(image)) {
        "Always" => PullPolicy::Always,
        "Never" => PullPolicy::Never,
        _ => PullPolicy::IfNotPresent,
    }
}
