//! The fake's world: sandboxes, containers, images, and the rules of CRI on what may happen to them.
//! No time passes here but what is handed in, and nothing is awaited.
//!
//! ```text
//! container:  Created ──start──► Running ──end, stop, kill──► Exited        remove: from anywhere
//! sandbox:    ready ──stop, lost──► not ready                               remove: from anywhere
//! ```

use std::collections::BTreeMap;

use tonic::Status;

use super::clock::nanos;
use super::script::{Behaviour, OnStop};
use crate::v1::*;

/// Exit code of a killed process.
const KILLED: i32 = 137;

#[derive(Clone, Debug)]
pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) config: PodSandboxConfig,
    pub(super) runtime_handler: String,
    pub(super) created_at: i64,
    pub(super) ready: bool,
    /// Absent in the host's network, and once stopped.
    pub(super) ip: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) sandbox_id: String,
    pub(super) config: ContainerConfig,
    pub(super) image_id: String,
    pub(super) created_at: i64,
    pub(super) resources: Option<LinuxContainerResources>,
    pub(super) life: Life,
    pub(super) behaviour: Behaviour,
}

#[derive(Clone, Debug)]
pub(super) enum Life {
    Created,
    Running { started_at: i64, end: Option<End> },
    Exited { started_at: i64, end: End },
}

/// An end that will come, or has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) at: i64,
    pub(super) code: i32,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl End {
    pub(super) fn exit(at: i64, code: i32) -> Self {
        let reason = if code == 0 { "Completed" } else { "Error" };
        Self { at, code, reason, message: String::new() }
    }

    pub(super) fn because(self, reason: &'static str) -> Self {
        Self { reason, ..self }
    }
}

/// Something to tell the watchers.
#[derive(Clone, Debug)]
pub(super) struct Happened {
    pub(super) kind: ContainerEventType,
    /// Container or sandbox.
    pub(super) id: String,
    pub(super) sandbox_id: String,
    pub(super) at: i64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) sandboxes: BTreeMap<String, Sandbox>,
    pub(super) containers: BTreeMap<String, Container>,
    pub(super) images: BTreeMap<String, Image>,
    /// Never goes back, not even in a crash: ids and addresses are never used twice.
    pub(super) made: u64,
    pub(super) happened: Vec<Happened>,
}

impl World {
    pub(super) fn sandbox(&self, id: &str) -> Result<&Sandbox, Status> {
        self.sandboxes.get(id).ok_or_else(|| Status::not_found(format!("no sandbox {id}")))
    }

    pub(super) fn container(&self, id: &str) -> Result<&Container, Status> {
        self.containers.get(id).ok_or_else(|| Status::not_found(format!("no container {id}")))
    }

    fn container_mut(&mut self, id: &str) -> Result<&mut Container, Status> {
        self.containers.get_mut(id).ok_or_else(|| Status::not_found(format!("no container {id}")))
    }

    fn tell(&mut self, kind: ContainerEventType, id: &str, sandbox_id: &str, at: i64) {
        let (id, sandbox_id) = (id.to_owned(), sandbox_id.to_owned());
        self.happened.push(Happened { kind, id, sandbox_id, at });
    }

    pub(super) fn run_sandbox(&mut self, now: i64, request: RunPodSandboxRequest) -> Result<String, Status> {
        let config = request.config.ok_or_else(|| Status::invalid_argument("no config"))?;
        let Some(metadata) = &config.metadata else {
            return Err(Status::invalid_argument("no metadata"));
        };
        if metadata.name.is_empty() || metadata.uid.is_empty() || metadata.namespace.is_empty() {
            return Err(Status::invalid_argument("name, namespace and uid are needed"));
        }
        let mut others = self.sandboxes.values();
        if let Some(other) = others.find(|other| other.config.metadata == config.metadata) {
            let text = format!("sandbox {} is of the same pod and attempt", other.id);
            return Err(Status::already_exists(text));
        }
        self.made += 1;
        let id = format!("sandbox-{:06}", self.made);
        let host = super::view::namespaces(&config).network == NamespaceMode::Node as i32;
        let [.., high, low] = self.made.to_be_bytes();
        let ip = (!host).then(|| format!("10.85.{high}.{low}"));
        let sandbox = Sandbox {
            id: id.clone(),
            config,
            runtime_handler: request.runtime_handler,
            created_at: now,
            ready: true,
            ip,
        };
        self.sandboxes.insert(id.clone(), sandbox);
        self.tell(ContainerEventType::ContainerCreatedEvent, &id, &id, now);
        self.tell(ContainerEventType::ContainerStartedEvent, &id, &id, now);
        Ok(id)
    }

