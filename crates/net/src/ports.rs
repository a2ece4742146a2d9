//! Host ports: what a pod asks for, and when two of them cannot both be had.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The protocol's number in an IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|protocol| protocol.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A port of the host that leads to a port of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// The protocol.
    pub protocol: Protocol,
    /// The address of the host it is taken on; every one if none (or unspecified).
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
}

/// Who holds a host port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortHolder {
    /// The protocol.
    pub protocol: Protocol,
    /// The address of the host; every one if none.
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub port: u16,
    /// In words: `sandbox 3f…`, `sandbox 3f… of table podd-two`, `a socket of the host on 127.0.0.1`.
    pub holder: String,
}

impl PortMapping {
    /// The address that is meant, with "every one" said in one way only.
    pub(crate) fn host_ip(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }

    fn check(&self) -> Result<()> {
        if self.host_port == 0 || self.container_port == 0 {
            return Err(Error::Invalid(format!(
                "host port {} to {} is not possible",
                self.host_port, self.container_port
            )));
        }
        if self.host_ip().is_some_and(|ip| ip.is_ipv6()) {
            return Err(Error::Invalid(format!(
                "hostIP {} of port {} is not possible: pods have IPv4 addresses only",
                self.host_ip().map_or_else(String::new, |ip| ip.to_string()),
                self.host_port
            )));
        }
        Ok(())
    }
}

/// Refuses mappings that cannot be had, alone or together.
pub(crate) fn check(ports: &[PortMapping]) -> Result<()> {
    for (at, port) in ports.iter().enumerate() {
        port.check()?;
        if let Some(other) =
            ports[..at].iter().find(|other| clash(port, other.protocol, other.host_ip(), other.host_port))
        {
            // The same mapping twice is a slip of no consequence (two containers that name one port).
            if other.container_port != port.container_port || other.host_ip() != port.host_ip() {
                return Err(taken(port, "another port of the same pod"));
            }
        }
    }
    Ok(())
}

/// Refuses mappings of which somebody already has one.
pub(crate) fn check_free(ports: &[PortMapping], holders: &[PortHolder]) -> Result<()> {
    for port in ports {
        if let Some(found) = holders.iter().find(|held| clash(port, held.protocol, held.host_ip, held.port)) {
            return Err(taken(port, &found.holder));
        }
    }
    Ok(())
}

fn clash(port: &PortMapping, protocol: Protocol, host_ip: Option<IpAddr>, number: u16) -> bool {
    let same_place = match (port.host_ip(), host_ip) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    port.protocol == protocol && port.host_port == number && same_place
}

fn taken(port: &PortMapping, holder: &str) -> Error {
    Error::PortTaken {
        protocol: port.protocol,
        port: port.host_port,
        host_ip: port.host_ip(),
        holder: holder.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(protocol: Protocol, ip: &str, host_port: u16) -> PortMapping {
        PortMapping { protocol, host_ip: ip.parse().ok(), host_port, container_port: 80 }
    }

    #[test]
    fn a_port_is_shared_only_between_different_addresses_or_protocols() {
        let held = |ip: &str| {
            vec![PortHolder { protocol: Protocol::Tcp, host_ip: ip.parse().ok(), port: 80, holder: "x".into() }]
        };
        let table = [
            ("", "", false),
            ("", "10.0.0.1", false),
            ("10.0.0.1", "", false),
            ("0.0.0.0", "10.0.0.1", false),
            ("10.0.0.1", "10.0.0.1", false),
            ("10.0.0.1", "10.0.0.2", true),
        ];
        for (wanted, holds, free) in table {
            let tcp = [mapping(Protocol::Tcp, wanted, 80)];
            assert_eq!(check_free(&tcp, &held(holds)).is_ok(), free, "{wanted:?} {holds:?}");
            assert!(check_free(&[mapping(Protocol::Udp, wanted, 80)], &held(holds)).is_ok());
            assert!(check_free(&[mapping(Protocol::Tcp, wanted, 81)], &held(holds)).is_ok());
        }
        let text = check_free(&[mapping(Protocol::Tcp, "", 80)], &held("")).unwrap_err().to_string();
        assert_eq!(text, "host port 80/tcp is taken by x");
    }

    #[test]
    fn mappings_that_cannot_be_are_refused() {
        let good = mapping(Protocol::Tcp, "", 80);
        assert!(check(&[good.clone(), good.clone(), mapping(Protocol::Udp, "", 80)]).is_ok());
        let other = PortMapping { container_port: 81, ..good.clone() };
        assert!(matches!(check(&[good.clone(), other]), Err(Error::PortTaken { .. })));
        assert!(matches!(check(&[mapping(Protocol::Tcp, "", 0)]), Err(Error::Invalid(_))));
        assert!(matches!(check(&[mapping(Protocol::Tcp, "fd00::1", 80)]), Err(Error::Invalid(_))));
        assert!(check(&[mapping(Protocol::Tcp, "::", 80)]).is_ok());
    }
}
