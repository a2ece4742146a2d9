//! Events and states against the commands that follow. What is decided is core's; here it is *when*.

use k8s_openapi::api::core::v1::PodStatus;
use podd_core::pod::{
    ContainerSeen, ContainerState, Exit, KillReason, LastStep, PullPolicy, SandboxSeen, SandboxState, container_hash,
};
use serde_json::{Value, json};

use super::*;

fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_000 + milliseconds).expect("a time")
}

fn node() -> NodeFacts {
    NodeFacts {
        name: "node".into(),
        host_ips: vec!["192.0.2.1".parse().expect("an address")],
        runtime: "fake".into(),
        max_restart_period: Duration::from_secs(300),
        recursive_read_only: true,
    }
}

/// A pod with one container, `a`.
fn pod(status: Value) -> Arc<Pod> {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"restartPolicy": "Always", "containers": [{"name": "a", "image": "a:1"}]},
        "status": status,
    });
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn run() -> Wish {
    Wish { pod: pod(Value::Null), goal: Goal::Run, published: true }
}

/// The pod shall be gone so many milliseconds after the beginning.
fn stop(kill_at: i64) -> Wish {
    Wish { goal: Goal::Stop { kill_at: at(kill_at), last: LastStep::DeleteObject }, ..run() }
}

fn rest(kill_at: i64) -> Wish {
    Wish { goal: Goal::Rest { kill_at: at(kill_at) }, published: false, ..run() }
}

/// A sandbox that serves, with these containers.
fn sandbox(containers: Vec<ContainerSeen>) -> Observation {
    let sandbox = SandboxSeen {
        id: "s".into(),
        attempt: 0,
        state: SandboxState::Ready,
        created_at: at(0),
        ips: vec!["10.85.0.2".parse().expect("an address")],
        host_network: false,
    };
    Observation { sandboxes: vec![sandbox], containers, ..Observation::default() }
}

fn container(count: u32, state: ContainerState) -> ContainerSeen {
    let pod = pod(Value::Null);
    let spec = &pod.spec.as_ref().expect("a spec").containers[0];
    ContainerSeen {
        id: format!("a{count}"),
        name: "a".into(),
        sandbox_id: "s".into(),
        restart_count: count,
        hash: Some(container_hash(spec)),
        state,
        created_at: at(i64::from(count)),
        image: "a:1".into(),
        image_id: "sha256:a".into(),
    }
}

fn running() -> Observation {
    sandbox(vec![container(0, ContainerState::Running { started_at: at(0) })])
}

fn crashed(count: u32, finished_at: i64) -> Observation {
    let exit = Exit {
        code: 1,
        reason: "Error".into(),
        message: String::new(),
        started_at: at(0),
        finished_at: at(finished_at),
    };
    sandbox(vec![container(count, ContainerState::Exited(exit))])
}

fn failure() -> Failure {
    Failure { reason: "Broken".into(), message: "told to fail".into() }
}

fn unavailable() -> Result<(), PublishError> {
    Err(PublishError::Unavailable("told to fail".into()))
}

/// A machine with a clock, and the orders that it gave.
struct Driver {
    machine: Machine,
    now: i64,
    orders: BTreeMap<&'static str, Order>,
}

impl Driver {
    fn new(wish: Wish) -> Driver {
        Driver { machine: Machine::new(wish, Memory::default()), now: 0, orders: BTreeMap::new() }
    }

    /// One whose container runs and whose status is told: nothing is left to do.
    fn settled(wish: Wish) -> Driver {
        let mut driver = Driver::new(wish);
        driver.check(Event::Nudge, "look");
        driver.check(seen(running()), "publish Running");
        driver.check(Event::Published(Ok(())), "");
        driver
    }

    /// What follows, in words.
    fn hear(&mut self, event: Event) -> String {
        let commands = self.machine.handle(event, &node(), at(self.now));
        let words = commands.into_iter().map(|command| match command {
            Command::Look => "look".to_owned(),
            Command::Act(order) => {
                let verb = order.action.verb();
                self.orders.insert(verb, *order);
                verb.to_owned()
            }
            Command::Abandon(target) => format!("abandon {target:?}"),
            Command::Publish(_, status) => format!("publish {}", status.phase.unwrap_or_default()),
            Command::Save => "save".to_owned(),
            Command::Report(report) => format!("report {}", report.reason),
            Command::Finish => "finish".to_owned(),
        });
        words.collect::<Vec<_>>().join(", ")
    }

