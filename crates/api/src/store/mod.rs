//! The embedded store: one thread owns every change, readers see what is published.
//!
//! ```text
//! writers ─► queue ─► owner thread: run each on the transaction ─► commit (one fsync) ─► publish ─► answer
//!                                          └─ status and events: publish at once ─┘
//! readers, watchers ─► cache (what is published; never waits for the disk)
//! ```
//! Everything that queued up while the disk was busy goes into one commit. An answer means that the change is
//! on disk. Status and events (`Weight::Light`) become visible before that, so that nobody waits for the disk
//! to learn that a pod runs; revisions are reserved in blocks, so that a crash in between never gives the same
//! revision to two states.

mod cache;
mod disk;
mod object;
mod transaction;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::thread;

use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use cache::{Cache, Change, Happened, TooOld};
use disk::Disk;
pub(crate) use object::{Key, Object};
pub(crate) use transaction::Transaction;

use crate::config::Error;
use crate::failure::Failure;

/// Requests that wait for the owner; more wait outside, which slows their senders.
const QUEUE: usize = 1024;
/// Requests in one commit.
const BATCH: usize = 256;

/// How a change is treated between being made and being on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// What a person wants (spec): visible once it is durable.
    Full,
    /// What is observed (status, events): visible at once, answered once it is durable.
    Light,
}

type Answer = Box<dyn FnOnce(Result<(), Failure>) + Send>;
type Work = Box<dyn FnOnce(&mut Transaction<'_>) -> Option<Answer> + Send>;

struct Request {
    work: Work,
    weight: Weight,
    dry_run: bool,
}

/// The handle of readers and writers.
pub(crate) struct Store {
    cache: Arc<RwLock<Cache>>,
    requests: mpsc::Sender<Option<Request>>,
    closing: watch::Sender<bool>,
    owner: RwLock<Option<thread::JoinHandle<()>>>,
}

impl Store {
    /// Opens the database and starts the owner thread. Blocks on the disk.
    pub(crate) fn open(path: &Path, history: usize) -> Result<Self, Error> {
        let (disk, objects, revision) = Disk::open(path)?;
        let mut cache = Cache::new(revision, history);
        objects.into_iter().for_each(|object| cache.load(object));
        let cache = Arc::new(RwLock::new(cache));
        let (requests, queue) = mpsc::channel(QUEUE);
        let mut owner = Owner { cache: cache.clone(), disk };
        let owner =
            thread::Builder::new().name("api-store".into()).spawn(move || owner.run(queue)).map_err(Error::Thread)?;
        Ok(Self { cache, requests, closing: watch::Sender::new(false), owner: Some(owner).into() })
    }

    /// The published state. Hold it briefly: publishing waits for it.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Cache> {
        self.cache.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns true when the store closes.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Runs `work` on the owner thread and returns when its changes are durable. A refusal or a dry run
    /// changes nothing.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        weight: Weight,
        dry_run: bool,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (sender, receiver) = oneshot::channel();
        // A receiver that is gone is a client that hung up: its change stands all the same.
        let work: Work = Box::new(move |transaction| match work(transaction) {
            Ok(value) => Some(Box::new(move |committed: Result<(), Failure>| {
                drop(sender.send(committed.map(|()| value)));
            })),
            Err(failure) => {
                drop(sender.send(Err(failure)));
                None
            }
        });
        let closed = || Failure::unavailable("the API server is shutting down");
        let request = Request { work, weight, dry_run };
        self.requests.send(Some(request)).await.map_err(|_| closed())?;
        receiver.await.unwrap_or_else(|_| Err(Failure::internal("the store gave no answer; the log says why")))
    }

    /// Lets queued writes finish, then ends the owner thread and closes the database.
    pub(crate) async fn close(&self) -> Result<(), Error> {
        self.closing.send_replace(true);
        // A send fails only when the owner has ended already.
        drop(self.requests.send(None).await);
        let owner = self.owner.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(owner) = owner else { return Ok(()) };
        let joined = tokio::task::spawn_blocking(move || owner.join()).await;
        match joined {
            Ok(Ok(())) => Ok(()),
            _ => Err(Error::Thread(std::io::Error::other("it panicked"))),
        }
    }
}

struct Owner {
    cache: Arc<RwLock<Cache>>,
    disk: Disk,
}

impl Owner {
    /// Serves requests until the closing mark (`None`) or the last handle's end.
    fn run(&mut self, mut queue: mpsc::Receiver<Option<Request>>) {
        while let Some(first) = queue.blocking_recv() {
            let mut batch = Vec::new();
            let mut next = Some(first);
            let mut closing = false;
            while let Some(request) = next {
                let Some(request) = request else {
                    closing = true;
                    break;
                };
                batch.push(request);
                next = if batch.len() < BATCH { queue.try_recv().ok() } else { None };
            }
            self.serve(batch);
            if closing {
                break;
            }
        }
    }

    fn serve(&mut self, batch: Vec<Request>) {
        let cache = self.cache.clone();
        let cache = cache.read().unwrap_or_else(PoisonError::into_inner);
        let mut transaction = Transaction::new(&cache);
        let mut answers = Vec::with_capacity(batch.len());
        // Revisions are published in order: light changes overtake the disk only ahead of the first full one.
        let mut light = 0;
        for Request { work, weight, dry_run } in batch {
            let mark = transaction.mark();
            let answer = catch_unwind(AssertUnwindSafe(|| work(&mut transaction)));
            if dry_run || !matches!(answer, Ok(Some(_))) {
                transaction.roll_back(mark);
            }
            answers.extend(answer.ok().flatten());
            if light == mark && weight == Weight::Light {
                light = transaction.mark();
            }
        }
        let mut changes = transaction.into_changes();
        drop(cache);
        let full = changes.split_off(light);
        let full = self.publish_light(changes, full);
        let committed = self.commit(full);
        answers.into_iter().for_each(|answer| answer(committed.clone()));
    }

    /// Shows the light changes; from the first one whose revision is not reserved yet, all wait for the disk.
    fn publish_light(&mut self, light: Vec<Change>, full: Vec<Change>) -> Vec<Change> {
        let mut light = light;
        let reserved = self.disk.reserved();
        let waiting = light.partition_point(|change| change.object.revision <= reserved);
        let mut later = light.split_off(waiting);
        light.iter().for_each(|change| self.disk.note(change));
        self.publish(light);
        later.extend(full);
        later
    }

    fn commit(&mut self, changes: Vec<Change>) -> Result<(), Failure> {
        let newest = changes.last().map_or_else(
            || self.cache.read().unwrap_or_else(PoisonError::into_inner).revision,
            |change| change.object.revision,
        );
        if changes.is_empty() && !self.disk.has_unwritten() {
            return Ok(());
        }
        match self.disk.commit(&changes, newest) {
            Ok(()) => {
                self.publish(changes);
                Ok(())
            }
            Err(error) => {
                let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
                for change in &changes {
                    let Object { kind, key, .. } = &*change.object;
                    self.disk.note_doubt(change, cache.get(kind, key).as_deref());
                }
                tracing::error!(error = &*error as &dyn std::error::Error, "write the database");
                Err(Failure::internal(format!("write the database: {error}")))
            }
        }
    }

    fn publish(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
        changes.into_iter().for_each(|change| cache.publish(change));
    }
}
