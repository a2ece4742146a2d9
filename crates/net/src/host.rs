//! The host's side in the kernel: bridge, table, sysctls, found or made, and taken away again.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_packet_route::link::InfoKind;
use rustix::io::Errno;

use crate::config::{Config, host_interface, is_table_of_podd};
use crate::error::{Context, Error, Result};
use crate::ledger::{Lease, Ledger, Sysctl};
use crate::links::{self, Step};
use crate::machine::{Link, link, links, overlap, routes, settle, uplink_mtu, vanished};
use crate::netlink::{NETFILTER, ROUTE, Request, Socket, errno};
use crate::ports::{PortHolder, Protocol};
use crate::{conntrack, nft, ruleset};

/// Ports that a bridge can have (`BR_MAX_PORTS` less the one that means none).
pub(crate) const BRIDGE_PORTS: u32 = 1023;
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
        let table = ruleset::table(&config.table(), &owner, &config.bridge, &subnets(config, ledger));
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

pub(crate) fn open(protocol: u32) -> Result<Socket> {
    Socket::open(protocol, None).context(|| "open a netlink socket")
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

/// Where pods are: the subnets, and single addresses of pods that are older than the subnets' last change.
fn subnets(config: &Config, ledger: &Ledger) -> Vec<IpNet> {
    let within = |address: &IpAddr| config.subnets.iter().any(|subnet| subnet.contains(address));
    let older = ledger.leases().flat_map(|lease| lease.addresses.iter().copied()).filter(|address| !within(address));
    config.subnets.iter().copied().chain(older.map(IpNet::from)).collect()
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
