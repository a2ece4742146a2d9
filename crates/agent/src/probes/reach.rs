//! How a server of a pod is reached: from the node at the pod's address, or, when the manifest says `host: 127.0.0.1`,
//! from inside the pod's network namespace, so that a server that listens on loopback only can be probed. See
//! docs/decisions/loopback-probes.md.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use k8s_openapi::{api::core::v1::Container, apimachinery::pkg::util::intstr::IntOrString};
use podd_cri::v1;
use tokio::net::{TcpSocket, TcpStream};
use tonic::Request;

use crate::worker::Services;

/// Why nothing can be asked of a pod.
pub(super) const NO_ADDRESS: &str = "the pod has no address";

/// The network in which a connection is made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    /// The pod's; none is the node's.
    netns: Option<Arc<OwnedFd>>,
}

/// The pod's own network, found when it is needed and kept as long as the container runs.
pub(crate) struct Inside {
    host_network: bool,
    netns: Option<Arc<OwnedFd>>,
}

impl Inside {
    /// Of a pod whose loopback is, or is not, the node's.
    pub(crate) fn new(host_network: bool) -> Inside {
        Inside { host_network, netns: None }
    }

    /// The network from which `host` is reached; `id` is the container's.
    pub(crate) async fn reach(&mut self, services: &Services, id: &str, host: &str) -> Result<Reach, String> {
        if self.host_network || !is_loopback(host) {
            return Ok(Reach::default());
        }
        let netns = match &self.netns {
            Some(netns) => netns.clone(),
            None => self.netns.insert(Arc::new(network_of(services, id).await?)).clone(),
        };
        Ok(Reach { netns: Some(netns) })
    }
}

impl Reach {
    /// Connects, to the first of the host's addresses that answers.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        let mut addresses: Vec<IpAddr> = match host.parse() {
            Ok(ip) => vec![ip],
            Err(_) if is_loopback(host) => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            Err(_) => Vec::new(),
        };
        if addresses.is_empty() {
            let found = tokio::net::lookup_host((host, port)).await;
            addresses = found.map_err(|e| format!("dial tcp: lookup {host}: {}", words(&e)))?.map(|a| a.ip()).collect();
        }
        let mut error = format!("dial tcp: lookup {host}: no such host");
        for ip in addresses {
            match self.to(SocketAddr::new(ip, port)).await {
                Ok(stream) => return Ok(stream),
                Err(why) => error = format!("dial tcp {}: connect: {}", SocketAddr::new(ip, port), words(&why)),
            }
        }
        Err(error)
    }

    async fn to(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let Some(netns) = self.netns.clone() else { return TcpStream::connect(address).await };
        let v6 = address.is_ipv6();
        let socket = tokio::task::spawn_blocking(move || podd_sys::namespace::tcp_socket(netns.as_fd(), v6));
        let socket = socket.await.map_err(io::Error::other)??;
        TcpSocket::from_std_stream(socket.into()).connect(address).await
    }
}

/// The network namespace of a container, by its process, which the runtime tells to whoever asks for all it knows.
async fn network_of(services: &Services, id: &str) -> Result<OwnedFd, String> {
    let pid = pid_of(services, id).await?;
    let path = format!("/proc/{pid}/ns/net");
    let netns = File::open(&path).map_err(|error| format!("open {path}: {}", words(&error)))?;
    // Another process may have got the number; not if the container still has it.
    if pid_of(services, id).await? != pid {
        return Err("the container ended".to_owned());
    }
    Ok(netns.into())
}

async fn pid_of(services: &Services, id: &str) -> Result<u64, String> {
    let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let call = services.runtime.container_status(Request::new(request));
    let answer = tokio::time::timeout(services.settings.call_deadline, call).await;
    let answer = answer.map_err(|_| "the runtime did not answer".to_owned())?;
    let answer = answer.map_err(|status| status.message().to_owned())?.into_inner();
    let info = answer.info.get("info").and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    let pid = info.as_ref().and_then(|info| info["pid"].as_u64()).filter(|pid| *pid > 0);
    pid.ok_or_else(|| "the runtime does not tell the container's process, by which its network is found".to_owned())
}

/// The number of a port that may stand there by its name.
pub(crate) fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name));
            match named.map(|p| p.container_port).or_else(|| name.parse().ok()) {
                Some(number) => number,
                None => return Err(format!("port {name} not found")),
            }
        }
    };
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// The host that an action names, else the pod's own address.
pub(crate) fn host(named: Option<&str>, own: Option<IpAddr>) -> Result<String, String> {
    match named.filter(|host| !host.is_empty()) {
        Some(host) => Ok(host.to_owned()),
        None => Ok(own.ok_or(NO_ADDRESS)?.to_string()),
    }
}

/// Host and port as one text.
pub(crate) fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What went wrong, as one reads it in Kubernetes' events.
pub(crate) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}
