//! Logs, exec, attach and port forwarding of pods: which container is meant is decided here, the rest is the kubelet's.

use axum::extract::Request;
use axum::response::Response;
use http::uri::PathAndQuery;
use http::{Method, Uri};
use hyper::upgrade::OnUpgrade;
use podd_core::field::FieldError;
use podd_cri::streaming;
use serde_json::Value;
use tower::ServiceExt as _;

use crate::config::KubeletTransport;
use crate::failure::Failure;
use crate::query::Query;
use crate::server::Server;
use crate::target::Target;

/// What a kubelet understands of the options of a log; the numbers are checked here.
const LOG_OPTIONS: [(&str, bool); 8] = [
    ("follow", false),
    ("previous", false),
    ("timestamps", false),
    ("sinceTime", false),
    ("stream", false),
    ("sinceSeconds", true),
    ("tailLines", true),
    ("limitBytes", true),
];

/// The options of exec and attach, and the kubelet's names for them.
const STREAM_OPTIONS: [(&str, &str); 4] =
    [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];

/// `GET …/pods/NAME/log`.
pub(crate) async fn log(
    server: &Server,
    target: &Target,
    query: &Query,
    request: Request,
) -> Result<Response, Failure> {
    if request.method() != Method::GET {
        return Err(Failure::method_not_allowed());
    }
    let mut options = Vec::new();
    let mut errors = Vec::new();
    for (name, is_number) in LOG_OPTIONS {
        let Some(value) = query.get(name).filter(|value| !value.is_empty()) else {
            continue;
        };
        if is_number && let Some(number) = query.number(name)? {
            let least = i64::from(name != "tailLines");
            if number < least {
                let detail = format!("must be greater than or equal to {least}");
                errors.push(FieldError::invalid(name, number, detail));
            }
        }
        options.push((name, value));
    }
    if !query.text("sinceSeconds").is_empty() && !query.text("sinceTime").is_empty() {
        let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(FieldError::forbidden("", detail));
    }
    if !errors.is_empty() {
        return Err(Failure::invalid_as("PodLogOptions", "", pod_name(target), &errors));
    }
    let container = container(server, target, query)?;
    forward(server, request, "containerLogs", target, Some(&container), &options).await
}

/// `GET` and `POST …/pods/NAME/exec`.
pub(crate) async fn exec(
    server: &Server,
    target: &Target,
    query: &Query,
    request: Request,
) -> Result<Response, Failure> {
    let mut options = streams(&request, query)?;
    options.extend(query.all().filter(|(name, _)| *name == "command"));
    if query.get("command").is_none() {
        return Err(Failure::bad_request("you must specify at least one command"));
    }
    let container = container(server, target, query)?;
    forward(server, request, "exec", target, Some(&container), &options).await
}

/// `GET` and `POST …/pods/NAME/attach`.
pub(crate) async fn attach(
    server: &Server,
    target: &Target,
    query: &Query,
    request: Request,
) -> Result<Response, Failure> {
    let options = streams(&request, query)?;
    let container = container(server, target, query)?;
    forward(server, request, "attach", target, Some(&container), &options).await
}

/// `GET` and `POST …/pods/NAME/portforward`. Ports are asked for here only by clients that speak the channels of
/// WebSocket; the others name them stream by stream.
pub(crate) async fn port_forward(
    server: &Server,
    target: &Target,
    query: &Query,
    request: Request,
) -> Result<Response, Failure> {
    check_method(&request)?;
    let mut options = Vec::new();
    let values = query.all().filter(|(name, _)| *name == "ports");
    for port in values.flat_map(|(_, value)| value.split(',')) {
        if !port.parse::<u16>().is_ok_and(|number| number > 0) {
            let error = FieldError::invalid("ports", port, "must be between 1 and 65535");
            return Err(Failure::invalid_as("PodPortForwardOptions", "", pod_name(target), &[error]));
        }
        options.push(("port", port));
    }
    pod_here(server, target)?;
    forward(server, request, "portForward", target, None, &options).await
}

fn check_method(request: &Request) -> Result<(), Failure> {
    match *request.method() {
        Method::GET | Method::POST => Ok(()),
        _ => Err(Failure::method_not_allowed()),
    }
}

/// The streams that a request asks for, under the kubelet's names.
fn streams(request: &Request, query: &Query) -> Result<Vec<(&'static str, &'static str)>, Failure> {
    check_method(request)?;
    let on = STREAM_OPTIONS.iter().filter(|(name, _)| query.flag(name));
    let options: Vec<(&str, &str)> = on.map(|(_, kubelets)| (*kubelets, "1")).collect();
    if !options.iter().any(|(name, _)| *name != "tty") {
        return Err(Failure::bad_request("you must specify at least one of stdin, stdout, stderr"));
    }
    Ok(options)
}

