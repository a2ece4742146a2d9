//! The containers of a pod as a list with kinds: the order in which they start, and the rules that come with each
//! kind, are data here, so that `decide` and `status` never ask which field of the spec a container came from.

use std::{borrow::Cow, time::Duration};

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod};

use super::ephemeral;

/// Which list of the spec a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Runs to its end before anything after it.
    Init,
    /// An init container with `restartPolicy: Always`: what comes after it starts once it has started, and it runs as
    /// long as the pod, without keeping it alive.
    Sidecar,
    /// Runs as long as the pod.
    Regular,
    /// Added to a pod that runs, to look into it. Started once; nothing waits for it.
    Ephemeral,
}

impl Kind {
    /// Whether it stands among the init containers.
    pub fn is_init(self) -> bool {
        matches!(self, Kind::Init | Kind::Sidecar)
    }
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
#[derive(Clone, Debug)]
pub struct Member<'a> {
    name: &'a str,
    image: &'a str,
    /// Its kind.
    pub kind: Kind,
    /// Its spec; that of an ephemeral container is made of what the pod has.
    pub spec: Cow<'a, Container>,
    /// The container whose processes it is to see (`targetContainerName`).
    pub target: Option<&'a str>,
    /// What happens after its end, unless one of its own rules says otherwise: see [`Member::restarts_after`].
    pub restart: RestartPolicy,
    /// When its image is pulled.
    pub pull: PullPolicy,
}

impl<'a> Member<'a> {
    /// Its name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Its image as the spec names it; empty when the spec has none.
    pub fn image(&self) -> &'a str {
        self.image
    }

    /// The key of its crash back-off: another image or other resources start a new one.
    pub fn back_off_key(&self) -> String {
        let resources = self.spec.resources.as_ref().map(serde_json::to_string);
        format!("{} {}", self.image(), resources.and_then(Result::ok).unwrap_or_default())
    }

    /// Whether an instance that ended with this code is followed by another one: the container's rules first, then
    /// its own policy, then the pod's. An init container that has succeeded is done, whatever they say.
    pub fn restarts_after(&self, exit_code: i32) -> bool {
        if self.kind == Kind::Init && exit_code == 0 {
            return false;
        }
        let mut rules = self.spec.restart_policy_rules.iter().flatten();
        if rules.any(|rule| rule.action == "Restart" && applies(rule, exit_code)) {
            return true;
        }
        match self.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit_code != 0,
            RestartPolicy::Never => false,
        }
    }
}

/// Whether a rule is about this exit code.
fn applies(rule: &ContainerRestartRule, exit_code: i32) -> bool {
    rule.exit_codes.as_ref().is_some_and(|codes| {
        let named = codes.values.iter().flatten().any(|value| *value == exit_code);
        named == (codes.operator == "In")
    })
}

/// The pod's containers in the order in which they start: init containers and sidecars, then regular ones, each in list
/// order; ephemeral ones come last.
pub fn members<'a>(pod: &'a Pod) -> Vec<Member<'a>> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let policy = restart_policy(pod);
    let member = |kind: Kind, c: &'a Container, restart: RestartPolicy| Member {
        name: &c.name,
        image: c.image.as_deref().unwrap_or_default(),
        kind,
        spec: Cow::Borrowed(c),
        target: None,
        restart,
        pull: pull_policy(c),
    };
    let init = spec.init_containers.iter().flatten().map(|c| {
        let kind = if is_sidecar(c) { Kind::Sidecar } else { Kind::Init };
        member(kind, c, policy_of(c).unwrap_or(policy))
    });
    let regular = spec.containers.iter().map(|c| member(Kind::Regular, c, policy_of(c).unwrap_or(policy)));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|e| {
        let container = ephemeral::as_container(e);
        Member {
            name: &e.name,
            image: e.image.as_deref().unwrap_or_default(),
            kind: Kind::Ephemeral,
            pull: pull_policy(&container),
            spec: Cow::Owned(container),
            target: e.target_container_name.as_deref().filter(|name| !name.is_empty()),
            restart: RestartPolicy::Never,
        }
    });
    init.chain(regular).chain(ephemeral).collect()
}

/// Whether an init container is a sidecar.
pub fn is_sidecar(init: &Container) -> bool {
    policy_of(init) == Some(RestartPolicy::Always)
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
    let named = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    named.and_then(policy).unwrap_or(RestartPolicy::Always)
}

/// A container's own restart policy.
fn policy_of(container: &Container) -> Option<RestartPolicy> {
    container.restart_policy.as_deref().and_then(policy)
}

fn policy(name: &str) -> Option<RestartPolicy> {
    match name {
        "Always" => Some(RestartPolicy::Always),
        "OnFailure" => Some(RestartPolicy::OnFailure),
        "Never" => Some(RestartPolicy::Never),
        _ => None,
    }
}

fn pull_policy(container: &Container) -> PullPolicy {
    pull_policy_of(container.image.as_deref().unwrap_or_default(), container.image_pull_policy.as_deref())
}

/// When an image is pulled, by what is written or else by its tag.
pub(super) fn pull_policy_of(image: &str, written: Option<&str>) -> PullPolicy {
    match written.unwrap_or_else(|| crate::defaults::pull_policy(image)) {
        "Always" => PullPolicy::Always,
        "Never" => PullPolicy::Never,
        _ => PullPolicy::IfNotPresent,
    }
}
