//! Lives drawn from seeds: pods come, change and go, calls fail, events are lost, the runtime and the agent crash. Then all
//! heals, what shall run must run, and what shall go must be gone.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ExecAction, Lifecycle, LifecycleHandler, Pod, Probe};
use podd_core::pod::ContainerState;
use podd_cri::fake::{Behaviour, ExecReply, Fault, OnStop, Pull};
use tonic::Code;

use crate::{
    pod,
    world::{PRE_STOP, World},
};

/// How many seeds each test goes through; `PODD_SEED` makes `a_life_from_a_given_seed` live that one.
const SEEDS: u64 = 50;
/// How many things are done to a world before it heals.
const DEEDS: usize = 30;
/// The longest it may take until all is as it shall be: the longest back-off, and the slowest relist.
const SETTLES: Duration = Duration::from_secs(700);
/// The longest that one life may take by the machine's own clock; it takes a tenth of a second as a rule.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the end of a pod may take beyond its grace.
const SLACK: Duration = Duration::from_secs(10);

/// A small generator (SplitMix64): the same numbers for the same seed on every machine.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).expect("small")].clone()
    }
}

// Four tests, so that they use the machine's cores.

#[test]
fn lives_from_seeds_break_no_invariant_and_settle_1() {
    (0..SEEDS).for_each(live);
}

#[test]
fn lives_from_seeds_break_no_invariant_and_settle_2() {
    (SEEDS..2 * SEEDS).for_each(live);
}

#[test]
fn lives_from_seeds_break_no_invariant_and_settle_3() {
    (2 * SEEDS..3 * SEEDS).for_each(live);
}

#[test]
fn lives_from_seeds_break_no_invariant_and_settle_4() {
    (3 * SEEDS..4 * SEEDS).for_each(live);
}

/// The one that is asked for, or any.
#[test]
fn a_life_from_a_given_seed() {
    let asked = std::env::var("PODD_SEED").map(|seed| seed.parse().expect("PODD_SEED is a number"));
    live(asked.unwrap_or(13));
}

/// Lives one life, and prints its seed when it goes wrong, or when it comes to no end: a worker that spins holds the virtual
/// clock.
fn live(seed: u64) {
    let (ended, end) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if end.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("PODD_SEED={seed} spins: a_life_from_a_given_seed lives it again");
            std::process::abort();
        }
    });
    let outcome = std::panic::catch_unwind(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(life(Dice(seed)));
    });
    drop(ended);
    watchdog.join().expect("the watchdog only waits");
    if let Err(panic) = outcome {
        eprintln!("this was PODD_SEED={seed}: a_life_from_a_given_seed lives it again");
        std::panic::resume_unwind(panic);
    }
}

async fn life(mut dice: Dice) {
    let mut world = World::new();
    behave(&world, &mut dice);
    world.start_agent();
    answer_probes(&world, &mut dice);
    break_things(&world, &mut dice);
    for n in 0..DEEDS {
        deed(&mut world, &mut dice, n).await;
        let pause = dice.pick(&[0, 10, 300, 2_000, 15_000, 70_000]);
        world.pass(Duration::from_millis(dice.below(pause + 1))).await;
    }

    // All is well from now on.
    world.heal();
    calm(&world);
    if !world.has_agent() {
        world.start_agent();
    }
    let what = "all pods are as they shall be";
    world.until(what, SETTLES, |w| w.all_uids_ever().iter().all(|uid| is_settled(w, uid))).await;

    // And then they go, each within its grace.
    let grace = dice.below(40);
    for uid in world.uids() {
        world.delete(&uid, i64::try_from(grace).expect("small"));
    }
    let most = Duration::from_secs(grace.max(2)) + SLACK;
    world.until("all are gone", most, |w| w.uids().is_empty() && w.all_uids_ever().iter().all(|u| w.is_gone(u))).await;
    assert!(world.fake.snapshot().sandboxes.is_empty());
    // The object goes before the worker has ended.
    world.until("the dispatcher forgets", Duration::from_secs(1), |w| w.dispatcher().pods().is_empty()).await;
}

/// How the processes of this world are.
fn behave(world: &World, dice: &mut Dice) {
    for name in ["i", "s", "j", "a", "b", "c"] {
        let mut one = || {
            let init = name == "i" || name == "j";
            let longest = if init { 20_000 } else { dice.pick(&[500, 20_000, 900_000]) };
            let after = Duration::from_millis(dice.below(longest));
            let code = i32::try_from(dice.below(2)).expect("small");
            let behaviour = match dice.below(6) {
                0 => Behaviour::start_error("no such file"),
                1 => Behaviour::oom_after(after),
                2 | 3 => Behaviour::exit_after(after, if init && dice.one_in(2) { 0 } else { code }),
                _ if init => Behaviour::exit_after(after, 0),
                _ => Behaviour::run_forever(),
            };
            match dice.below(3) {
                0 => behaviour.on_stop(OnStop::Ignore),
                1 => behaviour.on_stop(OnStop::Exit { after: Duration::from_secs(dice.below(50)), code: 0 }),
                _ => behaviour,
            }
        };
        world.fake.behave(name, [one(), one(), one(), one()]);
    }
}