    fn check(&mut self, event: Event, wanted: &str) {
        let told = format!("{event:?}");
        assert_eq!(self.hear(event), wanted, "after {told} at {} ms", self.now);
    }

    fn order(&self, verb: &str) -> &Order {
        self.orders.get(verb).unwrap_or_else(|| panic!("no {verb} among {:?}", self.orders.keys()))
    }

    /// An action that was ordered ends well.
    fn done(&self, verb: &str) -> Event {
        let action = self.order(verb).action.clone();
        let outcome = match &action {
            Action::InspectImage { .. } | Action::PullImage { .. } => {
                Outcome::ImagePresent { image_ref: "sha256:a".into() }
            }
            _ => Outcome::Done,
        };
        Event::Acted(action, Ok(Acted { outcome, prepared: None }))
    }

    /// The image that was looked for is not there.
    fn absent(&self) -> Event {
        let acted = Acted { outcome: Outcome::ImageAbsent, prepared: None };
        Event::Acted(self.order("inspect_image").action.clone(), Ok(acted))
    }

    fn failed(&self, verb: &str) -> Event {
        Event::Acted(self.order(verb).action.clone(), Err(failure()))
    }

    fn wakes_at(&self) -> Option<i64> {
        let wake_at = self.machine.wake_at(at(self.now))?;
        Some(wake_at.as_millisecond() - at(0).as_millisecond())
    }
}

fn seen(observation: Observation) -> Event {
    Event::Seen(Ok(observation))
}

fn not_seen() -> Event {
    Event::Seen(Err(tonic::Status::unavailable("told to fail")))
}

#[test]
fn a_pod_comes_up_one_batch_at_a_time_with_one_publication() {
    let mut driver = Driver::new(run());
    driver.check(Event::Nudge, "look");
    driver.check(seen(Observation::default()), "inspect_image, prepare");
    driver.check(driver.done("prepare"), "");
    driver.check(driver.done("inspect_image"), "create_sandbox");
    driver.check(driver.done("create_sandbox"), "look");
    driver.check(seen(sandbox(vec![])), "start_container");
    assert_eq!(driver.order("start_container").ips.len(), 1, "the sandbox's address goes along");
    driver.check(driver.done("start_container"), "look");
    driver.check(seen(running()), "publish Running");
    driver.check(Event::Published(Ok(())), "");
    assert_eq!(driver.wakes_at(), None);
}

#[test]
fn nothing_is_looked_at_or_decided_while_a_short_action_runs() {
    for (name, event, then) in [
        ("time", Event::Time, "create_sandbox"),
        ("a nudge", Event::Nudge, "look"),
        ("another wish", Event::Wish(stop(5_000)), "publish Failed"),
        ("the node goes down", Event::Wish(rest(5_000)), "suspend"),
        ("an end of a publication", Event::Published(Ok(())), "create_sandbox"),
    ] {
        let mut driver = Driver::new(run());
        driver.check(Event::Nudge, "look");
        driver.check(seen(Observation::default()), "inspect_image, prepare");
        driver.check(driver.done("inspect_image"), "");
        assert_eq!(driver.hear(event), "", "{name}");
        assert_eq!(driver.hear(driver.done("prepare")), then, "{name}");
    }
}

/// One that pulls and can do nothing else for a second.
fn pulling() -> Driver {
    let mut driver = Driver::new(run());
    driver.check(Event::Nudge, "look");
    driver.check(seen(Observation::default()), "inspect_image, prepare");
    driver.check(driver.failed("prepare"), "");
    driver.check(driver.absent(), "pull_image, publish Pending");
    driver.check(Event::Published(Ok(())), "");
    driver
}

#[test]
fn beside_a_pull_deciding_goes_on() {
    let mut driver = pulling();
    driver.check(Event::Nudge, "look");
    driver.check(seen(Observation::default()), "");
    assert_eq!(driver.wakes_at(), Some(1_000));
    driver.now = 1_000;
    driver.check(Event::Time, "look");
    driver.check(seen(Observation::default()), "prepare");
    driver.check(driver.done("prepare"), "create_sandbox");
    driver.check(driver.done("pull_image"), "");
    driver.check(driver.done("create_sandbox"), "look");
    driver.check(seen(sandbox(vec![])), "start_container");
}

