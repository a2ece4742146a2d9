//! Starting a container: its configuration from the pod's spec, `CreateContainer`, `StartContainer`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use podd_core::{
    pod::{Failure, Kind, container_hash, members, termination_grace},
    qos, swap,
};
use podd_cri::v1;
use tonic::Request;

use super::{
    super::machine::Order,
    env::{self, Environment},
    expand::expand,
    image, mounts, sandbox,
    security::{self, ImageUser},
    within,
};
use crate::{
    events::Severity,
    references::Names,
    resources::chain,
    worker::{
        last_words,
        names::{
            CONTAINER_NAME, HASH, POD_GRACE, RESTART_COUNT, TERMINATION_PATH, TERMINATION_POLICY, identity, log_path,
        },
        services::{Prepared, Services, Settings},
    },
};

/// What to start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start<'a> {
    pub(super) container: &'a str,
    pub(super) sandbox_id: &'a str,
    pub(super) restart_count: u32,
    pub(super) image_ref: &'a str,
    /// The runtime's id of the container whose processes it sees.
    pub(super) target: Option<&'a str>,
}

/// Creates a container and starts it. Tells the runtime's id for it.
pub(super) async fn start(services: &Services, order: &Order, start: &Start<'_>) -> Result<String, Failure> {
    let outcome = create_and_start(services, order, start).await;
    if let Err(failure) = &outcome {
        let message = format!("Error: {}", failure.message);
        services.recorder.container(&order.pod, start.container, Severity::Warning, "Failed", message);
    }
    outcome
}

async fn create_and_start(services: &Services, order: &Order, start: &Start<'_>) -> Result<String, Failure> {
    let pod = &*order.pod;
    let member = members(pod).into_iter().find(|member| member.name() == start.container);
    let member = member.ok_or_else(|| config_error(format!("no container {}", start.container)))?;
    let container = &*member.spec;
    if member.kind == Kind::Ephemeral {
        // The pod was admitted without it.
        security::verify_no_apparmor(container).map_err(config_error)?;
    }
    let image_user = match security::needs_image_user(pod, container) {
        true => image::status(services, start.image_ref)
            .await?
            .map(|image| ImageUser { uid: image.uid.map(|uid| uid.value), name: image.username })
            .unwrap_or_default(),
        false => ImageUser::default(),
    };
    let hosts = services.resources.hosts_file(pod, &order.ips).await?;
    let prepared = order.prepared.as_deref().cloned().unwrap_or_default();
    let environment = environment(services, order, container, &prepared).await?;
    let sources = mounts::Sources {
        prepared: &prepared,
        hosts: &hosts,
        environment: &environment.known,
        recursive_read_only: services.node.recursive_read_only,
    };
    let mut mounts = mounts::mounts(services, pod, container, &sources).await?;
    mounts.push(last_words::mount(services, pod, container, start.restart_count)?);
    security::map_ids(&mut mounts, prepared.users.as_ref());
    let made = Made { image_user: &image_user, prepared: &prepared, environment, mounts };
    let config = config(pod, container, start, made, &services.settings)?;

    let deadline = services.settings.call_deadline;
    let attempt = 0;
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: start.sandbox_id.to_owned(),
        config: Some(config),
        sandbox_config: Some(sandbox::config(pod, attempt, &prepared, &services.settings)),
    };
    let call = services.runtime.create_container(Request::new(request));
    let id = within(deadline, "CreateContainerError", call).await?.container_id;
    services.recorder.container(pod, start.container, Severity::Normal, "Created", "Container created");

    let request = v1::StartContainerRequest { container_id: id.clone() };
    let call = services.runtime.start_container(Request::new(request));
    within(deadline, "RunContainerError", call).await?;
    services.recorder.container(pod, start.container, Severity::Normal, "Started", "Container started");
    Ok(id)
}

/// What was made for the container before it.
struct Made<'a> {
    image_user: &'a ImageUser,
    prepared: &'a Prepared,
    environment: Environment,
    mounts: Vec<v1::Mount>,
}

