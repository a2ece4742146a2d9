//! `/exec`, `/attach` and `/portForward`: the runtime gives an address for the streams, and the request goes on to it,
//! upgrade and all.

use axum::{
    extract::{Path, Request, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use k8s_openapi::api::core::v1::Pod;
use podd_cri::{
    streaming::{Target, proxy},
    v1,
};
use serde::Deserialize;

use super::{Kubelet, Refused, container_of, runtime_id, status_of};
use crate::worker::names;

/// Whom a path names. Clients that know the pod's uid say it.
#[derive(Deserialize)]
pub(crate) struct Place {
    namespace: String,
    pod: String,
    uid: Option<String>,
    #[serde(default)]
    container: String,
}

/// A command in a container.
pub(crate) async fn exec(State(kubelet): State<Kubelet>, Path(place): Path<Place>, request: Request) -> Response {
    let query = Query::of(request.uri());
    let address = async {
        let query = query?;
        let cmd = query.all("command");
        if cmd.is_empty() {
            return Err(Refused::bad_request("you must specify at least one command"));
        }
        let Wanted { stdin, stdout, stderr, tty } = query.streams()?;
        let pod = kubelet.named(&place)?;
        let container_id = running(&pod, &place.container)?;
        // A terminal has one output.
        let ask = v1::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr: stderr && !tty };
        Ok(kubelet.runtime.exec(tonic::Request::new(ask)).await.map_err(of_runtime)?.into_inner().url)
    };
    pass_on(address.await, request).await
}

/// The streams of a container's first process.
pub(crate) async fn attach(State(kubelet): State<Kubelet>, Path(place): Path<Place>, request: Request) -> Response {
    let query = Query::of(request.uri());
    let address = async {
        let Wanted { stdin, stdout, stderr, .. } = query?.streams()?;
        let pod = kubelet.named(&place)?;
        let container_id = running(&pod, &place.container)?;
        // Whether there is a terminal was decided when the container was made, whatever the client believes.
        let tty = container_of(&pod, &place.container).is_some_and(|container| container.spec.tty == Some(true));
        // What only wants stderr gets the one output of the terminal.
        let stdout = stdout || (tty && stderr);
        let ask = v1::AttachRequest { container_id, stdin, tty, stdout, stderr: stderr && !tty };
        Ok(kubelet.runtime.attach(tonic::Request::new(ask)).await.map_err(of_runtime)?.into_inner().url)
    };
    pass_on(address.await, request).await
}

/// Connections to ports of a pod.
pub(crate) async fn port_forward(
    State(kubelet): State<Kubelet>,
    Path(place): Path<Place>,
    request: Request,
) -> Response {
    let query = Query::of(request.uri());
    let address = async {
        let port = query?.ports()?;
        let pod = kubelet.named(&place)?;
        let pod_sandbox_id = kubelet.ready_sandbox(&pod).await?;
        let ask = v1::PortForwardRequest { pod_sandbox_id, port };
        Ok(kubelet.runtime.port_forward(tonic::Request::new(ask)).await.map_err(of_runtime)?.into_inner().url)
    };
    pass_on(address.await, request).await
}

/// Sends the request on to the address that the runtime gave.
async fn pass_on(address: Result<String, Refused>, mut request: Request) -> Response {
    let broken = |error: &dyn std::fmt::Display| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    match address.and_then(|url| Target::of_url(&url).map_err(|error| broken(&error))) {
        Ok((target, path)) => {
            *request.uri_mut() = Uri::from(path);
            proxy(request, &target).await
        }
        Err(refused) => refused.into_response(),
    }
}

impl Kubelet {
    fn named(&self, place: &Place) -> Result<std::sync::Arc<Pod>, Refused> {
        let Place { namespace, pod: name, uid, .. } = place;
        let pod = self.find(namespace, name)?;
        if uid.as_ref().is_some_and(|uid| pod.metadata.uid.as_ref() != Some(uid)) {
            let message = format!("pod \"{name}\" with that uid not found in namespace \"{namespace}\"");
            return Err(Refused::not_found(message));
        }
        Ok(pod)
    }

    /// The sandbox in which the pod runs now.
    async fn ready_sandbox(&self, pod: &Pod) -> Result<String, Refused> {
        let identity = names::identity(pod);
        let state = v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady as i32 };
        let label_selector = [(names::POD_UID.to_owned(), identity.uid.to_owned())].into();
        let filter = v1::PodSandboxFilter { id: String::new(), state: Some(state), label_selector };
        let ask = v1::ListPodSandboxRequest { filter: Some(filter) };
        let sandboxes = self.runtime.list_pod_sandbox(tonic::Request::new(ask)).await.map_err(of_runtime)?;
        let newest = sandboxes.into_inner().items.into_iter().max_by_key(|sandbox| sandbox.created_at);
        newest.map(|sandbox| sandbox.id).ok_or_else(|| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
            Refused::bad_request(format!("pod \"{}\" is not running; its phase is {phase}", identity.name))
        })
    }
}