/// From here on nothing ends by itself but init containers, and all obey.
fn calm(world: &World) {
    for name in ["i", "j"] {
        world.fake.behave(name, [Behaviour::exit_after(Duration::from_secs(1), 0)]);
    }
    for name in ["s", "a", "b", "c"] {
        world.fake.behave(name, [Behaviour::run_forever()]);
    }
    world.fake.on_exec(|_, _| ExecReply::default());
    for image in IMAGES {
        world.fake.pull(image, Pull::default());
    }
}

/// Some calls meet a fault, more in some worlds than in others.
fn break_things(world: &World, dice: &mut Dice) {
    let rarity = dice.pick(&[5, 20, 100, 10_000]);
    let mut own = Dice(dice.next());
    world.fake.choose_faults(move |call| {
        if !own.one_in(rarity) {
            return None;
        }
        Some(match own.below(5) {
            0 => Fault::Delay(Duration::from_millis(own.below(3_000))),
            // The runtime itself gives up a pull of which nothing comes.
            1 if call != "PullImage" => Fault::Hang,
            2 if call != "GetContainerEvents" => Fault::LoseAnswer,
            _ => Fault::Refuse(own.pick(&[Code::Unavailable, Code::Internal, Code::Unknown]), "drawn".into()),
        })
    });
    let mut others = Dice(dice.next());
    world.break_by(move || others.one_in(rarity));
    let mut slow = Dice(dice.next());
    world.slow_by(move || match slow.one_in(rarity) {
        true => Duration::from_millis(slow.below(3_000)),
        false => Duration::ZERO,
    });
}

/// Each container's image, and the one that it may be changed to.
const IMAGES: &[&str] = &["i:1", "s:1", "j:1", "a:1", "b:1", "c:1", "a:2"];

/// Something happens.
async fn deed(world: &mut World, dice: &mut Dice, n: usize) {
    let uids = world.uids();
    let alive: Vec<String> = uids.iter().filter(|uid| !is_deleted(world, uid)).cloned().collect();
    match dice.below(27) {
        0..=3 if uids.len() < 4 => world.apply(drawn(dice, n)),
        4 | 5 if !alive.is_empty() => {
            let mut pod = world.object(&dice.pick(&alive)).expect("an object");
            let spec = pod.spec.as_mut().expect("a spec");
            spec.containers[0].image = Some(dice.pick(&["a:1", "a:2"]).to_owned());
            pod.metadata.generation = pod.metadata.generation.map(|generation| generation + 1);
            world.apply(pod);
        }
        6 | 7 if !uids.is_empty() => {
            let grace = dice.pick(&[0, 1, 5, 30, 120]);
            world.delete(&dice.pick(&uids), grace);
        }
        8 if !uids.is_empty() => world.delete_by_force(&dice.pick(&uids)),
        9 | 10 if world.has_agent() => world.kill_agent(),
        11 if world.has_agent() => world.close_agent().await,
        9..=12 if !world.has_agent() => world.start_agent(),
        13 => world.fake.crash(),
        14 => world.fake.reboot(),
        15 => world.fake.lose_events(usize::try_from(dice.below(20)).expect("small")),
        16 => {
            if let Some(sandbox) = world.fake.snapshot().sandboxes.last() {
                world.fake.lose_sandbox(&sandbox.id);
            }
        }
        17 => {
            if let Some((_, container)) = world.fake.snapshot().containers.last() {
                world.fake.oom_kill(&container.id);
            }
        }
        18 => {
            let after = Duration::from_secs(dice.below(400));
            let error = dice.one_in(2).then(|| (Code::Unavailable, "no registry".to_owned()));
            world.fake.pull(dice.pick(IMAGES), Pull { after, error });
        }
        19 if uids.len() < 4 && world.has_agent() => world.apply_refused(drawn(dice, n)),
        20 | 21 if !alive.is_empty() && !world.has_agent() => world.fail_by_others(&dice.pick(&alive)),
        22 if !uids.is_empty() => world.remove_sandboxes(&dice.pick(&uids)).await,
        23 if !uids.is_empty() => world.remove_container(&dice.pick(&uids)).await,
        24 => world.reboot(),
        25 if !uids.is_empty() => world.replay(&dice.pick(&uids)),
        _ => {}
    }
}

