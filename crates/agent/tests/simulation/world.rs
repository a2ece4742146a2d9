//! The world around the dispatcher, without any of its code: the fake runtime, an API that keeps objects, a node that keeps
//! volumes, a clock. Agents come and go in it; all else outlives them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use podd_agent::{
    events::{Record, Recorder},
    worker::{Clock, Dispatcher, PodObjects, PodResources, Prepared, PublishError, Services, Settings, Source, Update},
};
use podd_core::{
    invariants::History,
    pod::{ContainerSeen, ContainerState, Exit, Failure, NodeFacts, Observation, SandboxSeen, SandboxState},
};
use podd_cri::{
    fake::{FakeRuntime, TokioClock},
    v1,
};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// When every simulation begins.
const START: i64 = 1_800_000_000;

/// The world.
pub(crate) struct World {
    pub(crate) fake: FakeRuntime,
    pub(crate) clock: Clock,
    inner: Arc<Inner>,
    directory: TempDir,
    agent: Option<Agent>,
}

struct Agent {
    dispatcher: Dispatcher,
    pump: tokio::task::JoinHandle<()>,
    events: mpsc::Receiver<Record>,
}

/// What the API and the node keep.
struct Inner {
    clock: Clock,
    pods_dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Pod>,
    /// Pods that ever were, with the newest object and all that is known of their past.
    lives: BTreeMap<String, Life>,
    watch: Option<mpsc::UnboundedSender<Update>>,
    prepared: BTreeSet<String>,
    broken: Option<Chance>,
    writes: usize,
    violations: Vec<String>,
}

type Chance = Box<dyn FnMut() -> bool + Send>;

struct Life {
    pod: Pod,
    history: History,
    /// When a phase that is final was accepted.
    ended_at: Option<Timestamp>,
}

impl World {
    pub(crate) fn new() -> World {
        let start = Timestamp::from_second(START).expect("a time");
        let clock = Clock::virtual_from(start);
        let fake = FakeRuntime::new(TokioClock::new(i64::try_from(start.as_nanosecond()).expect("a time of ours")));
        let directory = tempfile::tempdir().expect("a directory");
        let pods_dir = directory.path().join("pods");
        let inner = Arc::new(Inner { clock, pods_dir, state: Mutex::default() });
        World { fake, clock, inner, directory, agent: None }
    }

    /// Starts an agent, which hears of all objects and that this is all.
    pub(crate) fn start_agent(&mut self) {
        assert!(self.agent.is_none(), "one agent at a time");
        // A full queue drops what nobody takes.
        let (recorder, events) = Recorder::queue(1000);
        let dispatcher = Dispatcher::start(self.services(recorder), vec![Source::Api]);
        self.connect(dispatcher, events);
    }

    /// A dispatcher that hears of nothing by itself.
    pub(crate) fn another_dispatcher(&self, sources: Vec<Source>) -> Dispatcher {
        let (recorder, _) = Recorder::queue(1);
        Dispatcher::start(self.services(recorder), sources)
    }

    fn services(&self, recorder: Recorder) -> Arc<Services> {
        let (runtime, images) = self.fake.services();
        Arc::new(Services {
            runtime,
            images,
            resources: self.inner.clone(),
            objects: self.inner.clone(),
            recorder,
            node: NodeFacts {
                name: "node".into(),
                host_ips: vec!["192.0.2.1".parse().expect("an address")],
                runtime: "fake".into(),
                max_restart_period: Duration::from_secs(300),
            },
            settings: Settings {
                log_root: self.directory.path().join("logs"),
                pods_dir: self.inner.pods_dir.clone(),
                seccomp_default: true,
                memory_capacity: 1 << 30,
                resync: Duration::from_secs(30),
                call_deadline: Duration::from_secs(20),
            },
            clock: self.clock,
        })
    }

    fn connect(&mut self, dispatcher: Dispatcher, events: mpsc::Receiver<Record>) {
        let (watch, mut changes) = mpsc::unbounded_channel();
        {
            let mut state = self.inner.state();
            for pod in state.objects.values() {
                watch.send(Update::Applied(Source::Api, Arc::new(pod.clone()))).expect("open");
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
        self.inner.state().watch = None;
    }

    /// The agent ends in order.
    pub(crate) async fn close_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.dispatcher.close().await;
            agent.pump.abort();
        }
        self.inner.state().watch = None;
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
        self.inner.state().broken = Some(Box::new(chance));
    }

