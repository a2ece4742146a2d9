//! One pod's worker as a task: it feeds its [`Machine`] with events and carries out what the machine commands. Looks,
//! actions and publications run beside it; nothing here decides anything.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use podd_core::pod::{Action, Failure, Target};
use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info_span, warn};

use super::{
    act::{Acted, act},
    back_offs::BackOffs,
    machine::{Command, Event, Machine, Order},
    names::identity,
    observe::observe,
    pulls::Pulls,
    services::{PublishError, Services},
    table::Table,
    wish::Wish,
};
use crate::probes::Probers;

/// How long a worker that is closed waits for its short actions, so that none is left half-way.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// What all workers share.
pub(super) struct Shared {
    pub(super) services: Arc<Services>,
    pub(super) table: Table,
    pub(super) pulls: Pulls,
    pub(super) closing: CancellationToken,
}

/// The dispatcher's end of a worker.
pub(super) struct Handle {
    wishes: watch::Sender<Wish>,
    wake: Arc<Notify>,
    seen: Arc<AtomicU64>,
}

impl Handle {
    /// Something else is wanted.
    pub(super) fn tell(&self, wish: Wish) {
        self.wishes.send_replace(wish);
    }

    /// Something may have happened to the pod.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// The fingerprint of what the worker saw last.
    pub(super) fn last_seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }
}

/// A worker and the handle to it. It ends when nothing of the pod is left to do, or when all are closed.
pub(super) fn worker(shared: Arc<Shared>, wish: Wish) -> (Handle, impl Future<Output = ()> + Send) {
    let identity = identity(&wish.pod);
    let span = info_span!("pod", ns = identity.namespace, name = identity.name, uid = identity.uid);
    let (wake, seen) = (Arc::new(Notify::new()), Arc::new(AtomicU64::new(0)));
    let (wishes, newest) = watch::channel(wish);
    let handle = Handle { wishes, wake: wake.clone(), seen: seen.clone() };
    (handle, live(shared, newest, wake, seen).instrument(span))
}

