//! The way up: a sandbox that serves, the init containers and sidecars one after another, then the regular ones in list
//! order, and from then on whatever has ended and is to run again.

use k8s_openapi::api::core::v1::{ContainerState as ApiState, Pod};

use super::{
    Action, BackOffLimits, ContainerSeen, ContainerState, Crash, KillReason, Kind, PostStart, Resources, SandboxSeen,
    SandboxState, Target,
    container_status::LOST,
    containers::{Member, RestartPolicy, container_hash, restart_policy, termination_grace},
    decide::{Batch, Turn},
    ephemeral,
    images::{self, Stand},
    sandbox::{self, Verdict},
};

/// What a plan found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// There is something that runs or shall run.
    On,
    /// Nothing runs and nothing will be started again.
    Ended,
}

/// Plans the next step of a pod that shall run.
pub(super) fn plan(turn: &Turn<'_>, batch: &mut Batch<'_>) -> Course {
    match sandbox::judge(turn.pod, turn.seen) {
        Verdict::Needed { attempt } => replace_sandbox(turn, attempt, batch),
        Verdict::Current(current) => {
            let course = run_in(turn, current, batch);
            if course == Course::On {
                ephemeral::plan(turn, current, batch);
                collect(turn, current, batch);
            }
            course
        }
    }
}

/// A pod without a sandbox that serves: stop what there is, then make one, if anything is left to run in it.
fn replace_sandbox(turn: &Turn<'_>, attempt: u32, batch: &mut Batch<'_>) -> Course {
    let first = first_starts(turn, attempt);
    if first.is_empty() {
        return Course::Ended;
    }
    if turn.kill(batch, KillReason::SandboxStopped, |_| true) || turn.stop_sandboxes(batch, None) {
        return Course::On;
    }
    if let Some(newest) = turn.seen.newest_sandbox() {
        // The newest one stays, for the count of attempts.
        collect_sandboxes(turn, newest, batch);
    }
    // Images are looked for, and pulled, while the sandbox is made.
    for member in &first {
        images::advance(turn, member, batch);
    }
    if prepared(turn, batch) {
        batch.push(Action::CreateSandbox { attempt });
    }
    Course::On
}

/// What starts first in a new sandbox. Empty means that the pod has ended, by the kubelet's rules: with `Never`, a pod
/// that had containers is not begun again; with `OnFailure`, containers that succeeded are not.
fn first_starts<'a, 'b>(turn: &'b Turn<'a>, attempt: u32) -> Vec<&'b Member<'a>> {
    if attempt > 0 && is_never_begun_again(turn) {
        return Vec::new();
    }
    let left: Vec<_> = turn.members.iter().filter(|m| m.kind == Kind::Regular && !is_over(turn, m)).collect();
    match turn.members.iter().find(|m| m.kind.is_init()) {
        Some(init) if !left.is_empty() => vec![init],
        _ => left,
    }
}

fn is_never_begun_again(turn: &Turn<'_>) -> bool {
    let own_policy = |m: &Member<'_>| m.kind == Kind::Regular && m.spec.restart_policy.is_some();
    restart_policy(turn.pod) == RestartPolicy::Never
        && !turn.seen.containers.is_empty()
        && !turn.members.iter().any(own_policy)
}

/// Whether the pod lost its sandbox and is not begun again.
pub(super) fn is_abandoned(turn: &Turn<'_>) -> bool {
    let attempt = match sandbox::judge(turn.pod, turn.seen) {
        Verdict::Current(_) => return false,
        Verdict::Needed { attempt } => attempt,
    };
    attempt > 0 && is_never_begun_again(turn)
}

/// Whether a regular container has ended for good: its newest instance has, or the runtime has no record of any and that
/// was published.
pub(super) fn is_over(turn: &Turn<'_>, member: &Member<'_>) -> bool {
    let code = match turn.seen.newest(member.name()) {
        Some(newest) => newest.exit().map(|exit| exit.code),
        None => told_exit(turn.pod, member.name()),
    };
    code.is_some_and(|code| !member.restarts_after(code))
}

