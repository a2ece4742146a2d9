//! Which sandbox a pod runs in, and when it needs another one.

use k8s_openapi::api::core::v1::Pod;

use super::{Observation, SandboxSeen, SandboxState};

/// The verdict on a pod's sandboxes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict<'a> {
    /// The pod runs in this one.
    Current(&'a SandboxSeen),
    /// It needs a new one, with this attempt; whatever it has is to be stopped first.
    Needed {
        /// The attempt of the new one.
        attempt: u32,
    },
}

/// Judges a pod's sandboxes as the kubelet does: the newest one serves if it is ready, the only one that is, has the
/// network the spec asks for, and has an address unless that network is the host's.
pub(super) fn judge<'a>(pod: &Pod, seen: &'a Observation) -> Verdict<'a> {
    let Some(newest) = seen.newest_sandbox() else {
        return Verdict::Needed { attempt: 0 };
    };
    let ready = seen.sandboxes.iter().filter(|s| s.state == SandboxState::Ready).count();
    let host_network = is_host_network(pod);
    let serves = ready == 1
        && newest.state == SandboxState::Ready
        && newest.host_network == host_network
        && (host_network || !newest.ips.is_empty());
    if serves {
        return Verdict::Current(newest);
    }
    let last = seen.sandboxes.iter().map(|s| s.attempt).max().unwrap_or(newest.attempt);
    Verdict::Needed { attempt: last.saturating_add(1) }
}

/// Whether the spec asks for the host's network.
pub(super) fn is_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false)
}
