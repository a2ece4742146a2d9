//! What must be true of a pod whatever happens: a checker that knows nothing of how `decide` decides. Tests and the
//! simulation show it every decision, every state of the runtime and every published status.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodStatus};

use crate::pod::{
    Action, ContainerSeen, ContainerState, Decision, Goal, KillReason, LastStep, Observation, ProbeKind, Resources,
    SandboxState,
};

/// A broken invariant: which one, and on what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Violation {}

type Check = Result<(), Violation>;

fn hold(condition: bool, broken: impl FnOnce() -> String) -> Check {
    if condition { Ok(()) } else { Err(Violation(broken())) }
}

/// The least grace of a stop, in the kubelet's numbers.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// Checks a decision against what it was decided from.
pub fn check_decision(pod: &Pod, goal: &Goal, seen: &Observation, decision: &Decision, now: Timestamp) -> Check {
    let mut targets: Vec<_> = decision.actions.iter().map(Action::target).collect();
    targets.sort();
    let count = targets.len();
    targets.dedup();
    hold(targets.len() == count, || format!("two actions on one target: {:?}", decision.actions))?;
    hold(!decision.finished || decision.settled, || "finished but not settled".to_owned())?;
    hold(decision.wake_at.is_none_or(|at| at > now), || "wakes in the past".to_owned())?;
    for action in &decision.actions {
        check_action(pod, goal, seen, action, now)?;
    }
    match goal {
        Goal::Rest { .. } if decision.finished => nothing_runs(seen),
        _ if decision.finished => nothing_left(seen),
        _ => Ok(()),
    }
}