fn told_exit(pod: &Pod, name: &str) -> Option<i32> {
    let told = pod.status.as_ref()?.container_statuses.iter().flatten().find(|status| status.name == name)?;
    Some(told.state.as_ref()?.terminated.as_ref()?.exit_code)
}

/// A pod with a sandbox that serves.
fn run_in(turn: &Turn<'_>, current: &SandboxSeen, batch: &mut Batch<'_>) -> Course {
    // What is left of earlier sandboxes must not run beside the new one.
    turn.kill(batch, KillReason::SandboxStopped, |c| c.sandbox_id != current.id);
    turn.stop_sandboxes(batch, Some(&current.id));

    match initialization(turn, current) {
        Initialization::Failed => Course::Ended,
        Initialization::At { up, next } => {
            for sidecar in up {
                advance(turn, sidecar, current, batch);
            }
            if let Some(next) = next {
                advance(turn, next, current, batch);
            }
            Course::On
        }
        Initialization::Completed => {
            let course = regular(turn, current, batch);
            if course == Course::On {
                for sidecar in turn.members.iter().filter(|m| m.kind == Kind::Sidecar) {
                    advance(turn, sidecar, current, batch);
                }
            }
            course
        }
    }
}

/// Where the pod's initialisation stands.
enum Initialization<'a, 'b> {
    /// It goes on with the next one, if all before it are where they should be; these sidecars are to be up meanwhile.
    At {
        /// Sidecars that were started here.
        up: Vec<&'b Member<'a>>,
        /// What is to be started, or runs and is waited for.
        next: Option<&'b Member<'a>>,
    },
    /// One failed and is not tried again.
    Failed,
    /// All init containers have succeeded in this sandbox, and all sidecars have started.
    Completed,
}

/// Where the init containers and sidecars stand. Judged from the last one that has an instance in this sandbox, since the
/// records of the ones before it may be gone; and over as soon as a regular container was made here.
fn initialization<'a, 'b>(turn: &'b Turn<'a>, current: &SandboxSeen) -> Initialization<'a, 'b> {
    let here = |m: &Member<'_>| turn.seen.newest_in(m.name(), &current.id);
    if turn.members.iter().any(|m| m.kind == Kind::Regular && here(m).is_some()) {
        return Initialization::Completed;
    }
    let inits: Vec<_> = turn.members.iter().filter(|m| m.kind.is_init()).collect();
    let last = inits.iter().rposition(|m| here(m).is_some());
    let next = match last.map(|last| (last, inits[last], here(inits[last]))) {
        Some((last, member, Some(newest))) if member.kind == Kind::Sidecar => {
            last + usize::from(turn.has_started(newest, member))
        }
        Some((last, member, Some(newest))) => match newest.exit() {
            Some(exit) if exit.code == 0 => last + 1,
            Some(exit) if !member.restarts_after(exit.code) => return Initialization::Failed,
            _ => last,
        },
        _ => 0,
    };
    if next == inits.len() {
        return Initialization::Completed;
    }
    let up = inits[..next].iter().copied().filter(|m| m.kind == Kind::Sidecar).collect();
    Initialization::At { up, next: inits.get(next).copied() }
}

/// Whether nothing but sidecars is left: the regular containers have ended for good, or an init container has, so that
/// the pod only has to wind down.
pub(super) fn is_ending(turn: &Turn<'_>) -> bool {
    let current = match sandbox::judge(turn.pod, turn.seen) {
        Verdict::Current(current) => current,
        Verdict::Needed { attempt } => return first_starts(turn, attempt).is_empty(),
    };
    match initialization(turn, current) {
        Initialization::At { .. } => false,
        Initialization::Failed => true,
        Initialization::Completed => {
            let mut regular = turn.members.iter().filter(|m| m.kind == Kind::Regular);
            regular.all(|m| is_over(turn, m))
        }
    }
}