#[test]
fn a_pull_that_is_not_wanted_any_more_is_given_up() {
    let mut driver = pulling();
    driver.check(Event::Wish(stop(5_000)), "abandon Image(\"a\"), publish Failed");
    let mut other = (*run().pod).clone();
    other.spec.as_mut().expect("a spec").containers[0].image = Some("a:2".into());
    let mut driver = pulling();
    let wish = Wish { pod: Arc::new(other), ..run() };
    let answer = driver.hear(Event::Wish(wish));
    assert!(answer.starts_with("abandon Image(\"a\"), inspect_image"), "{answer}");
}

#[test]
fn a_pull_that_failed_is_written_down() {
    let mut driver = pulling();
    driver.check(driver.failed("pull_image"), "save, publish Pending");
    assert_eq!(driver.machine.memory().pulls["a"].wait, Duration::from_secs(10));
}

#[test]
fn a_restart_is_written_down_before_it_happens() {
    let mut driver = Driver::settled(run());
    driver.now = 1_000;
    driver.check(Event::Nudge, "look");
    driver.check(seen(crashed(0, 1_000)), "inspect_image");
    driver.check(driver.done("inspect_image"), "prepare");
    driver.check(driver.done("prepare"), "save, start_container");
    assert_eq!(driver.machine.memory().crashes["a"].wait, Duration::from_secs(10));
    driver.check(driver.done("start_container"), "look");
    driver.check(seen(crashed(1, 1_000)), "report BackOff, publish Running");
    driver.check(Event::Published(Ok(())), "");
    assert_eq!(driver.wakes_at(), Some(11_000));
}

#[test]
fn a_kill_is_replaced_by_one_that_ends_sooner() {
    let mut driver = Driver::settled(run());
    driver.check(Event::Wish(stop(30_000)), "kill_container");
    assert!(!driver.order("kill_container").again);
    driver.now = 1_000;
    driver.check(Event::Wish(stop(60_000)), "");
    driver.check(Event::Nudge, "look");
    driver.check(seen(running()), "");
    driver.check(Event::Wish(stop(10_000)), "abandon Instance(\"a0\"), kill_container");
    let order = driver.order("kill_container");
    assert!(order.again, "it was told before");
    assert!(matches!(order.action, Action::KillContainer { grace, .. } if grace == Duration::from_secs(9)));
    driver.check(driver.done("kill_container"), "look");
    driver.check(seen(crashed(0, 1_000)), "stop_sandbox");
}

#[test]
fn a_runtime_that_does_not_answer_is_asked_more_and_more_slowly() {
    let mut driver = Driver::new(run());
    driver.check(Event::Nudge, "look");
    for wait in [500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
        driver.check(not_seen(), "");
        assert_eq!(driver.wakes_at(), Some(driver.now + wait));
        driver.now += wait - 1;
        driver.check(Event::Nudge, "");
        driver.now += 1;
        driver.check(Event::Time, "look");
    }
    driver.check(seen(running()), "publish Running");
    driver.check(Event::Nudge, "look");
    driver.check(not_seen(), "");
    assert_eq!(driver.wakes_at(), Some(driver.now + 500), "an answer begins the row anew");
}

#[test]
fn nothing_is_decided_from_what_was_seen_before_a_look_that_failed() {
    let mut driver = Driver::settled(run());
    driver.check(Event::Nudge, "look");
    driver.check(not_seen(), "");
    driver.check(Event::Wish(stop(30_000)), "");
    driver.now = 500;
    driver.check(Event::Time, "look");
    driver.check(seen(running()), "kill_container");
}

#[test]
fn what_happens_during_a_look_asks_for_another_one() {
    let mut driver = Driver::new(run());
    driver.check(Event::Nudge, "look");
    driver.check(Event::Nudge, "");
    driver.check(seen(Observation::default()), "look");
    driver.check(seen(Observation::default()), "inspect_image, prepare");
}