fn check_action(pod: &Pod, goal: &Goal, seen: &Observation, action: &Action, now: Timestamp) -> Check {
    let over = *goal != Goal::Run || phase_of(pod.status.as_ref()).is_some_and(is_final);
    let container = |id: &str| seen.containers.iter().find(|c| c.id == id);
    let sandbox = |id: &str| seen.sandboxes.iter().find(|s| s.id == id);
    let ready = |id: &str| sandbox(id).is_some_and(|s| s.state == SandboxState::Ready);
    let any_ready = seen.sandboxes.iter().any(|s| s.state == SandboxState::Ready);
    let any_live = seen.containers.iter().any(ContainerSeen::may_run);
    match action {
        Action::Prepare | Action::InspectImage { .. } | Action::PullImage { .. } => {
            hold(!over, || format!("{action:?} for a pod that shall not run"))
        }
        Action::CreateSandbox { attempt } => {
            hold(!over, || "a sandbox for a pod that shall not run".to_owned())?;
            hold(!any_ready && !any_live, || "a sandbox beside what still runs".to_owned())?;
            hold(seen.sandboxes.iter().all(|s| s.attempt < *attempt), || {
                format!("sandbox attempt {attempt} was there before")
            })?;
            hold(seen.resources == Resources::Prepared, || "a sandbox before volumes and cgroup".to_owned())
        }
        Action::StartContainer { container, sandbox_id, restart_count, .. } => {
            hold(!over, || format!("{container} started for a pod that shall not run"))?;
            hold(ready(sandbox_id), || format!("{container} started in a dead sandbox"))?;
            hold(!seen.instances(container).any(ContainerSeen::may_run), || {
                format!("{container} started beside a live instance")
            })?;
            hold(seen.instances(container).all(|c| c.restart_count < *restart_count), || {
                format!("{container} started with an old restart count {restart_count}")
            })?;
            hold(seen.resources == Resources::Prepared, || "a container before its volumes".to_owned())
        }
        Action::PostStart { container: name, id } => {
            hold(container(id).is_some_and(is_running), || format!("postStart of {name}, which does not run"))
        }
        Action::PreStop { container: name, id, deadline, .. } => {
            hold(container(id).is_some_and(is_running), || format!("preStop of {name}, which does not run"))?;
            hold(*deadline > now, || format!("preStop of {name} after its grace"))?;
            match goal {
                Goal::Stop { kill_at, .. } | Goal::End { kill_at, .. } | Goal::Rest { kill_at } => {
                    hold(deadline <= kill_at, || format!("{name} gets until {deadline}, only until {kill_at} are left"))
                }
                _ => Ok(()),
            }
        }
        Action::KillContainer { container, reason, .. } if by_probe(*reason).is_some() => {
            let probed = by_probe(*reason).is_some_and(|kind| has_probe(pod, container, kind));
            hold(!over && probed, || format!("{container} stopped by a probe that is not asked for"))
        }
        Action::KillContainer { container, grace, .. } => match goal {
            Goal::Stop { kill_at, .. } | Goal::End { kill_at, .. } | Goal::Rest { kill_at } => {
                let left = kill_at.duration_since(now).max(signed(LEAST_GRACE));
                hold(signed(*grace) <= left, || format!("{container} gets {grace:?}, only {left:?} are left"))?;
                hold(*kill_at <= now || !is_needed(pod, seen, container), || {
                    format!("sidecar {container} is stopped before what it serves")
                })
            }
            _ => Ok(()),
        },
        Action::RemoveContainer { id, container: name } => {
            hold(container(id).is_some_and(|c| !c.may_run()), || format!("{name} removed while it may run"))
        }
        Action::RemoveSandbox { id } => {
            hold(!ready(id), || format!("sandbox {id} removed while it is ready"))?;
            let housed = seen.containers.iter().filter(|c| c.sandbox_id == *id);
            hold(!housed.clone().any(ContainerSeen::may_run), || format!("sandbox {id} removed with live containers"))?;
            let stopping = matches!(goal, Goal::Stop { .. });
            hold(stopping || housed.count() == 0, || {
                format!("sandbox {id} removed with records that are still asked for")
            })
        }
        Action::StopSandbox { id } => {
            let live = seen.containers.iter().any(|c| c.sandbox_id == *id && c.may_run());
            let current = seen.newest_sandbox().is_some_and(|s| s.id == *id);
            hold(!(live && current), || format!("sandbox {id} stopped over live containers"))
        }
        Action::Suspend => {
            hold(matches!(goal, Goal::Rest { .. }), || "suspended on a node that stays up".to_owned())?;
            hold(!any_live && !any_ready, || "volumes unmounted under a live pod".to_owned())
        }
        Action::Release => hold(!any_live && !any_ready, || "volumes removed under a live pod".to_owned()),
        Action::PublishFinalStatus => hold(!any_live && !any_ready, || "final status of a live pod".to_owned()),
        Action::DeleteObject => {
            nothing_left(seen)?;
            let deleting = matches!(goal, Goal::Stop { last: LastStep::DeleteObject, .. });
            hold(deleting, || "the object of a pod that shall stay is removed".to_owned())
        }
    }
}

/// Whether a container is a sidecar, and a regular container or a later sidecar may run.
fn is_needed(pod: &Pod, seen: &Observation, container: &str) -> bool {
    let names = Names::of(pod);
    let Some(place) = names.sidecars.iter().position(|name| name == container) else {
        return false;
    };
    let mut later = names.sidecars[place + 1..].iter().chain(&names.regulars);
    later.any(|name| seen.instances(name).any(ContainerSeen::may_run))
}

/// Checks that the node holds nothing of a pod.
pub fn nothing_left(seen: &Observation) -> Check {
    hold(seen.sandboxes.is_empty(), || format!("sandboxes left: {:?}", seen.sandboxes))?;
    hold(seen.containers.is_empty(), || format!("containers left: {:?}", seen.containers))?;
    hold(seen.resources == Resources::Released, || "volumes or cgroup left".to_owned())
}

/// Checks that nothing of a pod runs.
fn nothing_runs(seen: &Observation) -> Check {
    hold(!seen.containers.iter().any(ContainerSeen::may_run), || "a container of a resting pod runs".to_owned())?;
    let ready = seen.sandboxes.iter().any(|s| s.state == SandboxState::Ready);
    hold(!ready, || "a sandbox of a resting pod is ready".to_owned())
}

/// What a pod went through, as far as it was shown. One per pod uid.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Every instance that ever ran, by container id.
    ran: BTreeMap<String, Ran>,
    /// Of these nobody can know any more how they ended; only their restart counts still bind.
    forgotten: BTreeSet<String>,
    published: Option<PodStatus>,
}