    /// Kills what runs in it and takes its network. Fine when there is none, or all is done.
    pub(super) fn stop_sandbox(&mut self, now: i64, id: &str) {
        self.lose_sandbox(now, id, |now| End::exit(now, KILLED));
    }

    /// As a stop that nobody asked for: `end` says how its containers ended.
    pub(super) fn lose_sandbox(&mut self, now: i64, id: &str, end: impl Fn(i64) -> End) {
        for container in self.containers_of(id) {
            self.end(&container, end(now));
        }
        let Some(sandbox) = self.sandboxes.get_mut(id).filter(|sandbox| sandbox.ready) else {
            return;
        };
        sandbox.ready = false;
        sandbox.ip = None;
        self.tell(ContainerEventType::ContainerStoppedEvent, id, id, now);
    }

    pub(super) fn remove_sandbox(&mut self, now: i64, id: &str) {
        self.stop_sandbox(now, id);
        for container in self.containers_of(id) {
            self.remove_container(now, &container);
        }
        if self.sandboxes.remove(id).is_some() {
            self.tell(ContainerEventType::ContainerDeletedEvent, id, id, now);
        }
    }

    pub(super) fn containers_of(&self, sandbox: &str) -> Vec<String> {
        let all = self.containers.values().filter(|container| container.sandbox_id == sandbox);
        all.map(|container| container.id.clone()).collect()
    }

    pub(super) fn create_container(
        &mut self,
        now: i64,
        request: CreateContainerRequest,
        behaviour: impl FnOnce(&str, &str) -> Behaviour,
    ) -> Result<String, Status> {
        let config = request.config.ok_or_else(|| Status::invalid_argument("no config"))?;
        let metadata = config.metadata.clone().filter(|metadata| !metadata.name.is_empty());
        let metadata = metadata.ok_or_else(|| Status::invalid_argument("no name"))?;
        let sandbox = self.sandbox(&request.pod_sandbox_id)?;
        if !sandbox.ready {
            return Err(Status::failed_precondition(format!("{} is not ready", sandbox.id)));
        }
        let twin = self
            .containers
            .values()
            .find(|other| other.sandbox_id == sandbox.id && other.config.metadata.as_ref() == Some(&metadata));
        if let Some(twin) = twin {
            let text = format!("container {} is of the same name and attempt", twin.id);
            return Err(Status::already_exists(text));
        }
        let name = config.image.as_ref().map_or("", |image| image.image.as_str());
        let image = super::images::find(&self.images, name)
            .ok_or_else(|| Status::not_found(format!("image {name} is not present")))?;
        let image_id = image.id.clone();
        let pod = sandbox.config.metadata.clone().unwrap_or_default();
        let behaviour = behaviour(&format!("{}/{}", pod.namespace, pod.name), &metadata.name);
        let sandbox_id = sandbox.id.clone();
        self.made += 1;
        let id = format!("container-{:06}", self.made);
        let resources = config.linux.as_ref().and_then(|linux| linux.resources.clone());
        let container = Container {
            id: id.clone(),
            sandbox_id: sandbox_id.clone(),
            config,
            image_id,
            created_at: now,
            resources,
            life: Life::Created,
            behaviour,
        };
        self.containers.insert(id.clone(), container);
        self.tell(ContainerEventType::ContainerCreatedEvent, &id, &sandbox_id, now);
        Ok(id)
    }

    pub(super) fn start_container(&mut self, now: i64, id: &str) -> Result<(), Status> {
        let container = self.container(id)?;
        let sandbox = self.sandbox(&container.sandbox_id)?;
        if !sandbox.ready {
            return Err(Status::failed_precondition(format!("{} is not ready", sandbox.id)));
        }
        let container = self.container_mut(id)?;
        if !matches!(container.life, Life::Created) {
            return Err(Status::failed_precondition(format!("{id} has been started before")));
        }
        if let Some(message) = container.behaviour.start_error.clone() {
            let end = End { message: message.clone(), ..End::exit(now, 128) };
            container.life = Life::Exited { started_at: 0, end: end.because("StartError") };
            return Err(Status::unknown(message));
        }
        let end = container.behaviour.ends.map(|(after, code)| {
            let end = End::exit(now.saturating_add(nanos(after)), code);
            if container.behaviour.oom { end.because("OOMKilled") } else { end }
        });
        container.life = Life::Running { started_at: now, end };
        let sandbox = container.sandbox_id.clone();
        self.tell(ContainerEventType::ContainerStartedEvent, id, &sandbox, now);
        Ok(())
    }

