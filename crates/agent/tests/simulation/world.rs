//! The world around the dispatcher, without any of its code: the fake runtime, an API that keeps objects, a node that keeps
//! volumes, a clock. Agents come and go in it; all else outlives them.

mod outside;
mod seam;
mod truth;

pub(crate) use seam::PRE_STOP;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use podd_agent::{
    events::{Record, Recorder},
    worker::{Clock, Dispatcher, Services, Settings, Source, Update},
};
use podd_core::pod::{ContainerState, NodeFacts, Observation};
use podd_cri::{
    RuntimeService as _,
    fake::{FakeRuntime, TokioClock},
    v1,
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tonic::{Request, Status};

use self::{
    outside::{Outside, is_final, uid},
    seam::Seam,
    truth::observation,
};

/// When every simulation begins.
const START: i64 = 1_800_000_000;

/// The world.
pub(crate) struct World {
    pub(crate) fake: FakeRuntime,
    pub(crate) clock: Clock,
    outside: Arc<Outside>,
    _directory: TempDir,
    agent: Option<Agent>,
}

struct Agent {
    dispatcher: Dispatcher,
    pump: tokio::task::JoinHandle<()>,
    events: mpsc::Receiver<Record>,
}

impl World {
    pub(crate) fn new() -> World {
        let start = Timestamp::from_second(START).expect("a time");
        let clock = Clock::virtual_from(start);
        let fake = FakeRuntime::new(TokioClock::new(i64::try_from(start.as_nanosecond()).expect("a time of ours")));
        let directory = tempfile::tempdir().expect("a directory");
        let (pods_dir, log_root) = (directory.path().join("pods"), directory.path().join("logs"));
        let outside = Arc::new(Outside::new(clock, pods_dir, log_root));
        World { fake, clock, outside, _directory: directory, agent: None }
    }

    /// Starts an agent, which hears of all objects and that this is all.
    pub(crate) fn start_agent(&mut self) {
        assert!(self.agent.is_none(), "one agent at a time");
        // A full queue drops what nobody takes.
        let (recorder, events) = Recorder::queue(1000);
        {
            // The next one finds the port free.
            let mut state = self.outside.state();
            state.refused.clear();
            state.resting = false;
        }
        let dispatcher = Dispatcher::start(self.services(recorder), vec![Source::Api]);
        self.connect(dispatcher, events);
    }

    /// A dispatcher that hears of nothing by itself.
    pub(crate) fn another_dispatcher(&self, sources: Vec<Source>) -> Dispatcher {
        let (recorder, _) = Recorder::queue(1);
        Dispatcher::start(self.services(recorder), sources)
    }

    fn services(&self, recorder: Recorder) -> Arc<Services> {
        let (_, images) = self.fake.services();
        let seam = Arc::new(Seam::new(self.fake.clone(), self.outside.clone()));
        Arc::new(Services {
            runtime: seam.clone(),
            images,
            resources: seam.clone(),
            objects: seam,
            recorder,
            node: NodeFacts {
                name: "node".into(),
                host_ips: vec!["192.0.2.1".parse().expect("an address")],
                runtime: "fake".into(),
                max_restart_period: Duration::from_secs(300),
                recursive_read_only: true,
            },
            settings: Settings {
                log_root: self.outside.log_root.clone(),
                pods_dir: self.outside.pods_dir.clone(),
                seccomp_default: true,
                seccomp_profiles: "/profiles".into(),
                memory_capacity: 1 << 30,
                swap: None,
                default_limits: Default::default(),
                resync: Duration::from_secs(30),
                call_deadline: Duration::from_secs(20),
            },
            clock: self.clock,
        })
    }

    fn connect(&mut self, dispatcher: Dispatcher, events: mpsc::Receiver<Record>) {
        let (watch, mut changes) = mpsc::unbounded_channel();
        {
            let mut state = self.outside.state();
            for pod in state.objects.values() {
                watch.send(state.update(pod.clone())).expect("open");
            }
            watch.send(Update::Synced(Source::Api)).expect("open");
            state.watch = Some(watch);
        }
        let sender = dispatcher.sender();
        let pump = tokio::spawn(async move {
            while let Some(update) = changes.recv().await {
                if sender.send(update).await.is_err() {
                    return;
                }
            }
        });
        self.agent = Some(Agent { dispatcher, pump, events });
    }

    /// The agent dies where it stands.
    pub(crate) fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.pump.abort();
        }
        self.outside.state().watch = None;
    }

    /// The agent ends in order.
    pub(crate) async fn close_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.dispatcher.close().await;
            agent.pump.abort();
        }
        self.outside.state().watch = None;
    }

    pub(crate) fn has_agent(&self) -> bool {
        self.agent.is_some()
    }

    pub(crate) fn dispatcher(&self) -> &Dispatcher {
        &self.agent.as_ref().expect("an agent").dispatcher
    }

    /// What the agent recorded since the last time that this was asked, as `Reason: message`.
    pub(crate) fn take_events(&mut self) -> Vec<String> {
        let events = &mut self.agent.as_mut().expect("an agent").events;
        let taken = std::iter::from_fn(|| events.try_recv().ok());
        taken.map(|record| format!("{}: {}", record.reason, record.message)).collect()
    }

    /// Each write to the API and each preparation of the node fails when this says so.
    pub(crate) fn break_by(&self, chance: impl FnMut() -> bool + Send + 'static) {
        self.outside.state().broken = Some(Box::new(chance));
    }

    /// Each write to the API and each change of the node takes so long.
    pub(crate) fn slow_by(&self, wait: impl FnMut() -> Duration + Send + 'static) {
        self.outside.state().slow = Some(Box::new(wait));
    }

    /// Nothing fails any more.
    pub(crate) fn heal(&self) {
        self.fake.heal();
        let mut state = self.outside.state();
        (state.broken, state.slow) = (None, None);
    }

    /// The machine starts anew: no agent, nothing runs, nothing is mounted.
    pub(crate) fn reboot(&mut self) {
        self.kill_agent();
        self.fake.reboot();
        self.outside.state().prepared.clear();
    }

    /// The node goes down in order: its agent stops all pods.
    pub(crate) async fn stop_pods(&self, grace: Duration) {
        self.outside.state().resting = true;
        self.dispatcher().stop_pods(Some(grace)).await;
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    // ---- What users do ----

    pub(crate) fn apply(&self, pod: Pod) {
        let mut state = self.outside.state();
        state.applied(pod);
    }

    /// A pod that the present agent will not take; the next one would.
    pub(crate) fn apply_refused(&self, pod: Pod) {
        let mut state = self.outside.state();
        state.refused.insert(uid(&pod).to_owned());
        state.applied(pod);
    }

    /// A controller gives up a pod of a node that it does not hear of.
    ///
    /// # Panics
    /// When there is an agent: it would be heard of.
    pub(crate) fn fail_by_others(&self, uid: &str) {
        assert!(self.agent.is_none(), "the node is away");
        let mut pod = self.object(uid).expect("an object");
        let mut status = pod.status.take().unwrap_or_default();
        if is_final(&status) {
            return;
        }
        (status.phase, status.reason) = (Some("Failed".into()), Some("NodeLost".into()));
        let now = self.now();
        let mut state = self.outside.state();
        let life = state.lives.get_mut(uid).expect("it was applied");
        life.history.publish(&pod, &status).expect("a phase that was not final may become so");
        (life.ended_at, life.ended_by_others) = (Some(now), true);
        pod.status = Some(status);
        state.applied(pod);
    }

    /// Somebody removes all sandboxes of the pod from the runtime by hand, and with them their containers. The oldest go
    /// first: of a newest instance that goes alone, and whose status had not been told, the next one does not know, and the
    /// kubelet counts no better.
    pub(crate) async fn remove_sandboxes(&self, uid: &str) {
        for sandbox in self.truth(uid).sandboxes {
            let request = v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox.id };
            if !self.by_hand(uid, self.fake.remove_pod_sandbox(Request::new(request))).await {
                return;
            }
        }
    }

    /// Somebody removes all instances of a container of the pod from the runtime by hand, the oldest first.
    pub(crate) async fn remove_container(&self, uid: &str) {
        let truth = self.truth(uid);
        let Some(last) = truth.containers.last() else { return };
        for container in truth.instances(&last.name) {
            let request = v1::RemoveContainerRequest { container_id: container.id.clone() };
            if !self.by_hand(uid, self.fake.remove_container(Request::new(request))).await {
                return;
            }
        }
    }

    /// What was removed tells nobody any more how it ended. False if it may be there still: this call can meet a fault as
    /// any other.
    async fn by_hand<T>(&self, uid: &str, call: impl Future<Output = Result<T, Status>>) -> bool {
        self.check();
        let done = tokio::time::timeout(Duration::from_secs(1), call).await;
        if let Some(life) = self.outside.state().lives.get_mut(uid) {
            life.history.records_lost();
        }
        matches!(done, Ok(Ok(_)))
    }

    pub(crate) fn object(&self, uid: &str) -> Option<Pod> {
        self.outside.state().objects.get(uid).cloned()
    }

    pub(crate) fn uids(&self) -> Vec<String> {
        self.outside.state().objects.keys().cloned().collect()
    }

    pub(crate) fn phase(&self, uid: &str) -> Option<String> {
        self.object(uid)?.status?.phase
    }

    /// As a client asks for: the object stays until the node has done its part.
    pub(crate) fn delete(&self, uid: &str, grace: i64) {
        let mut pod = self.object(uid).expect("an object");
        let shorter = pod.metadata.deletion_grace_period_seconds.is_none_or(|old| grace < old);
        if shorter {
            let end = self.now().checked_add(Duration::from_secs(u64::try_from(grace).unwrap_or(0))).expect("a time");
            // Whole seconds, as the API has them.
            let end = Timestamp::from_second(end.as_second()).expect("a time");
            self.outside.state().promise(uid, end, self.now());
            pod.metadata.deletion_timestamp = Some(Time(end));
            pod.metadata.deletion_grace_period_seconds = Some(grace);
            self.apply(pod);
        }
    }

    /// The agent hears again of how the object of a pod that is being deleted was before: a watch that is behind.
    pub(crate) fn replay(&self, uid: &str) {
        let state = self.outside.state();
        let Some(life) = state.lives.get(uid).filter(|life| life.pod.metadata.deletion_timestamp.is_some()) else {
            return;
        };
        for version in &life.versions {
            state.tell(state.update(version.clone()));
        }
    }

    /// The object is gone at once; what runs keeps the grace that it had been given last, but an agent that was away knows
    /// of no longer one than the pod's own.
    pub(crate) fn delete_by_force(&self, uid: &str) {
        let now = self.now();
        let pod = self.object(uid).expect("an object");
        let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        let grace = pod.metadata.deletion_grace_period_seconds.map_or(own, |asked| asked.min(own));
        let mut state = self.outside.state();
        state.promise(uid, now + SignedDuration::from_secs(grace), now);
        state.gone(uid);
    }

    // ---- What can be seen ----

    /// How often the API was written to by agents.
    pub(crate) fn writes(&self) -> usize {
        self.outside.state().writes
    }

    /// What the runtime truly has of a pod.
    pub(crate) fn truth(&self, uid: &str) -> Observation {
        observation(&self.fake, uid)
    }

    /// Whether nothing of a pod is left anywhere.
    pub(crate) fn is_gone(&self, uid: &str) -> bool {
        let truth = self.truth(uid);
        let nothing = truth.sandboxes.is_empty() && truth.containers.is_empty();
        let state = self.outside.state();
        nothing && !state.prepared.contains(uid) && !self.outside.pods_dir.join(uid).exists()
    }

    /// Whether somebody else than its containers ended the pod.
    pub(crate) fn is_ended_by_others(&self, uid: &str) -> bool {
        self.outside.state().lives[uid].ended_by_others
    }

    /// Whether the node has nothing mounted for a pod.
    pub(crate) fn is_released(&self, uid: &str) -> bool {
        !self.outside.state().prepared.contains(uid)
    }

    pub(crate) fn all_uids_ever(&self) -> Vec<String> {
        self.outside.state().lives.keys().cloned().collect()
    }

    /// What the agent's housekeeping does beside the dispatcher: what is left on the node of a pod that neither a source nor
    /// the runtime knows is cleared away. (A pod that was deleted by force while no agent ran, before it had a sandbox.)
    fn keep_house(&self) {
        let Some(agent) = &self.agent else { return };
        let known: BTreeSet<String> =
            agent.dispatcher.pods().iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
        for uid in self.all_uids_ever() {
            let truth = self.truth(&uid);
            let nothing = truth.sandboxes.is_empty() && truth.containers.is_empty();
            if nothing && !known.contains(&uid) && self.object(&uid).is_none() {
                self.outside.clear(&uid);
            }
        }
    }

    /// Checks everything that must be true at every moment.
    ///
    /// # Panics
    /// When it is not.
    pub(crate) fn check(&self) {
        let mut state = self.outside.state();
        let now = self.now();
        let mut violations = std::mem::take(&mut state.violations);
        for (uid, life) in &mut state.lives {
            let truth = observation(&self.fake, uid);
            if let Err(violation) = life.history.see(&life.pod, &truth) {
                violations.push(format!("{uid}: {violation}"));
            }
            for container in &truth.containers {
                let ContainerState::Running { started_at } = container.state else { continue };
                if life.ended_at.is_some_and(|ended_at| started_at > ended_at) {
                    violations.push(format!("{uid}: {} started after the pod had ended", container.name));
                }
            }
        }
        drop(state);
        assert!(violations.is_empty(), "{now}: {violations:#?}\n{}", self.tell());
    }

    /// Lets time pass, with a check each second.
    pub(crate) async fn pass(&self, time: Duration) {
        let until = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < until {
            let step = Duration::from_secs(1).min(until - tokio::time::Instant::now());
            tokio::time::sleep(step).await;
            self.keep_house();
            self.check();
        }
    }

    /// A few lines for each pod of which anything is left.
    fn tell(&self) -> String {
        let left = self.all_uids_ever().into_iter().filter(|uid| self.object(uid).is_some() || !self.is_gone(uid));
        let lines = left.map(|uid| {
            let object = self.object(&uid);
            let policy = object.as_ref().and_then(|pod| pod.spec.as_ref()?.restart_policy.clone());
            let deleted = object.as_ref().map(|pod| pod.metadata.deletion_timestamp.is_some());
            let status = object.as_ref().and_then(|pod| pod.status.clone()).unwrap_or_default();
            let states = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
            let states = states.map(|s| format!("\n    told {} {:?}", s.name, s.state)).collect::<String>();
            let truth = self.truth(&uid);
            let sandboxes = truth.sandboxes.iter().map(|s| format!("\n    {} {:?}", s.id, s.state)).collect::<String>();
            let containers = truth.containers.iter();
            let containers = containers
                .map(|c| format!("\n    {} #{} in {} {:?}", c.name, c.restart_count, c.sandbox_id, c.state))
                .collect::<String>();
            let phase = status.phase;
            format!("{uid} {policy:?} deleted {deleted:?} {phase:?}{states}{sandboxes}{containers}\n")
        });
        format!("{}\n{}", self.now(), lines.collect::<String>())
    }

    /// Lets time pass until something is true.
    ///
    /// # Panics
    /// When it is not after `most`.
    pub(crate) async fn until(&self, what: &str, most: Duration, is_true: impl Fn(&World) -> bool) {
        let began = tokio::time::Instant::now();
        let end = began + most;
        while !is_true(self) {
            assert!(tokio::time::Instant::now() < end, "{what}: not after {most:?}\n{}", self.tell());
            // Closely at first, for those who count milliseconds.
            let passed = tokio::time::Instant::now() - began;
            tokio::time::sleep((passed / 20).clamp(Duration::from_millis(10), Duration::from_secs(1))).await;
            self.keep_house();
        }
        self.check();
    }
}
