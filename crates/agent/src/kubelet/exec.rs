//! `/exec`: the runtime gives an address for the streams, and the request goes on to it, upgrade and all.

use axum::{
    extract::{Path, Request, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use podd_cri::{
    streaming::{Target, proxy},
    v1,
};

use super::{Kubelet, Refused, runtime_id, status_of};

pub(crate) async fn serve(
    State(kubelet): State<Kubelet>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    request: Request,
) -> Response {
    forward(&kubelet, &namespace, &pod, None, &container, request).await.unwrap_or_else(IntoResponse::into_response)
}

pub(crate) async fn serve_uid(
    State(kubelet): State<Kubelet>,
    Path((namespace, pod, uid, container)): Path<(String, String, String, String)>,
    request: Request,
) -> Response {
    let outcome = forward(&kubelet, &namespace, &pod, Some(&uid), &container, request).await;
    outcome.unwrap_or_else(IntoResponse::into_response)
}

async fn forward(
    kubelet: &Kubelet,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
    container: &str,
    mut request: Request,
) -> Result<Response, Refused> {
    let exec = read(request.uri().query().unwrap_or_default())?;
    let pod = kubelet.find(namespace, name)?;
    if uid.is_some_and(|uid| pod.metadata.uid.as_deref() != Some(uid)) {
        return Err(Refused::not_found(format!("pod \"{name}\" with that uid not found in namespace \"{namespace}\"")));
    }
    let missing = || Refused::not_found(format!("container not found (\"{container}\")"));
    let status = status_of(&pod, container).ok_or_else(missing)?;
    let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
    let id = status.container_id.as_deref().filter(|id| running && !id.is_empty()).ok_or_else(missing)?;
    let ask = v1::ExecRequest { container_id: runtime_id(id).to_owned(), ..exec };
    let answer = kubelet.runtime.exec(tonic::Request::new(ask)).await;
    let url = answer.map_err(|status| Refused(StatusCode::INTERNAL_SERVER_ERROR, status.message().to_owned()))?;
    let (target, path) = Target::of_url(&url.into_inner().url)
        .map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    *request.uri_mut() = Uri::from(path);
    Ok(proxy(request, &target).await)
}

/// The options of exec, under the kubelet's names.
fn read(query: &str) -> Result<v1::ExecRequest, Refused> {
    let pairs: Vec<(String, String)> = serde_urlencoded(query)?;
    let on = |name: &str| pairs.iter().any(|(key, value)| key == name && (value == "1" || value == "true"));
    let cmd: Vec<String> = pairs.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.clone()).collect();
    if cmd.is_empty() {
        return Err(Refused::bad_request("you must specify at least one command"));
    }
    let (stdin, stdout, stderr, tty) = (on("input"), on("output"), on("error"), on("tty"));
    if !(stdin || stdout || stderr) {
        return Err(Refused::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    // A terminal has one output.
    Ok(v1::ExecRequest { container_id: String::new(), cmd, tty, stdin, stdout, stderr: stderr && !tty })
}

fn serde_urlencoded(query: &str) -> Result<Vec<(String, String)>, Refused> {
    let uri = Uri::builder().path_and_query(format!("/?{query}")).build();
    let uri = uri.map_err(|error| Refused::bad_request(format!("query: {error}")))?;
    let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri);
    Ok(pairs.map_err(|error| Refused::bad_request(error.to_string()))?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_what_to_run_and_which_streams() {
        let exec = read("command=sh&command=-c&command=echo%20a%26b&input=1&output=1&error=1").expect("good");
        assert_eq!(exec.cmd, ["sh", "-c", "echo a&b"]);
        assert!(exec.stdin && exec.stdout && exec.stderr && !exec.tty);
        let terminal = read("command=sh&output=1&error=1&tty=1").expect("good");
        assert!(terminal.tty && !terminal.stderr && !terminal.stdin);
        assert!(read("output=1").is_err());
        assert!(read("command=sh").is_err());
    }
}
