//! Probes by the clock: when each is made, when it counts, and what it does not hold up.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Container, Pod};
use podd_cri::fake::{ExecReply, Fault, OnStop};
use serde_json::{Value, json};
use tonic::Code;

use crate::{pod, world::World};

const SOON: Duration = Duration::from_secs(5);

/// What was asked of containers, in milliseconds of the world's clock.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(i64, String)>>>);

impl Log {
    /// When a command was run, since that time.
    fn since(&self, start: i64, command: &str) -> Vec<i64> {
        let all = self.0.lock().expect("no test panics in it");
        all.iter().filter(|(_, cmd)| cmd == command).map(|(at, _)| at - start).collect()
    }

    fn clear(&self) {
        self.0.lock().expect("no test panics in it").clear();
    }
}

/// A world in which each command is answered by this, given its words and how often it was run before.
fn world(answer: impl Fn(&str, usize) -> (bool, u64) + Send + 'static) -> (World, Log) {
    let (world, log) = (World::new(), Log::default());
    let (clock, noted) = (world.clock, log.clone());
    world.fake.on_exec(move |_, cmd| {
        let mut all = noted.0.lock().expect("no test panics in it");
        let command = cmd.join(" ");
        let before = all.iter().filter(|(_, other)| *other == command).count();
        all.push((clock.now().as_millisecond(), command.clone()));
        let (success, after) = answer(&command, before);
        ExecReply { exit_code: i32::from(!success), after: Duration::from_millis(after), ..Default::default() }
    });
    (world, log)
}

fn probed(name: &str, probes: Value) -> Pod {
    let mut pod = pod(name, "Always", &[], &["web"]);
    let spec = pod.spec.as_mut().expect("a spec");
    let mut container = serde_json::to_value(&spec.containers[0]).expect("a container");
    container.as_object_mut().expect("fields").extend(probes.as_object().expect("probes").clone());
    spec.containers[0] = serde_json::from_value::<Container>(container).expect("a container");
    pod
}

fn probe(command: &str, more: Value) -> Value {
    let mut probe = json!({"exec": {"command": [command]}});
    probe.as_object_mut().expect("fields").extend(more.as_object().expect("fields").clone());
    probe
}

/// Ready, started, restarts, as published.
fn told(world: &World, uid: &str) -> (bool, bool, i32) {
    let statuses = world.object(uid).and_then(|pod| pod.status?.container_statuses).unwrap_or_default();
    statuses.first().map(|s| (s.ready, s.started == Some(true), s.restart_count)).unwrap_or_default()
}

fn runs(world: &World, uid: &str) -> bool {
    let statuses = world.object(uid).and_then(|pod| pod.status?.container_statuses).unwrap_or_default();
    statuses.iter().any(|s| s.state.as_ref().is_some_and(|s| s.running.is_some()))
}

/// When the newest instance of the container started, in milliseconds.
fn started(world: &World, uid: &str) -> i64 {
    let truth = world.truth(uid);
    let at = truth.containers.iter().filter_map(|c| match c.state {
        podd_core::pod::ContainerState::Running { started_at } => Some(started_at.as_millisecond()),
        _ => None,
    });
    at.max().expect("it runs")
}

/// Whole seconds; a probe is never early, and late by less than the tenth of one.
#[track_caller]
fn seconds(times: &[i64]) -> Vec<i64> {
    for at in times {
        assert!(at.rem_euclid(1000) < 100, "{times:?}");
    }
    times.iter().map(|at| at.div_euclid(1000)).collect()
}

#[tokio::test(start_paused = true)]
async fn each_probe_keeps_its_delay_its_period_and_its_turn() {
    let (mut world, log) = world(|command, before| (command != "startup" || before == 2, 0));
    world.start_agent();
    world.apply(probed(
        "web",
        json!({
            "startupProbe": probe("startup", json!({"initialDelaySeconds": 5, "periodSeconds": 2})),
            "readinessProbe": probe("readiness", json!({"periodSeconds": 3})),
            "livenessProbe": probe("liveness", json!({"initialDelaySeconds": 20, "periodSeconds": 7})),
        }),
    ));
    world.until("runs", SOON, |w| runs(w, "uid-web")).await;
    let start = started(&world, "uid-web");
    assert_eq!(told(&world, "uid-web"), (false, false, 0));
    world.until("started", Duration::from_secs(10), |w| told(w, "uid-web").1).await;
    assert_eq!(seconds(&log.since(start, "startup")), [5, 7, 9]);
    world.until("ready", Duration::from_secs(1), |w| told(w, "uid-web") == (true, true, 0)).await;
    world.pass(Duration::from_secs(40)).await;
    assert_eq!(seconds(&log.since(start, "startup")), [5, 7, 9], "not again once it has started");
    assert_eq!(seconds(&log.since(start, "readiness"))[..4], [9, 12, 15, 18], "at once, then every period");
    assert_eq!(seconds(&log.since(start, "liveness"))[..3], [20, 27, 34]);
}

