//! Sockets of the host that listen on a port, asked of sock_diag(7): a host port would silently take their traffic away.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;

use crate::error::{Context, Result};
use crate::netlink::{Request, SOCK_DIAG, Socket, attribute, errno};
use crate::ports::{PortHolder, PortMapping, Protocol};

/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
/// `struct inet_diag_req_v2` and `struct inet_diag_msg`, in bytes.
const REQUEST: usize = 56;
const ANSWER: usize = 72;
/// `INET_DIAG_SKV6ONLY`
const V6_ONLY: u16 = 11;
// States, as bits: a listening TCP socket; a UDP socket that is bound and not connected.
const LISTEN: u32 = 1 << 10;
const CLOSE: u32 = 1 << 7;
const INET: u8 = 2;
const INET6: u8 = 10;

/// Who of the host listens on the ports of these mappings. Nobody, where the kernel has no sock_diag for a protocol.
pub(crate) fn listeners(ports: &[PortMapping]) -> Result<Vec<PortHolder>> {
    let what = || "list listening sockets";
    let mut socket = Socket::open(SOCK_DIAG, None).context(what)?;
    let mut found = Vec::new();
    for port in ports {
        for family in [INET, INET6] {
            found.extend(of_family(&mut socket, port, family).context(what)?);
        }
    }
    Ok(found)
}

fn of_family(socket: &mut Socket, port: &PortMapping, family: u8) -> io::Result<Vec<PortHolder>> {
    let answers = match socket.dump(&request(port, family)) {
        Err(error) if matches!(errno(&error), Some(Errno::NOENT | Errno::INVAL)) => return Ok(Vec::new()),
        answers => answers?,
    };
    Ok(answers
        .iter()
        .filter_map(|answer| listener(port.protocol, &answer.body))
        .filter(|one| one.port == port.host_port)
        .collect())
}

fn request(port: &PortMapping, family: u8) -> Request {
    let states = if port.protocol == Protocol::Udp { CLOSE } else { LISTEN };
    let mut body = vec![family, port.protocol.number(), 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(port.host_port.to_be_bytes());
    body.resize(REQUEST, 0);
    Request { kind: BY_FAMILY, flags: 0, body }
}

/// The holder that an answer tells of; none if it takes no IPv4.
fn listener(protocol: Protocol, body: &[u8]) -> Option<PortHolder> {
    let port = u16::from_be_bytes(*body.get(4..)?.first_chunk()?);
    let address = body.get(8..24)?;
    let host_ip = match body.first()? {
        &INET => Ipv4Addr::from(*address.first_chunk::<4>()?),
        _ => {
            let address = Ipv6Addr::from(*address.first_chunk::<16>()?);
            let only = attribute(body.get(ANSWER..)?, V6_ONLY).is_some_and(|only| only != [0]);
            match address.to_ipv4_mapped() {
                Some(address) => address,
                None if address.is_unspecified() && !only => Ipv4Addr::UNSPECIFIED,
                None => return None,
            }
        }
    };
    let place = if host_ip.is_unspecified() { String::new() } else { format!(" on {host_ip}") };
    let holder = format!("a socket of the host that listens{place}");
    Some(PortHolder { protocol, host_ip: Some(IpAddr::V4(host_ip)).filter(|ip| !ip.is_unspecified()), port, holder })
}
