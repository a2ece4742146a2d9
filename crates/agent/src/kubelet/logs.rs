//! `/containerLogs`: which instance of a container is meant, and its log as a stream.

use std::path::PathBuf;

use axum::{
    body::Body,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use podd_cri::v1;
use serde::Deserialize;

use super::{Kubelet, Refused, container_of, runtime_id, status_of};
use crate::logs::{Selection, follow};

/// The options, as `kubectl logs` and the API server name them.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Options {
    follow: Option<String>,
    previous: Option<String>,
    timestamps: Option<String>,
    since_seconds: Option<i64>,
    since_time: Option<String>,
    tail_lines: Option<u64>,
    limit_bytes: Option<u64>,
}

pub(crate) async fn serve(
    State(kubelet): State<Kubelet>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(options): Query<Options>,
) -> Response {
    match stream(&kubelet, &namespace, &pod, &container, &options).await {
        Ok(response) => response,
        Err(refused) => refused.into_response(),
    }
}

async fn stream(
    kubelet: &Kubelet,
    namespace: &str,
    name: &str,
    container: &str,
    options: &Options,
) -> Result<Response, Refused> {
    let selection = select(options, Timestamp::now())?;
    let pod = kubelet.find(namespace, name)?;
    let id = instance(&pod, container, is_set(options.previous.as_deref()))?;
    let status = kubelet.container_status(&id).await?;
    if status.log_path.is_empty() {
        return Err(Refused::not_found(format!("container \"{container}\" in pod \"{name}\" has no log")));
    }
    let runtime = kubelet.clone();
    let is_running: follow::IsRunning = Box::new(move || {
        let (kubelet, id) = (runtime.clone(), id.clone());
        Box::pin(async move {
            let running = v1::ContainerState::ContainerRunning as i32;
            kubelet.container_status(&id).await.is_ok_and(|status| status.state == running)
        })
    });
    let path = PathBuf::from(status.log_path);
    let stream = follow::stream(&path, selection, is_running).await;
    let stream = stream.map_err(|error| {
        Refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("failed to try resolving symlinks in path {path:?}: {error}"),
        )
    })?;
    Ok(([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(stream)).into_response())
}

impl Kubelet {
    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, Refused> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.runtime.container_status(tonic::Request::new(request)).await;
        let status = answer.map_err(|status| match status.code() {
            tonic::Code::NotFound => Refused::not_found(format!("unable to retrieve container logs for podd://{id}")),
            _ => Refused(StatusCode::INTERNAL_SERVER_ERROR, status.message().to_owned()),
        })?;
        status.into_inner().status.ok_or_else(|| Refused::not_found(format!("container {id} has no status")))
    }
}

fn select(options: &Options, now: Timestamp) -> Result<Selection, Refused> {
    let since = match (options.since_seconds, &options.since_time) {
        (Some(_), Some(_)) => {
            return Err(Refused::bad_request("at most one of sinceTime or sinceSeconds may be specified"));
        }
        (Some(seconds), None) => Some(now.saturating_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN)),
        (None, Some(time)) => {
            let parsed = time.parse::<Timestamp>();
            Some(parsed.map_err(|error| Refused::bad_request(format!("sinceTime: {time:?} is no time: {error}")))?)
        }
        (None, None) => None,
    };
    Ok(Selection {
        since,
        timestamps: is_set(options.timestamps.as_deref()),
        tail: options.tail_lines,
        limit_bytes: options.limit_bytes,
        follow: is_set(options.follow.as_deref()),
    })
}

/// A flag of a query: there, and not denied.
fn is_set(value: Option<&str>) -> bool {
    value.is_some_and(|value| !matches!(value, "false" | "0"))
}

