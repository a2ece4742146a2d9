//! A small world for the properties: a runtime of plain values, processes with a script, faults, a clock. It applies
//! actions at once, except a kill, which takes the process as long as its script says.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::{
    invariants::{self, History},
    pod::{back_off::add, *},
};

use super::{at, node};

/// How the processes of a container behave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Script {
    /// Seconds until it ends by itself; none runs on.
    pub(super) runs: Option<u64>,
    /// Its exit code then.
    pub(super) code: i32,
    /// Seconds it takes to end after the stop signal; none ignores it.
    pub(super) obeys: Option<u64>,
}

/// What goes wrong with the next action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It fails and has no effect.
    Refused,
    /// It has its effect, and fails.
    AnswerLost,
    /// It gets half-way (a sandbox without a network, a container not started), and fails.
    HalfDone,
    /// It has its effect, and the agent dies before it hears of it.
    AgentDies,
    /// The sandbox dies, with all in it.
    SandboxDies,
    /// The runtime no longer knows whether a container runs.
    ContainerUnknown,
}

pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) pod: Pod,
    pub(super) goal: Goal,
    pub(super) memory: Memory,
    pub(super) truth: Observation,
    pub(super) scripts: BTreeMap<String, Script>,
    pub(super) history: History,
    pub(super) log: Vec<String>,
    /// Kills under way: container id, the moment the grace ends.
    kills: BTreeMap<String, Timestamp>,
    /// The hooks that ran, with the ids of their containers.
    pub(super) hooks: Vec<(&'static str, String)>,
    next_id: u32,
}

impl World {
    pub(super) fn new(pod: Pod, scripts: BTreeMap<String, Script>) -> World {
        World {
            now: at(0),
            pod,
            goal: Goal::Run,
            memory: Memory::default(),
            truth: Observation::default(),
            scripts,
            history: History::default(),
            log: Vec::new(),
            kills: BTreeMap::new(),
            hooks: Vec::new(),
            next_id: 0,
        }
    }

    /// One turn of the loop: observe, publish, decide, act. Tells what was decided.
    pub(super) fn turn(&mut self, mut fault: impl FnMut() -> Option<Fault>) -> Decision {
        let status = status(&self.pod, &self.goal, &self.truth, &self.memory, &node(), self.now);
        self.checked(|w| w.history.publish(&w.pod, &status));
        self.pod.status = Some(status);
        let decision = decide(&self.pod, &self.goal, &self.truth, &self.memory, &node(), self.now);
        self.log.push(format!("{} {decision:?}", self.now));
        let (pod, goal, now) = (self.pod.clone(), self.goal.clone(), self.now);
        self.checked(|w| invariants::check_decision(&pod, &goal, &w.truth, &decision, now));
        for action in &decision.actions {
            self.act(action, fault());
            self.checked(|w| w.history.see(&pod, &w.truth));
        }
        decision
    }

    /// Lets time pass until the decision wakes or something ends, at most `most` seconds. At least one.
    pub(super) fn wait(&mut self, decision: &Decision, most: u64) {
        let ends = self.truth.containers.iter().filter_map(|c| self.end_of(c)).map(|(at, _)| at);
        let next = ends.chain(decision.wake_at).min();
        let most = add(self.now, Duration::from_secs(most));
        self.now = next.unwrap_or(most).clamp(add(self.now, Duration::from_secs(1)), most);
        self.pass();
    }

    /// Whether a process will end by itself or by a kill.
    pub(super) fn has_ends_to_come(&self) -> bool {
        self.truth.containers.iter().any(|c| self.end_of(c).is_some())
    }

    fn pass(&mut self) {
        let ended: Vec<_> = self
            .truth
            .containers
            .iter()
            .filter_map(|c| Some((c.id.clone(), self.end_of(c).filter(|(at, _)| *at <= self.now)?)))
            .collect();
        for (id, (at, code)) in ended {
            self.end(&id, at, code);
        }
        let pod = self.pod.clone();
        self.checked(|w| w.history.see(&pod, &w.truth));
    }

    /// When a container will end, and with which code.
    fn end_of(&self, seen: &ContainerSeen) -> Option<(Timestamp, i32)> {
        let ContainerState::Running { started_at } = seen.state else {
            return None;
        };
        let script = self.scripts.get(&seen.name)?;
        let own = script.runs.map(|s| (add(started_at, Duration::from_secs(s)), script.code));
        let killed = self.kills.get(&seen.id).map(|at| (*at, 137));
        [own, killed].into_iter().flatten().min()
    }

    fn end(&mut self, id: &str, finished_at: Timestamp, code: i32) {
        self.kills.remove(id);
        let Some(container) = self.truth.containers.iter_mut().find(|c| c.id == id) else {
            return;
        };
        let started_at = match container.state {
            ContainerState::Running { started_at } => started_at,
            _ => container.created_at,
        };
        let reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
        let exit = Exit { code, reason, message: String::new(), started_at, finished_at };
        container.state = ContainerState::Exited(exit);
    }

