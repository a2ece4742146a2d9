//! The plan of links, addresses and routes: what rtnetlink is to be told, as values.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoKind,
    InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use crate::netlink::Request;

/// The pod's interface.
pub(crate) const POD_INTERFACE: &str = "eth0";
/// Loopback is the first interface of every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// One thing to tell the kernel.
#[derive(Debug)]
pub(crate) struct Step {
    /// What it is for, as an error's text has it.
    pub(crate) what: String,
    pub(crate) request: Request,
    /// Errors that mean that there is nothing to do.
    pub(crate) fine: &'static [Errno],
}

fn step(what: impl Into<String>, message: RouteNetlinkMessage, flags: u16, fine: &'static [Errno]) -> Step {
    Step { what: what.into(), request: Request::route(&message, NLM_F_ACK | flags), fine }
}

/// The bridge, not up yet and without addresses. The alias is in the same datagram, so that no bridge of ours is ever
/// seen without its owner's name.
pub(crate) fn create_bridge(name: &str, owner: &str, mac: [u8; 6], mtu: u32) -> Vec<Step> {
    let mut create = LinkMessage::default();
    create.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu),
        // Without an address of its own a bridge takes its lowest port's, and changes it with the pods.
        LinkAttribute::Address(mac.to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![
                InfoBridge::ForwardDelay(0),
                InfoBridge::StpState(BridgeStpState::Disabled),
                InfoBridge::MulticastSnooping(false),
            ])),
        ]),
    ];
    let mut adorn = by_name(name);
    adorn.attributes.push(LinkAttribute::IfAlias(owner.to_owned()));
    let what = format!("make bridge {name}");
    vec![
        step(what.clone(), RouteNetlinkMessage::NewLink(create), NLM_F_CREATE | NLM_F_EXCL, &[]),
        step(what, RouteNetlinkMessage::SetLink(adorn), 0, &[]),
        without_link_local(name),
    ]
}

/// Puts the bridge up, with its addresses. Fine if it is so already.
pub(crate) fn bring_up_bridge(name: &str, index: u32, gateways: &[IpNet]) -> Vec<Step> {
    let mut steps = vec![up(format!("put bridge {name} up"), by_index(index))];
    steps.extend(gateways.iter().map(|gateway| address(index, *gateway)));
    steps
}

/// The host's half of a pod's link, the pod's half born inside its namespace.
///
/// The peer cannot be put up here: the kernel wants both ends to be there first.
pub(crate) fn create_pod_link(host: &str, bridge: u32, netns: BorrowedFd<'_>, mac: [u8; 6], mtu: u32) -> Vec<Step> {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(POD_INTERFACE.to_owned()),
        LinkAttribute::NetNsFd(netns.as_raw_fd()),
        LinkAttribute::Address(mac.to_vec()),
        LinkAttribute::Mtu(mtu),
    ];
    let mut create = LinkMessage::default();
    create.attributes = vec![
        LinkAttribute::IfName(host.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Controller(bridge),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    vec![
        step(format!("make interface {host}"), RouteNetlinkMessage::NewLink(create), NLM_F_CREATE | NLM_F_EXCL, &[]),
        without_link_local(host),
    ]
}

/// The host's half goes on the bridge (again), up, with hairpin mode: a pod reaches itself through its own host port, and
/// with bridge-nf-call-iptables that packet never leaves the bridge.
pub(crate) fn enslave(host: &str, bridge: u32, alias: &str, fine: &'static [Errno]) -> Vec<Step> {
    let mut join = by_name(host);
    join.attributes.push(LinkAttribute::Controller(bridge));
    join.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
    let mut hairpin = by_name(host);
    hairpin.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
    ]));
    vec![
        step(format!("put interface {host} on the bridge"), RouteNetlinkMessage::SetLink(join), 0, fine),
        step(format!("set hairpin mode of interface {host}"), RouteNetlinkMessage::NewLink(hairpin), 0, fine),
        Step { fine, ..up(format!("put interface {host} up"), by_name(host)) },
    ]
}

/// Everything inside the pod's namespace, given its interface's index.
pub(crate) fn configure_pod(index: u32, addresses: &[IpNet], gateways: &[IpNet]) -> Vec<Step> {
    let mut steps = vec![
        bring_up_loopback(),
        without_link_local(POD_INTERFACE),
        up("put the pod's interface up".into(), by_index(index)),
    ];
    steps.extend(addresses.iter().map(|own| address(index, *own)));
    steps.extend(gateways.iter().map(|gateway| default_route(index, gateway.addr())));
    steps
}

/// Puts the loopback of a namespace up. Fine if it is so already.
pub(crate) fn bring_up_loopback() -> Step {
    up("put the pod's loopback up".into(), by_index(LOOPBACK))
}

/// Takes a link away, whatever it is on. Fine if it is gone.
pub(crate) fn delete_link(name: &str) -> Step {
    step(format!("remove interface {name}"), RouteNetlinkMessage::DelLink(by_name(name)), 0, &[Errno::NODEV])
}

/// Asks for a link by name.
pub(crate) fn get_link(name: &str) -> Request {
    Request::route(&RouteNetlinkMessage::GetLink(by_name(name)), 0)
}

/// Asks for all links.
pub(crate) fn all_links() -> Request {
    Request::route(&RouteNetlinkMessage::GetLink(LinkMessage::default()), 0)
}

/// Asks for all routes of IPv4, of every table.
pub(crate) fn all_routes() -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    Request::route(&RouteNetlinkMessage::GetRoute(message), 0)
}

/// The hardware address that goes with an IP address: always the same, so that no cache of a peer is ever wrong. The
/// prefix is the one that CNI's plugins use, locally administered.
pub(crate) fn mac(address: IpAddr) -> [u8; 6] {
    let low = match address {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => (ip.to_bits() as u32).to_be_bytes(),
    };
    [0x0a, 0x58, low[0], low[1], low[2], low[3]]
}

fn by_name(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn by_index(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn up(what: String, mut message: LinkMessage) -> Step {
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    step(what, RouteNetlinkMessage::SetLink(message), 0, &[])
}

/// Keeps the kernel from giving an interface of an IPv4 network a link-local IPv6 address, with its probes and reports for
/// each pod. Without IPv6 in the kernel there is nothing to keep.
fn without_link_local(name: &str) -> Step {
    let mut message = by_name(name);
    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
        In6AddrGenMode::None,
    )])]));
    let fine = &[Errno::AFNOSUPPORT, Errno::OPNOTSUPP, Errno::INVAL];
    step(format!("configure IPv6 of interface {name}"), RouteNetlinkMessage::SetLink(message), 0, fine)
}

fn address(index: u32, address: IpNet) -> Step {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    if let IpNet::V4(v4) = address {
        message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
    }
    let what = format!("set address {address}");
    step(what, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE, &[])
}

fn default_route(index: u32, gateway: IpAddr) -> Step {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Gateway(RouteAddress::from(gateway)), RouteAttribute::Oif(index)];
    let what = format!("set the default route by {gateway}");
    step(what, RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE, &[])
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
