//! The host's side in the kernel: bridge, table, sysctls, found or made, and taken away again.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_packet_core::Parseable;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rustix::io::Errno;

use crate::config::{Config, host_interface, is_table_of_podd};
use crate::error::{Context, Error, Result};
use crate::ledger::{Lease, Ledger, Sysctl};
use crate::links::{self, Step};
use crate::netlink::{NETFILTER, ROUTE, Request, Socket, errno};
use crate::ports::{PortHolder, Protocol};
use crate::{conntrack, nft, ruleset};

/// Ports that a bridge can have (`BR_MAX_PORTS` less the one that means none).
pub(crate) const BRIDGE_PORTS: u32 = 1023;
/// When the machine has no default route.
const MTU_WITHOUT_UPLINK: u32 = 1500;
const FORWARDING: &str = "net.ipv4.ip_forward";
/// How long namespaces of ended pods may take to go before their links are removed by hand, and how often that is looked
/// at: there is no event for it.
const DYING: Duration = Duration::from_millis(500);
const DYING_POLL: Duration = Duration::from_millis(5);

/// Open sockets, and what was found or made.
#[derive(Debug)]
pub(crate) struct Host {
    route: Socket,
    nft: Socket,
    bridge: u32,
    mtu: u32,
}

/// A link of the host.
struct Link {
    index: u32,
    name: String,
    alias: String,
    mtu: u32,
    controller: Option<u32>,
    kind: Option<InfoKind>,
}

impl Host {
    /// Makes the machine ready for pods: what is missing is made, what is stale is made anew. Idempotent.
    pub(crate) fn ensure(config: &Config, ledger: &mut Ledger) -> Result<Self> {
        let mut route = open(ROUTE)?;
        let mut nft = open(NETFILTER)?;
        let owner = config.owner();
        let found = own_bridge(&mut route, config)?;
        own_table(&mut nft, config)?;
        let routes = routes(&mut route)?;
        if let Some(error) = overlap(&config.subnets, &routes, found.as_ref().map(|link| link.index)) {
            return Err(error.named(&mut route));
        }
        let mtu = match config.mtu {
            Some(mtu) => mtu,
            None => uplink_mtu(&mut route, &routes)?,
        };
        let bridge = match found {
            Some(link) => link.index,
            None => {
                let mac = links::mac(config.gateways()[0].addr());
                apply(&mut route, links::create_bridge(&config.bridge, &owner, mac, mtu))?;
                tracing::info!(bridge = config.bridge, mtu, "bridge made");
                link(&mut route, &config.bridge)?.ok_or_else(|| vanished(&config.bridge))?.index
            }
        };
        apply(&mut route, links::bring_up_bridge(&config.bridge, bridge, &config.gateways()))?;
        set_sysctl(&format!("net.ipv4.conf.{}.route_localnet", config.bridge.replace('.', "/")), "1")?;
        forward(config, ledger)?;
        let table = ruleset::table(&config.table(), &owner, &config.bridge, &config.subnets);
        let elements: Vec<_> = ledger.leases().flat_map(ruleset::elements).collect();
        nft::replace(&mut nft, &table, &elements).context(|| format!("make nft table inet {}", table.name))?;
        let mut host = Self { route, nft, bridge, mtu };
        for lease in ledger.leases() {
            // The pod's end of the link is in its namespace; without that there is nothing to put back.
            host.enslave(lease, &[Errno::NODEV, Errno::OPNOTSUPP])?;
        }
        Ok(host)
    }

    /// Makes the link of a pod, with the pod's end in its namespace.
    pub(crate) fn create_link(&mut self, config: &Config, lease: &Lease, netns: BorrowedFd<'_>) -> Result<()> {
        let (host, address) = end_of(lease);
        for again in [true, false] {
            let plan = links::create_pod_link(&host, self.bridge, netns, links::mac(address), self.mtu);
            match apply(&mut self.route, plan) {
                Err(Error::Kernel { source, .. }) if again && errno(&source) == Some(Errno::EXIST) => {
                    self.clear(config, &host)?;
                    clear_pod(netns)?;
                }
                Err(Error::Kernel { source, .. }) if errno(&source) == Some(Errno::XFULL) => {
                    return Err(Error::NoBridgePort { bridge: config.bridge.clone(), limit: BRIDGE_PORTS });
                }
                outcome => {
                    outcome?;
                    break;
                }
            }
        }
        self.enslave(lease, &[])
    }