impl Turn<'_> {
    /// Whether an instance has started as far as others wait for it: it runs, its postStart hook has ended well, and its
    /// startup probe has succeeded.
    pub(super) fn has_started(&self, seen: &ContainerSeen, member: &Member<'_>) -> bool {
        !self.memory.post_starts.contains_key(&seen.id) && self.is_started(seen, member)
    }
}

/// The regular containers: first starts in list order, one at a time; restarts whenever they are due.
fn regular(turn: &Turn<'_>, current: &SandboxSeen, batch: &mut Batch<'_>) -> Course {
    let mut course = Course::Ended;
    let mut in_turn = true;
    for member in turn.members.iter().filter(|m| m.kind == Kind::Regular) {
        let newest = turn.seen.newest(member.name());
        if is_over(turn, member) {
            continue;
        }
        course = Course::On;
        if newest.is_some_and(|c| c.sandbox_id == current.id && c.state != ContainerState::Created) {
            // The next one waits for the hook of one that has just been started.
            in_turn &= advance(turn, member, current, batch) != Step::Hooked;
        } else if in_turn {
            // The next one waits until this one runs, or has failed to.
            in_turn = advance(turn, member, current, batch) == Step::Failing;
        } else {
            images::advance(turn, member, batch);
        }
    }
    course
}

/// Where a container stands after `advance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is on its way: started by this batch, or waiting for one of its actions.
    Busy,
    /// It failed and waits for its next try.
    Failing,
    /// It runs, and its postStart hook with it.
    Hooked,
    /// It runs as it should.
    Runs,
}

/// Brings one container one step nearer to running.
pub(super) fn advance(turn: &Turn<'_>, member: &Member<'_>, current: &SandboxSeen, batch: &mut Batch<'_>) -> Step {
    let all = || turn.seen.instances(member.name());
    // Never a second instance beside one that may run.
    if let Some(alive) = all().find(|c| c.may_run()) {
        let own = termination_grace(turn.pod);
        let (reason, grace) = match alive.state {
            ContainerState::Unknown => (KillReason::StateUnknown, own),
            _ if changed(alive, member) => (KillReason::DefinitionChanged, own),
            _ => match (turn.memory.post_starts.get(&alive.id), turn.unhealthy(alive, member)) {
                (Some(PostStart::Failed), _) => (KillReason::PostStartFailed, own),
                (_, Some(unhealthy)) => unhealthy,
                (Some(PostStart::Pending), None) => {
                    batch.push(Action::PostStart { id: alive.id.clone(), container: alive.name.clone() });
                    return Step::Hooked;
                }
                (None, None) => return Step::Runs,
            },
        };
        if alive.sandbox_id == current.id {
            turn.kill_one(batch, alive, reason, grace, member.restart != RestartPolicy::Never);
        }
        return Step::Busy;
    }
    // Made and never started: the making or the starting failed, or the agent died in between. Made anew.
    let mut made = all().filter(|c| c.state == ContainerState::Created).peekable();
    if made.peek().is_some() {
        for container in made {
            batch.push(Action::RemoveContainer { id: container.id.clone(), container: container.name.clone() });
        }
        return Step::Busy;
    }

    let crash = crash(turn, member);
    if let Some(until) = crash_wait(turn, member)
        && batch.waits_until(until)
    {
        return Step::Failing;
    }
    if !batch.may_try(&Target::Container(member.name().to_owned())) {
        return Step::Failing;
    }
    let image_ref = match images::advance(turn, member, batch) {
        Stand::Here(image_ref) => image_ref,
        Stand::Busy => return Step::Busy,
        Stand::Failing => return Step::Failing,
    };
    if prepared(turn, batch) {
        batch.push(Action::StartContainer {
            container: member.name().to_owned(),
            sandbox_id: current.id.clone(),
            restart_count: next_count(turn, member),
            image_ref,
            target: ephemeral::target(turn, member),
            post_start: member.spec.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some()),
            crash,
        });
    }
    Step::Busy
}

