//! What the runtime has of one pod, in the words of `podd_core`. Two lists with the pod's uid, then a status per sandbox,
//! which brings its containers' along where the runtime can; else a status per container.

use std::{collections::BTreeMap, path::Path};

use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use podd_core::pod::{ContainerSeen, ContainerState, Exit, Observation, SandboxSeen, SandboxState, members};
use podd_cri::v1;
use tonic::{Code, Request, Status};

use super::{
    last_words,
    names::{self, Identity, identity},
    runtime_watch::fingerprint,
    services::Services,
};

/// The pod's sandboxes and containers, and the fingerprint of the lists that they were made from.
pub(super) async fn observe(services: &Services, pod: &Pod) -> Result<(Observation, u64), Status> {
    match tokio::time::timeout(services.settings.call_deadline, look(services, pod)).await {
        Ok(seen) => seen,
        Err(_) => Err(Status::deadline_exceeded("the runtime did not tell in time what it has")),
    }
}

async fn look(services: &Services, pod: &Pod) -> Result<(Observation, u64), Status> {
    let identity = identity(pod);
    let selector = BTreeMap::from([(names::POD_UID.to_owned(), identity.uid.to_owned())]);
    let sandboxes = v1::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() };
    let containers = v1::ContainerFilter { label_selector: selector, ..Default::default() };
    let (sandboxes, containers) = tokio::try_join!(
        services.runtime.list_pod_sandbox(Request::new(v1::ListPodSandboxRequest { filter: Some(sandboxes) })),
        services.runtime.list_containers(Request::new(v1::ListContainersRequest { filter: Some(containers) })),
    )?;
    let (sandboxes, containers) = (sandboxes.into_inner().items, containers.into_inner().containers);
    let print = |id: &str, state| fingerprint(id, state);
    let seen = sandboxes.iter().map(|s| print(&s.id, s.state)).chain(containers.iter().map(|c| print(&c.id, c.state)));
    let fingerprint = seen.fold(0, |all, one| all ^ one);

    let answers = try_join_all(sandboxes.iter().map(|s| sandbox_status(services, &s.id))).await?;
    let mut observation = Observation::default();
    let mut known: BTreeMap<String, v1::ContainerStatus> = BTreeMap::new();
    for answer in answers.into_iter().flatten() {
        observation.sandboxes.extend(answer.status.as_ref().map(sandbox_seen));
        known.extend(answer.containers_statuses.into_iter().map(|status| (status.id.clone(), status)));
    }
    let statuses = try_join_all(containers.iter().map(|listed| {
        let known = known.remove(&listed.id);
        async move {
            match known {
                Some(status) => Ok::<_, Status>(Some((status, listed))),
                None => Ok(container_status(services, &listed.id).await?.map(|status| (status, listed))),
            }
        }
    }))
    .await?;
    let seen = |(status, listed): (_, &v1::Container)| container_seen(status, listed.pod_sandbox_id.clone());
    observation.containers = statuses.into_iter().flatten().map(seen).collect();
    observation.next_by_logs = next_by_logs(services, identity, pod, &observation);
    Ok((observation, fingerprint))
}

/// None for a sandbox that went between the list and this.
async fn sandbox_status(services: &Services, id: &str) -> Result<Option<v1::PodSandboxStatusResponse>, Status> {
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
    found(services.runtime.pod_sandbox_status(Request::new(request)).await)
}

/// None for a container that went between the list and this.
async fn container_status(services: &Services, id: &str) -> Result<Option<v1::ContainerStatus>, Status> {
    let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    Ok(found(services.runtime.container_status(Request::new(request)).await)?.and_then(|answer| answer.status))
}