#[test]
fn a_status_on_its_way_to_another_is_told_when_it_takes_long() {
    let mut driver = Driver::new(run());
    driver.check(Event::Nudge, "look");
    driver.check(seen(Observation::default()), "inspect_image, prepare");
    assert_eq!(driver.wakes_at(), Some(100));
    driver.now = 99;
    driver.check(Event::Time, "");
    driver.now = 100;
    driver.check(Event::Time, "publish Pending");
    driver.check(Event::Time, "");
    driver.check(Event::Published(unavailable()), "");
    assert_eq!(driver.wakes_at(), Some(300));
    driver.now = 300;
    driver.check(Event::Time, "publish Pending");
}

/// One whose containers have ended and whose sandbox has stopped: the last status is next.
fn ending(publication_under_way: bool) -> Driver {
    let mut driver = Driver::new(run());
    driver.check(Event::Nudge, "look");
    driver.check(seen(running()), "publish Running");
    if !publication_under_way {
        driver.check(Event::Published(Ok(())), "");
    }
    driver.check(Event::Wish(stop(30_000)), "kill_container");
    driver.check(driver.done("kill_container"), "look");
    driver.check(seen(crashed(0, 0)), "stop_sandbox");
    driver.check(driver.done("stop_sandbox"), "look");
    driver
}

fn ended() -> Observation {
    let mut seen = crashed(0, 0);
    seen.sandboxes[0].state = SandboxState::NotReady;
    seen
}

#[test]
fn nothing_is_removed_before_the_last_status_was_taken() {
    for (name, result, then) in [
        ("it was", Ok(()), "remove_sandbox"),
        ("nobody is there", Err(PublishError::Gone), "remove_sandbox"),
        ("it was not", unavailable(), ""),
        ("somebody else was first", Err(PublishError::Conflict), ""),
    ] {
        let mut driver = ending(false);
        driver.check(seen(ended()), "publish Failed");
        assert_eq!(driver.hear(Event::Published(result)), then, "{name}");
    }
}

#[test]
fn a_last_status_that_was_not_taken_is_waited_for_again() {
    let mut driver = ending(false);
    driver.check(seen(ended()), "publish Failed");
    driver.check(Event::Published(unavailable()), "");
    driver.now = 200;
    // By the way; what counts is the one that is waited for.
    driver.check(Event::Time, "publish Failed");
    driver.check(Event::Published(Ok(())), "");
    assert_eq!(driver.wakes_at(), Some(1_000));
    driver.now = 1_000;
    driver.check(Event::Time, "look");
    driver.check(seen(ended()), "publish Failed");
    driver.check(Event::Published(Ok(())), "remove_sandbox");
}

#[test]
fn an_older_status_that_was_taken_is_not_the_last() {
    let mut driver = ending(true);
    driver.check(seen(ended()), "");
    driver.check(Event::Published(Ok(())), "publish Failed");
    driver.check(Event::Published(Ok(())), "remove_sandbox");
}

#[test]
fn a_pod_goes_and_then_nothing_is_heard_any_more() {
    let mut driver = ending(false);
    driver.check(seen(ended()), "publish Failed");
    driver.check(Event::Published(Ok(())), "remove_sandbox");
    driver.check(driver.done("remove_sandbox"), "look");
    driver.check(seen(Observation::default()), "release");
    driver.check(driver.failed("release"), "");
    driver.now = 1_000;
    driver.check(Event::Time, "look");
    driver.check(seen(Observation::default()), "release");
    driver.check(driver.done("release"), "delete_object");
    driver.check(driver.done("delete_object"), "finish");
    for event in [Event::Nudge, Event::Time, Event::Wish(run()), seen(running())] {
        driver.check(event, "");
    }
    assert_eq!(driver.wakes_at(), None);
}

#[test]
fn a_pod_of_a_node_that_goes_down_is_put_away_without_a_word() {
    let mut driver = Driver::settled(run());
    driver.check(Event::Wish(rest(30_000)), "kill_container");
    driver.check(driver.done("kill_container"), "look");
    driver.check(seen(crashed(0, 0)), "stop_sandbox");
    driver.check(driver.done("stop_sandbox"), "look");
    driver.check(seen(ended()), "suspend");
    driver.check(driver.done("suspend"), "finish");
}

