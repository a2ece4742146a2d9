//! The status of one container: its state, the state before it, and what it waits for.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    ContainerSeen, ContainerState, Goal, Memory, NodeFacts, PostStart, Target,
    containers::{Kind, Member},
    decide::Turn,
    ephemeral::lacks_target,
    images, mounts,
    start::{crash_wait, is_ending, is_over},
};

/// The reason and exit code of a container that is lost.
pub(super) const LOST: (&str, i32) = ("ContainerStatusUnknown", 137);

/// The message of a container that ran and of which the runtime has no record.
const GONE: &str = "The container could not be located when the pod was deleted.  The container used to be Running";

/// How long `ErrImagePull` shows before it becomes `ImagePullBackOff`: long enough for a watcher to see it.
const PULL_ERROR_SHOWS: std::time::Duration = std::time::Duration::from_secs(1);

/// The status of one container, given the last published one.
pub(super) fn container_status(
    turn: &Turn<'_>,
    goal: &Goal,
    member: &Member<'_>,
    old: Option<&ContainerStatus>,
    has_init: bool,
) -> ContainerStatus {
    let name = member.name();
    let mut instances: Vec<_> = turn.seen.instances(name).collect();
    instances.sort_by_key(|c| std::cmp::Reverse((c.created_at, c.restart_count)));

    // A record older than what was published is what is left after a newer one was removed, or lost.
    let outdated = |c: &ContainerSeen| {
        !c.may_run() && old.is_some_and(|o| i64::from(o.restart_count) > i64::from(c.restart_count))
    };
    instances.retain(|c| !outdated(c));

    let mut status = match instances.first() {
        Some(newest) => from_seen(newest, old, turn.node),
        None => from_old(member, goal, old, has_init),
    };
    keep_message(status.state.as_mut(), old);
    if let Some(before) = instances.get(1).filter(|c| c.exit().is_some()) {
        status.last_state = Some(state(before, turn.node));
        keep_message(status.last_state.as_mut(), old);
    } else if !instances.is_empty() {
        // The record of the one before is gone, what was published of it stays.
        status.last_state = status.last_state.take().or_else(|| carried(old, &status));
    }
    if let Some(waiting) =
        will_start(turn, goal, member, turn.seen.newest(name)).then(|| waiting(turn, member)).flatten()
    {
        if let Some(state) = status.state.take().filter(|s| s.terminated.is_some()) {
            status.last_state = Some(state);
        }
        status.state = Some(waits(Some(waiting)));
    }
    if let Some(newest) = instances.first().filter(|c| turn.memory.post_starts.contains_key(&c.id) && c.may_run()) {
        // Its postStart hook is under way, or has failed: it is still being created.
        let reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
        let failed = turn.memory.post_starts.get(&newest.id) == Some(&PostStart::Failed);
        let why = if failed { waiting(turn, member) } else { None };
        status.state = Some(waits(Some(why.unwrap_or_else(|| (reason.to_owned(), None)))));
    }
    let running = status.state.as_ref().is_some_and(|s| s.running.is_some());
    let succeeded = status.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0);
    let newest = instances.first().filter(|_| running);
    // An ephemeral container is neither ready nor started: nobody waits for it.
    status.started = (member.kind != Kind::Ephemeral).then(|| newest.is_some_and(|c| turn.is_started(c, member)));
    if member.kind != Kind::Ephemeral {
        // What the manifest says is what its cgroup was made with.
        status.resources = member.spec.resources.clone();
        status.allocated_resources = status.resources.as_ref().and_then(|r| r.requests.clone());
    }
    status.volume_mounts = mounts::statuses(&member.spec, turn.node.recursive_read_only);
    status.ready = match member.kind {
        Kind::Init => succeeded,
        Kind::Sidecar | Kind::Regular => newest.is_some_and(|c| turn.is_ready(c, member)),
        Kind::Ephemeral => false,
    };
    status
}

