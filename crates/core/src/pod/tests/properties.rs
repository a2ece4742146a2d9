//! Properties of whole lives: random pods, scripts and faults in the small world, with the invariants checked at every
//! step, and what must be true in the end.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::{collection::vec, prelude::*};

use super::{
    pod,
    world::{Fault, Script, World},
};
use crate::{
    invariants,
    pod::{ContainerSeen, ContainerState, Decision, Goal, LastStep, Resources, back_off::add},
};

fn script() -> impl Strategy<Value = Script> {
    (prop::option::of(0_u64..900), prop_oneof![Just(0), Just(1)], prop::option::of(0_u64..60))
        .prop_map(|(runs, code, obeys)| Script { runs, code, obeys })
}

fn fault() -> impl Strategy<Value = Option<Fault>> {
    prop_oneof![
        6 => Just(None),
        1 => Just(Some(Fault::Refused)),
        1 => Just(Some(Fault::AnswerLost)),
        1 => Just(Some(Fault::HalfDone)),
        1 => Just(Some(Fault::AgentDies)),
        1 => Just(Some(Fault::SandboxDies)),
        1 => Just(Some(Fault::ContainerUnknown)),
    ]
}

#[derive(Debug)]
struct Life {
    policy: &'static str,
    /// The policy of the first regular container, if it has its own.
    own_policy: Option<&'static str>,
    /// Whether every container that may have hooks has both.
    hooks: bool,
    inits: usize,
    regulars: usize,
    scripts: Vec<Script>,
    faults: Vec<Option<Fault>>,
    new_image_at: Option<usize>,
    stop_after: usize,
    grace: u64,
}

fn policy() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")]
}

/// Init containers and sidecars, in their order.
const INITS: [&str; 4] = ["i", "s", "j", "t"];
const REGULARS: [&str; 3] = ["a", "b", "c"];

fn life() -> impl Strategy<Value = Life> {
    (
        (policy(), prop::option::weighted(0.2, policy()), any::<bool>()),
        0_usize..5,
        1_usize..4,
        vec(script(), 7),
        vec(fault(), 0..60),
        prop::option::of(0_usize..60),
        0_usize..80,
        0_u64..60,
    )
        .prop_map(
            |((policy, own_policy, hooks), inits, regulars, scripts, faults, new_image_at, stop_after, grace)| Life {
                policy,
                own_policy,
                hooks,
                inits,
                regulars,
                scripts,
                faults,
                new_image_at,
                stop_after,
                grace,
            },
        )
}

impl Life {
    fn world(&self) -> World {
        let (inits, regulars) = (&INITS[..self.inits], &REGULARS[..self.regulars]);
        let names = inits.iter().chain(regulars).map(|n| (*n).to_owned());
        let scripts: BTreeMap<_, _> = names.zip(self.scripts.iter().copied()).collect();
        let mut pod = pod(self.policy, inits, regulars);
        let spec = pod.spec.as_mut().unwrap();
        spec.containers[0].restart_policy = self.own_policy.map(str::to_owned);
        if self.hooks {
            let sidecars = spec.init_containers.iter_mut().flatten().filter(|c| c.restart_policy.is_some());
            for container in sidecars.chain(&mut spec.containers) {
                container.lifecycle = serde_json::from_value(serde_json::json!({
                    "postStart": {"sleep": {"seconds": 1}}, "preStop": {"sleep": {"seconds": 1}}}))
                .unwrap();
            }
        }
        World::new(pod, scripts)
    }
}

fn quiet() -> Option<Fault> {
    None
}

/// Runs turns without faults until nothing is left to do, or panics.
fn settle(world: &mut World) -> Decision {
    for _ in 0..400 {
        let decision = world.turn(quiet);
        if decision.settled && !world.has_ends_to_come() {
            return decision;
        }
        if decision.actions.is_empty() || decision.actions.iter().any(|a| a.is_patient()) {
            world.wait(&decision, 600);
        }
    }
    panic!("does not settle\n{}", world.log.join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_life_with_faults_breaks_no_invariant_settles_and_leaves_nothing(life in life()) {
        let mut world = life.world();
        let mut faults = life.faults.iter().copied();
        for step in 0..life.stop_after {
            if life.new_image_at == Some(step) {
                world.pod.spec.as_mut().unwrap().containers[0].image = Some("new:2".into());
                let pod = world.pod.clone();
                world.memory.spec_changed(&pod);
            }
            let decision = world.turn(|| faults.next().flatten());
            world.wait(&decision, 700);
        }

        // From here on nothing fails and every process is well behaved: what shall run runs.
        let names: Vec<_> = world.scripts.keys().cloned().collect();
        for name in names {
            let init = ["i", "j"].contains(&&*name);
            world.scripts.insert(name, Script { runs: init.then_some(1), code: 0, obeys: Some(1) });
        }
        settle(&mut world);
        let phase = world.pod.status.as_ref().and_then(|s| s.phase.clone()).unwrap();
        let running = |name: &str| world.truth.instances(name)
            .any(|c| matches!(c.state, ContainerState::Running { .. }));
        match phase.as_str() {
            "Running" => {
                let spec = world.pod.spec.as_ref().unwrap();
                if life.policy == "Always" && life.own_policy.is_none() {
                    prop_assert!(spec.containers.iter().all(|c| running(&c.name)));
                }
                let mut sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.is_some());
                prop_assert!(sidecars.all(|c| running(&c.name)));
            }
            "Succeeded" | "Failed" => {
                prop_assert!(life.policy != "Always" || life.own_policy.is_some());
                prop_assert!(!world.truth.containers.iter().any(ContainerSeen::may_run));
                prop_assert_eq!(world.truth.resources, Resources::Released);
            }
            other => prop_assert!(false, "settled in phase {}", other),
        }

        // And then it goes.
        for (name, script) in world.scripts.iter_mut() {
            let index = INITS.iter().chain(&REGULARS).position(|n| n == name).unwrap();
            script.obeys = life.scripts[index].obeys;
        }
        let stopped_at = world.now;
        let kill_at = add(stopped_at, std::time::Duration::from_secs(life.grace));
        world.goal = Goal::Stop { kill_at, last: LastStep::DeleteObject };
        let decision = settle(&mut world);
        prop_assert!(decision.finished);
        prop_assert!(invariants::nothing_left(&world.truth).is_ok());
        let latest: Timestamp = kill_at.max(add(stopped_at, std::time::Duration::from_secs(2)));
        prop_assert!(world.now <= add(latest, std::time::Duration::from_secs(2)), "grace exceeded");
    }

    #[test]
    fn a_pod_that_is_stopped_in_the_middle_of_faults_still_goes(life in life()) {
        let mut world = life.world();
        let mut faults = life.faults.iter().copied();
        for _ in 0..life.stop_after / 4 {
            let decision = world.turn(|| faults.next().flatten());
            world.wait(&decision, 5);
        }
        let kill_at = add(world.now, std::time::Duration::from_secs(life.grace));
        world.goal = Goal::Stop { kill_at, last: LastStep::DeleteObject };
        for _ in 0..20 {
            let decision = world.turn(|| faults.next().flatten());
            if decision.finished {
                return Ok(());
            }
            world.wait(&decision, 5);
        }
        let decision = settle(&mut world);
        prop_assert!(decision.finished);
    }
}
