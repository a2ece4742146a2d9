//! One task per pod uid: sources' updates become wishes, runtime events wake, what nobody wants is stopped once every
//! source has told all it has.

mod handles;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use podd_core::pod::{ContainerSeen, Ending, termination_grace};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::{Id, JoinSet},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, info, warn};

pub use self::handles::{Ender, Lookup};
use super::{
    life::{self, Handle, Shared},
    pulls::Pulls,
    runtime_watch::{self, Listed, Seen},
    services::{Services, Source, Update},
    table::Table,
    wish::Wish,
};
use crate::source::{full_name, uid};

/// Updates that may wait for the dispatcher; sources wait when it is full.
const UPDATES: usize = 256;
/// Sightings of the runtime that may wait; its watch waits when it is full.
const SIGHTINGS: usize = 1024;
/// How long a worker that came to grief rests before its pod gets another one.
const REST: Duration = Duration::from_secs(10);
/// What stopping all pods may take beyond their grace.
const STOP_SLACK: Duration = Duration::from_secs(60);

/// The pods of the node and their workers. Dropped, it takes its workers with it; pods go on.
pub struct Dispatcher {
    updates: mpsc::Sender<Update>,
    commands: mpsc::Sender<Command>,
    table: Table,
    task: AbortOnDropHandle<()>,
}

pub(super) enum Command {
    End { uid: String, ending: Ending, grace: Duration },
    StopPods { grace: Option<Duration>, done: oneshot::Sender<()> },
    Close,
}

impl Dispatcher {
    /// Begins to take updates. Nothing that the runtime has and no update named is touched before each of `sources` has
    /// sent [`Update::Synced`].
    pub fn start(services: Arc<Services>, sources: Vec<Source>) -> Dispatcher {
        let (updates, incoming) = mpsc::channel(UPDATES);
        let (commands, asked) = mpsc::channel(4);
        let table = Table::default();
        let shared =
            Arc::new(Shared { services, table: table.clone(), pulls: Pulls::new(), closing: CancellationToken::new() });
        let core = Core {
            shared,
            unsynced: sources.into_iter().collect(),
            pods: BTreeMap::new(),
            workers: JoinSet::new(),
            uids: HashMap::new(),
            stopped: Vec::new(),
            stopping: None,
            waiting: BTreeMap::new(),
            relist: Arc::default(),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(core.run(incoming, asked)));
        Dispatcher { updates, commands, table, task }
    }

    /// Where the sources send to.
    pub fn sender(&self) -> mpsc::Sender<Update> {
        self.updates.clone()
    }

    /// All pods: the newest objects with the newest statuses.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.table.all()
    }

    /// A pod by its name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.table.find(namespace, name)
    }

    /// The containers of a pod as they were last seen, all instances that the runtime has: the newest one of a name is the
    /// one with the highest restart count.
    pub fn containers(&self, uid: &str) -> Vec<ContainerSeen> {
        self.table.seen(uid).map(|seen| seen.containers.clone()).unwrap_or_default()
    }

    /// A handle for whoever looks pods up beside the dispatcher's owner.
    pub fn lookup(&self) -> Lookup {
        Lookup { table: self.table.clone() }
    }

    /// A handle for whoever ends pods.
    pub fn ender(&self) -> Ender {
        Ender { commands: self.commands.clone() }
    }

    /// Stops all pods, each with its own grace or with this if it is shorter, and takes away what they have on the node:
    /// sandboxes, mounts, cgroups. Their objects, records and files stay as they are, so that the next agent takes them up
    /// as after a reboot; no pod is begun from now on. Returns when nothing runs any more, or after the longest grace and a
    /// minute.
    pub async fn stop_pods(&self, grace: Option<Duration>) {
        let longest = self.pods().iter().map(|pod| termination_grace(pod)).max().unwrap_or_default();
        let (done, gone) = oneshot::channel();
        if self.commands.send(Command::StopPods { grace, done }).await.is_err() {
            return;
        }
        if tokio::time::timeout(grace.unwrap_or(longest) + STOP_SLACK, gone).await.is_err() {
            let left: Vec<_> = self.pods().iter().map(|pod| full_name(pod)).collect();
            warn!(?left, "pods not stopped in time");
        }
    }

    /// Ends the workers, each as soon as its current step is done. The pods go on.
    pub async fn close(self) {
        if self.commands.send(Command::Close).await.is_ok()
            && let Err(error) = self.task.await
        {
            error!(%error, "dispatcher ended badly");
        }
    }
}

