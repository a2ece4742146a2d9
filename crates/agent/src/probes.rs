//! Probes: each is a task of its own, which sleeps until the probe is due, makes it, and tells the pod's worker what came
//! of it; what follows is decided by `podd_core::pod`. A task that waits costs a timer, so that no probe waits for another.
//!
//! ```text
//!  worker ── Watch… ──► Probers ── one task per probe ──► exec (CRI), http, tcp, grpc
//!     ▲                                   │
//!     └───────────── Told ────────────────┘── events
//! ```

mod grpc;
pub(crate) mod http;
pub(crate) mod reach;
mod run;
mod schedule;
mod tls;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use podd_core::pod::{Observation, ProbeKind, Watch, members};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error};

use crate::worker::Services;

/// Results that may wait for the worker.
const RESULTS: usize = 16;

/// The result of one probe that counts.
#[derive(Debug)]
pub(crate) struct Told {
    /// Name of the container.
    pub(crate) container: String,
    /// The runtime's id of it.
    pub(crate) id: String,
    /// What the probe is for.
    pub(crate) kind: ProbeKind,
    /// Whether it succeeded.
    pub(crate) success: bool,
}

/// The probes of one pod. Dropped, it drops what is under way.
pub(crate) struct Probers {
    services: Arc<Services>,
    /// Since when this agent has had the pod.
    since: Timestamp,
    tasks: JoinSet<()>,
    watched: BTreeMap<Key, CancellationToken>,
    tell: mpsc::Sender<Told>,
    told: mpsc::Receiver<Told>,
}

type Key = (String, ProbeKind);

/// A probe with all that it takes to make it.
struct Subject {
    services: Arc<Services>,
    pod: Arc<Pod>,
    container: Container,
    probe: Probe,
    watch: Watch,
    /// The pod's address.
    address: Option<IpAddr>,
    /// Whether the pod's loopback is the node's.
    host_network: bool,
}

impl Probers {
    pub(crate) fn new(services: Arc<Services>) -> Probers {
        let (tell, told) = mpsc::channel(RESULTS);
        let since = services.clock.now();
        Probers { services, since, tasks: JoinSet::new(), watched: BTreeMap::new(), tell, told }
    }

    /// The next result. May be cancelled.
    pub(crate) async fn next(&mut self) -> Told {
        match self.told.recv().await {
            Some(told) => told,
            // Not while we hold a sender.
            None => std::future::pending().await,
        }
    }

    /// Makes these probes from now on, and no others. One that is under way is finished, but nobody hears of it.
    pub(crate) fn follow(&mut self, pod: &Arc<Pod>, seen: &Observation, watches: Vec<Watch>) {
        if watches.is_empty() && self.watched.is_empty() {
            return;
        }
        let wanted: BTreeSet<Key> = watches.iter().map(|watch| (watch.id.clone(), watch.kind)).collect();
        self.watched.retain(|key, ends| {
            let stays = wanted.contains(key);
            if !stays {
                ends.cancel();
            }
            stays
        });
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(error) = ended {
                error!(%error, "a probe came to grief");
            }
        }
        for watch in watches {
            let key = (watch.id.clone(), watch.kind);
            if self.watched.contains_key(&key) {
                continue;
            }
            let Some(subject) = self.subject(pod, seen, watch) else { continue };
            let ends = CancellationToken::new();
            let first = schedule::first(&subject.watch, period(&subject.probe), self.since, self.services.clock.now());
            let task = run::run(subject, first, ends.clone(), self.tell.clone());
            self.tasks.spawn(task.in_current_span());
            self.watched.insert(key, ends);
        }
    }

    fn subject(&self, pod: &Arc<Pod>, seen: &Observation, watch: Watch) -> Option<Subject> {
        let container = members(pod).iter().find(|m| m.name() == watch.container)?.spec.clone().into_owned();
        let probe = watch.kind.of(&container)?.clone();
        let host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        let sandbox = seen.sandboxes.iter().find(|s| s.id == watch.sandbox_id);
        let addresses = if host_network { &self.services.node.host_ips } else { &sandbox?.ips };
        let address = addresses.first().copied();
        Some(Subject {
            services: self.services.clone(),
            pod: pod.clone(),
            container,
            probe,
            watch,
            address,
            host_network,
        })
    }
}

/// How often a probe is made.
fn period(probe: &Probe) -> std::time::Duration {
    let seconds = probe.period_seconds.filter(|seconds| *seconds > 0).unwrap_or(10);
    std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(10))
}