/// Marks a container of a pod that is over and of which nothing runs: what has no end in evidence was lost.
pub(super) fn lost(status: &mut ContainerStatus) {
    if status.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
        return;
    }
    status.state = Some(lost_state("The container could not be located when the pod was terminated"));
    status.ready = false;
    status.started = status.started.map(|_| false);
}

/// When the wait of a failed pull begins to show as back-off; none if it has not failed, or never shows as that.
pub(super) fn pull_back_off_shows_at(memory: &Memory, container: &str) -> Option<Timestamp> {
    let failed = memory.failures.get(&Target::Image(container.to_owned()))?;
    let reason = &failed.failure.as_ref()?.reason;
    (reason != "InvalidImageName").then(|| super::back_off::add(failed.at, PULL_ERROR_SHOWS))
}

fn from_seen(seen: &ContainerSeen, old: Option<&ContainerStatus>, node: &NodeFacts) -> ContainerStatus {
    let ran = old.and_then(|o| o.state.as_ref()).is_some_and(|s| s.running.is_some());
    let unknown = seen.state == ContainerState::Unknown;
    ContainerStatus {
        name: seen.name.clone(),
        restart_count: i32::try_from(seen.restart_count).unwrap_or(i32::MAX),
        image: seen.image.clone(),
        image_id: seen.image_id.clone(),
        container_id: Some(format!("{}://{}", node.runtime, seen.id)),
        state: Some(if unknown && ran {
            lost_state("The container could not be located when the pod was terminated")
        } else {
            state(seen, node)
        }),
        ..Default::default()
    }
}

/// The status of a container of which the runtime has no record.
fn from_old(member: &Member<'_>, goal: &Goal, old: Option<&ContainerStatus>, has_init: bool) -> ContainerStatus {
    let reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    let mut status = ContainerStatus {
        name: member.name().to_owned(),
        image: member.image().to_owned(),
        state: Some(waits(Some((reason.to_owned(), None)))),
        ..Default::default()
    };
    let Some(old) = old else { return status };
    let old_state = old.state.clone().unwrap_or_default();
    if old_state.terminated.is_some() {
        return old.clone();
    }
    if member.kind == Kind::Ephemeral && old_state.running.is_some() {
        // No other one follows.
        status.state = Some(lost_state(GONE));
        return status;
    }
    status.restart_count = old.restart_count;
    status.last_state = old.last_state.clone();
    let had_end = status.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
    if old_state.running.is_some() && !had_end {
        status.last_state = Some(lost_state(GONE));
        if matches!(goal, Goal::Run) {
            status.restart_count = status.restart_count.saturating_add(1);
        }
    }
    status
}

/// Last words that were published stay: where they were read from goes with the pod's files.
fn keep_message(state: Option<&mut ApiState>, old: Option<&ContainerStatus>) {
    let Some(now) = state.and_then(|s| s.terminated.as_mut()).filter(|t| t.message.is_none()) else { return };
    let told = old.into_iter().flat_map(|o| [&o.state, &o.last_state]).flatten().filter_map(|s| s.terminated.as_ref());
    now.message = told.filter(|t| t.container_id == now.container_id).find_map(|t| t.message.clone());
}

/// The last state that was published, if it was published for this same instance.
fn carried(old: Option<&ContainerStatus>, new: &ContainerStatus) -> Option<ApiState> {
    let old = old?;
    let ended = |s: &&ApiState| s.terminated.is_some();
    if old.container_id == new.container_id {
        return old.last_state.clone().filter(|s| ended(&s));
    }
    old.state.as_ref().filter(ended).or(old.last_state.as_ref().filter(ended)).cloned()
}

