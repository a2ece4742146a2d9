//! Single stories, each with one thing to prove.

use std::{sync::Arc, time::Duration};

use podd_agent::worker::{Source, Update};
use podd_core::pod::ContainerState;
use podd_cri::fake::{Behaviour, Fault, OnStop, Pull};
use tonic::Code;

use crate::{pod, world::World};

const SOON: Duration = Duration::from_secs(5);

fn running(world: &World, uid: &str) -> usize {
    let truth = world.truth(uid);
    truth.containers.iter().filter(|c| matches!(c.state, ContainerState::Running { .. })).count()
}

fn is_running(uid: &str) -> impl Fn(&World) -> bool {
    move |world| world.phase(uid).as_deref() == Some("Running") && running(world, uid) > 0
}

fn is_ready(world: &World, uid: &str) -> bool {
    let conditions = world.object(uid).and_then(|pod| pod.status?.conditions).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn restarts(world: &World, uid: &str) -> i32 {
    let statuses = world.object(uid).and_then(|pod| pod.status?.container_statuses).unwrap_or_default();
    statuses.iter().map(|s| s.restart_count).sum()
}

#[tokio::test(start_paused = true)]
async fn a_pod_comes_up_and_goes_away() {
    let mut world = World::new();
    world.start_agent();
    world.apply(pod("web", "Always", &["prepare"], &["web", "side"]));
    world.fake.behave("prepare", [Behaviour::exit_after(Duration::from_secs(1), 0)]);
    world.until("ready", SOON, |w| is_ready(w, "uid-web")).await;
    assert_eq!(running(&world, "uid-web"), 2);
    assert_eq!(world.dispatcher().containers("uid-web").len(), 3);
    let found = world.dispatcher().pod("default", "web").and_then(|pod| pod.status.clone()?.phase);
    assert_eq!(found.as_deref(), Some("Running"));

    world.delete("uid-web", 30);
    world.until("gone", SOON, |w| w.is_gone("uid-web") && w.object("uid-web").is_none()).await;
    world.until("forgotten", SOON, |w| w.dispatcher().pods().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_plain_start_costs_one_write_and_few_calls() {
    let mut world = World::new();
    world.fake.add_image("web:1");
    world.start_agent();
    tokio::time::sleep(Duration::from_millis(10)).await;
    drop(world.fake.take_calls());
    world.apply(pod("web", "Always", &[], &["web"]));
    world.until("ready", SOON, |w| is_ready(w, "uid-web")).await;
    assert_eq!(world.writes(), 1);
    let calls = world.fake.take_calls();
    let count = |name: &str| calls.iter().filter(|call| call.name == name).count();
    for name in ["ImageStatus", "RunPodSandbox", "CreateContainer", "StartContainer"] {
        assert_eq!(count(name), 1, "{name} in {calls:?}");
    }
    // Nothing, the sandbox, the container.
    assert_eq!((count("ListPodSandbox"), count("ListContainers")), (3, 3), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_is_restarted_with_back_off_also_by_the_next_agent() {
    let mut world = World::new();
    world.start_agent();
    world.fake.behave("web", [Behaviour::exit_after(Duration::from_secs(1), 1)]);
    world.apply(pod("web", "Always", &[], &["web"]));
    world.until("restarted twice", Duration::from_secs(60), |w| restarts(w, "uid-web") == 2).await;
    world.kill_agent();
    world.pass(Duration::from_secs(5)).await;
    world.start_agent();
    // The third restart comes 20 s after the crash, whoever counts.
    world.pass(Duration::from_secs(10)).await;
    assert_eq!(restarts(&world, "uid-web"), 2);
    world.until("restarted again", Duration::from_secs(30), |w| restarts(w, "uid-web") == 3).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_takes_over_what_runs_and_restarts_nothing() {
    let mut world = World::new();
    world.start_agent();
    world.apply(pod("web", "Always", &[], &["web"]));
    world.until("ready", SOON, |w| is_ready(w, "uid-web")).await;
    let before = world.truth("uid-web");
    let writes = world.writes();
    world.close_agent().await;
    world.pass(Duration::from_secs(60)).await;
    world.start_agent();
    world.pass(Duration::from_secs(120)).await;
    assert_eq!(world.truth("uid-web"), before);
    assert_eq!(world.writes(), writes, "there was nothing new to tell");
}

#[tokio::test(start_paused = true)]
async fn a_pod_deleted_while_the_agent_was_down_is_gone_after_it_starts() {
    let mut world = World::new();
    world.start_agent();
    for name in ["marked", "forced"] {
        world.apply(pod(name, "Always", &[], &["web"]));
    }
    world.until("up", SOON, |w| running(w, "uid-marked") + running(w, "uid-forced") == 2).await;
    world.kill_agent();
    world.delete("uid-marked", 30);
    world.delete_by_force("uid-forced");
    world.pass(Duration::from_secs(60)).await;
    world.start_agent();
    world.until("gone", SOON, |w| w.is_gone("uid-marked") && w.is_gone("uid-forced")).await;
    assert!(world.uids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_grace_is_kept_and_a_shorter_one_replaces_it() {
    let mut world = World::new();
    world.start_agent();
    world.fake.behave("web", [Behaviour::run_forever().on_stop(OnStop::Ignore)]);
    world.apply(pod("web", "Always", &[], &["web"]));
    world.until("up", SOON, is_running("uid-web")).await;
    world.delete("uid-web", 60);
    world.pass(Duration::from_secs(20)).await;
    assert_eq!(running(&world, "uid-web"), 1, "it still has its grace");
    world.delete("uid-web", 3);
    world.pass(Duration::from_millis(2500)).await;
    assert_eq!(running(&world, "uid-web"), 1, "it still has the shorter one");
    world.until("gone", Duration::from_secs(3), |w| w.is_gone("uid-web")).await;
}

#[tokio::test(start_paused = true)]
async fn a_hanging_pull_does_not_hold_up_a_deletion() {
    let mut world = World::new();
    world.start_agent();
    world.fake.pull("web:1", Pull { after: Duration::from_secs(600), error: None });
    world.apply(pod("web", "Always", &[], &["web"]));
    world.pass(Duration::from_secs(3)).await;
    world.delete("uid-web", 30);
    world.until("gone", Duration::from_secs(2), |w| w.is_gone("uid-web") && w.object("uid-web").is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_image_does_not_wait_for_the_pull_of_the_old_one() {
    let mut world = World::new();
    world.start_agent();
    world.fake.pull("web:1", Pull { after: Duration::from_secs(600), error: None });
    let mut web = pod("web", "Always", &[], &["web"]);
    world.apply(web.clone());
    world.pass(Duration::from_secs(3)).await;
    web.spec.as_mut().expect("a spec").containers[0].image = Some("web:2".into());
    web.metadata.generation = Some(2);
    world.apply(web);
    world.until("up", SOON, is_running("uid-web")).await;
}

#[tokio::test(start_paused = true)]
async fn pods_that_want_one_image_wait_for_one_pull() {
    let mut world = World::new();
    world.start_agent();
    world.fake.pull("web:1", Pull { after: Duration::from_secs(3), error: None });
    for n in 0..10 {
        world.apply(pod(&format!("p{n}"), "Always", &[], &["web"]));
    }
    world.until("up", SOON, |w| (0..10).all(|n| running(w, &format!("uid-p{n}")) == 1)).await;
    let pulls = world.fake.take_calls().into_iter().filter(|call| call.name == "PullImage").count();
    assert_eq!(pulls, 1);
}

#[tokio::test(start_paused = true)]
async fn a_failing_pull_shows_and_backs_off() {
    let mut world = World::new();
    world.start_agent();
    let error = Some((Code::NotFound, "no such image".to_owned()));
    world.fake.pull("web:1", Pull { after: Duration::ZERO, error });
    world.apply(pod("web", "Always", &[], &["web"]));
    let reason = |w: &World| {
        let statuses = w.object("uid-web")?.status?.container_statuses?;
        statuses[0].state.clone()?.waiting?.reason
    };
    world.until("told", SOON, |w| reason(w).as_deref() == Some("ErrImagePull")).await;
    world.until("backs off", SOON, |w| reason(w).as_deref() == Some("ImagePullBackOff")).await;
    world.pass(Duration::from_secs(65)).await;
    let pulls = world.fake.take_calls().into_iter().filter(|call| call.name == "PullImage").count();
    assert_eq!(pulls, 3, "at once, after 10 s, after 20 s more");
    world.fake.pull("web:1", Pull::default());
    world.until("up", Duration::from_secs(60), is_running("uid-web")).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_event_is_found_by_the_relist() {
    let mut world = World::new();
    world.start_agent();
    world.apply(pod("web", "Always", &[], &["web"]));
    world.until("up", SOON, is_running("uid-web")).await;
    world.fake.lose_events(10);
    let id = world.truth("uid-web").containers[0].id.clone();
    world.fake.end_container(&id, 1);
    world.until("restarted", Duration::from_secs(40), |w| restarts(w, "uid-web") == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_quiet_pod_is_not_polled() {
    let mut world = World::new();
    world.start_agent();
    for n in 0..5 {
        world.apply(pod(&format!("p{n}"), "Always", &[], &["web"]));
    }
    world.pass(Duration::from_secs(10)).await;
    drop(world.fake.take_calls());
    world.pass(Duration::from_secs(300)).await;
    // Two lists each half a minute, however many pods there are.
    let calls = world.fake.take_calls();
    assert_eq!(calls.len(), 20, "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn an_api_that_is_away_holds_up_nothing() {
    let mut world = World::new();
    world.start_agent();
    world.break_by(|| false);
    world.apply(pod("web", "Always", &[], &["web"]));
    world.until("prepared", SOON, |w| !w.truth("uid-web").sandboxes.is_empty()).await;
    world.break_by(|| true);
    world.until("up", SOON, |w| running(w, "uid-web") == 1).await;
    let id = world.truth("uid-web").containers[0].id.clone();
    world.fake.end_container(&id, 1);
    world.until("up again", SOON, |w| running(w, "uid-web") == 1).await;
    world.heal();
    world.until("told", Duration::from_secs(20), |w| restarts(w, "uid-web") == 1).await;
}

#[tokio::test(start_paused = true)]
async fn the_node_goes_down_and_its_pods_come_back_as_after_a_reboot() {
    let mut world = World::new();
    world.start_agent();
    for (name, policy) in [("web", "Always"), ("job", "Never")] {
        world.apply(pod(name, policy, &[], &["web"]));
    }
    world.until("up", SOON, |w| running(w, "uid-web") + running(w, "uid-job") == 2).await;
    world.stop_pods(Duration::from_secs(5)).await;
    let snapshot = world.fake.snapshot();
    assert!(snapshot.sandboxes.iter().all(|s| s.state() == podd_cri::v1::PodSandboxState::SandboxNotready));
    assert!(world.is_released("uid-web") && world.is_released("uid-job"));
    assert_eq!(world.phase("uid-web").as_deref(), Some("Running"), "the object says what it said");
    world.close_agent().await;
    world.start_agent();
    world.until("web is up again", SOON, |w| running(w, "uid-web") == 1).await;
    world.until("the job is not run twice", SOON, |w| w.phase("uid-job").as_deref() == Some("Failed")).await;
    assert_eq!(restarts(&world, "uid-web"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_hangs_is_asked_again() {
    let mut world = World::new();
    world.start_agent();
    world.fake.inject("RunPodSandbox", Fault::Hang, 1);
    world.apply(pod("web", "Always", &[], &["web"]));
    world.until("up", Duration::from_secs(60), is_running("uid-web")).await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_pods_start_together() {
    let mut world = World::new();
    world.start_agent();
    world.fake.choose_faults(|call| (call == "RunPodSandbox").then_some(Fault::Delay(Duration::from_secs(1))));
    for n in 0..100 {
        world.apply(pod(&format!("p{n}"), "Always", &[], &["web"]));
    }
    let all = |w: &World| (0..100).all(|n| is_ready(w, &format!("uid-p{n}")));
    world.until("all up", Duration::from_secs(2), all).await;
}

#[tokio::test(start_paused = true)]
async fn events_tell_the_story_in_the_kubelets_words() {
    let mut world = World::new();
    world.start_agent();
    world.fake.behave("web", [Behaviour::exit_after(Duration::from_secs(1), 1)]);
    world.apply(pod("web", "Always", &[], &["web"]));
    world.until("restarted", SOON, |w| restarts(w, "uid-web") == 1).await;
    world.pass(Duration::from_secs(2)).await;
    world.delete("uid-web", 0);
    world.until("gone", SOON, |w| w.is_gone("uid-web")).await;
    let wanted = [
        "Pulling: Pulling image \"web:1\"",
        "Pulled: Successfully pulled image \"web:1\" in 0ms (0ms including waiting). Image size: 1048576 bytes.",
        "Created: Container created",
        "Started: Container started",
        "Pulled: Container image \"web:1\" already present on machine",
        "Created: Container created",
        "Started: Container started",
        "BackOff: Back-off restarting failed container web in pod web_default(uid-web)",
    ];
    assert_eq!(world.take_events(), wanted);

    world.fake.behave("web", [Behaviour::start_error("no such file"), Behaviour::run_forever()]);
    world.fake.fail("RunPodSandbox", 1, Code::Internal);
    world.apply(pod("next", "Always", &[], &["web"]));
    world.until("up", Duration::from_secs(60), is_running("uid-next")).await;
    let sandbox = world.truth("uid-next").sandboxes[0].id.clone();
    world.fake.lose_sandbox(&sandbox);
    world.until("up again", Duration::from_secs(60), |w| restarts(w, "uid-next") == 2).await;
    world.delete("uid-next", 1);
    world.until("gone", SOON, |w| w.is_gone("uid-next")).await;
    let events = world.take_events();
    for wanted in [
        "FailedCreatePodSandBox: Failed to create pod sandbox: RunPodSandbox was told to fail",
        "Failed: Error: no such file",
        "SandboxChanged: Pod sandbox changed, it will be killed and re-created.",
        "Killing: Stopping container web",
    ] {
        assert!(events.iter().any(|event| event == wanted), "{wanted} in {events:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_edited_static_pod_waits_for_the_one_before_it() {
    let mut world = World::new();
    world.start_agent();
    world
        .fake
        .behave("web", [Behaviour::run_forever().on_stop(OnStop::Exit { after: Duration::from_secs(3), code: 0 })]);
    let send = world.dispatcher().sender();
    let old = pod("web", "Always", &[], &["web"]);
    let mut new = old.clone();
    new.metadata.uid = Some("uid-new".into());
    send.send(Update::Applied(Source::File, Arc::new(old))).await.expect("open");
    world.until("up", SOON, |w| running(w, "uid-web") == 1).await;
    send.send(Update::Gone(Source::File, "uid-web".into())).await.expect("open");
    send.send(Update::Applied(Source::File, Arc::new(new))).await.expect("open");
    world.pass(Duration::from_secs(2)).await;
    assert_eq!((running(&world, "uid-web"), running(&world, "uid-new")), (1, 0));
    world.until("the new one runs", SOON, |w| running(w, "uid-new") == 1).await;
    assert_eq!(running(&world, "uid-web"), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_unknown_is_stopped_before_all_sources_have_told_all() {
    let mut world = World::new();
    world.start_agent();
    world.apply(pod("web", "Always", &[], &["web"]));
    world.until("up", SOON, is_running("uid-web")).await;
    world.kill_agent();
    world.delete_by_force("uid-web");
    let dispatcher = world.another_dispatcher(vec![Source::Api, Source::File]);
    dispatcher.sender().send(Update::Synced(Source::Api)).await.expect("open");
    world.pass(Duration::from_secs(120)).await;
    assert_eq!(running(&world, "uid-web"), 1, "the manifests were not read yet");
    dispatcher.sender().send(Update::Synced(Source::File)).await.expect("open");
    world.until("gone", SOON, |w| w.is_gone("uid-web")).await;
}
