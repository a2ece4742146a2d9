//! Eviction: every ten seconds the node and what pods hold are measured, and `podd_core` tells what the node is short of
//! and which pods go.

mod measure;
mod node;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use podd_core::{
    classes::is_critical,
    eviction::{
        Condition, EVICTED, GRACE, Observations, PodUse, Pressure, Reclaim, has_limits, message, over_limit, rank,
    },
    pod::{Ending, is_terminal, termination_grace},
};
use podd_cri::RuntimeService;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    events::{Recorder, Severity},
    images::Collector,
    resources::NodeResources,
    source::uid,
    worker::{Ender, Lookup},
};

/// How long the node looks away between two rounds.
const PERIOD: Duration = Duration::from_secs(10);
/// A pod whose files took long to count is left alone for this many times as long: counting takes a tenth of one thread
/// at most, however many files there are.
const REST: u32 = 10;
/// How long a round waits for the end of who was evicted, and how often it looks.
const CLEAN_UP: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(1));

/// The loop and what it works with.
pub(crate) struct Evictor {
    pub(crate) pods: Lookup,
    pub(crate) ender: Ender,
    pub(crate) runtime: Arc<dyn RuntimeService>,
    /// What can go before a pod does.
    pub(crate) collector: Arc<Collector>,
    pub(crate) resources: NodeResources,
    pub(crate) recorder: Recorder,
    pub(crate) log_root: PathBuf,
    /// The agent's state lies on the node's file system.
    pub(crate) root: PathBuf,
    pub(crate) node_name: String,
    pub(crate) pressure: Pressure,
    /// What the node is short of, for whoever tells of it and for admission.
    pub(crate) conditions: watch::Sender<Vec<Condition>>,
}

impl Evictor {
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut resting: HashMap<String, Instant> = HashMap::new();
        let mut images: Option<PathBuf> = None;
        loop {
            let round = async {
                if images.is_none() {
                    images = self.collector.place().await;
                }
                let images = images.clone().unwrap_or_else(|| self.root.clone());
                let evicted = self.round(&images, &mut resting).await;
                if evicted.is_empty() { tokio::time::sleep(PERIOD).await } else { self.wait_for(&evicted).await }
            };
            // A round that is dropped loses nothing: the next agent measures anew.
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = round => {}
            }
        }
    }

    /// One round; tells the uids of whom it has evicted.
    async fn round(&mut self, images: &std::path::Path, resting: &mut HashMap<String, Instant>) -> Vec<String> {
        let observations = self.observe(images).await;
        let round = self.pressure.observe(&observations, Timestamp::now());
        self.conditions.send_if_modified(|old| {
            let changed = *old != round.conditions;
            if changed {
                info!(conditions = ?round.conditions, "what the node is short of has changed");
                old.clone_from(&round.conditions);
            }
            changed
        });
        let evicted = self.hold_to_limits(resting).await;
        match round.reclaim {
            Some(reclaim) if evicted.is_empty() => self.reclaim(&reclaim, images).await.into_iter().collect(),
            _ => evicted,
        }
    }

    async fn observe(&self, images: &std::path::Path) -> Observations {
        let (root, images) = (self.root.clone(), images.to_owned());
        tokio::task::spawn_blocking(move || node::observe(&root, &images)).await.unwrap_or_default()
    }

    /// Evicts every pod that holds more than it may. They are measured one after another.
    async fn hold_to_limits(&self, resting: &mut HashMap<String, Instant>) -> Vec<String> {
        let begun = Instant::now();
        resting.retain(|_, until| begun < *until);
        let mut pods = self.pods.pods();
        pods.retain(|pod| has_limits(pod) && may_be_evicted(pod) && !resting.contains_key(uid(pod)));
        let mut evicted = Vec::new();
        for pod in pods {
            let begun = Instant::now();
            match measure::local(self.runtime.as_ref(), &self.resources, &self.log_root, &pod).await {
                Ok(usage) => {
                    if let Some(message) = over_limit(&pod, &usage) {
                        self.evict(&pod, message, false, GRACE).await;
                        evicted.push(uid(&pod).to_owned());
                    }
                }
                Err(error) => debug!(error, uid = uid(&pod), "what the pod holds was not measured"),
            }
            resting.insert(uid(&pod).to_owned(), Instant::now() + begun.elapsed() * REST);
        }
        evicted
    }

    /// Gets something back: of disk what nobody uses, else, or if that is not enough, evicts the pod whose turn it is.
    async fn reclaim(&self, reclaim: &Reclaim, images: &std::path::Path) -> Option<String> {
        let signal = reclaim.threshold.signal;
        let stalled = node::stalled(signal.condition()).map_or(String::new(), |stalled| format!(" ({stalled})"));
        let told = format!("Attempting to reclaim {}{stalled}", signal.resource());
        self.recorder.node(&self.node_name, Severity::Warning, "EvictionThresholdMet", told);
        if signal.is_disk() {
            self.collector.remove_all().await;
            if self.pressure.is_relieved(&self.observe(images).await) {
                info!(signal = signal.name(), "what nobody used was enough");
                return None;
            }
        }
        let mut pods = self.pods.pods();
        pods.retain(|pod| may_be_evicted(pod));
        if pods.is_empty() {
            warn!(signal = signal.name(), "the node is short of it, and no pod may be evicted");
            return None;
        }
        let uses: BTreeMap<String, PodUse> =
            measure::uses(self.runtime.as_ref(), &self.resources, &self.log_root, &pods, signal.is_disk())
                .await
                .unwrap_or_else(|error| {
                    warn!(error, "what pods use was not measured");
                    BTreeMap::new()
                });
        let mut candidates: Vec<_> = pods.iter().map(|pod| (pod.as_ref(), uses.get(uid(pod)))).collect();
        rank(&mut candidates, signal);
        let (pod, used) = candidates.first()?;
        let grace = self.pressure.grace(&reclaim.threshold, termination_grace(pod));
        self.evict(pod, message(pod, *used, reclaim), true, grace).await;
        Some(uid(pod).to_owned())
    }

    async fn evict(&self, pod: &Pod, message: String, disrupted: bool, grace: Duration) {
        self.recorder.pod(pod, Severity::Warning, EVICTED, message.clone());
        let ending = Ending { reason: EVICTED.to_owned(), message, disrupted };
        self.ender.end(uid(pod), ending, grace).await;
    }

    /// Waits until these pods have failed: what they hold is the node's again.
    async fn wait_for(&self, evicted: &[String]) {
        let (most, pause) = CLEAN_UP;
        let until = Instant::now() + most;
        while Instant::now() < until {
            tokio::time::sleep(pause).await;
            let is_left = |pod: &Arc<Pod>| evicted.iter().any(|one| one == uid(pod)) && !is_terminal(pod);
            if !self.pods.pods().iter().any(is_left) {
                return;
            }
        }
        warn!(?evicted, "evicted pods have not ended in time");
    }
}

/// Whether a pod holds something of the node and is not critical, nor on its way out.
fn may_be_evicted(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none() && !is_critical(pod)
}
