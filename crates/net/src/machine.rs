//! The machine as it is found: its links, its routes, and what follows from them.

use ipnet::IpNet;
use netlink_packet_core::Parseable;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::links as plan;
use crate::netlink::{Socket, errno};

/// When the machine has no default route.
const MTU_WITHOUT_UPLINK: u32 = 1500;

/// A link of a namespace.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) mtu: u32,
    pub(crate) controller: Option<u32>,
    pub(crate) kind: Option<InfoKind>,
}

pub(crate) fn vanished(name: &str) -> Error {
    Error::kernel(format!("find interface {name}"), Errno::NODEV)
}

pub(crate) fn link(route: &mut Socket, name: &str) -> Result<Option<Link>> {
    match route.get(plan::get_link(name)) {
        Ok(answer) => Ok(parse_link(&answer.body)),
        Err(error) if errno(&error) == Some(Errno::NODEV) => Ok(None),
        Err(error) => Err(Error::kernel(format!("find interface {name}"), error)),
    }
}

/// Waits until an interface that is up sends. The kernel notes a link's coming up in a work queue, and what is sent before
/// that is lost: the first packet, and with it a second until it is sent again. Asking for the link does the work that
/// is queued for it (since Linux 6.8).
pub(crate) fn settle(route: &mut Socket, name: &str) -> Result<()> {
    index_of(route, name).map(|_| ())
}

/// The index of an interface in the namespace of the socket.
pub(crate) fn index_of(route: &mut Socket, name: &str) -> Result<u32> {
    Ok(link(route, name)?.ok_or_else(|| vanished(name))?.index)
}

pub(crate) fn links(route: &mut Socket) -> Result<Vec<Link>> {
    let answers = route.dump(&plan::all_links()).context(|| "list interfaces")?;
    Ok(answers.iter().filter_map(|answer| parse_link(&answer.body)).collect())
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let message = LinkMessage::parse(body).ok()?;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        alias: String::new(),
        mtu: MTU_WITHOUT_UPLINK,
        controller: None,
        kind: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(link)
}

/// A route of the machine.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    to: IpNet,
    interface: Option<u32>,
    metric: u32,
}

pub(crate) fn routes(route: &mut Socket) -> Result<Vec<Route>> {
    let answers = route.dump(&plan::all_routes()).context(|| "list routes")?;
    Ok(answers.iter().filter_map(|answer| parse_route(&answer.body)).collect())
}

fn parse_route(body: &[u8]) -> Option<Route> {
    let message = RouteMessage::parse(body).ok()?;
    if matches!(message.header.kind, RouteType::Broadcast | RouteType::Multicast) {
        return None;
    }
    let mut route = Route { to: "0.0.0.0/0".parse().ok()?, interface: None, metric: 0 };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => {
                route.to = IpNet::new(ip.into(), message.header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Oif(index) => route.interface = Some(index),
            RouteAttribute::Priority(metric) => route.metric = metric,
            _ => {}
        }
    }
    Some(route)
}

/// Two ways to one address.
pub(crate) struct Overlap {
    subnet: IpNet,
    route: Route,
}

impl Overlap {
    pub(crate) fn named(self, route: &mut Socket) -> Error {
        let index = self.route.interface;
        let name = links(route).ok().and_then(|links| links.into_iter().find(|link| Some(link.index) == index));
        let by = name.map_or_else(String::new, |link| format!(" of interface {}", link.name));
        Error::Overlap { subnet: self.subnet, route: format!("route {}{by}", self.route.to) }
    }
}

pub(crate) fn overlap(subnets: &[IpNet], routes: &[Route], own: Option<u32>) -> Option<Overlap> {
    let meets = |subnet: &IpNet, to: &IpNet| subnet.contains(&to.network()) || to.contains(&subnet.network());
    let foreign = routes.iter().filter(|route| route.to.prefix_len() > 0 && (own.is_none() || route.interface != own));
    foreign
        .flat_map(|route| subnets.iter().map(move |subnet| (route, subnet)))
        .find(|(route, subnet)| meets(subnet, &route.to))
        .map(|(route, subnet)| Overlap { subnet: *subnet, route: route.clone() })
}

/// The MTU of the interface that leads out of the machine.
pub(crate) fn uplink_mtu(route: &mut Socket, routes: &[Route]) -> Result<u32> {
    let default = routes.iter().filter(|route| route.to.prefix_len() == 0 && route.interface.is_some());
    let Some(uplink) = default.min_by_key(|route| route.metric).and_then(|route| route.interface) else {
        return Ok(MTU_WITHOUT_UPLINK);
    };
    Ok(links(route)?.into_iter().find(|link| link.index == uplink).map_or(MTU_WITHOUT_UPLINK, |link| link.mtu))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_overlaps_if_it_shares_an_address_and_is_neither_the_default_nor_our_own() {
        let subnets = ["10.85.0.0/16".parse().unwrap()];
        let table = [
            ("0.0.0.0/0", 2, false),
            ("10.85.0.0/16", 3, false),
            ("10.85.0.0/16", 2, true),
            ("10.85.7.0/24", 2, true),
            ("10.0.0.0/8", 2, true),
            ("10.86.0.0/16", 2, false),
            ("10.85.255.255/32", 2, true),
        ];
        for (to, interface, met) in table {
            let route = Route { to: to.parse().unwrap(), interface: Some(interface), metric: 0 };
            assert_eq!(overlap(&subnets, &[route], Some(3)).is_some(), met, "{to}");
        }
        let nowhere = Route { to: "10.85.0.0/16".parse().unwrap(), interface: None, metric: 0 };
        assert!(overlap(&subnets, &[nowhere], None).is_some(), "a blackhole");
    }
}