    /// Nothing fails any more.
    pub(crate) fn heal(&self) {
        self.fake.heal();
        self.inner.state().broken = None;
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    // ---- What users do ----

    pub(crate) fn apply(&self, pod: Pod) {
        let mut state = self.inner.state();
        state.applied(pod);
    }

    pub(crate) fn object(&self, uid: &str) -> Option<Pod> {
        self.inner.state().objects.get(uid).cloned()
    }

    pub(crate) fn uids(&self) -> Vec<String> {
        self.inner.state().objects.keys().cloned().collect()
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
            pod.metadata.deletion_timestamp = Some(Time(end));
            pod.metadata.deletion_grace_period_seconds = Some(grace);
            self.apply(pod);
        }
    }

    /// The object is gone at once.
    pub(crate) fn delete_by_force(&self, uid: &str) {
        self.inner.state().gone(uid);
    }

    // ---- What can be seen ----

    /// How often the API was written to by agents.
    pub(crate) fn writes(&self) -> usize {
        self.inner.state().writes
    }

    /// What the runtime truly has of a pod.
    pub(crate) fn truth(&self, uid: &str) -> Observation {
        observation(&self.fake, uid)
    }

    /// Whether nothing of a pod is left anywhere.
    pub(crate) fn is_gone(&self, uid: &str) -> bool {
        let truth = self.truth(uid);
        let nothing = truth.sandboxes.is_empty() && truth.containers.is_empty();
        let state = self.inner.state();
        nothing && !state.prepared.contains(uid) && !self.inner.pods_dir.join(uid).exists()
    }

    /// Whether the node has nothing mounted for a pod.
    pub(crate) fn is_released(&self, uid: &str) -> bool {
        !self.inner.state().prepared.contains(uid)
    }

    pub(crate) fn all_uids_ever(&self) -> Vec<String> {
        self.inner.state().lives.keys().cloned().collect()
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
                self.inner.clear(&uid);
            }
        }
    }

    /// Checks everything that must be true at every moment.
    ///
    /// # Panics
    /// When it is not.
    pub(crate) fn check(&self) {
        let mut state = self.inner.state();
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
        assert!(violations.is_empty(), "{now}: {violations:#?}");
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

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clear(&self, uid: &str) {
        self.state().prepared.remove(uid);
        match std::fs::remove_dir_all(self.pods_dir.join(uid)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }
}

impl State {
    fn applied(&mut self, pod: Pod) {
        let uid = pod.metadata.uid.clone().expect("a uid");
        let new = || Life { pod: pod.clone(), history: History::default(), ended_at: None };
        self.lives.entry(uid.clone()).or_insert_with(new).pod = pod.clone();
        self.objects.insert(uid, pod.clone());
        self.tell(Update::Applied(Source::Api, Arc::new(pod)));
    }

    fn gone(&mut self, uid: &str) {
        if self.objects.remove(uid).is_some() {
            self.tell(Update::Gone(Source::Api, uid.to_owned()));
        }
    }

    fn tell(&mut self, update: Update) {
        if let Some(watch) = &self.watch {
            // An agent that has just died hears nothing any more.
            drop(watch.send(update));
        }
    }

    fn is_broken(&mut self) -> bool {
        self.broken.as_mut().is_some_and(|chance| chance())
    }

    fn publish(&mut self, uid: &str, status: &PodStatus, now: Timestamp) -> Result<(), PublishError> {
        self.writes += 1;
        let Some(mut pod) = self.objects.get(uid).cloned() else { return Err(PublishError::Gone) };
        if let Some(life) = self.lives.get_mut(uid) {
            if let Err(violation) = life.history.publish(&pod, status) {
                self.violations.push(format!("{uid}: {violation}"));
            }
            if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
                life.ended_at.get_or_insert(now);
            }
        }
        pod.status = Some(status.clone());
        self.applied(pod);
        Ok(())
    }
}