/// The runtime's id of a container that runs.
fn running(pod: &Pod, container: &str) -> Result<String, Refused> {
    if container_of(pod, container).is_none() && status_of(pod, container).is_none() {
        return Err(Refused::not_found(format!("container not found (\"{container}\")")));
    }
    let state = status_of(pod, container).and_then(|status| status.state.clone()).unwrap_or_default();
    let id = status_of(pod, container).and_then(|status| status.container_id.as_deref());
    match id.filter(|id| state.running.is_some() && !id.is_empty()) {
        Some(id) => Ok(runtime_id(id).to_owned()),
        None => {
            let is = if state.terminated.is_some() { "has ended" } else { "is waiting to start" };
            let name = names::identity(pod).name;
            Err(Refused::bad_request(format!("container \"{container}\" in pod \"{name}\" is not running; it {is}")))
        }
    }
}

/// What the runtime refuses, as HTTP has it.
fn of_runtime(status: tonic::Status) -> Refused {
    let code = match status.code() {
        tonic::Code::NotFound => StatusCode::NOT_FOUND,
        tonic::Code::InvalidArgument | tonic::Code::FailedPrecondition => StatusCode::BAD_REQUEST,
        tonic::Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        tonic::Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refused(code, status.message().to_owned())
}

/// The streams that are asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

/// A query, under the kubelet's names.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(uri: &Uri) -> Result<Self, Refused> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
        Ok(Self(pairs.map_err(|error| Refused::bad_request(error.to_string()))?.0))
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    fn streams(&self) -> Result<Wanted, Refused> {
        let on = |name: &str| self.0.iter().any(|(key, value)| key == name && (value == "1" || value == "true"));
        let wanted = Wanted { stdin: on("input"), stdout: on("output"), stderr: on("error"), tty: on("tty") };
        if !(wanted.stdin || wanted.stdout || wanted.stderr) {
            return Err(Refused::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
        }
        Ok(wanted)
    }

    /// The ports; clients of SPDY name theirs later, stream by stream.
    fn ports(&self) -> Result<Vec<i32>, Refused> {
        let values = self.all("port");
        let ports = values.iter().flat_map(|value| value.split(','));
        ports
            .map(|text| match text.parse::<u16>() {
                Ok(port) if port > 0 => Ok(i32::from(port)),
                _ => Err(Refused::bad_request(format!("port {text:?} is not between 1 and 65535"))),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn query(text: &str) -> Query {
        Query::of(&format!("/?{text}").parse().expect("an address")).expect("a query")
    }

    #[test]
    fn a_query_says_what_to_run_and_which_streams() {
        let exec = query("command=sh&command=-c&command=echo%20a%26b&input=1&output=1&error=1");
        assert_eq!(exec.all("command"), ["sh", "-c", "echo a&b"]);
        let all = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
        assert_eq!(exec.streams(), Ok(all));
        let terminal = query("output=true&error=1&tty=1").streams().expect("good");
        assert!(terminal.tty && terminal.stdout && !terminal.stdin);
        assert!(query("tty=1&input=0").streams().is_err());
    }

    #[test]
    fn ports_are_numbers_that_may_share_a_value() {
        assert_eq!(query("port=80&port=443,8080").ports(), Ok(vec![80, 443, 8080]));
        assert_eq!(query("").ports(), Ok(vec![]));
        for wrong in ["port=0", "port=65536", "port=http", "port=", "port=-1"] {
            assert!(query(wrong).ports().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_a_container_that_runs_has_streams() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "on"}, {"name": "off"}, {"name": "later"}]},
            "status": {"containerStatuses": [
                {"name": "on", "image": "", "imageID": "", "ready": true, "restartCount": 0, "containerID": "podd://1",
                 "state": {"running": {}}},
                {"name": "off", "image": "", "imageID": "", "ready": false, "restartCount": 0, "containerID": "podd://2",
                 "state": {"terminated": {"exitCode": 1}}},
            ]},
        }))
        .expect("a pod");
        assert_eq!(running(&pod, "on"), Ok("1".into()));
        let ended = running(&pod, "off").expect_err("it has ended");
        assert_eq!(ended, Refused::bad_request("container \"off\" in pod \"p\" is not running; it has ended"));
        assert!(running(&pod, "later").expect_err("it waits").1.contains("is waiting to start"));
        assert_eq!(running(&pod, "none"), Err(Refused::not_found("container not found (\"none\")")));
    }
}