fn drawn(dice: &mut Dice, n: usize) -> Pod {
    let policy = dice.pick(&["Always", "Always", "OnFailure", "Never"]);
    let inits = dice.pick(&[&[][..], &["i"], &["i", "j"], &["s"], &["i", "s", "j"]]);
    let regulars = 1 + usize::try_from(dice.below(3)).expect("small");
    let mut pod = pod(&format!("p{n}"), policy, inits, &["a", "b", "c"][..regulars]);
    let spec = pod.spec.as_mut().expect("a spec");
    spec.termination_grace_period_seconds = Some(dice.pick(&[0, 5, 30, 30, 60]));
    let sidecars = spec.init_containers.iter_mut().flatten().filter(|container| container.name == "s");
    for container in sidecars.map(with_restart).chain(&mut spec.containers) {
        container.readiness_probe = drawn_probe(dice);
        container.liveness_probe = drawn_probe(dice);
        container.startup_probe = drawn_probe(dice);
        container.lifecycle = Some(Lifecycle {
            post_start: drawn_hook(dice, "post-start"),
            pre_stop: drawn_hook(dice, PRE_STOP),
            stop_signal: None,
        });
        if let Some(probe) = &mut container.liveness_probe {
            probe.termination_grace_period_seconds = dice.pick(&[None, None, Some(1), Some(90)]);
        }
    }
    pod
}

fn with_restart(sidecar: &mut Container) -> &mut Container {
    sidecar.restart_policy = Some("Always".to_owned());
    sidecar
}

/// A command as a hook, or none.
fn drawn_hook(dice: &mut Dice, command: &str) -> Option<LifecycleHandler> {
    let exec = ExecAction { command: Some(vec![command.to_owned()]) };
    dice.one_in(4).then(|| LifecycleHandler { exec: Some(exec), ..LifecycleHandler::default() })
}

/// A probe, or none.
fn drawn_probe(dice: &mut Dice) -> Option<Probe> {
    let exec = ExecAction { command: Some(vec!["probe".to_owned()]) };
    dice.one_in(3).then(|| Probe {
        exec: Some(exec),
        initial_delay_seconds: dice.pick(&[None, Some(3), Some(40)]),
        period_seconds: dice.pick(&[None, Some(1), Some(5)]),
        timeout_seconds: dice.pick(&[None, Some(3)]),
        failure_threshold: dice.pick(&[None, Some(1), Some(10)]),
        ..Probe::default()
    })
}

/// What is asked of containers they answer, slowly, wrongly, too late.
fn answer_probes(world: &World, dice: &mut Dice) {
    let (rarity, mut own) = (dice.pick(&[2, 10, 1000]), Dice(dice.next()));
    world.fake.on_exec(move |_, _| ExecReply {
        exit_code: i32::from(own.one_in(rarity)),
        after: Duration::from_millis(if own.one_in(rarity) { own.below(5_000) } else { own.below(20) }),
        ..ExecReply::default()
    });
}

fn is_deleted(world: &World, uid: &str) -> bool {
    world.object(uid).is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
}

/// Whether a pod is as it shall be, and its object says so.
fn is_settled(world: &World, uid: &str) -> bool {
    let Some(pod) = world.object(uid) else { return world.is_gone(uid) };
    if is_deleted(world, uid) {
        return false;
    }
    let truth = world.truth(uid);
    let spec = pod.spec.as_ref().expect("a spec");
    let runs = |name: &str| truth.instances(name).any(|c| matches!(c.state, ContainerState::Running { .. }));
    let Some(status) = &pod.status else { return false };
    let told_running = |name: &str| {
        let told = status.container_statuses.iter().flatten().find(|s| s.name == name);
        told.and_then(|s| s.state.as_ref()).is_some_and(|s| s.running.is_some())
    };
    // What nobody will ask for again is removed.
    let dead = |name: &str| truth.instances(name).filter(|c| c.exit().is_some()).count();
    let is_tidy = spec.containers.iter().all(|c| dead(&c.name) <= 1);
    // And what runs is well, now that all is.
    let told_ready = |name: &str| status.container_statuses.iter().flatten().any(|s| s.name == name && s.ready);
    let well = |name: &str| runs(name) == told_running(name) && runs(name) == told_ready(name);
    let agree = spec.containers.iter().all(|c| well(&c.name));
    match (status.phase.as_deref(), spec.restart_policy.as_deref()) {
        (Some("Running"), Some("Always")) => agree && is_tidy && spec.containers.iter().all(|c| runs(&c.name)),
        (Some("Running"), _) => agree && is_tidy && spec.containers.iter().any(|c| runs(&c.name)),
        (Some("Succeeded" | "Failed"), policy) => {
            assert!(policy != Some("Always") || world.is_ended_by_others(uid), "{uid} has ended");
            agree && !truth.containers.iter().any(podd_core::pod::ContainerSeen::may_run) && world.is_released(uid)
        }
        _ => false,
    }
}