    /// Removes an interface that an earlier pod with this address, or a torn attach, has left.
    fn clear(&mut self, config: &Config, name: &str) -> Result<()> {
        let Some(found) = link(&mut self.route, name)? else { return Ok(()) };
        let ours = found.kind == Some(InfoKind::Veth) && found.controller.is_none_or(|index| index == self.bridge);
        if !ours {
            let owner = format!("somebody else than bridge {}", config.bridge);
            return Err(Error::Foreign { what: "interface", name: name.to_owned(), owner });
        }
        tracing::debug!(interface = name, "an interface was left and is removed");
        apply(&mut self.route, vec![links::delete_link(name)])
    }

    /// Waits until the bridge forwards to a pod that is up.
    pub(crate) fn settle(&mut self, config: &Config, lease: &Lease) -> Result<()> {
        settle(&mut self.route, &end_of(lease).0)?;
        settle(&mut self.route, &config.bridge)
    }

    fn enslave(&mut self, lease: &Lease, fine: &'static [Errno]) -> Result<()> {
        let (host, _) = end_of(lease);
        apply(&mut self.route, links::enslave(&host, self.bridge, &lease.sandbox, fine))
    }

    pub(crate) fn open_ports(&mut self, config: &Config, lease: &Lease) -> Result<()> {
        let what = || format!("open the host ports of sandbox {}", lease.sandbox);
        nft::add(&mut self.nft, &config.table(), &ruleset::elements(lease)).context(what)?;
        conntrack::forget(&mut self.nft, lease)
    }

    pub(crate) fn close_ports(&mut self, config: &Config, lease: &Lease) -> Result<()> {
        close_ports(&mut self.nft, config, lease)
    }

    /// The host ports that podd's other instances on this machine hold.
    pub(crate) fn foreign_holders(&mut self, config: &Config) -> Result<Vec<PortHolder>> {
        let own = config.table();
        let what = || "read the host ports of other instances";
        let mut holders = Vec::new();
        for (table, _) in nft::tables(&mut self.nft).context(what)? {
            if table == own || !is_table_of_podd(&table) {
                continue;
            }
            for map in [ruleset::PORTS, ruleset::PORTS_AT] {
                let elements = nft::elements(&mut self.nft, &table, &map).context(what)?;
                holders.extend(elements.iter().filter_map(|element| holder(&table, element)));
            }
        }
        Ok(holders)
    }
}

/// Removes the interface that a torn attach to the same namespace, with another address, has left.
fn clear_pod(netns: BorrowedFd<'_>) -> Result<()> {
    let mut socket = Socket::open(ROUTE, Some(netns)).context(|| "open a netlink socket in the pod's namespace")?;
    match link(&mut socket, links::POD_INTERFACE)? {
        Some(found) if found.kind == Some(InfoKind::Veth) => {
            apply(&mut socket, vec![links::delete_link(links::POD_INTERFACE)])
        }
        _ => Ok(()),
    }
}

fn holder(table: &str, element: &ruleset::Element) -> Option<PortHolder> {
    let (host_ip, service) = match element.key.len() {
        12 => (Some(IpAddr::from(*element.key.first_chunk::<4>()?)), &element.key[4..]),
        _ => (None, element.key.as_slice()),
    };
    let &[number, _, _, _, high, low, ..] = service else { return None };
    let holder = format!("sandbox {} of nft table {table}", element.comment);
    Some(PortHolder {
        protocol: Protocol::from_number(number)?,
        host_ip,
        port: u16::from_be_bytes([high, low]),
        holder,
    })
}

