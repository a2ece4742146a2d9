//! One plugin: how it registers, and how it is called.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use prost::Message;
use tokio::sync::oneshot;

use crate::connection::{CallError, Connection, Service, Status, code};
use crate::frame::MESSAGE_MAX;
use crate::message::{
    ConfigureRequest, ConfigureResponse, Container, ContainerRequest, Empty, Event, PLUGIN_SERVICE, PodRequest,
    PodSandbox, RUNTIME_SERVICE, RegisterPluginRequest, StateChangeEvent, SynchronizeRequest, SynchronizeResponse,
    UpdateContainersRequest, UpdateContainersResponse,
};
use crate::plugins::{Config, Host, NriError};

/// How much of a message pods and containers may fill; the rest is the envelope's.
const ROOM: usize = MESSAGE_MAX - 4096;
/// The version of NRI that this speaks.
const VERSION: &str = "v0.12.0";

/// A plugin that has registered.
pub(crate) struct Plugin {
    /// Two digits: plugins are called in their order.
    pub(crate) index: String,
    pub(crate) base: String,
    pub(crate) connection: Connection,
    events: i32,
    patience: Duration,
    /// The events that it has no call of their own for: older plugins are told by `StateChange`.
    by_state_change: AtomicI32,
}

/// What runtime and plugin have in common before the plugin is called: what it says when it registers.
pub(crate) struct RuntimeService {
    host: Weak<dyn Host>,
    registration: Mutex<Option<oneshot::Sender<RegisterPluginRequest>>>,
}

impl RuntimeService {
    pub(crate) fn new(host: Weak<dyn Host>) -> (Arc<Self>, oneshot::Receiver<RegisterPluginRequest>) {
        let (sender, registered) = oneshot::channel();
        (Arc::new(Self { host, registration: Mutex::new(Some(sender)) }), registered)
    }

    fn register(&self, request: RegisterPluginRequest) -> Result<(), Status> {
        let refuse = |text: String| Err(Status::new(code::INVALID_ARGUMENT, text));
        let RegisterPluginRequest { plugin_name, plugin_idx, .. } = &request;
        if plugin_name.is_empty() {
            return refuse("the plugin has no name".into());
        }
        if plugin_idx.len() != 2 || !plugin_idx.bytes().all(|digit| digit.is_ascii_digit()) {
            return refuse(format!("plugin index {plugin_idx:?} is not of two digits"));
        }
        let waiting = self.registration.lock().unwrap_or_else(PoisonError::into_inner).take();
        match waiting {
            Some(waiting) => {
                // If nobody waits any more, the connection is about to be closed.
                let _late = waiting.send(request);
                Ok(())
            }
            None => Err(Status::new(code::FAILED_PRECONDITION, "the plugin is registered already")),
        }
    }

    async fn update(&self, request: UpdateContainersRequest) -> Result<UpdateContainersResponse, Status> {
        let registered = self.registration.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        let Some(host) = self.host.upgrade().filter(|_| registered) else {
            return Err(Status::new(code::FAILED_PRECONDITION, "the plugin is not registered"));
        };
        Ok(UpdateContainersResponse { failed: host.update(request.update, request.evict).await })
    }
}

#[async_trait::async_trait]
impl Service for RuntimeService {
    async fn call(&self, service: &str, method: &str, payload: &[u8]) -> Result<Vec<u8>, Status> {
        let garbled = |error: prost::DecodeError| Status::new(code::INVALID_ARGUMENT, error.to_string());
        match (service, method) {
            (RUNTIME_SERVICE, "RegisterPlugin") => {
                self.register(RegisterPluginRequest::decode(payload).map_err(garbled)?)?;
                Ok(Empty {}.encode_to_vec())
            }
            (RUNTIME_SERVICE, "UpdateContainers") => {
                let request = UpdateContainersRequest::decode(payload).map_err(garbled)?;
                Ok(self.update(request).await?.encode_to_vec())
            }
            _ => Err(Status::new(code::UNIMPLEMENTED, format!("there is no call {service}/{method}"))),
        }
    }
}