/// A pod that has a worker.
struct Entry {
    /// None for an orphan.
    source: Option<Source>,
    wish: Wish,
    handle: Handle,
    /// What the same uid is wanted for when this life is over.
    next: Option<(Source, Wish)>,
}

/// The node goes down.
#[derive(Clone, Copy)]
struct Stopping {
    grace: Option<Duration>,
    /// Whether the runtime was listed since: before that something may run that nobody has named yet.
    listed: bool,
}

struct Core {
    shared: Arc<Shared>,
    /// Sources that have not told all yet.
    unsynced: BTreeSet<Source>,
    pods: BTreeMap<String, Entry>,
    workers: JoinSet<()>,
    uids: HashMap<Id, String>,
    /// Who waits for all pods to be gone.
    stopped: Vec<oneshot::Sender<()>>,
    /// Set once the node goes down.
    stopping: Option<Stopping>,
    /// Static pods, by uid, that wait for an older one of the same name to end: an edited manifest is a new pod.
    waiting: BTreeMap<String, Wish>,
    /// Asks for a look at all that the runtime has.
    relist: Arc<Notify>,
}

impl Core {
    async fn run(mut self, mut updates: mpsc::Receiver<Update>, mut commands: mpsc::Receiver<Command>) {
        let (seen, mut sightings) = mpsc::channel(SIGHTINGS);
        let watch = runtime_watch::watch(self.shared.services.clone(), seen, self.relist.clone());
        let _watch = AbortOnDropHandle::new(tokio::spawn(watch));
        loop {
            // Every arm may be cancelled: channels lose nothing, and an ended task is kept until it is taken.
            // In order, so that a simulation can be run again.
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(Command::End { uid, ending, grace }) => self.end(&uid, ending, grace),
                    Some(Command::StopPods { grace, done }) => self.stop_pods(grace, done),
                    Some(Command::Close) | None => break,
                },
                Some(ended) = self.workers.join_next_with_id() => self.worker_ended(ended),
                Some(update) = updates.recv() => self.update(update),
                Some(sighting) = sightings.recv() => self.sighting(sighting),
            }
            if self.pods.is_empty() && self.stopping.is_some_and(|stopping| stopping.listed) {
                self.stopped.drain(..).for_each(|done| {
                    // Whoever asked may have gone.
                    let _ = done.send(());
                });
            }
        }
        self.shared.closing.cancel();
        while self.workers.join_next().await.is_some() {}
    }

    fn update(&mut self, update: Update) {
        let now = self.shared.services.clock.now();
        match update {
            Update::Applied(source, pod) => self.wish(source, Wish::applied(pod, now)),
            Update::Refused(source, pod, refusal) => self.wish(source, Wish::refused(pod, refusal, now)),
            Update::Gone(source, uid) => self.gone(source, &uid),
            Update::Synced(source) => {
                if self.unsynced.remove(&source) && self.unsynced.is_empty() {
                    info!("all sources have told what they have");
                    self.shared.table.completed();
                    self.relist.notify_one();
                }
            }
        }
    }

    fn wish(&mut self, source: Source, wish: Wish) {
        let uid = uid(&wish.pod).to_owned();
        let Some(entry) = self.pods.get_mut(&uid) else {
            if source == Source::File && self.is_name_taken(&wish.pod) {
                self.waiting.insert(uid, wish);
            } else if self.stopping.is_none() || wish.is_stop() {
                self.begin(Some(source), wish, Duration::ZERO);
            }
            return;
        };
        if entry.source.is_none() {
            // An orphan that is wanted after all: it ends first.
            entry.next = Some((source, wish));
            return;
        }
        if let Some(later) = entry.wish.join(wish) {
            entry.next = Some((source, later));
            return;
        }
        self.shared.table.object(&uid, &entry.wish.pod);
        self.shared.services.resources.changed(&entry.wish.pod);
        entry.handle.tell(entry.wish.clone());
    }

    fn gone(&mut self, source: Source, uid: &str) {
        let now = self.shared.services.clock.now();
        if source == Source::File {
            self.waiting.remove(uid);
        }
        let Some(entry) = self.pods.get_mut(uid) else { return };
        if entry.next.as_ref().is_some_and(|(of, _)| *of == source) {
            entry.next = None;
        }
        if entry.source == Some(source) {
            entry.wish.gone(now);
            entry.handle.tell(entry.wish.clone());
        }
    }

    fn end(&mut self, uid: &str, ending: Ending, grace: Duration) {
        let kill_at = self.shared.services.clock.now().checked_add(grace).unwrap_or(Timestamp::MAX);
        let Some(entry) = self.pods.get_mut(uid) else { return };
        info!(uid, reason = ending.reason, why = ending.message, "the node ends a pod");
        if entry.wish.end(ending, kill_at) {
            entry.handle.tell(entry.wish.clone());
        }
    }

    fn stop_pods(&mut self, grace: Option<Duration>, done: oneshot::Sender<()>) {
        let now = self.shared.services.clock.now();
        self.stopping = Some(Stopping { grace, listed: false });
        self.waiting.clear();
        self.relist.notify_one();
        for entry in self.pods.values_mut() {
            entry.next = None;
            entry.wish.put_away(grace, now);
            entry.handle.tell(entry.wish.clone());
        }
        self.stopped.push(done);
    }

    fn sighting(&mut self, sighting: Seen) {
        match sighting {
            Seen::Pod(uid) => {
                if let Some(entry) = self.pods.get(&uid) {
                    entry.handle.wake();
                }
            }
            Seen::All(listed) => self.listed(listed),
        }
    }

    /// Wakes whose worker saw something else last, and stops what nobody wants.
    fn listed(&mut self, listed: BTreeMap<String, Listed>) {
        let nothing = Listed::default().fingerprint;
        for (uid, entry) in &self.pods {
            let fingerprint = listed.get(uid).map_or(nothing, |listed| listed.fingerprint);
            if entry.handle.last_seen() != fingerprint {
                entry.handle.wake();
            }
        }
        let now = self.shared.services.clock.now();
        if let Some(stopping) = &mut self.stopping {
            stopping.listed = true;
            let most = stopping.grace;
            for (uid, listed) in listed {
                if listed.alive && !self.pods.contains_key(&uid) {
                    let grace = most.map_or(listed.grace, |most| most.min(listed.grace));
                    self.begin(None, Wish::resting(Arc::new(listed.into_pod(uid)), grace, now), Duration::ZERO);
                }
            }
            return;
        }
        if !self.unsynced.is_empty() {
            return;
        }
        for (uid, listed) in listed {
            if !self.pods.contains_key(&uid) {
                info!(uid, name = listed.name, namespace = listed.namespace, "nobody wants this pod: it is stopped");
                let grace = listed.grace;
                self.begin(None, Wish::orphan(Arc::new(listed.into_pod(uid)), grace, now), Duration::ZERO);
            }
        }
    }

    fn begin(&mut self, source: Option<Source>, wish: Wish, after: Duration) {
        let uid = uid(&wish.pod).to_owned();
        if source.is_some() {
            self.shared.table.object(&uid, &wish.pod);
            self.shared.services.resources.taken_up(&wish.pod);
        }
        let (handle, worker) = life::worker(self.shared.clone(), wish.clone());
        let task = self.workers.spawn(async move {
            if !after.is_zero() {
                tokio::time::sleep(after).await;
            }
            worker.await;
        });
        self.uids.insert(task.id(), uid.clone());
        self.pods.insert(uid, Entry { source, wish, handle, next: None });
    }

    fn worker_ended(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some(uid) = self.uids.remove(&id) else { return };
        let Some(entry) = self.pods.remove(&uid) else { return };
        if let Err(error) = ended {
            error!(%error, uid, "a pod's worker came to grief; it gets another one");
            self.begin(entry.source, entry.wish, REST);
            if let Some(begun) = self.pods.get_mut(&uid) {
                begun.next = entry.next;
            }
            return;
        }
        self.shared.table.remove(&uid);
        if let Some((source, wish)) = entry.next {
            self.begin(Some(source), wish, Duration::ZERO);
        }
        for (uid, wish) in std::mem::take(&mut self.waiting) {
            if self.is_name_taken(&wish.pod) {
                self.waiting.insert(uid, wish);
            } else {
                self.begin(Some(Source::File), wish, Duration::ZERO);
            }
        }
    }

    /// Whether a pod of the same name has not ended yet.
    fn is_name_taken(&self, pod: &Pod) -> bool {
        self.pods.values().any(|entry| full_name(&entry.wish.pod) == full_name(pod))
    }
}