fn unavailable() -> PublishError {
    PublishError::Unavailable("the API was told to fail".into())
}

#[async_trait]
impl PodObjects for Inner {
    async fn publish(&self, pod: &Pod, status: &PodStatus) -> Result<(), PublishError> {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let mut state = self.state();
        if state.is_broken() {
            return Err(unavailable());
        }
        let now = self.clock.now();
        state.publish(uid(pod), status, now)
    }

    async fn delete(&self, pod: &Pod) -> Result<(), PublishError> {
        let mut state = self.state();
        if state.is_broken() {
            return Err(unavailable());
        }
        state.gone(uid(pod));
        Ok(())
    }
}

#[async_trait]
impl PodResources for Inner {
    async fn prepare(&self, pod: &Pod) -> Result<Prepared, Failure> {
        let mut state = self.state();
        if state.is_broken() {
            return Err(Failure { reason: "FailedMount".into(), message: "told to fail".into() });
        }
        state.prepared.insert(uid(pod).to_owned());
        Ok(Prepared { cgroup_parent: format!("/pods/{}", uid(pod)), ..Prepared::default() })
    }

    async fn hosts_file(&self, pod: &Pod, _: &[IpAddr]) -> Result<PathBuf, Failure> {
        Ok(self.pods_dir.join(uid(pod)).join("etc-hosts"))
    }

    async fn suspend(&self, pod: &Pod) -> Result<(), Failure> {
        self.state().prepared.remove(uid(pod));
        Ok(())
    }

    async fn release(&self, pod: &Pod) -> Result<(), Failure> {
        if self.state().is_broken() {
            return Err(Failure { reason: "FailedKillPod".into(), message: "told to fail".into() });
        }
        self.clear(uid(pod));
        Ok(())
    }
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().expect("a uid")
}

fn observation(fake: &FakeRuntime, uid: &str) -> Observation {
    let snapshot = fake.snapshot();
    let is_ours = |labels: &BTreeMap<String, String>| labels.get("io.kubernetes.pod.uid").is_some_and(|u| u == uid);
    let sandboxes = snapshot.sandboxes.iter().filter(|s| is_ours(&s.labels)).map(sandbox).collect();
    let containers = snapshot.containers.iter().filter(|(_, c)| is_ours(&c.labels));
    Observation { sandboxes, containers: containers.map(|(s, c)| container(s, c)).collect(), ..Observation::default() }
}

fn at(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).expect("a time")
}

fn sandbox(status: &v1::PodSandboxStatus) -> SandboxSeen {
    let ready = status.state() == v1::PodSandboxState::SandboxReady;
    SandboxSeen {
        id: status.id.clone(),
        attempt: status.metadata.as_ref().expect("metadata").attempt,
        state: if ready { SandboxState::Ready } else { SandboxState::NotReady },
        created_at: at(status.created_at),
        ips: Vec::new(),
        host_network: false,
    }
}

fn container(sandbox_id: &str, status: &v1::ContainerStatus) -> ContainerSeen {
    let state = match status.state() {
        v1::ContainerState::ContainerCreated => ContainerState::Created,
        v1::ContainerState::ContainerRunning => ContainerState::Running { started_at: at(status.started_at) },
        v1::ContainerState::ContainerExited => ContainerState::Exited(Exit {
            code: status.exit_code,
            reason: status.reason.clone(),
            message: status.message.clone(),
            // One that never started has no time of its start.
            started_at: at(if status.started_at == 0 { status.finished_at } else { status.started_at }),
            finished_at: at(status.finished_at),
        }),
        v1::ContainerState::ContainerUnknown => ContainerState::Unknown,
    };
    ContainerSeen {
        id: status.id.clone(),
        name: status.metadata.as_ref().expect("metadata").name.clone(),
        sandbox_id: sandbox_id.to_owned(),
        restart_count: status.annotations["io.kubernetes.container.restartCount"].parse().expect("a count"),
        hash: status.annotations.get("io.kubernetes.container.hash").cloned(),
        state,
        created_at: at(status.created_at),
        image: String::new(),
        image_id: String::new(),
    }
}