/// Closes ports without anything else being ready, as after a restart.
pub(crate) fn close_ports(nft: &mut Socket, config: &Config, lease: &Lease) -> Result<()> {
    let what = || format!("close the host ports of sandbox {}", lease.sandbox);
    nft::delete(nft, &config.table(), &ruleset::elements(lease)).context(what)?;
    conntrack::forget(nft, lease)
}

/// Takes away all that is ours: links that are left, table, bridge; sysctls get their old values. Fine if it is gone.
pub(crate) fn remove(config: &Config, ledger: &mut Ledger) -> Result<()> {
    let mut route = open(ROUTE)?;
    let mut nft = open(NETFILTER)?;
    if own_table(&mut nft, config)? {
        nft::remove(&mut nft, &config.table()).context(|| format!("remove nft table inet {}", config.table()))?;
    }
    if let Some(bridge) = own_bridge(&mut route, config)? {
        remove_ports(&mut route, bridge.index)?;
        apply(&mut route, vec![links::delete_link(&config.bridge)])?;
        tracing::info!(bridge = config.bridge, "bridge removed");
    }
    let other_instances =
        nft::tables(&mut nft).context(|| "list nft tables")?.iter().any(|(name, _)| is_table_of_podd(name));
    for sysctl in ledger.changed() {
        let stands = sysctl.boot == config.boot_id && get_sysctl(&sysctl.name)? == sysctl.new;
        if stands && other_instances {
            tracing::warn!(sysctl = sysctl.name, value = sysctl.new, "another instance needs the sysctl, it stays");
        } else if stands {
            set_sysctl(&sysctl.name, &sysctl.old)?;
        }
    }
    ledger.note_restored()
}

/// The links of pods that have ended go with their namespaces, which the kernel takes down some time after the last
/// process; it does that far faster for many than one by one on request.
fn remove_ports(route: &mut Socket, bridge: u32) -> Result<()> {
    let deadline = Instant::now() + DYING;
    loop {
        let mut ports = links(route)?;
        ports.retain(|link| link.controller == Some(bridge));
        if ports.is_empty() {
            return Ok(());
        }
        if Instant::now() < deadline {
            std::thread::sleep(DYING_POLL);
            continue;
        }
        let veths = ports.iter().filter(|link| link.kind == Some(InfoKind::Veth));
        return apply(route, veths.map(|link| links::delete_link(&link.name)).collect());
    }
}

/// Sends a plan. The first thing that did not work is the error; what follows it was tried all the same.
pub(crate) fn apply(socket: &mut Socket, plan: Vec<Step>) -> Result<()> {
    let (steps, requests): (Vec<_>, Vec<Request>) =
        plan.into_iter().map(|step| ((step.what, step.fine), step.request)).unzip();
    let outcomes = socket.send(&requests).context(|| "speak rtnetlink")?;
    for ((what, fine), outcome) in steps.into_iter().zip(outcomes) {
        if let Err(error) = outcome
            && !errno(&error).is_some_and(|errno| fine.contains(&errno))
        {
            return Err(Error::kernel(what, error));
        }
    }
    Ok(())
}

/// The host's end of a pod's link, and the address it is named after.
fn end_of(lease: &Lease) -> (String, IpAddr) {
    let address = lease.addresses.first().copied().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    (host_interface(address), address)
}

pub(crate) fn open(protocol: u32) -> Result<Socket> {
    Socket::open(protocol, None).context(|| "open a netlink socket")
}

/// The bridge, if it is there; an error if the interface of its name is not ours.
fn own_bridge(route: &mut Socket, config: &Config) -> Result<Option<Link>> {
    let Some(found) = link(route, &config.bridge)? else { return Ok(None) };
    if found.kind == Some(InfoKind::Bridge) && found.alias == config.owner() {
        return Ok(Some(found));
    }
    let what = if found.kind == Some(InfoKind::Bridge) { "bridge" } else { "interface" };
    Err(Error::Foreign { what, name: config.bridge.clone(), owner: named(&found.alias) })
}

