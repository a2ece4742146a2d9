//! What outlives every agent: the API with its objects, the node with what is mounted for pods, and all that is known of
//! each pod's past.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use podd_agent::worker::{Clock, PublishError, Source, Update};
use podd_core::{invariants::History, pod::Refusal};
use tokio::sync::mpsc;

/// What the API and the node keep.
pub(super) struct Outside {
    pub(super) clock: Clock,
    pub(super) pods_dir: PathBuf,
    pub(super) log_root: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<String, Pod>,
    /// Pods that ever were, with the newest object and all that is known of their past.
    pub(super) lives: BTreeMap<String, Life>,
    pub(super) watch: Option<mpsc::UnboundedSender<Update>>,
    /// Pods for which something is mounted.
    pub(super) prepared: BTreeSet<String>,
    /// Pods that the present agent does not take.
    pub(super) refused: BTreeSet<String>,
    /// Whether the node goes down.
    pub(super) resting: bool,
    pub(super) broken: Option<Chance>,
    pub(super) slow: Option<Wait>,
    pub(super) writes: usize,
    pub(super) violations: Vec<String>,
}

/// Whether the next thing fails.
pub(super) type Chance = Box<dyn FnMut() -> bool + Send>;
/// How long the next thing takes.
pub(super) type Wait = Box<dyn FnMut() -> Duration + Send>;

pub(super) struct Life {
    pub(super) pod: Pod,
    /// The objects before that one, without what agents wrote into them.
    pub(super) versions: Vec<Pod>,
    pub(super) history: History,
    /// When a phase that is final was accepted.
    pub(super) ended_at: Option<Timestamp>,
    /// Whether somebody else than the containers ended it: a node that refused it, a controller.
    pub(super) ended_by_others: bool,
    /// When its containers may be killed, and when that was asked for last.
    pub(super) promise: Option<(Timestamp, Timestamp)>,
}

impl Outside {
    pub(super) fn new(clock: Clock, pods_dir: PathBuf, log_root: PathBuf) -> Outside {
        Outside { clock, pods_dir, log_root, state: Mutex::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is mounted for the pod any more and its directory is gone.
    pub(super) fn clear(&self, uid: &str) {
        self.state().prepared.remove(uid);
        match std::fs::remove_dir_all(self.pods_dir.join(uid)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }

    /// Somebody is to see what was done wrong, when the world is checked next.
    pub(super) fn blame(&self, uid: &str, what: impl std::fmt::Display) {
        let now = self.clock.now();
        self.state().violations.push(format!("{uid} at {now}: {what}"));
    }
}

impl State {
    pub(super) fn applied(&mut self, pod: Pod) {
        let uid = uid(&pod).to_owned();
        let new = || Life {
            pod: pod.clone(),
            versions: Vec::new(),
            history: History::default(),
            ended_at: None,
            ended_by_others: false,
            promise: None,
        };
        let life = self.lives.entry(uid.clone()).or_insert_with(new);
        let old = std::mem::replace(&mut life.pod, pod.clone());
        if (&old.metadata, &old.spec) != (&pod.metadata, &pod.spec) {
            life.versions.push(old);
        }
        self.objects.insert(uid, pod.clone());
        self.tell(self.update(pod));
    }

    /// What the agent hears of an object.
    pub(super) fn update(&self, pod: Pod) -> Update {
        if self.refused.contains(uid(&pod)) {
            let refusal = Refusal { reason: "NodePorts".into(), message: "the port is taken".into() };
            return Update::Refused(Source::Api, Arc::new(pod), refusal);
        }
        Update::Applied(Source::Api, Arc::new(pod))
    }

    /// The object goes; its containers were promised this grace from now, or an earlier end.
    pub(super) fn gone(&mut self, uid: &str) {
        if self.objects.remove(uid).is_some() {
            self.tell(Update::Gone(Source::Api, uid.to_owned()));
        }
    }

    /// Containers may be killed from `at` on. Promises only get shorter.
    pub(super) fn promise(&mut self, uid: &str, at: Timestamp, now: Timestamp) {
        if let Some(life) = self.lives.get_mut(uid) {
            let earliest = life.promise.map_or(at, |(earlier, _)| earlier.min(at));
            life.promise = Some((earliest, now));
        }
    }

    pub(super) fn tell(&self, update: Update) {
        if let Some(watch) = &self.watch {
            // An agent that has just died hears nothing any more.
            drop(watch.send(update));
        }
    }

    pub(super) fn is_broken(&mut self) -> bool {
        self.broken.as_mut().is_some_and(|chance| chance())
    }

    pub(super) fn next_wait(&mut self) -> Duration {
        self.slow.as_mut().map(|wait| wait()).unwrap_or_default()
    }

    pub(super) fn publish(&mut self, uid: &str, status: &PodStatus, now: Timestamp) -> Result<(), PublishError> {
        self.writes += 1;
        let Some(mut pod) = self.objects.get(uid).cloned() else { return Err(PublishError::Gone) };
        let refused = self.refused.contains(uid);
        if let Some(life) = self.lives.get_mut(uid) {
            if let Err(violation) = life.history.publish(&pod, status) {
                self.violations.push(format!("{uid}: {violation}"));
            }
            if is_final(status) {
                life.ended_at.get_or_insert(now);
                life.ended_by_others |= refused;
            }
        }
        pod.status = Some(status.clone());
        self.applied(pod);
        Ok(())
    }
}

/// Whether a status says that the pod has ended for good.
pub(super) fn is_final(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

pub(super) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().expect("a uid")
}