fn state(seen: &ContainerSeen, node: &NodeFacts) -> ApiState {
    match &seen.state {
        ContainerState::Running { started_at } => ApiState {
            running: Some(ContainerStateRunning { started_at: Some(Time(*started_at)) }),
            ..Default::default()
        },
        ContainerState::Exited(exit) => ApiState {
            terminated: Some(ContainerStateTerminated {
                exit_code: exit.code,
                reason: Some(exit.reason.clone()).filter(|r| !r.is_empty()),
                message: Some(exit.message.clone()).filter(|m| !m.is_empty()),
                started_at: Some(Time(exit.started_at)),
                finished_at: Some(Time(exit.finished_at)),
                container_id: Some(format!("{}://{}", node.runtime, seen.id)),
                signal: None,
            }),
            ..Default::default()
        },
        ContainerState::Created | ContainerState::Unknown => waits(None),
    }
}

fn waits(why: Option<(String, Option<String>)>) -> ApiState {
    let (reason, message) = why.map_or((None, None), |(reason, message)| (Some(reason), message));
    ApiState { waiting: Some(ContainerStateWaiting { reason, message }), ..Default::default() }
}

fn lost_state(message: &str) -> ApiState {
    let (reason, exit_code) = LOST;
    ApiState {
        terminated: Some(ContainerStateTerminated {
            exit_code,
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Whether the container is one that will be started (again).
fn will_start(turn: &Turn<'_>, goal: &Goal, member: &Member<'_>, newest: Option<&ContainerSeen>) -> bool {
    if *goal != Goal::Run || super::is_terminal(turn.pod) || turn.is_past_deadline() {
        return false;
    }
    if member.kind == Kind::Ephemeral && turn.has_run(member) {
        return false;
    }
    match newest.map(|c| &c.state) {
        None => member.kind != Kind::Regular || !is_over(turn, member),
        Some(ContainerState::Created | ContainerState::Unknown) => true,
        Some(ContainerState::Running { .. }) => false,
        Some(ContainerState::Exited(exit)) => {
            member.restarts_after(exit.code) && !(member.kind == Kind::Sidecar && is_ending(turn))
        }
    }
}

/// What a container that will be started waits for, if anything is known: reason and message.
fn waiting(turn: &Turn<'_>, member: &Member<'_>) -> Option<(String, Option<String>)> {
    let (name, memory) = (member.name(), turn.memory);
    if crash_wait(turn, member).is_some_and(|until| turn.now < until) {
        let wait = memory.crashes.get(name).map_or(0, |back_off| back_off.wait.as_secs());
        let meta = &turn.pod.metadata;
        let message = format!(
            "back-off {} restarting failed container={name} pod={}_{}({})",
            go_seconds(wait),
            meta.name.as_deref().unwrap_or_default(),
            meta.namespace.as_deref().unwrap_or_default(),
            meta.uid.as_deref().unwrap_or_default(),
        );
        return Some(("CrashLoopBackOff".to_owned(), Some(message)));
    }
    if let Some(target) = lacks_target(turn, member) {
        let message = format!("unable to find target container \"{target}\"");
        return Some(("CreateContainerConfigError".to_owned(), Some(message)));
    }
    let failure = |target| memory.failures.get(&target).and_then(|f| f.failure.as_ref());
    if let Some(failure) = failure(Target::Container(name.to_owned())) {
        return Some((failure.reason.clone(), Some(failure.message.clone())));
    }
    let mut wanted = images::of_member(turn.pod, member).into_iter();
    let (wanted, failure) =
        wanted.find_map(|one| Some((failure(Target::Image(one.key.clone()))?, one)).map(|(f, w)| (w, f)))?;
    let backs_off = memory.pulls.get(&wanted.key).is_some_and(|pull| pull.key == wanted.image)
        && pull_back_off_shows_at(memory, &wanted.key).is_some_and(|at| at <= turn.now);
    if !backs_off {
        return Some((failure.reason.clone(), Some(failure.message.clone())));
    }
    let message = format!("Back-off pulling image \"{}\": {}: {}", wanted.image, failure.reason, failure.message);
    Some(("ImagePullBackOff".to_owned(), Some(message)))
}

/// Whole seconds as Go prints a duration: `10s`, `1m20s`, `5m0s`.
fn go_seconds(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}
