//! Eviction: every ten seconds what pods hold is measured, and `podd_core` tells which of them go.

mod measure;

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use podd_core::{
    eviction::{EVICTED, has_limits, is_critical, over_limit},
    pod::{Ending, is_terminal},
};
use podd_cri::RuntimeService;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    events::{Recorder, Severity},
    resources::NodeResources,
    source::uid,
    worker::{Ender, Lookup},
};

/// How long the node looks away between two rounds.
const PERIOD: Duration = Duration::from_secs(10);
/// A pod whose files took long to count is left alone for this many times as long: counting takes a tenth of one thread
/// at most, however many files there are.
const REST: u32 = 10;
/// What a pod may take to end by itself.
const GRACE: Duration = Duration::from_secs(1);

/// The loop and what it works with.
pub(crate) struct Evictor {
    pub(crate) pods: Lookup,
    pub(crate) ender: Ender,
    pub(crate) runtime: Arc<dyn RuntimeService>,
    pub(crate) resources: NodeResources,
    pub(crate) recorder: Recorder,
    pub(crate) log_root: PathBuf,
}

impl Evictor {
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut resting: HashMap<String, Instant> = HashMap::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                // A timer and a measurement that are dropped lose nothing.
                () = tokio::time::sleep(PERIOD) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.hold_to_limits(&mut resting) => {}
            }
        }
    }

    /// Evicts every pod that holds more than it may. They are measured one after another.
    async fn hold_to_limits(&self, resting: &mut HashMap<String, Instant>) {
        let begun = Instant::now();
        resting.retain(|_, until| begun < *until);
        let mut pods = self.pods.pods();
        pods.retain(|pod| has_limits(pod) && may_be_evicted(pod) && !resting.contains_key(uid(pod)));
        for pod in pods {
            let begun = Instant::now();
            match measure::local(self.runtime.as_ref(), &self.resources, &self.log_root, &pod).await {
                Ok(usage) => {
                    if let Some(message) = over_limit(&pod, &usage) {
                        self.evict(&pod, message, false, GRACE).await;
                    }
                }
                Err(error) => debug!(error, uid = uid(&pod), "what the pod holds was not measured"),
            }
            resting.insert(uid(&pod).to_owned(), Instant::now() + begun.elapsed() * REST);
        }
    }

    async fn evict(&self, pod: &Pod, message: String, disrupted: bool, grace: Duration) {
        self.recorder.pod(pod, Severity::Warning, EVICTED, message.clone());
        let ending = Ending { reason: EVICTED.to_owned(), message, disrupted };
        self.ender.end(uid(pod), ending, grace).await;
    }
}

/// Whether a pod holds something of the node and is not critical, nor on its way out.
fn may_be_evicted(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none() && !is_critical(pod)
}