async fn live(shared: Arc<Shared>, mut wishes: watch::Receiver<Wish>, wake: Arc<Notify>, seen: Arc<AtomicU64>) {
    let wish = wishes.borrow_and_update().clone();
    let uid = identity(&wish.pod).uid.to_owned();
    // One failed `open` for a new pod.
    let memory = BackOffs::load(&shared.services.settings.pods_dir.join(&uid)).into_memory();
    let machine = Machine::new(wish, memory);
    let probers = Probers::new(shared.services.clone());
    let (jobs, running, current) = (JoinSet::new(), HashMap::new(), BTreeMap::new());
    let mut life = Life { shared, uid, machine, seen, jobs, running, current, probers };
    let closing = life.shared.closing.clone();
    let mut event = Event::Nudge;
    while life.take(event).await {
        let alarm = life.machine.wake_at(life.now()).map(|at| life.shared.services.clock.until(at));
        let alarm = async {
            match alarm {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        // Every arm may be cancelled: a watch keeps its newest value, a `Notify` its permit, an ended job stays in the set.
        // In order, so that a simulation can be run again.
        event = tokio::select! {
            biased;
            () = closing.cancelled() => break,
            Ok(()) = wishes.changed() => Event::Wish(wishes.borrow_and_update().clone()),
            // One that was given up tells nothing; then it is as if time had passed.
            Some(ended) = life.jobs.join_next_with_id() => life.ended(ended).unwrap_or(Event::Time),
            () = wake.notified() => Event::Nudge,
            told = life.probers.next() => Event::Probed(told),
            () = alarm => Event::Time,
        };
    }
    life.close().await;
}

/// What a job is about.
enum Job {
    Look,
    Publish,
    Act(Action),
}

struct Life {
    shared: Arc<Shared>,
    uid: String,
    machine: Machine,
    seen: Arc<AtomicU64>,
    jobs: JoinSet<Done>,
    running: HashMap<Id, Job>,
    /// The job that is under way for a target; one that was given up is not in it any more.
    current: BTreeMap<Target, (Id, AbortHandle)>,
    probers: Probers,
}

/// What a job came to.
enum Done {
    Seen(Result<(podd_core::pod::Observation, u64), tonic::Status>),
    Published(Result<(), PublishError>),
    Acted(Result<Acted, Failure>),
}

impl Life {
    fn now(&self) -> jiff::Timestamp {
        self.shared.services.clock.now()
    }

    /// Takes in an event and does what follows. False when the pod is finished.
    async fn take(&mut self, event: Event) -> bool {
        let services = self.shared.services.clone();
        let (pod, seen) = (self.machine.pod().clone(), self.machine.seen().cloned());
        let mut goes_on = true;
        for command in self.machine.handle(event, &services.node, services.clock.now()) {
            match command {
                Command::Look => {
                    let (services, pod) = (services.clone(), self.machine.pod().clone());
                    self.spawn(Job::Look, async move { Done::Seen(observe(&services, &pod).await) });
                }
                Command::Act(order) => self.act(order),
                Command::Abandon(target) => {
                    if let Some((_, job)) = self.current.remove(&target) {
                        job.abort();
                    }
                }
                Command::Publish(pod, status) => {
                    let services = services.clone();
                    self.spawn(
                        Job::Publish,
                        async move { Done::Published(services.objects.publish(&pod, &status).await) },
                    );
                }
                Command::Save => self.save().await,
                Command::Report(report) => {
                    let (pod, recorder) = (self.machine.pod(), &services.recorder);
                    match &report.container {
                        Some(name) => recorder.container(pod, name, report.severity, report.reason, report.message),
                        None => recorder.pod(pod, report.severity, report.reason, report.message),
                    }
                }
                Command::Finish => goes_on = false,
            }
        }
        let same_pod = Arc::ptr_eq(&pod, self.machine.pod());
        let same_seen = match (&seen, self.machine.seen()) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (old, new) => old.is_none() && new.is_none(),
        };
        if let Some(seen) = self.machine.seen() {
            self.probers.follow(self.machine.pod(), seen, self.machine.watches());
        }
        if !same_pod || !same_seen {
            self.shared.table.tell(&self.uid, self.machine.pod(), self.machine.seen());
        }
        goes_on
    }

    fn spawn(&mut self, job: Job, work: impl Future<Output = Done> + Send + 'static) -> AbortHandle {
        let handle = self.jobs.spawn(work.in_current_span());
        self.running.insert(handle.id(), job);
        handle
    }

    fn act(&mut self, order: Box<Order>) {
        let (target, action) = (order.action.target(), order.action.clone());
        let shared = self.shared.clone();
        let handle = self
            .spawn(Job::Act(action), async move { Done::Acted(act(&shared.services, &shared.pulls, &order).await) });
        self.current.insert(target, (handle.id(), handle));
    }

    /// The event that follows from the end of a job; none if it was given up.
    fn ended(&mut self, ended: Result<(Id, Done), JoinError>) -> Option<Event> {
        let (id, done) = match ended {
            Ok((id, done)) => (id, Ok(done)),
            Err(error) => (error.id(), Err(error)),
        };
        let job = self.running.remove(&id)?;
        if let Job::Act(action) = &job {
            let target = action.target();
            if self.current.get(&target).is_none_or(|(current, _)| *current != id) {
                return None;
            }
            self.current.remove(&target);
        }
        match (job, done) {
            (_, Ok(Done::Seen(result))) => Some(Event::Seen(result.map(|(seen, fingerprint)| {
                self.seen.store(fingerprint, Ordering::Relaxed);
                seen
            }))),
            (_, Ok(Done::Published(result))) => Some(Event::Published(result)),
            (Job::Act(action), Ok(Done::Acted(result))) => Some(Event::Acted(action, result)),
            (_, Ok(Done::Acted(_))) => None,
            (job, Err(panic)) => {
                error!(error = %panic, "a job of the worker came to grief");
                Some(match job {
                    Job::Look => Event::Seen(Err(tonic::Status::internal("the look came to grief"))),
                    Job::Publish => Event::Published(Err(PublishError::Unavailable(Box::new(panic)))),
                    Job::Act(action) => {
                        let message = "the action came to grief; the agent's log says how".to_owned();
                        Event::Acted(action, Err(Failure { reason: "InternalError".to_owned(), message }))
                    }
                })
            }
        }
    }

    /// What cannot be written is remembered by this agent alone: no reason to leave a container down.
    async fn save(&self) {
        let back_offs = BackOffs::of(self.machine.memory());
        let directory = self.shared.services.settings.pods_dir.join(&self.uid);
        let stored = tokio::task::spawn_blocking(move || back_offs.store(directory)).await;
        if let Err(error) = stored.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            warn!(%error, "back-offs not written");
        }
    }

    /// Lets short actions end; what is patient is dropped, as is what takes too long.
    async fn close(mut self) {
        let until = Instant::now() + CLOSE_PATIENCE;
        let is_short = |job: &Job| matches!(job, Job::Act(action) if !action.is_patient());
        while self.running.values().any(is_short) {
            match tokio::time::timeout_at(until, self.jobs.join_next_with_id()).await {
                Ok(Some(Ok((id, _)))) => self.running.remove(&id),
                Ok(Some(Err(error))) => self.running.remove(&error.id()),
                Ok(None) => return,
                Err(_) => {
                    warn!("an action was dropped half-way, it took too long");
                    return;
                }
            };
        }
    }
}