    fn act(&mut self, action: &Action, fault: Option<Fault>) {
        if let Some(fault) = fault {
            self.log.push(format!("{} fault {fault:?} at {}", self.now, action.verb()));
        }
        let being_killed = |id: &String| self.kills.contains_key(id);
        if matches!(action, Action::KillContainer { id, .. } if being_killed(id)) && fault.is_none() {
            // It is being stopped already: a second stop only brings the end nearer.
            self.kill(action);
            return;
        }
        self.memory.began(action, &node(), self.now);
        let result = match fault {
            Some(Fault::Refused) => Err(failure("refused")),
            Some(Fault::HalfDone) => {
                let _ = self.effect(action, true);
                Err(failure("half done"))
            }
            Some(Fault::AnswerLost) => self.effect(action, false).and(Err(failure("answer lost"))),
            Some(Fault::AgentDies) => {
                let _ = self.effect(action, false);
                let text = serde_json::to_string(&self.memory).expect("memory serialises");
                self.memory = serde_json::from_str(&text).expect("memory parses");
                self.truth.resources = Resources::Unknown;
                return;
            }
            Some(Fault::SandboxDies) => {
                self.sandbox_dies();
                self.effect(action, false)
            }
            Some(Fault::ContainerUnknown) => {
                let running = |c: &&mut ContainerSeen| matches!(c.state, ContainerState::Running { .. });
                if let Some(container) = self.truth.containers.iter_mut().find(running) {
                    container.state = ContainerState::Unknown;
                }
                self.effect(action, false)
            }
            None => self.effect(action, false),
        };
        if let (Ok(_), Action::Prepare) = (&result, action) {
            self.truth.resources = Resources::Prepared;
        }
        self.memory.ended(action, &result, self.now);
    }

    fn sandbox_dies(&mut self) {
        let alive: Vec<_> = self.truth.containers.iter().filter(|c| c.may_run()).map(|c| c.id.clone()).collect();
        alive.iter().for_each(|id| self.end(id, self.now, 255));
        self.truth.sandboxes.iter_mut().for_each(|s| s.state = SandboxState::NotReady);
    }

    fn kill(&mut self, action: &Action) {
        let Action::KillContainer { id, container, deadline, .. } = action else {
            return;
        };
        let unknown = |c: &ContainerSeen| c.id == *id && c.state == ContainerState::Unknown;
        if self.truth.containers.iter().any(unknown) {
            // The runtime kills what it lost track of at once.
            return self.end(id, self.now, 137);
        }
        if !self.truth.containers.iter().any(|c| c.id == *id && c.may_run()) {
            return;
        }
        let obeyed = self.scripts[container].obeys.map(|s| add(self.now, Duration::from_secs(s)));
        let at = obeyed.unwrap_or(*deadline).min(*deadline);
        let earliest = self.kills.get(id).map_or(at, |before| at.min(*before));
        self.kills.insert(id.clone(), earliest);
    }

    fn effect(&mut self, action: &Action, half: bool) -> Result<Outcome, Failure> {
        match action {
            Action::Prepare | Action::PublishFinalStatus | Action::DeleteObject => {}
            Action::PostStart { id, .. } | Action::PreStop { id, .. } => self.hooks.push((action.verb(), id.clone())),
            Action::InspectImage { .. } => return Ok(Outcome::ImageAbsent),
            Action::PullImage { image, .. } => {
                return Ok(Outcome::ImagePresent { image_ref: image.clone() });
            }
            Action::CreateSandbox { attempt } => {
                let id = self.fresh("s");
                let state = if half { SandboxState::NotReady } else { SandboxState::Ready };
                let created_at = self.now;
                self.truth.sandboxes.push(SandboxSeen { id, created_at, ..super::sandbox("", *attempt, state) });
            }
            Action::StopSandbox { id } => {
                let inside = |c: &&ContainerSeen| c.sandbox_id == *id && c.may_run();
                let ids: Vec<_> = self.truth.containers.iter().filter(inside).map(|c| c.id.clone()).collect();
                ids.iter().for_each(|id| self.end(id, self.now, 137));
                let found = self.truth.sandboxes.iter_mut().find(|s| s.id == *id);
                found.into_iter().for_each(|s| s.state = SandboxState::NotReady);
            }
            Action::RemoveSandbox { id } => {
                self.truth.sandboxes.retain(|s| s.id != *id);
                self.truth.containers.retain(|c| c.sandbox_id != *id);
            }
            Action::StartContainer { container, sandbox_id, restart_count, .. } => {
                let id = self.fresh(container);
                let hash = self.pod.spec.as_ref().and_then(|s| {
                    let all = s.containers.iter().chain(s.init_containers.iter().flatten());
                    all.into_iter().find(|c| c.name == *container).map(container_hash)
                });
                let state =
                    if half { ContainerState::Created } else { ContainerState::Running { started_at: self.now } };
                let created_at = self.now;
                let seen = ContainerSeen {
                    id: id.clone(),
                    created_at,
                    hash,
                    ..super::container(container, sandbox_id, *restart_count, state)
                };
                self.truth.containers.push(seen);
                return Ok(Outcome::Started { id });
            }
            Action::KillContainer { .. } => self.kill(action),
            Action::RemoveContainer { id, .. } => self.truth.containers.retain(|c| c.id != *id),
            Action::Release | Action::Suspend => self.truth.resources = Resources::Released,
        }
        Ok(Outcome::Done)
    }

    fn fresh(&mut self, prefix: &str) -> String {
        self.next_id += 1;
        format!("{prefix}-{}", self.next_id)
    }

    fn checked(&mut self, check: impl FnOnce(&mut World) -> Result<(), invariants::Violation>) {
        if let Err(violation) = check(self) {
            panic!("{violation}\n{}", self.log.join("\n"));
        }
    }
}

fn failure(message: &str) -> Failure {
    Failure { reason: "Injected".into(), message: message.into() }
}