fn pod_name(target: &Target) -> &str {
    target.name.as_deref().unwrap_or_default()
}

/// The pod, which must be on this node.
fn pod_here(server: &Server, target: &Target) -> Result<Value, Failure> {
    let pod = server.object(target)?.value();
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let name = pod_name(target);
    if node.is_empty() {
        return Err(Failure::bad_request(format!("pod {name} does not have a host assigned")));
    }
    if node != server.node_name {
        return Err(Failure::unavailable(format!("the node {node:?} of pod {name} is not this one")));
    }
    Ok(pod)
}

/// The container that a request names, or the only one.
fn container(server: &Server, target: &Target, query: &Query) -> Result<String, Failure> {
    choose(&pod_here(server, target)?, pod_name(target), query.text("container"))
}

fn choose(pod: &Value, name: &str, asked: &str) -> Result<String, Failure> {
    let containers = names(pod, "containers");
    let others = [names(pod, "initContainers"), names(pod, "ephemeralContainers")];
    if asked.is_empty() {
        return match containers.as_slice() {
            [one] => Ok((*one).to_owned()),
            many => {
                let mut message =
                    format!("a container name must be specified for pod {name}, choose one of: [{}]", many.join(" "));
                let words = ["init containers", "ephemeral containers"];
                for (word, names) in words.iter().zip(&others).filter(|(_, n)| !n.is_empty()) {
                    message.push_str(&format!(" or one of the {word}: [{}]", names.join(" ")));
                }
                Err(Failure::bad_request(message))
            }
        };
    }
    if containers.iter().chain(others.iter().flatten()).any(|container| *container == asked) {
        return Ok(asked.to_owned());
    }
    Err(Failure::bad_request(format!("container {asked} is not valid for pod {name}")))
}

fn names<'a>(pod: &'a Value, list: &str) -> Vec<&'a str> {
    let containers = pod["spec"][list].as_array().into_iter().flatten();
    containers.filter_map(|container| container["name"].as_str()).collect()
}

/// Passes a request on to the kubelet's `/VERB/NAMESPACE/POD[/CONTAINER]`, an upgrade included.
async fn forward(
    server: &Server,
    request: Request,
    verb: &str,
    target: &Target,
    container: Option<&str>,
    options: &[(&str, &str)],
) -> Result<Response, Failure> {
    let kubelet = server
        .kubelet()
        .ok_or_else(|| Failure::unavailable("the node's agent is not connected yet; try again in a moment"))?;
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let mut path = format!("/{verb}");
    for part in [namespace, pod_name(target)].into_iter().chain(container) {
        path.push('/');
        encode(part, &mut path);
    }
    for (n, (name, value)) in options.iter().enumerate() {
        path.push(if n == 0 { '?' } else { '&' });
        path.push_str(name);
        path.push('=');
        encode(value, &mut path);
    }
    let path: PathAndQuery =
        path.parse().map_err(|e| Failure::bad_request(format!("the options make no request: {e}")))?;
    let (mut parts, body) = request.into_parts();
    let mut onward = Request::new(body);
    *onward.method_mut() = parts.method;
    *onward.uri_mut() = Uri::from(path);
    *onward.headers_mut() = parts.headers;
    // Whoever answers 101 takes the connection over through this.
    if let Some(upgrade) = parts.extensions.remove::<OnUpgrade>() {
        onward.extensions_mut().insert(upgrade);
    }
    match kubelet {
        KubeletTransport::InProcess(router) => Ok(match router.oneshot(onward).await {
            Ok(response) => response,
            Err(never) => match never {},
        }),
        KubeletTransport::Remote(address) => Ok(streaming::proxy(onward, &address).await),
    }
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_container_is_chosen_as_upstream_does() {
        let one = json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(choose(&one, "p", "").unwrap(), "a");
        assert_eq!(choose(&one, "p", "i").unwrap(), "i");
        let wrong = choose(&one, "p", "x").unwrap_err();
        assert_eq!(wrong.message(), "container x is not valid for pod p");

        // Which one an annotation makes the default is the client's business.
        let annotations = json!({"kubectl.kubernetes.io/default-container": "b"});
        let two = json!({"metadata": {"annotations": annotations}, "spec": {
            "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}],
        }});
        let unclear = choose(&two, "p", "").unwrap_err();
        assert_eq!(
            unclear.message(),
            "a container name must be specified for pod p, choose one of: [a b] \
             or one of the init containers: [i]"
        );
    }

    #[test]
    fn queries_survive_the_passing_on() {
        let mut text = String::new();
        encode("sh -c 'a&b=c%d'/é", &mut text);
        assert_eq!(text, "sh%20-c%20%27a%26b%3Dc%25d%27%2F%C3%A9");
    }
}
