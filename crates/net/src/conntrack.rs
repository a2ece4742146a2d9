//! Connections of UDP that the kernel remembers (nfnetlink_conntrack), forgotten when a host port comes or goes.
//!
//! A translation is chosen with a connection's first packet. A client that keeps sending, as a resolver or a probe does,
//! would for ever reach the pod that is gone, or never the one that has come: its connection never ends. TCP needs nothing
//! of the kind: a connection to a pod that is gone is at its end, and one that begins is new.

use std::io;
use std::net::IpAddr;

use rustix::io::Errno;

use netlink_packet_core::NLM_F_ACK;

use crate::error::{Context, Result};
use crate::ledger::Lease;
use crate::netlink::{Answer, Attributes, Request, Socket, attribute, errno};
use crate::ports::Protocol;

const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const FAMILY_IPV4: u8 = 2;
// enum ctattr_type
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
// enum ctattr_tuple, ctattr_ip, ctattr_l4proto
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const SOURCE_V4: u16 = 1;
const DESTINATION_V4: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const DESTINATION_PORT: u16 = 3;

/// Forgets the connections over UDP that led to a lease's host ports, or now should. Fine where the kernel does not
/// remember any.
pub(crate) fn forget(nfnetlink: &mut Socket, lease: &Lease) -> Result<()> {
    if lease.ports.iter().all(|port| port.protocol != Protocol::Udp) {
        return Ok(());
    }
    let outcome = forget_udp(nfnetlink, lease);
    match outcome {
        Err(error) if matches!(errno(&error), Some(Errno::NOENT | Errno::INVAL | Errno::OPNOTSUPP)) => Ok(()),
        outcome => outcome.context(|| format!("forget the connections of sandbox {}", lease.sandbox)),
    }
}

fn forget_udp(nfnetlink: &mut Socket, lease: &Lease) -> io::Result<()> {
    let all = nfnetlink.dump(&Request { kind: GET, flags: 0, body: vec![FAMILY_IPV4, 0, 0, 0] })?;
    let requests: Vec<Request> = all.iter().filter(|answer| concerns(answer, lease)).filter_map(delete).collect();
    for outcome in nfnetlink.send(&requests)? {
        outcome.or_else(|error| if errno(&error) == Some(Errno::NOENT) { Ok(()) } else { Err(error) })?;
    }
    Ok(())
}

/// Whether a connection is to one of the host ports, whoever has answered.
fn concerns(answer: &Answer, lease: &Lease) -> bool {
    let destination = || {
        let tuple = attribute(answer.body.get(4..)?, TUPLE_ORIGINAL)?;
        let protocol = attribute(tuple, TUPLE_PROTOCOL)?;
        let udp = attribute(protocol, PROTOCOL_NUMBER)? == [Protocol::Udp.number()];
        let port = u16::from_be_bytes(*attribute(protocol, DESTINATION_PORT)?.first_chunk()?);
        let address = attribute(attribute(tuple, TUPLE_IP)?, DESTINATION_V4)?.first_chunk::<4>()?;
        udp.then_some((IpAddr::from(*address), port))
    };
    let reply_from = || {
        let tuple = attribute(answer.body.get(4..)?, TUPLE_REPLY)?;
        Some(IpAddr::from(*attribute(attribute(tuple, TUPLE_IP)?, SOURCE_V4)?.first_chunk::<4>()?))
    };
    let Some((address, port)) = destination() else { return false };
    // A connection of the same port to another machine is none of ours: it was sent to the host, or on to the pod.
    lease.ports.iter().filter(|mapping| mapping.protocol == Protocol::Udp && mapping.host_port == port).any(|mapping| {
        let translated = reply_from().is_some_and(|from| lease.addresses.contains(&from));
        translated || reply_from() == Some(address) && mapping.host_ip().is_none_or(|ip| ip == address)
    })
}

/// Deletes exactly this connection, not one that took its place meanwhile.
fn delete(answer: &Answer) -> Option<Request> {
    const NESTED: u16 = 1 << 15;
    let attributes = answer.body.get(4..)?;
    let wanted = Attributes::default()
        .bytes(TUPLE_ORIGINAL | NESTED, attribute(attributes, TUPLE_ORIGINAL)?)
        .bytes(ID, attribute(attributes, ID)?);
    let body = [&[FAMILY_IPV4, 0, 0, 0][..], &wanted.0].concat();
    Some(Request { kind: DELETE, flags: NLM_F_ACK, body })
}