#[tokio::test(start_paused = true)]
async fn silent_probes_have_the_defaults_of_kubernetes() {
    let (mut world, log) = world(|_, _| (false, 0));
    world.start_agent();
    world.apply(probed("web", json!({"livenessProbe": probe("liveness", json!({}))})));
    world.until("runs", SOON, |w| runs(w, "uid-web")).await;
    let start = started(&world, "uid-web");
    world.until("restarted", Duration::from_secs(60), |w| told(w, "uid-web").2 == 1).await;
    // Ten seconds apart; the third failure is one too many.
    assert_eq!(seconds(&log.since(start, "liveness"))[..3], [0, 10, 20]);
    let again = started(&world, "uid-web");
    assert_eq!((again - start) / 1000, 20, "it obeys at once, and the first restart waits for nothing");
    let events = world.take_events();
    let count = |text: &str| events.iter().filter(|event| *event == text).count();
    assert_eq!(count("Unhealthy: Liveness probe failed: "), log.since(0, "liveness").len());
    assert_eq!(count("Killing: Container web failed liveness probe, will be restarted"), 1, "{events:?}");
    // The new one has three failures of its own, and its restart ten seconds of back-off.
    world.until("restarted twice", Duration::from_secs(60), |w| told(w, "uid-web").2 == 2).await;
    assert_eq!((started(&world, "uid-web") - again) / 1000, 30);
}

#[tokio::test(start_paused = true)]
async fn a_probe_counts_after_as_many_results_as_its_thresholds_say() {
    // Fails from the fifth to the eighth time, but for the sixth.
    let (mut world, log) = world(|_, before| (!matches!(before, 4 | 6 | 7), 0));
    world.start_agent();
    let thresholds = json!({"periodSeconds": 1, "successThreshold": 3, "failureThreshold": 2});
    world.apply(probed("web", json!({"readinessProbe": probe("readiness", thresholds)})));
    world.until("ready", SOON, |w| told(w, "uid-web").0).await;
    assert_eq!(log.since(0, "readiness").len(), 3);
    world.until("unready", Duration::from_secs(10), |w| !told(w, "uid-web").0).await;
    assert_eq!(log.since(0, "readiness").len(), 8);
    world.until("ready again", Duration::from_secs(10), |w| told(w, "uid-web").0).await;
    assert_eq!(log.since(0, "readiness").len(), 11);
}