/// Whether a running container was made from another definition. An init container is left to its end.
fn changed(alive: &ContainerSeen, member: &Member<'_>) -> bool {
    let hash = alive.hash.as_deref();
    member.kind != Kind::Init && hash.is_some_and(|hash| hash != container_hash(&member.spec))
}

/// The end of the newest instance that has ended, if the next start is a restart.
fn crash(turn: &Turn<'_>, member: &Member<'_>) -> Option<Crash> {
    let exit = turn.seen.newest_exit(member.name())?;
    Some(Crash { at: exit.finished_at, key: member.back_off_key() })
}

/// The end of a container's crash back-off, be it past or to come.
pub(super) fn crash_wait(turn: &Turn<'_>, member: &Member<'_>) -> Option<jiff::Timestamp> {
    let crash = crash(turn, member)?;
    let limits = BackOffLimits::crash(turn.node.max_restart_period);
    turn.memory.crashes.get(member.name())?.until_since(&crash.key, crash.at, &limits)
}

/// Whether volumes and cgroup are there; if not, they are made first.
fn prepared(turn: &Turn<'_>, batch: &mut Batch<'_>) -> bool {
    let prepared = turn.seen.resources == Resources::Prepared;
    if !prepared && !batch.has(&Target::Resources) {
        batch.push(Action::Prepare);
    }
    prepared
}

/// The restart count of the next instance: one more than the highest ever known, be it from the runtime's records, from
/// what was published, or from the logs on disk.
fn next_count(turn: &Turn<'_>, member: &Member<'_>) -> u32 {
    let seen = turn.seen.instances(member.name()).map(|c| c.restart_count.saturating_add(1)).max();
    let by_logs = turn.seen.next_by_logs.get(member.name()).copied();
    [seen, by_logs, next_by_status(turn, member)].into_iter().flatten().max().unwrap_or(0)
}

fn next_by_status(turn: &Turn<'_>, member: &Member<'_>) -> Option<u32> {
    let status = turn.pod.status.as_ref()?;
    let statuses = match member.kind {
        Kind::Init | Kind::Sidecar => status.init_container_statuses.as_ref(),
        Kind::Regular => status.container_statuses.as_ref(),
        Kind::Ephemeral => status.ephemeral_container_statuses.as_ref(),
    };
    let old = statuses?.iter().find(|s| s.name == member.name())?;
    let count = u32::try_from(old.restart_count).ok()?;
    let ended = |s: &ApiState| s.terminated.clone();
    let ran = old.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some());
    match old.last_state.as_ref().and_then(ended) {
        _ if ran => Some(count.saturating_add(1)),
        // The loss of a running instance was counted when it was published.
        Some(last) if last.reason.as_deref() == Some(LOST.0) => Some(count),
        Some(_) => Some(count.saturating_add(1)),
        None => None,
    }
}

/// Removes what nobody will ask for again: all but the newest dead instance of each container, and sandboxes of old
/// that hold no container any more.
fn collect(turn: &Turn<'_>, current: &SandboxSeen, batch: &mut Batch<'_>) {
    let age = |c: &ContainerSeen| (c.created_at, c.restart_count, c.id.clone());
    for container in turn.seen.containers.iter().filter(|c| c.exit().is_some()) {
        let mut others = turn.seen.instances(&container.name).filter(|c| c.exit().is_some());
        if others.any(|other| age(other) > age(container)) {
            batch.push(Action::RemoveContainer { id: container.id.clone(), container: container.name.clone() });
        }
    }
    collect_sandboxes(turn, current, batch);
}

fn collect_sandboxes(turn: &Turn<'_>, keep: &SandboxSeen, batch: &mut Batch<'_>) {
    let empty = |s: &&SandboxSeen| !turn.seen.containers.iter().any(|c| c.sandbox_id == s.id);
    let dead = |s: &&SandboxSeen| s.state == SandboxState::NotReady && turn.memory.stopped.contains(&s.id);
    for sandbox in turn.seen.sandboxes.iter().filter(|s| s.id != keep.id).filter(dead).filter(empty) {
        batch.push(Action::RemoveSandbox { id: sandbox.id.clone() });
    }
}
