//! `podd port-forward`: ports of a pod on this machine, until it is interrupted or the pod has ended.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::Api;
use kube::client::Body;
use kube::runtime::wait::await_condition;
use podd_cri::streaming::{ask_for_forwarding, join_port};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::{api_error, pod_name};
use crate::cli::PortForward;
use crate::client;
use crate::config::Settings;

/// Where connections of one listener go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    /// 0: any free one.
    local: u16,
    remote: u16,
}

/// How connections get to the pod.
#[derive(Clone)]
struct Way {
    client: kube::Client,
    path: String,
}

pub(crate) async fn run(args: PortForward, settings: &Settings) -> anyhow::Result<()> {
    let client = client::connect(settings).await?;
    let namespace = &args.namespace.namespace;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let name = pod_name(&args.pod)?;
    let pod = pods.get(name).await.map_err(api_error)?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    if phase != "Running" {
        anyhow::bail!("unable to forward port because pod is not running. Current status={phase}");
    }
    let ports: Vec<Ports> = args.ports.iter().map(|text| read(text, &pod)).collect::<anyhow::Result<_>>()?;
    let addresses: Vec<Vec<IpAddr>> = args.address.iter().map(|text| address(text)).collect::<anyhow::Result<_>>()?;
    let way = Way { client, path: format!("/api/v1/namespaces/{namespace}/pods/{name}/portforward") };
    // Before the first line is printed: whoever reads it may interrupt at once.
    let mut interrupt = signal(SignalKind::interrupt()).context("wait for an interrupt")?;
    let mut tasks = JoinSet::new();
    for mut ports in ports {
        for addresses in &addresses {
            for listener in listen(addresses, &mut ports).await? {
                let at = listener.local_addr().context("ask a socket for its address")?;
                crate::print::text(&format!("Forwarding from {at} -> {}\n", ports.remote));
                tasks.spawn(serve(listener, ports, way.clone()));
            }
        }
    }
    let uid = pod.metadata.uid;
    let over = move |now: Option<&Pod>| now.is_none_or(|now| now.metadata.uid != uid || super::ended(now).is_some());
    tokio::select! {
        // The listeners and their connections go with this command.
        _ = interrupt.recv() => Ok(()),
        outcome = await_condition(pods, name, over) => {
            outcome.context("watch the pod")?;
            anyhow::bail!("lost connection to pod")
        }
    }
}

/// `PORT`, `LOCAL:PORT` or `:PORT`; the pod's may be a name.
fn read(text: &str, pod: &Pod) -> anyhow::Result<Ports> {
    let wrong = || format!("{text}: not a port, LOCAL:PORT or :PORT; ports are between 1 and 65535");
    let (local, remote) = match text.split_once(':') {
        None => (None, text),
        Some(("", remote)) => (Some(0), remote),
        Some((local, remote)) => {
            (Some(local.parse::<u16>().ok().filter(|port| *port > 0).with_context(wrong)?), remote)
        }
    };
    let remote = match remote.parse::<u16>() {
        Ok(number) => Some(number).filter(|port| *port > 0),
        Err(_) => named(pod, remote),
    };
    let remote = remote.with_context(wrong)?;
    Ok(Ports { local: local.unwrap_or(remote), remote })
}

/// The number of a container's port of that name.
fn named(pod: &Pod, name: &str) -> Option<u16> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let port = ports.find(|port| port.name.as_deref() == Some(name))?;
    u16::try_from(port.container_port).ok()
}

/// An address to listen at; `localhost` is two, of which one is enough.
fn address(text: &str) -> anyhow::Result<Vec<IpAddr>> {
    if text == "localhost" {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    Ok(vec![text.parse().with_context(|| format!("{text} is not a valid IP"))?])
}

/// Listens at those of the addresses where it can; at all of them on the same port.
async fn listen(addresses: &[IpAddr], ports: &mut Ports) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    let mut errors = Vec::new();
    for address in addresses {
        let at = SocketAddr::new(*address, ports.local);
        match TcpListener::bind(at).await {
            Ok(listener) => {
                ports.local = listener.local_addr().context("ask a socket for its address")?.port();
                listeners.push(listener);
            }
            Err(error) => errors.push(format!("{at}: {error}")),
        }
    }
    if listeners.is_empty() {
        anyhow::bail!("unable to listen on port {}: {}", ports.local, errors.join("; "));
    }
    Ok(listeners)
}

/// Takes connections, and carries each to the pod. What goes wrong with one is told, and ends that one.
async fn serve(listener: TcpListener, ports: Ports, way: Way) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("connection not accepted: {error}");
                // Out of descriptors, most likely: not at once again.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        crate::print::text(&format!("Handling connection for {}\n", ports.local));
        let way = way.clone();
        connections.spawn(async move {
            let Ports { local, remote } = ports;
            if let Err(error) = carry(stream, remote, &way).await {
                eprintln!("an error occurred forwarding {local} -> {remote}: {error:#}");
            }
        });
    }
}

async fn carry(stream: TcpStream, port: u16, way: &Way) -> anyhow::Result<()> {
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    let io = way.open().await?;
    match join_port(TokioIo::new(io), port, stream).await {
        Ok(None) => Ok(()),
        Ok(Some(wrong)) => anyhow::bail!("{wrong}"),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => anyhow::bail!("lost connection to pod"),
        Err(error) => Err(error.into()),
    }
}

impl Way {
    async fn open(&self) -> anyhow::Result<Upgraded> {
        let mut request = http::Request::post(&self.path).body(Body::empty()).context("make a request")?;
        ask_for_forwarding(request.headers_mut());
        let response = self.client.send(request).await.map_err(api_error)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return hyper::upgrade::on(response).await.context("switch to SPDY");
        }
        let code = response.status();
        let body = response.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        match serde_json::from_slice::<Status>(&body).ok().and_then(|status| status.message) {
            Some(message) => anyhow::bail!("{message}"),
            None => anyhow::bail!("the API answered {code}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_are_read_as_kubectl_reads_them() {
        let pod = json!({"spec": {"containers": [
            {"name": "a"}, {"name": "b", "ports": [{"name": "http", "containerPort": 8000}]},
        ]}});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let told = |text: &str| read(text, &pod).ok().map(|ports| (ports.local, ports.remote));
        assert_eq!(told("80"), Some((80, 80)));
        assert_eq!(told("8080:80"), Some((8080, 80)));
        assert_eq!(told(":80"), Some((0, 80)));
        assert_eq!(told("http"), Some((8000, 8000)));
        assert_eq!(told("1:http"), Some((1, 8000)));
        for wrong in ["", "0", "65536", "0:80", "x:80", "80:", ":", "1:2:3", "none", "-1"] {
            assert_eq!(told(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn localhost_is_two_addresses_and_a_name_is_none() {
        assert_eq!(address("localhost").expect("it is one").len(), 2);
        assert_eq!(address("0.0.0.0").expect("it is one"), [IpAddr::from([0, 0, 0, 0])]);
        assert!(address("example.org").is_err());
    }
}