#[test]
fn an_object_that_has_ended_is_wound_down_and_nothing_starts() {
    for phase in ["Failed", "Succeeded"] {
        let mut driver = Driver::new(Wish { pod: pod(json!({"phase": phase})), ..run() });
        driver.check(Event::Nudge, "look");
        driver.check(seen(running()), &format!("kill_container, publish {phase}"));
        driver.check(driver.done("kill_container"), "look");
        driver.check(seen(crashed(0, 0)), "stop_sandbox");
        driver.check(driver.done("stop_sandbox"), "look");
        driver.check(seen(ended()), "release");
        driver.check(driver.done("release"), "");
        assert_eq!(driver.wakes_at(), None, "{phase}");
        assert_eq!(driver.machine.pod().status.as_ref().and_then(|s| s.phase.as_deref()), Some(phase));
    }
}

#[test]
fn conditions_of_others_are_kept_and_ours_are_not_taken_from_them() {
    let mut driver = Driver::settled(run());
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
    let theirs = json!({"conditions": [condition("Foreign", "True"), condition("Ready", "False")]});
    driver.hear(Event::Wish(Wish { pod: pod(theirs), ..run() }));
    let status: PodStatus = driver.machine.pod().status.clone().expect("a status");
    let conditions: Vec<_> =
        status.conditions.iter().flatten().map(|c| (c.type_.as_str(), c.status.as_str())).collect();
    assert!(conditions.contains(&("Foreign", "True")), "{conditions:?}");
    assert!(conditions.contains(&("Ready", "True")), "{conditions:?}");
    assert!(!conditions.contains(&("Ready", "False")), "{conditions:?}");
}

#[test]
fn a_changed_spec_is_tried_at_once() {
    let mut driver = Driver::new(run());
    driver.check(Event::Nudge, "look");
    driver.check(seen(sandbox(vec![])), "inspect_image");
    driver.check(driver.done("inspect_image"), "prepare");
    driver.check(driver.done("prepare"), "start_container");
    driver.check(driver.failed("start_container"), "look");
    let waits = driver.hear(seen(sandbox(vec![])));
    assert!(!waits.contains("start_container"), "{waits}");
    assert_eq!(driver.wakes_at(), Some(10_000));
    let mut other = (*run().pod).clone();
    other.spec.as_mut().expect("a spec").containers[0].command = Some(vec!["other".into()]);
    driver.check(Event::Wish(Wish { pod: Arc::new(other), ..run() }), "inspect_image");
}

fn kill(id: &str, deadline: i64) -> Action {
    Action::KillContainer {
        id: id.into(),
        container: "a".into(),
        reason: KillReason::PodStopped,
        message: String::new(),
        grace: Duration::from_secs(2),
        deadline: at(deadline),
    }
}

#[test]
fn only_kills_of_one_container_are_the_same_whatever_their_grace() {
    let pull = |image: &str| Action::PullImage { container: "a".into(), image: image.into() };
    for (one, other, are_same, ends_sooner) in [
        (kill("a0", 5), kill("a0", 5), true, false),
        (kill("a0", 4), kill("a0", 5), true, true),
        (kill("a0", 6), kill("a0", 5), true, false),
        (kill("a1", 6), kill("a0", 6), false, false),
        (pull("a:1"), pull("a:1"), true, false),
        (pull("a:1"), pull("a:2"), false, false),
        (pull("a:1"), kill("a0", 5), false, false),
    ] {
        assert_eq!((same(&one, &other), is_sooner(&one, &other)), (are_same, ends_sooner), "{one:?} {other:?}");
    }
}

#[test]
fn what_changes_the_runtime_is_looked_at_after_it() {
    let (id, container) = (|| "x".to_owned(), || "a".to_owned());
    let start = Action::StartContainer {
        container: container(),
        sandbox_id: id(),
        restart_count: 0,
        image_ref: id(),
        target: None,
        post_start: false,
        crash: None,
    };
    for (action, changes) in [
        (Action::Prepare, false),
        (Action::InspectImage { container: container(), image: id(), pull: PullPolicy::Always }, false),
        (Action::PullImage { container: container(), image: id() }, false),
        (Action::CreateSandbox { attempt: 0 }, true),
        (Action::StopSandbox { id: id() }, true),
        (Action::RemoveSandbox { id: id() }, true),
        (start, true),
        (kill("x", 0), true),
        (Action::RemoveContainer { id: id(), container: container() }, true),
        (Action::PublishFinalStatus, false),
        (Action::Release, false),
        (Action::Suspend, false),
        (Action::DeleteObject, false),
    ] {
        assert_eq!(touches_runtime(&action), changes, "{action:?}");
    }
}
