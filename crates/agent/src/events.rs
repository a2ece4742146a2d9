//! Events: core/v1 Event objects about pods and the node, written in the background. Recording never waits: the queue is
//! bounded and a full queue drops the event with a debug line. What is written, counted up or dropped is decided by
//! [`correlate::Correlator`], a value without a clock.

mod correlate;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use correlate::{Correlator, Write};

/// How many events may wait to be written.
const QUEUE: usize = 1000;
/// How often one event is tried when the API does not answer.
const TRIES: u32 = 5;
/// Pause between two tries.
const RETRY: Duration = Duration::from_secs(2);
/// A write that takes longer than this counts as failed.
const DEADLINE: Duration = Duration::from_secs(10);

/// The two types of core/v1 events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Something expected happened.
    Normal,
    /// Something a person may want to look at.
    Warning,
}

impl Severity {
    /// The word in the Event object.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// One thing that happened, as recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The object concerned.
    pub subject: ObjectReference,
    /// Normal or Warning.
    pub severity: Severity,
    /// The machine-readable reason, in CamelCase.
    pub reason: String,
    /// The sentence for people.
    pub message: String,
    /// When it happened.
    pub at: Timestamp,
}

/// Reference to a pod, or to one of its containers by its field path (`spec.containers{name}`).
pub fn pod_reference(pod: &Pod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

/// Field path of a container as events name it.
pub fn container_field_path(pod: &Pod, container: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let in_list = |list: &[k8s_openapi::api::core::v1::Container]| list.iter().any(|c| c.name == container);
    if in_list(&spec.containers) {
        Some(format!("spec.containers{{{container}}}"))
    } else if in_list(spec.init_containers.as_deref().unwrap_or_default()) {
        Some(format!("spec.initContainers{{{container}}}"))
    } else if spec.ephemeral_containers.iter().flatten().any(|c| c.name == container) {
        Some(format!("spec.ephemeralContainers{{{container}}}"))
    } else {
        None
    }
}

/// Reference to the node; its UID is the node's name, as the kubelet has it.
pub fn node_reference(name: &str) -> ObjectReference {
    ObjectReference { kind: Some("Node".into()), name: Some(name.into()), uid: Some(name.into()), ..Default::default() }
}

/// Cheap handle with which every part of the agent records events.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Record>,
}

impl Recorder {
    /// A recorder and the task that writes its events; the task ends when `shutdown` fires or all recorders are gone.
    pub fn new(
        client: Client,
        node_name: &str,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (queue, records) = mpsc::channel(QUEUE);
        let source = Arc::new(EventSource { component: Some("podd".into()), host: Some(node_name.into()) });
        (Self { queue }, write_all(client, source, records, shutdown))
    }

    /// A recorder and the other end of its queue, for tests and simulations.
    pub fn queue(capacity: usize) -> (Self, mpsc::Receiver<Record>) {
        let (queue, records) = mpsc::channel(capacity);
        (Self { queue }, records)
    }

    /// Record an event about any object.
    pub fn record(&self, record: Record) {
        if let Err(error) = self.queue.try_send(record) {
            debug!(%error, "event dropped");
        }
    }

    /// Record an event about a pod.
    pub fn pod(&self, pod: &Pod, severity: Severity, reason: &str, message: impl Into<String>) {
        self.record(Record {
            subject: pod_reference(pod, None),
            severity,
            reason: reason.into(),
            message: message.into(),
            at: Timestamp::now(),
        });
    }

    /// Record an event about a container of a pod.
    pub fn container(&self, pod: &Pod, container: &str, severity: Severity, reason: &str, message: impl Into<String>) {
        self.record(Record {
            subject: pod_reference(pod, container_field_path(pod, container)),
            severity,
            reason: reason.into(),
            message: message.into(),
            at: Timestamp::now(),
        });
    }

    /// Record an event about the node.
    pub fn node(&self, name: &str, severity: Severity, reason: &str, message: impl Into<String>) {
        self.record(Record {
            subject: node_reference(name),
            severity,
            reason: reason.into(),
            message: message.into(),
            at: Timestamp::now(),
        });
    }
}

async fn write_all(
    client: Client,
    source: Arc<EventSource>,
    mut records: mpsc::Receiver<Record>,
    shutdown: CancellationToken,
) {
    let mut correlator = Correlator::default();
    loop {
        // Both arms may be cancelled: `recv` loses nothing, and after the shutdown no event matters any more.
        let record = tokio::select! {
            () = shutdown.cancelled() => return,
            record = records.recv() => match record { Some(record) => record, None => return },
        };
        let Some(write) = correlator.observe(record) else { continue };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = write_one(&client, &source, write) => {}
        }
    }
}

async fn write_one(client: &Client, source: &EventSource, mut write: Write) {
    for attempt in 1..=TRIES {
        let outcome = tokio::time::timeout(DEADLINE, try_write(client, source, &write)).await;
        match outcome {
            Ok(Ok(())) => return,
            // The event we were counting up has expired: write it afresh, with its count.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 && !write.create => write.create = true,
            // The API refused it: trying again changes nothing (the namespace may be gone).
            Ok(Err(kube::Error::Api(status))) if status.code < 500 => {
                debug!(reason = write.record.reason, error = %status.message, "event refused");
                return;
            }
            Ok(Err(error)) => debug!(%error, attempt, "event not written"),
            Err(_) => debug!(attempt, "event not written in time"),
        }
        if attempt < TRIES {
            tokio::time::sleep(RETRY).await;
        }
    }
    warn!(reason = write.record.reason, message = write.record.message, "event lost, the API does not take it");
}

async fn try_write(client: &Client, source: &EventSource, write: &Write) -> Result<(), kube::Error> {
    let record = &write.record;
    let namespace = record.subject.namespace.as_deref().unwrap_or("default");
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    if write.create {
        events.create(&PostParams::default(), &object(source, write, namespace)).await?;
    } else {
        let patch = serde_json::json!({
            "count": write.count,
            "lastTimestamp": Time(record.at),
            "message": record.message,
        });
        events.patch(&write.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    }
    Ok(())
}

fn object(source: &EventSource, write: &Write, namespace: &str) -> Event {
    let record = &write.record;
    Event {
        metadata: ObjectMeta {
            name: Some(write.name.clone()),
            namespace: Some(namespace.into()),
            ..Default::default()
        },
        involved_object: record.subject.clone(),
        type_: Some(record.severity.as_str().into()),
        reason: Some(record.reason.clone()),
        message: Some(record.message.clone()),
        count: Some(write.count),
        first_timestamp: Some(Time(write.first)),
        last_timestamp: Some(Time(record.at)),
        source: Some(source.clone()),
        reporting_component: Some("podd".into()),
        reporting_instance: source.host.clone(),
        ..Default::default()
    }
}
