//! What probes have told of containers, and what follows from it: whether one has started, whether it is ready, and
//! whether it is to be stopped. A result counts when it came often enough in a row; which probes are made when is here
//! too, making them is the agent's.
//!
//! ```text
//! container runs ─► startup probe ── success ──► liveness, readiness ── liveness failed ──► stop
//!                        └── failed ──► stop         └──► ready or not
//! ```

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, Probe};

use super::{
    ContainerSeen, ContainerState, Goal, KillReason, Memory, Observation,
    back_off::add,
    containers::{Member, members, termination_grace},
    decide::Turn,
    is_terminal,
};

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// Whether the container has started; the other two wait for it.
    Startup,
    /// Whether it lives; if not, it is stopped.
    Liveness,
    /// Whether it can serve.
    Readiness,
}

impl ProbeKind {
    /// As it stands in events: `Liveness`.
    pub fn word(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }

    /// The container's probe of this kind.
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            ProbeKind::Startup => container.startup_probe.as_ref(),
            ProbeKind::Liveness => container.liveness_probe.as_ref(),
            ProbeKind::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// What the probes of one container instance have told so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    probes: BTreeMap<ProbeKind, Run>,
}

/// The results of one probe.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Run {
    /// The last result, and how often it came in a row.
    last: Option<(bool, u32)>,
    /// The last result that came often enough; none before the first.
    verdict: Option<bool>,
}

impl Health {
    /// Takes in a result. True if it makes a difference.
    fn take(&mut self, kind: ProbeKind, probe: &Probe, success: bool) -> bool {
        let run = self.probes.entry(kind).or_default();
        let times = match run.last {
            Some((last, times)) if last == success => times.saturating_add(1),
            _ => 1,
        };
        run.last = Some((success, times));
        let (threshold, default) =
            if success { (probe.success_threshold, 1) } else { (probe.failure_threshold, FAILURES) };
        if times < u32::try_from(threshold.unwrap_or(default)).unwrap_or(0) || run.verdict == Some(success) {
            return false;
        }
        run.verdict = Some(success);
        true
    }

    fn verdict(&self, kind: ProbeKind) -> Option<bool> {
        self.probes.get(&kind)?.verdict
    }
}

/// Failures in a row that count, where the manifest is silent.
const FAILURES: i32 = 3;

/// A probe that is to be made again and again, until it is not asked for any more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watch {
    /// The runtime's id of the container.
    pub id: String,
    /// What for.
    pub kind: ProbeKind,
    /// Its name in the pod.
    pub container: String,
    /// The sandbox it is in.
    pub sandbox_id: String,
    /// When its process started.
    pub started_at: Timestamp,
    /// Not before this.
    pub first_at: Timestamp,
}

/// The probes that are to be made now.
pub fn watches(pod: &Pod, goal: &Goal, seen: &Observation, memory: &Memory) -> Vec<Watch> {
    // A pod that is stopped stays as ready as it is; its life is not in question any more.
    let kinds: &[ProbeKind] = match goal {
        _ if is_terminal(pod) => &[],
        Goal::Run => &[ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness],
        Goal::Stop { .. } | Goal::End { .. } => &[ProbeKind::Readiness],
        _ => &[],
    };
    let mut watches = Vec::new();
    if kinds.is_empty() {
        return watches;
    }
    for member in members(pod) {
        let Some(newest) = seen.newest(member.name()) else { continue };
        let ContainerState::Running { started_at } = newest.state else { continue };
        if memory.post_starts.contains_key(&newest.id) {
            continue;
        }
        let started = is_started(pod, memory, newest, &member.spec);
        for kind in kinds {
            let Some(probe) = kind.of(&member.spec) else { continue };
            let verdict = memory.health.get(&newest.id).and_then(|health| health.verdict(*kind));
            let wanted = match kind {
                ProbeKind::Startup => !started && verdict.is_none(),
                // What has failed is stopped; asked again it would only be disturbed.
                ProbeKind::Liveness => started && verdict != Some(false),
                ProbeKind::Readiness => started,
            };
            if wanted {
                let delay = u64::try_from(probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0);
                watches.push(Watch {
                    id: newest.id.clone(),
                    kind: *kind,
                    container: newest.name.clone(),
                    sandbox_id: newest.sandbox_id.clone(),
                    started_at,
                    first_at: add(started_at, Duration::from_secs(delay)),
                });
            }
        }
    }
    watches
}

impl Memory {
    /// Takes in the result of a probe. True if something is to be decided anew.
    pub fn probed(&mut self, pod: &Pod, container: &str, id: &str, kind: ProbeKind, success: bool) -> bool {
        let members = members(pod);
        let Some(probe) = members.iter().find(|m| m.name() == container).and_then(|m| kind.of(&m.spec)) else {
            return false;
        };
        self.health.entry(id.to_owned()).or_default().take(kind, probe, success)
    }

    /// Forgets the health of containers that are gone.
    pub fn saw(&mut self, seen: &Observation) {
        self.health.retain(|id, _| seen.containers.iter().any(|c| c.id == *id));
    }
}

impl Turn<'_> {
    /// Whether an instance runs and its startup probe, if it has one, has succeeded.
    pub(super) fn is_started(&self, seen: &ContainerSeen, member: &Member<'_>) -> bool {
        is_started(self.pod, self.memory, seen, &member.spec)
    }

    /// Whether an instance has started and its readiness probe, if it has one, succeeds.
    pub(super) fn is_ready(&self, seen: &ContainerSeen, member: &Member<'_>) -> bool {
        let health = self.memory.health.get(&seen.id).and_then(|health| health.verdict(ProbeKind::Readiness));
        let told = || published(self.pod, &seen.id).is_some_and(|status| status.ready);
        self.is_started(seen, member) && (member.spec.readiness_probe.is_none() || health.unwrap_or_else(told))
    }

    /// Why an instance that runs is to be stopped, and the grace it gets, if its probes ask for it.
    pub(super) fn unhealthy(&self, seen: &ContainerSeen, member: &Member<'_>) -> Option<(KillReason, Duration)> {
        let health = self.memory.health.get(&seen.id)?;
        let failed = |kind: ProbeKind| (health.verdict(kind) == Some(false)).then(|| kind.of(&member.spec)).flatten();
        let (reason, probe) = match (failed(ProbeKind::Liveness), failed(ProbeKind::Startup)) {
            (Some(probe), _) => (KillReason::LivenessFailed, probe),
            (None, Some(probe)) => (KillReason::StartupFailed, probe),
            (None, None) => return None,
        };
        let own = probe.termination_grace_period_seconds.and_then(|s| u64::try_from(s).ok());
        Some((reason, own.map_or_else(|| termination_grace(self.pod), Duration::from_secs)))
    }
}

fn is_started(pod: &Pod, memory: &Memory, seen: &ContainerSeen, container: &Container) -> bool {
    if !matches!(seen.state, ContainerState::Running { .. }) {
        return false;
    }
    let verdict = memory.health.get(&seen.id).and_then(|health| health.verdict(ProbeKind::Startup));
    let told = || published(pod, &seen.id).is_some_and(|status| status.started == Some(true));
    container.startup_probe.is_none() || verdict.unwrap_or_else(told)
}

/// What was published of an instance: it stands until a probe says otherwise, so that an agent that begins anew makes
/// nobody unready.
fn published<'a>(pod: &'a Pod, id: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let is_it =
        |s: &&ContainerStatus| s.container_id.as_deref().and_then(|c| c.split_once("://")).is_some_and(|c| c.1 == id);
    all.into_iter().find(is_it)
}