impl Plugin {
    /// Waits for a plugin to register, and asks what it wants to be told. `configuration` is handed to it.
    pub(crate) async fn register(
        connection: Connection,
        registered: oneshot::Receiver<RegisterPluginRequest>,
        config: &Config,
        configuration: String,
    ) -> Result<Self, NriError> {
        let unnamed = |source| NriError::call("a plugin that did not register", "RegisterPlugin", source);
        let registration = tokio::select! {
            registration = tokio::time::timeout(config.registration_timeout, registered) => match registration {
                Ok(registration) => registration.map_err(|_| unnamed(CallError::Closed))?,
                Err(_) => return Err(unnamed(CallError::Timeout(config.registration_timeout))),
            },
            () = connection.closed() => return Err(unnamed(CallError::Closed)),
        };
        let RegisterPluginRequest { plugin_name: base, plugin_idx: index, .. } = registration;
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let request = ConfigureRequest {
            config: configuration,
            runtime_name: config.runtime_name.clone(),
            runtime_version: config.runtime_version.clone(),
            registration_timeout: millis(config.registration_timeout),
            request_timeout: millis(config.request_timeout),
            nri_version: VERSION.to_owned(),
        };
        let name = format!("{index}-{base}");
        let ConfigureResponse { events } = connection
            .call(PLUGIN_SERVICE, "Configure", &request, config.registration_timeout)
            .await
            .map_err(|source| NriError::call(&name, "Configure", source))?;
        if events & !Event::ALL != 0 {
            let status = Status::new(code::INVALID_ARGUMENT, format!("it wants unknown events ({events:#x})"));
            return Err(NriError::call(&name, "Configure", CallError::Refused(status)));
        }
        let events = if events == 0 { Event::ALL } else { events };
        Ok(Self {
            index,
            base,
            connection,
            events,
            patience: config.request_timeout,
            by_state_change: AtomicI32::new(0),
        })
    }

    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.index, self.base)
    }

    pub(crate) fn wants(&self, event: Event) -> bool {
        event.is_in(self.events) && !self.connection.is_closed()
    }

    /// Asks about an event. `None`: the plugin does not want to be asked, or it failed so that it is asked no more.
    pub(crate) async fn ask<Q: Message, R: Message + Default>(
        &self,
        event: Event,
        request: &Q,
    ) -> Result<Option<R>, NriError> {
        if !self.wants(event) {
            return Ok(None);
        }
        let outcome = self.connection.call(PLUGIN_SERVICE, event.method(), request, self.patience).await;
        self.judge(event.method(), outcome)
    }

    /// Tells about an event of a pod, or of a container in it.
    pub(crate) async fn tell(
        &self,
        event: Event,
        pod: &PodSandbox,
        container: Option<&Container>,
    ) -> Result<(), NriError> {
        if !self.wants(event) {
            return Ok(());
        }
        if !event.is_in(self.by_state_change.load(Ordering::Relaxed)) {
            let pod = Some(pod.clone());
            let outcome: Result<Empty, _> = match container {
                None => self.call(event, &PodRequest { pod }).await,
                Some(container) => {
                    self.call(event, &ContainerRequest { pod, container: Some(container.clone()) }).await
                }
            };
            match outcome {
                Err(CallError::Refused(status)) if status.code == code::UNIMPLEMENTED => {
                    self.by_state_change.fetch_or(1 << (event as i32 - 1), Ordering::Relaxed);
                }
                other => return self.judge(event.method(), other).map(drop),
            }
        }
        let request = StateChangeEvent { event: event as i32, pod: Some(pod.clone()), container: container.cloned() };
        let outcome: Result<Empty, _> =
            self.connection.call(PLUGIN_SERVICE, "StateChange", &request, self.patience).await;
        self.judge(event.method(), outcome).map(drop)
    }

    async fn call<Q: Message>(&self, event: Event, request: &Q) -> Result<Empty, CallError> {
        self.connection.call(PLUGIN_SERVICE, event.method(), request, self.patience).await
    }

    /// A refusal is the plugin's word; a plugin that does not answer has none.
    fn judge<R>(&self, what: &'static str, outcome: Result<R, CallError>) -> Result<Option<R>, NriError> {
        match outcome {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.is_fatal() => {
                tracing::warn!(plugin = self.name(), call = what, %error, "an NRI plugin fails and is closed");
                self.connection.close();
                Ok(None)
            }
            Err(error) => Err(NriError::call(&self.name(), what, error)),
        }
    }

    /// Tells what there is, in as many messages as it takes; answers what the plugin wants updated.
    pub(crate) async fn synchronize(
        &self,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
        patience: Duration,
    ) -> Result<SynchronizeResponse, NriError> {
        let failed = |source| NriError::call(&self.name(), "Synchronize", source);
        let mut parts = parts(pods, containers).into_iter().peekable();
        let mut last = SynchronizeResponse::default();
        while let Some(mut part) = parts.next() {
            part.more = parts.peek().is_some();
            last = self.connection.call(PLUGIN_SERVICE, "Synchronize", &part, patience).await.map_err(failed)?;
            if part.more && !last.more {
                let text = "it cannot take more pods and containers than fit into one message";
                return Err(failed(CallError::Refused(Status::new(code::RESOURCE_EXHAUSTED, text))));
            }
        }
        Ok(last)
    }
}

/// What there is, in messages that fit; at least one.
fn parts(pods: Vec<PodSandbox>, containers: Vec<Container>) -> Vec<SynchronizeRequest> {
    let mut parts = vec![SynchronizeRequest::default()];
    let mut room = ROOM;
    let mut next = |size: usize, parts: &mut Vec<SynchronizeRequest>| {
        // Tag and length of a field take at most this.
        let size = size + 8;
        if size > room && *parts.last().unwrap_or(&SynchronizeRequest::default()) != SynchronizeRequest::default() {
            parts.push(SynchronizeRequest::default());
            room = ROOM;
        }
        room = room.saturating_sub(size);
    };
    for pod in pods {
        next(pod.encoded_len(), &mut parts);
        if let Some(part) = parts.last_mut() {
            part.pods.push(pod);
        }
    }
    for container in containers {
        next(container.encoded_len(), &mut parts);
        if let Some(part) = parts.last_mut() {
            part.containers.push(container);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_into_one_message_is_told_in_several() {
        let pod = |id: usize| PodSandbox { id: id.to_string(), name: "x".repeat(1 << 20), ..PodSandbox::default() };
        let container = |id: usize| Container { id: id.to_string(), ..Container::default() };
        assert_eq!(parts(Vec::new(), Vec::new()).len(), 1);
        let parts = parts((0..7).map(pod).collect(), (0..3).map(container).collect());
        assert!(parts.len() > 1 && parts.iter().all(|part| part.encoded_len() <= MESSAGE_MAX - 1024));
        let ids: Vec<_> = parts.iter().flat_map(|part| part.pods.iter().map(|pod| pod.id.clone())).collect();
        assert_eq!(ids, (0..7).map(|id| id.to_string()).collect::<Vec<_>>());
        assert_eq!(parts.iter().map(|part| part.containers.len()).sum::<usize>(), 3);
    }
}