    /// Sends the stop signal; when it will have ended, if it runs. A shorter grace than before counts.
    pub(super) fn stop_container(&mut self, now: i64, id: &str, grace: i64) -> Option<i64> {
        let container = self.containers.get_mut(id)?;
        if matches!(container.life, Life::Created) {
            let end = End::exit(now, KILLED);
            container.life = Life::Exited { started_at: 0, end };
            let sandbox = container.sandbox_id.clone();
            self.tell(ContainerEventType::ContainerStoppedEvent, id, &sandbox, now);
            return None;
        }
        let Life::Running { end, .. } = &mut container.life else {
            return None;
        };
        let kill = End::exit(now.saturating_add(grace.max(0)), KILLED);
        let obeyed = match container.behaviour.on_stop {
            OnStop::Exit { after, code } if grace > 0 => Some(End::exit(now.saturating_add(nanos(after)), code)),
            _ => None,
        };
        let earliest = [end.take(), obeyed, Some(kill)].into_iter().flatten().min_by_key(|e| e.at);
        let at = earliest.as_ref().map(|end| end.at);
        *end = earliest;
        at
    }

    pub(super) fn remove_container(&mut self, now: i64, id: &str) {
        self.end(id, End::exit(now, KILLED));
        if let Some(container) = self.containers.remove(id) {
            let sandbox = container.sandbox_id;
            self.tell(ContainerEventType::ContainerDeletedEvent, id, &sandbox, now);
        }
    }

    /// Ends a running container, now. Nothing for any other.
    pub(super) fn end(&mut self, id: &str, end: End) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let Life::Running { started_at, .. } = container.life else {
            return;
        };
        let at = end.at;
        container.life = Life::Exited { started_at, end };
        let sandbox = container.sandbox_id.clone();
        self.tell(ContainerEventType::ContainerStoppedEvent, id, &sandbox, at);
    }

    /// Lets everything happen that should have by now, in order of time.
    pub(super) fn settle(&mut self, now: i64) {
        let mut due: Vec<(End, String)> = self
            .containers
            .values()
            .filter_map(|container| match &container.life {
                Life::Running { end: Some(end), .. } if end.at <= now => Some((end.clone(), container.id.clone())),
                _ => None,
            })
            .collect();
        due.sort_by(|a, b| (a.0.at, &a.1).cmp(&(b.0.at, &b.1)));
        for (end, id) in due {
            self.end(&id, end);
        }
    }

    /// When the next thing happens by itself.
    pub(super) fn next_change(&self) -> Option<i64> {
        let ends = self.containers.values().filter_map(|container| match &container.life {
            Life::Running { end, .. } => end.as_ref().map(|end| end.at),
            _ => None,
        });
        ends.min()
    }

    pub(super) fn update_resources(&mut self, request: UpdateContainerResourcesRequest) -> Result<(), Status> {
        let container = self.container_mut(&request.container_id)?;
        if matches!(container.life, Life::Exited { .. }) {
            return Err(Status::failed_precondition(format!("{} has ended", container.id)));
        }
        let new = request.linux.ok_or_else(|| Status::invalid_argument("no resources"))?;
        let old = container.resources.get_or_insert_default();
        // Zero and empty mean: as it is.
        for (old, new) in [
            (&mut old.cpu_period, new.cpu_period),
            (&mut old.cpu_quota, new.cpu_quota),
            (&mut old.cpu_shares, new.cpu_shares),
            (&mut old.memory_limit_in_bytes, new.memory_limit_in_bytes),
            (&mut old.oom_score_adj, new.oom_score_adj),
            (&mut old.memory_swap_limit_in_bytes, new.memory_swap_limit_in_bytes),
        ] {
            if new != 0 {
                *old = new;
            }
        }
        old.unified.extend(new.unified);
        Ok(())
    }
}
