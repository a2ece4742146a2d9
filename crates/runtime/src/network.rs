//! The pods' network: records of the runtime in the words of `podd-net`, and its errors in CRI's. Beside it are the
//! plugins of CNI ([`cni`]); which of the two wires a pod is decided when the pod is made.

pub(crate) mod cni;

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use podd_net::{Attached, Config, Error, Kind, Network, PortMapping, Protocol};

use self::cni::Cni;
use crate::error::{CriError, Result};
use crate::records::{PortMeta, SandboxMeta};
use crate::sandbox::Sandbox;

/// The usual network of an instance.
pub(crate) fn config(instance: &str, root: &Path, boot_id: &str) -> Config {
    Config::new(instance, &root.join("network"), boot_id)
}

/// Reads the leases; nothing else happens yet.
pub(crate) fn open(config: Config) -> Result<Network> {
    Network::open(config).map_err(|error| cri("open the network", error))
}

/// Connects a sandbox that has its own network namespace: by plugins when there is a configuration, else by podd.
/// `pod_cidr` is the node's range, which plugins may want.
pub(crate) fn attach(
    network: &Network,
    cni: &Cni,
    meta: &SandboxMeta,
    pod_cidr: &str,
    netns: BorrowedFd<'_>,
) -> Result<Vec<IpAddr>> {
    let chosen = cni.choose().map_err(|why| CriError::Precondition(format!("the network is not ready: {why}")))?;
    if let Some(list) = chosen {
        return cni.attach(list, meta, pod_cidr, netns);
    }
    let what = || format!("attach the network of sandbox {}", meta.id);
    network.attach(&meta.id, netns, &ports(meta)?).map_err(|error| cri(&what(), error))
}

/// Gives back what a sandbox has of the network, if it has anything.
pub(crate) fn detach(network: &Network, cni: &Cni, meta: &SandboxMeta) -> Result<()> {
    cni.detach(&meta.id)?;
    network.detach(&meta.id).map_err(|error| cri(&format!("detach the network of sandbox {}", meta.id), error))
}

/// Brings leases and kernel in line with the sandboxes that live and are not the plugins'.
pub(crate) fn restore(network: &Network, cni: &Cni, live: &[Arc<Sandbox>]) -> Result<()> {
    let attached = |sandbox: &Arc<Sandbox>| {
        let ports = ports(&sandbox.meta)?;
        Ok(Attached { sandbox: sandbox.id().to_owned(), addresses: sandbox.status().ips, ports })
    };
    let live = live.iter().filter(|sandbox| !cni.has(sandbox.id())).map(attached).collect::<Result<Vec<_>>>()?;
    network.restore(&live).map_err(|error| cri("restore the network", error))
}

/// Takes the network away when no sandbox is left in it.
pub(crate) fn shutdown(network: &Network) -> Result<()> {
    network.shutdown().map_err(|error| cri("shut the network down", error))
}

fn ports(meta: &SandboxMeta) -> Result<Vec<PortMapping>> {
    meta.ports.iter().map(port).collect()
}

fn port(port: &PortMeta) -> Result<PortMapping> {
    let protocol = match port.protocol.as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => return Err(CriError::invalid(format!("protocol {other:?} of a port is not known"))),
    };
    Ok(PortMapping { protocol, host_ip: port.host_ip, host_port: port.host_port, container_port: port.container_port })
}

/// What a caller of CRI is told. What the machine may get over is worth another try; the rest says what to change.
fn cri(what: &str, error: Error) -> CriError {
    match error.kind() {
        Kind::Invalid => CriError::Invalid(error.to_string()),
        Kind::Exhausted => CriError::Exhausted(error.to_string()),
        Kind::AlreadyExists | Kind::Busy => CriError::Precondition(format!("{what}: {error}")),
        Kind::Unavailable => CriError::internal(what, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_keeps_its_text_and_finds_its_place() {
        let busy = cri("shut the network down", Error::Busy { pods: 2 });
        assert!(matches!(&busy, CriError::Precondition(text) if text.contains("2 pods")), "{busy}");
        assert!(matches!(cri("x", Error::Invalid("no".into())), CriError::Invalid(text) if text == "no"));
        let limit = Error::NoBridgePort { bridge: "podd0".into(), limit: 1023 };
        assert!(matches!(cri("x", limit), CriError::Exhausted(text) if text.contains("podd0")));
        let kernel = Error::Kernel { what: "make bridge podd0".into(), source: std::io::Error::from_raw_os_error(1) };
        assert!(cri("attach", kernel).chain().starts_with("attach: make bridge podd0: "));
    }
}