fn found<T>(answer: Result<tonic::Response<T>, Status>) -> Result<Option<T>, Status> {
    match answer {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

fn sandbox_seen(status: &v1::PodSandboxStatus) -> SandboxSeen {
    let network = status.network.as_ref();
    let additional = network.map(|n| n.additional_ips.as_slice()).unwrap_or_default();
    let ips = network.map(|n| n.ip.as_str()).into_iter().chain(additional.iter().map(|ip| ip.ip.as_str()));
    let namespaces = status.linux.as_ref().and_then(|l| l.namespaces.as_ref()).and_then(|n| n.options.as_ref());
    SandboxSeen {
        id: status.id.clone(),
        attempt: status.metadata.as_ref().map_or(0, |m| m.attempt),
        state: if status.state() == v1::PodSandboxState::SandboxReady {
            SandboxState::Ready
        } else {
            SandboxState::NotReady
        },
        created_at: time(status.created_at),
        ips: ips.filter_map(|ip| ip.parse().ok()).collect(),
        host_network: namespaces.is_some_and(|options| options.network() == v1::NamespaceMode::Node),
    }
}

fn container_seen(status: v1::ContainerStatus, sandbox_id: String) -> ContainerSeen {
    let (name, attempt) = status.metadata.as_ref().map_or_else(Default::default, |m| (m.name.clone(), m.attempt));
    let state = match status.state() {
        v1::ContainerState::ContainerCreated => ContainerState::Created,
        v1::ContainerState::ContainerRunning => ContainerState::Running { started_at: time(status.started_at) },
        v1::ContainerState::ContainerExited => ContainerState::Exited(exit(&status)),
        v1::ContainerState::ContainerUnknown => ContainerState::Unknown,
    };
    let count = status.annotations.get(names::RESTART_COUNT).and_then(|text| text.parse().ok());
    let spec = status.image.clone().unwrap_or_default();
    ContainerSeen {
        id: status.id,
        name,
        sandbox_id,
        restart_count: count.unwrap_or(attempt),
        hash: status.annotations.get(names::HASH).cloned(),
        state,
        created_at: time(status.created_at),
        image: if spec.user_specified_image.is_empty() { spec.image } else { spec.user_specified_image },
        image_id: status.image_ref,
    }
}

fn exit(status: &v1::ContainerStatus) -> Exit {
    let reason = match (status.reason.as_str(), status.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    let message = [status.message.clone(), last_words::read(status)];
    // One that never ran has no start.
    let started_at = if status.started_at > 0 { status.started_at } else { status.created_at };
    Exit {
        code: status.exit_code,
        reason: reason.to_owned(),
        message: message.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": "),
        started_at: time(started_at),
        finished_at: time(status.finished_at),
    }
}

/// CRI counts nanoseconds since the epoch.
fn time(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The restart counts that the logs on disk tell, of containers of which the runtime has no record. A new pod has no log
/// directory, so that this is one failed call for most; the directories of one pod are short.
fn next_by_logs(services: &Services, identity: Identity<'_>, pod: &Pod, seen: &Observation) -> BTreeMap<String, u32> {
    let lacking: Vec<_> = members(pod).iter().map(|m| m.name()).filter(|n| seen.newest(n).is_none()).collect();
    if lacking.is_empty() {
        return BTreeMap::new();
    }
    let directory = identity.log_directory(&services.settings.log_root);
    if !directory.is_dir() {
        return BTreeMap::new();
    }
    lacking.into_iter().filter_map(|name| Some((name.to_owned(), next_log(&directory, name)?))).collect()
}

/// One more than the number of the newest log of a container.
fn next_log(directory: &Path, container: &str) -> Option<u32> {
    let number = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        // Rotated logs have their time behind the name.
        name.split_once(".log")?.0.parse::<u32>().ok()
    };
    let entries = std::fs::read_dir(directory.join(container)).ok()?;
    entries.filter_map(|entry| number(entry.ok()?)).max().map(|newest| newest.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_log_follows_the_highest_rotated_ones_included() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(next_log(directory.path(), "a"), None);
        std::fs::create_dir(directory.path().join("a")).expect("a directory");
        assert_eq!(next_log(directory.path(), "a"), None);
        for name in ["0.log", "3.log.20260101-000000.gz", "2.log", "x.log", "9"] {
            std::fs::write(directory.path().join("a").join(name), "").expect("a file");
        }
        assert_eq!(next_log(directory.path(), "a"), Some(4));
    }

    #[test]
    fn a_container_is_known_by_the_kubelets_annotations() {
        let status = v1::ContainerStatus {
            id: "x".into(),
            metadata: Some(v1::ContainerMetadata { name: "a".into(), attempt: 1 }),
            state: v1::ContainerState::ContainerExited as i32,
            exit_code: 3,
            finished_at: 2_000_000_000,
            annotations: [(names::RESTART_COUNT.to_owned(), "7".to_owned()), (names::HASH.to_owned(), "h".to_owned())]
                .into(),
            ..Default::default()
        };
        let seen = container_seen(status, "s".into());
        assert_eq!((&*seen.name, seen.restart_count, seen.hash.as_deref()), ("a", 7, Some("h")));
        let exit = seen.exit().expect("an end");
        assert_eq!((exit.code, exit.finished_at.as_second(), &*exit.reason), (3, 2, "Error"));
    }
}