#[derive(Clone, Debug)]
struct Ran {
    name: String,
    sandbox: String,
    count: u32,
    hash: Option<String>,
    started_at: Timestamp,
    exit: Option<(i32, Timestamp)>,
    /// How many starts stand in the back-off's row with this one: 1 is a first start.
    row: u32,
}

impl History {
    /// Checks the state of the runtime as it truly is.
    pub fn see(&mut self, pod: &Pod, seen: &Observation) -> Check {
        let ready = seen.sandboxes.iter().filter(|s| s.state == SandboxState::Ready).count();
        hold(ready <= 1, || format!("{ready} ready sandboxes"))?;
        let names = Names::of(pod);
        for name in names.in_order.iter().chain(&names.ephemerals) {
            let live = seen.instances(name).filter(|c| is_running(c)).count();
            hold(live <= 1, || format!("{live} live instances of {name}"))?;
        }
        let mut containers: Vec<_> = seen.containers.iter().collect();
        containers.sort_by_key(|c| (c.created_at, c.restart_count));
        for container in containers {
            self.note(pod, container, &names)?;
        }
        self.order(seen, &names)
    }

    /// Somebody removed records from the runtime: what ran so far may run again, and need not wait for its back-off.
    pub fn records_lost(&mut self) {
        self.forgotten.extend(self.ran.keys().cloned());
    }

    /// Checks a status that is being published.
    pub fn publish(&mut self, pod: &Pod, status: &PodStatus) -> Check {
        if let Some(old) = self.published.replace(status.clone()) {
            let (was, is) = (phase_of(Some(&old)), phase_of(Some(status)));
            if was.is_some_and(is_final) {
                hold(was == is, || format!("phase left {was:?} for {is:?}"))?;
                ends_stay(&old, status)?;
            }
            for new in all_statuses(status) {
                let before = all_statuses(&old).find(|s| s.name == new.name);
                hold(before.is_none_or(|b| b.restart_count <= new.restart_count), || {
                    format!("restart count of {} fell to {}", new.name, new.restart_count)
                })?;
            }
        }
        for container in all_statuses(status) {
            let state = container.state.as_ref();
            let kinds = state.map_or(0, |s| {
                usize::from(s.running.is_some())
                    + usize::from(s.waiting.is_some())
                    + usize::from(s.terminated.is_some())
            });
            hold(kinds == 1, || format!("{} is in {kinds} states", container.name))?;
        }
        for container in status.container_statuses.iter().flatten().filter(|c| c.ready) {
            let runs = container.state.as_ref().is_some_and(|s| s.running.is_some());
            hold(runs && container.started == Some(true), || {
                format!("{} is ready and has not started", container.name)
            })?;
        }
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        let all_run = status.container_statuses.iter().flatten().all(|c| c.ready);
        hold(!ready || all_run, || "ready without all containers ready".to_owned())?;
        if phase_of(Some(status)) == Some("Succeeded")
            && pod.status.as_ref().is_none_or(|s| phase_of(Some(s)) != Some("Succeeded"))
        {
            let code = |s: &ContainerStatus| s.state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
            let all = status.container_statuses.iter().flatten().all(|s| code(s) == Some(0));
            hold(all, || "succeeded without every container at exit code 0".to_owned())?;
        }
        Ok(())
    }

    /// Checks that the last status of a pod tells an end of whatever ran.
    pub fn tells_all(&self, status: &PodStatus) -> Check {
        let ended = |s: &ContainerStatus| s.state.as_ref().is_some_and(|s| s.terminated.is_some());
        for ran in self.known() {
            let told = all_statuses(status).find(|s| s.name == ran.name).is_some_and(ended);
            hold(told, || format!("the last status tells no end of {}", ran.name))?;
        }
        Ok(())
    }

    fn known(&self) -> impl Iterator<Item = &Ran> {
        self.ran.iter().filter(|(id, _)| !self.forgotten.contains(*id)).map(|(_, ran)| ran)
    }