fn config(
    pod: &Pod,
    container: &Container,
    start: &Start<'_>,
    made: Made<'_>,
    settings: &Settings,
) -> Result<v1::ContainerConfig, Failure> {
    let known = &made.environment.known;
    let expanded = |list: &Option<Vec<String>>| list.iter().flatten().map(|text| expand(text, known)).collect();
    let users = made.prepared.users.as_ref();
    let mut context = security::of_container(pod, container, made.image_user, users, settings)?;
    if let Some(target) = start.target {
        security::see_processes_of(target, &mut context);
    }
    let mut labels = identity(pod).labels();
    labels.insert(CONTAINER_NAME.to_owned(), container.name.clone());
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: start.restart_count }),
        image: Some(v1::ImageSpec {
            image: start.image_ref.to_owned(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: made.environment.variables(),
        mounts: made.mounts,
        labels,
        annotations: annotations(pod, container, start.restart_count),
        log_path: log_path(&container.name, start.restart_count),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        stop_signal: stop_signal(container)? as i32,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources(pod, container, settings)),
            security_context: Some(context),
        }),
        ..Default::default()
    })
}

/// The environment, of what the spec says and of the objects and files that it names.
async fn environment(
    services: &Services,
    order: &Order,
    container: &Container,
    prepared: &Prepared,
) -> Result<Environment, Failure> {
    let pod = &*order.pod;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let names = Names::of_environment(container);
    let objects = names.fetch(&*services.objects, namespace).await.map_err(|error| config_error(chain(&error)))?;
    let sources = env::Sources {
        pod,
        objects: &objects,
        pod_ips: &order.ips,
        host_ips: &services.node.host_ips,
        node: &services.node.name,
        limits: &services.settings.default_limits,
        prepared,
    };
    env::environment(container, &sources).map_err(config_error)
}

fn annotations(pod: &Pod, container: &Container, restart_count: u32) -> BTreeMap<String, String> {
    let or = |value: &Option<String>, default: &str| value.clone().unwrap_or_else(|| default.to_owned());
    [
        (HASH, container_hash(container)),
        (RESTART_COUNT, restart_count.to_string()),
        (TERMINATION_PATH, or(&container.termination_message_path, last_words::DEFAULT_PATH)),
        (TERMINATION_POLICY, or(&container.termination_message_policy, "File")),
        (POD_GRACE, termination_grace(pod).as_secs().to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// The file of cgroup v2 that bounds a group's swap.
const SWAP_MAX: &str = "memory.swap.max";

fn resources(pod: &Pod, container: &Container, settings: &Settings) -> v1::LinuxContainerResources {
    let numbers = qos::container_numbers(pod, container);
    let (memory_swap_limit_in_bytes, unified) = match settings.swap {
        Some(node) => (0, [(SWAP_MAX.to_owned(), swap::limit(pod, container, node).to_string())].into()),
        // None beyond the memory.
        None => (numbers.memory.unwrap_or(0), Default::default()),
    };
    v1::LinuxContainerResources {
        cpu_period: numbers.cpu_quota.map_or(0, |_| qos::CPU_PERIOD),
        cpu_quota: numbers.cpu_quota.unwrap_or(0),
        cpu_shares: numbers.cpu_shares,
        memory_limit_in_bytes: numbers.memory.unwrap_or(0),
        memory_swap_limit_in_bytes,
        unified,
        oom_score_adj: qos::oom_score_adj(pod, container, settings.memory_capacity),
        ..Default::default()
    }
}

/// The signal that the manifest asks for; none leaves it to the image.
fn stop_signal(container: &Container) -> Result<v1::Signal, Failure> {
    let Some(name) = container.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref()) else {
        return Ok(v1::Signal::RuntimeDefault);
    };
    // CRI has no room for the signs in the names of real-time signals.
    let plain = name.replace('+', "PLUS").replace('-', "MINUS");
    v1::Signal::from_str_name(&plain).ok_or_else(|| config_error(format!("stop signal \"{name}\" is not known")))
}

pub(super) fn config_error(message: String) -> Failure {
    Failure { reason: "CreateContainerConfigError".into(), message }
}

#[cfg(test)]
mod tests;