/// Whether the table is there; an error if it is not ours.
fn own_table(nft: &mut Socket, config: &Config) -> Result<bool> {
    let name = config.table();
    let tables = nft::tables(nft).context(|| "list nft tables")?;
    match tables.into_iter().find(|(table, _)| *table == name) {
        None => Ok(false),
        Some((_, owner)) if owner == config.owner() => Ok(true),
        Some((_, owner)) => Err(Error::Foreign { what: "nft table inet", name, owner: named(&owner) }),
    }
}

fn named(owner: &str) -> String {
    if owner.is_empty() { "somebody else".into() } else { format!("{owner:?}") }
}

fn vanished(name: &str) -> Error {
    Error::kernel(format!("find interface {name}"), Errno::NODEV)
}

fn link(route: &mut Socket, name: &str) -> Result<Option<Link>> {
    match route.get(links::get_link(name)) {
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

fn links(route: &mut Socket) -> Result<Vec<Link>> {
    let answers = route.dump(&links::all_links()).context(|| "list interfaces")?;
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
struct Route {
    to: IpNet,
    interface: Option<u32>,
    metric: u32,
}

fn routes(route: &mut Socket) -> Result<Vec<Route>> {
    let answers = route.dump(&links::all_routes()).context(|| "list routes")?;
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
struct Overlap {
    subnet: IpNet,
    route: Route,
}

impl Overlap {
    fn named(self, route: &mut Socket) -> Error {
        let index = self.route.interface;
        let name = links(route).ok().and_then(|links| links.into_iter().find(|link| Some(link.index) == index));
        let by = name.map_or_else(String::new, |link| format!(" of interface {}", link.name));
        Error::Overlap { subnet: self.subnet, route: format!("route {}{by}", self.route.to) }
    }
}

fn overlap(subnets: &[IpNet], routes: &[Route], own: Option<u32>) -> Option<Overlap> {
    let meets = |subnet: &IpNet, to: &IpNet| subnet.contains(&to.network()) || to.contains(&subnet.network());
    let foreign = routes.iter().filter(|route| route.to.prefix_len() > 0 && (own.is_none() || route.interface != own));
    foreign
        .flat_map(|route| subnets.iter().map(move |subnet| (route, subnet)))
        .find(|(route, subnet)| meets(subnet, &route.to))
        .map(|(route, subnet)| Overlap { subnet: *subnet, route: route.clone() })
}

/// The MTU of the interface that leads out of the machine.
fn uplink_mtu(route: &mut Socket, routes: &[Route]) -> Result<u32> {
    let default = routes.iter().filter(|route| route.to.prefix_len() == 0 && route.interface.is_some());
    let Some(uplink) = default.min_by_key(|route| route.metric).and_then(|route| route.interface) else {
        return Ok(MTU_WITHOUT_UPLINK);
    };
    Ok(links(route)?.into_iter().find(|link| link.index == uplink).map_or(MTU_WITHOUT_UPLINK, |link| link.mtu))
}

/// Lets the machine forward, and remembers what to undo.
fn forward(config: &Config, ledger: &mut Ledger) -> Result<()> {
    let old = get_sysctl(FORWARDING)?;
    if old != "1" {
        let boot = config.boot_id.clone();
        ledger.note_change(Sysctl { name: FORWARDING.into(), old, new: "1".into(), boot })?;
        set_sysctl(FORWARDING, "1")?;
    }
    Ok(())
}

fn get_sysctl(name: &str) -> Result<String> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    let text = fs::read_to_string(&path).context(|| format!("read {path}"))?;
    Ok(text.trim().to_owned())
}

fn set_sysctl(name: &str, value: &str) -> Result<()> {
    podd_sys::procfs::write_sysctl(name, value).context(|| format!("set {name}={value}"))
}

/// What a kernel error means for what was found earlier: somebody has taken the bridge or the table away.
pub(crate) fn is_stale(error: &Error) -> bool {
    let gone = |source: &io::Error| matches!(errno(source), Some(Errno::NODEV | Errno::NOENT | Errno::INVAL));
    matches!(error, Error::Kernel { source, .. } if gone(source))
}