/// The runtime's id of the instance whose log is meant (the kubelet's `validateContainerLogStatus`).
fn instance(pod: &Pod, container: &str, previous: bool) -> Result<String, Refused> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if container_of(pod, container).is_none() {
        return Err(Refused::bad_request(format!("container {container} is not valid for pod {name}")));
    }
    let Some(status) = status_of(pod, container) else {
        let message = format!("container \"{container}\" in pod \"{name}\" is not available");
        return Err(Refused::bad_request(message));
    };
    if previous {
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let id = last.and_then(|last| last.container_id.as_deref()).filter(|id| !id.is_empty());
        return id.map(|id| runtime_id(id).to_owned()).ok_or_else(|| {
            Refused::bad_request(format!("previous terminated container \"{container}\" in pod \"{name}\" not found"))
        });
    }
    newest(status).map(|id| runtime_id(id).to_owned()).ok_or_else(|| {
        let why = waiting_words(status);
        Refused::bad_request(format!("container \"{container}\" in pod \"{name}\" is waiting to start{why}"))
    })
}

/// The instance that runs, has ended, or is about to be started again.
fn newest(status: &ContainerStatus) -> Option<&str> {
    let state = status.state.as_ref();
    let of_current = status.container_id.as_deref().filter(|id| !id.is_empty());
    if state.is_some_and(|state| state.running.is_some()) {
        return of_current;
    }
    let terminated = state.and_then(|state| state.terminated.as_ref());
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    terminated.or(last).and_then(|ended| ended.container_id.as_deref()).filter(|id| !id.is_empty())
}

fn waiting_words(status: &ContainerStatus) -> String {
    let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
    match waiting.and_then(|waiting| waiting.reason.as_deref()) {
        None => " - no logs yet".to_owned(),
        Some("ErrImagePull") => ": image can't be pulled".to_owned(),
        Some("ImagePullBackOff") => ": trying and failing to pull image".to_owned(),
        Some(reason) => format!(": {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(state: Value, last: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c"}]},
            "status": {"containerStatuses": [{
                "name": "c", "image": "i", "imageID": "i", "ready": false, "restartCount": 1,
                "containerID": "podd://new", "state": state, "lastState": last,
            }]},
        }))
        .expect("a pod")
    }

    fn ended(id: &str) -> Value {
        json!({"terminated": {"exitCode": 1, "containerID": format!("podd://{id}")}})
    }

    #[test]
    fn the_instance_is_chosen_as_the_kubelet_does() {
        let running = json!({"running": {}});
        let crashing = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let table = [
            (pod(running.clone(), json!({})), false, Ok("new")),
            (pod(running.clone(), ended("old")), true, Ok("old")),
            (pod(running, json!({})), true, Err("previous terminated container \"c\" in pod \"p\" not found")),
            (pod(ended("new"), ended("old")), false, Ok("new")),
            (pod(crashing.clone(), ended("old")), false, Ok("old")),
            (
                pod(crashing, json!({})),
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: CrashLoopBackOff"),
            ),
            (
                pod(json!({"waiting": {"reason": "ErrImagePull"}}), json!({})),
                false,
                Err("container \"c\" in pod \"p\" is waiting to start: image can't be pulled"),
            ),
        ];
        for (pod, previous, expected) in table {
            let found = instance(&pod, "c", previous).map_err(|refused| refused.1);
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "previous: {previous}, {:?}", pod.status);
        }
        let other = instance(&pod(json!({}), json!({})), "x", false).expect_err("no such container");
        assert_eq!(other, Refused::bad_request("container x is not valid for pod p"));
    }

    #[test]
    fn options_are_read_as_a_query_gives_them() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("a time");
        let options = Options { since_seconds: Some(60), follow: Some("true".into()), ..Default::default() };
        let selection = select(&options, now).expect("good");
        assert_eq!(selection.since, "2026-01-01T00:00:00Z".parse().ok());
        assert!(selection.follow && !selection.timestamps);
        let both = Options { since_time: Some("2026-01-01T00:00:00Z".into()), ..options };
        assert!(select(&both, now).is_err());
        let wrong = Options { since_time: Some("yesterday".into()), ..Default::default() };
        assert!(select(&wrong, now).expect_err("no time").1.contains("yesterday"));
    }
}