    /// Takes in one instance: a new one must be allowed to have started when it did.
    fn note(&mut self, pod: &Pod, seen: &ContainerSeen, names: &Names) -> Check {
        let (started_at, exit) = match &seen.state {
            ContainerState::Running { started_at } => (*started_at, None),
            ContainerState::Exited(exit) => (exit.started_at, Some((exit.code, exit.finished_at))),
            ContainerState::Created | ContainerState::Unknown => return Ok(()),
        };
        if let Some(known) = self.ran.get_mut(&seen.id) {
            known.exit = known.exit.or(exit);
            return Ok(());
        }
        let name = &seen.name;
        hold(self.ran.values().filter(|r| r.name == *name).all(|r| r.count < seen.restart_count), || {
            format!("{name} ran before with restart count {} or a higher one", seen.restart_count)
        })?;
        let mut before: Vec<_> = self.known().filter(|r| r.name == *name).collect();
        before.sort_by_key(|r| (r.started_at, r.count));
        let policy = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always");
        let elsewhere = self.known().any(|r| r.sandbox != seen.sandbox_id);
        hold(policy != "Never" || names.have_own_policies || !elsewhere, || {
            format!("{name} ran in another sandbox under Never")
        })?;
        let own_policy = names.have_own_policies || names.sidecars.contains(name);
        hold(policy != "Never" || own_policy || before.is_empty(), || format!("{name} ran again under Never"))?;
        if names.inits.contains(name) {
            let mut here = before.iter().filter(|r| r.sandbox == seen.sandbox_id).filter_map(|r| r.exit);
            hold(!here.clone().any(|(code, _)| code == 0), || {
                format!("init container {name} ran again after success")
            })?;
            hold(here.all(|(code, _)| restarts(pod, name, code)), || format!("init container {name} ran again"))?;
        } else if names.regulars.contains(name) {
            let mut exits = before.iter().filter_map(|r| r.exit);
            hold(exits.all(|(code, _)| restarts(pod, name, code)), || format!("{name} ran again, against its policy"))?;
        }
        if names.ephemerals.contains(name) {
            hold(before.is_empty(), || format!("ephemeral container {name} ran again"))?;
        }
        let row = before.last().map_or(Ok(1), |last| back_off_row(last, seen, started_at))?;
        let ran = Ran {
            name: name.clone(),
            sandbox: seen.sandbox_id.clone(),
            count: seen.restart_count,
            hash: seen.hash.clone(),
            started_at,
            exit,
            row,
        };
        self.ran.insert(seen.id.clone(), ran);
        Ok(())
    }

    /// Init containers run one at a time; each container runs only after the init containers before it have succeeded in
    /// its sandbox, and the sidecars before it have run there.
    fn order(&self, seen: &Observation, names: &Names) -> Check {
        let running = |name: &String| seen.instances(name).find(|c| is_running(c));
        let live_init: Vec<_> = names.inits.iter().filter_map(running).collect();
        hold(live_init.len() <= 1, || format!("{} init containers at once", live_init.len()))?;
        for (place, name) in names.in_order.iter().enumerate() {
            let Some(live) = running(name) else { continue };
            let sandbox = &live.sandbox_id;
            let ran = |name: &String, ended: fn(&Ran) -> bool| {
                self.ran.values().any(|r| r.name == *name && r.sandbox == *sandbox && ended(r))
            };
            for before in &names.in_order[..place] {
                if names.inits.contains(before) {
                    let done = ran(before, |r| r.exit.is_some_and(|(code, _)| code == 0));
                    hold(done, || format!("{name} runs before init container {before} succeeded"))?;
                } else if names.sidecars.contains(before) {
                    hold(ran(before, |_| true), || format!("{name} runs before sidecar {before} has run"))?;
                }
            }
            hold(!names.regulars.contains(name) || live_init.iter().all(|c| c.sandbox_id != *sandbox), || {
                format!("{name} runs beside an init container")
            })?;
        }
        Ok(())
    }
}

/// In a pod that has ended, whatever has ended stays so.
fn ends_stay(old: &PodStatus, new: &PodStatus) -> Check {
    for before in all_statuses(old).filter(|s| s.state.as_ref().is_some_and(|s| s.terminated.is_some())) {
        let after = all_statuses(new).find(|s| s.name == before.name && s.restart_count == before.restart_count);
        let ended = |s: &ContainerStatus| s.state.as_ref().is_some_and(|s| s.terminated.is_some());
        hold(after.is_none_or(ended), || format!("{} had ended in a pod that has", before.name))?;
    }
    Ok(())
}