#[tokio::test(start_paused = true)]
async fn a_probe_takes_no_longer_than_its_timeout_and_keeps_its_beat() {
    let (mut world, log) = world(|_, _| (true, 2_500));
    world.start_agent();
    let late = json!({"periodSeconds": 10, "timeoutSeconds": 2, "failureThreshold": 1});
    world.apply(probed("late", json!({"livenessProbe": probe("late", late)})));
    // Slower than its period: the next follows at once.
    let slow = json!({"periodSeconds": 1, "timeoutSeconds": 3});
    world.apply(probed("slow", json!({"readinessProbe": probe("slow", slow)})));
    world.until("both run", SOON, |w| runs(w, "uid-late") && runs(w, "uid-slow")).await;
    let (first, start) = (started(&world, "uid-late"), started(&world, "uid-slow"));
    world.until("restarted", SOON, |w| told(w, "uid-late").2 == 1).await;
    assert_eq!((started(&world, "uid-late") - first) / 1000, 2);
    let events = world.take_events();
    let why = "Unhealthy: Liveness probe failed: command timed out: \"late\" timed out after 2s";
    assert!(events.iter().any(|event| event == why), "{events:?}");
    world.pass(Duration::from_secs(8)).await;
    let times: Vec<_> = log.since(start, "slow").iter().map(|at| at / 100).collect();
    assert_eq!(times[..4], [0, 25, 50, 75]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_cannot_be_made_is_tried_three_times_and_counts_for_nothing() {
    let (mut world, log) = world(|_, _| (true, 0));
    world.start_agent();
    let strict = json!({"periodSeconds": 10, "failureThreshold": 1});
    let both =
        json!({"livenessProbe": probe("liveness", strict.clone()), "readinessProbe": probe("readiness", strict)});
    world.apply(probed("web", both));
    world.until("ready", SOON, |w| told(w, "uid-web").0).await;
    world.pass(Duration::from_secs(5)).await;
    let start = started(&world, "uid-web");
    log.clear();
    drop((world.take_events(), world.fake.take_calls()));
    world.fake.inject("ExecSync", Fault::Refuse(Code::Internal, "no such thing".into()), 6);
    world.pass(Duration::from_secs(10)).await;
    let calls = world.fake.take_calls().iter().filter(|call| call.name == "ExecSync").count();
    assert_eq!(calls, 6, "three for each");
    assert_eq!(told(&world, "uid-web"), (true, true, 0));
    let events = world.take_events();
    let why = "Unhealthy: Liveness probe errored and resulted in unknown state: no such thing";
    assert!(events.iter().any(|event| event == why), "{events:?}");
    world.pass(Duration::from_secs(10)).await;
    assert_eq!(seconds(&log.since(start, "liveness")), [20]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ends_is_asked_whether_it_serves_but_not_whether_it_lives() {
    let (mut world, log) = world(|command, before| (command == "liveness" || before < 10, 0));
    world.start_agent();
    world.fake.behave(
        "web",
        [podd_cri::fake::Behaviour::run_forever().on_stop(OnStop::Exit { after: Duration::from_secs(20), code: 0 })],
    );
    let every = json!({"periodSeconds": 1, "failureThreshold": 1});
    let both = json!({"livenessProbe": probe("liveness", every.clone()), "readinessProbe": probe("readiness", every)});
    world.apply(probed("web", both));
    world.until("ready", SOON, |w| told(w, "uid-web").0).await;
    world.pass(Duration::from_secs(4)).await;
    world.delete("uid-web", 30);
    let deleted = world.clock.now().as_millisecond();
    world.until("unready", Duration::from_secs(10), |w| !told(w, "uid-web").0).await;
    world.pass(Duration::from_secs(5)).await;
    assert!(world.object("uid-web").is_some(), "it is still ending");
    assert!(log.since(deleted, "liveness").iter().all(|at| *at <= 1));
    assert!(log.since(deleted, "readiness").iter().filter(|at| **at > 1).count() >= 5);
    world.until("gone", Duration::from_secs(30), |w| w.is_gone("uid-web") && w.object("uid-web").is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn the_grace_of_a_probe_goes_before_the_pods() {
    let (mut world, _) = world(|_, _| (false, 0));
    world.start_agent();
    let deaf = || [podd_cri::fake::Behaviour::run_forever().on_stop(OnStop::Ignore)];
    world.fake.behave("web", deaf());
    let own = json!({"failureThreshold": 1, "terminationGracePeriodSeconds": 90});
    world.apply(probed("long", json!({"livenessProbe": probe("liveness", own)})));
    world.apply(probed("pods", json!({"startupProbe": probe("startup", json!({"failureThreshold": 1}))})));
    world.until("run", SOON, |w| runs(w, "uid-long") && runs(w, "uid-pods")).await;
    let (long, pods) = (started(&world, "uid-long"), started(&world, "uid-pods"));
    world.until("restarted", Duration::from_secs(120), |w| told(w, "uid-long").2 > 0).await;
    assert_eq!((started(&world, "uid-long") - long) / 1000, 90);
    let first =
        world.truth("uid-pods").containers.iter().filter_map(|c| c.exit().cloned()).min_by_key(|e| e.finished_at);
    let first = first.expect("it was stopped, too");
    if first.started_at.as_millisecond() == pods {
        assert_eq!((first.finished_at.as_millisecond() - pods) / 1000, 30);
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_agent_makes_nobody_unready_and_spreads_what_it_takes_over() {
    let (mut world, log) = world(|_, _| (true, 0));
    world.start_agent();
    let names: Vec<String> = (0..20).map(|n| format!("p{n}")).collect();
    for name in &names {
        let both = json!({"startupProbe": probe("startup", json!({})), "readinessProbe": probe(name, json!({}))});
        world.apply(probed(name, both));
    }
    let all_ready = |w: &World| (0..20).all(|n| told(w, &format!("uid-p{n}")) == (true, true, 0));
    world.until("all are ready", Duration::from_secs(20), all_ready).await;
    world.pass(Duration::from_secs(15)).await;
    world.kill_agent();
    world.pass(Duration::from_secs(60)).await;
    log.clear();
    let writes = world.writes();
    world.start_agent();
    let begun = world.clock.now().as_millisecond();
    world.pass(Duration::from_secs(30)).await;
    assert!(all_ready(&world));
    assert_eq!(world.writes(), writes, "there was nothing new to tell");
    assert_eq!(log.since(begun, "startup"), [0_i64; 0], "they have started");
    let firsts: Vec<i64> = names.iter().map(|name| log.since(begun, name)[0]).collect();
    assert!(firsts.iter().all(|at| (0..10_100).contains(at)), "within one period: {firsts:?}");
    let spread = firsts.iter().max().expect("some") - firsts.iter().min().expect("some");
    assert!(spread > 5_000, "and not all at once: {firsts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hundred_slow_probes_hold_nobody_up() {
    let (mut world, log) = world(|_, _| (true, 900));
    world.fake.add_image("web:1");
    world.start_agent();
    let every = json!({"periodSeconds": 1});
    for n in 0..100 {
        let name = format!("p{n}");
        world.apply(probed(&name, json!({"readinessProbe": probe(&name, every.clone())})));
    }
    let uids: Vec<String> = (0..100).map(|n| format!("uid-p{n}")).collect();
    world.until("all are ready", Duration::from_secs(60), |w| uids.iter().all(|uid| told(w, uid).0)).await;
    let starts: Vec<i64> = uids.iter().map(|uid| started(&world, uid)).collect();
    world.pass(Duration::from_secs(10)).await;
    for (n, start) in starts.iter().enumerate() {
        let times = log.since(*start, &format!("p{n}"));
        let late = times.iter().map(|at| at % 1000).max().expect("it was asked");
        assert!(late < 100, "p{n} is late by {late} ms: {times:?}");
        assert!(times.len() >= 10, "p{n} was asked {} times", times.len());
    }
}