/// The place of a start in the row of its back-off, or the violation that it came too early: the first restart may come
/// at once, the next after 10 s, then 20 s, … up to 300 s; a run of more than 600 s, or another image, ends the row.
fn back_off_row(last: &Ran, seen: &ContainerSeen, started_at: Timestamp) -> Result<u32, Violation> {
    let Some((_, ended_at)) = last.exit else {
        return Ok(1);
    };
    // The entry is written just before the start: a run near the limit may be on either side of it.
    let long_run = ended_at.duration_since(last.started_at) > SignedDuration::from_secs(590);
    if last.hash != seen.hash || long_run {
        return Ok(1);
    }
    let wait = match last.row {
        1 => 0,
        n => 10_i64.saturating_mul(2_i64.saturating_pow(n - 2)).min(300),
    };
    let waited = started_at.duration_since(ended_at);
    hold(waited >= SignedDuration::from_secs(wait), || {
        format!("{} restarted after {waited:?}, its back-off is {wait} s", seen.name)
    })?;
    Ok(last.row.saturating_add(1))
}

/// The probe that asks for a stop.
fn by_probe(reason: KillReason) -> Option<ProbeKind> {
    match reason {
        KillReason::LivenessFailed => Some(ProbeKind::Liveness),
        KillReason::StartupFailed => Some(ProbeKind::Startup),
        _ => None,
    }
}

fn has_probe(pod: &Pod, name: &str, kind: ProbeKind) -> bool {
    let spec = pod.spec.iter();
    let mut all = spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    all.any(|container| container.name == name && kind.of(container).is_some())
}

fn is_running(seen: &ContainerSeen) -> bool {
    matches!(seen.state, ContainerState::Running { .. })
}

fn is_final(phase: &str) -> bool {
    phase == "Succeeded" || phase == "Failed"
}

fn phase_of(status: Option<&PodStatus>) -> Option<&str> {
    status.and_then(|s| s.phase.as_deref())
}

fn all_statuses(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    let inits = status.init_container_statuses.iter().flatten();
    inits.chain(status.container_statuses.iter().flatten()).chain(status.ephemeral_container_statuses.iter().flatten())
}

/// The names of a pod's containers.
struct Names {
    inits: Vec<String>,
    sidecars: Vec<String>,
    regulars: Vec<String>,
    ephemerals: Vec<String>,
    /// All but the ephemeral ones, in the order of the spec.
    in_order: Vec<String>,
    /// Whether a regular container has a restart policy of its own.
    have_own_policies: bool,
}

impl Names {
    fn of(pod: &Pod) -> Names {
        let inits = || pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten());
        let regulars = || pod.spec.iter().flat_map(|s| &s.containers);
        let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
        let name = |c: &Container| c.name.clone();
        Names {
            inits: inits().filter(|c| !sidecar(c)).map(name).collect(),
            sidecars: inits().filter(sidecar).map(name).collect(),
            regulars: regulars().map(name).collect(),
            ephemerals: pod
                .spec
                .iter()
                .flat_map(|s| s.ephemeral_containers.iter().flatten())
                .map(|e| e.name.clone())
                .collect(),
            in_order: inits().chain(regulars()).map(name).collect(),
            have_own_policies: regulars().any(|c| c.restart_policy.is_some()),
        }
    }
}

/// Whether the spec lets a container run again after this exit code.
fn restarts(pod: &Pod, name: &str, code: i32) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let Some(container) = spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name)
    else {
        return false;
    };
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let named = codes.values.as_deref().unwrap_or_default().contains(&code);
        let meant = if codes.operator == "NotIn" { !named } else { named };
        if meant && rule.action == "Restart" {
            return true;
        }
    }
    match container.restart_policy.as_deref().or(spec.restart_policy.as_deref()) {
        Some("Never") => false,
        Some("OnFailure") => code != 0,
        _ => true,
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}
