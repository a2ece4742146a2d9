//! The nftables table of an instance, as values: chains, maps, rules, and the elements that a pod adds.
//!
//! ```text
//! table inet podd {
//!   map ports4    { inet_proto . inet_service : ipv4_addr . inet_service }              # hostPort on every address
//!   map ports4_at { ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }  # hostPort with a hostIP
//!   chain ports {
//!     dnat ip to ip daddr . meta l4proto . th dport map @ports4_at
//!     dnat ip to meta l4proto . th dport map @ports4
//!   }
//!   chain prerouting  { type nat hook prerouting priority dstnat;   meta nfproto ipv4 fib daddr type local jump ports }
//!   chain output      { type nat hook output priority dstnat;       meta nfproto ipv4 fib daddr type local jump ports }
//!   chain postrouting { type nat hook postrouting priority srcnat;
//!     ip saddr SUBNET ip daddr != SUBNET masquerade                 # pod to outside
//!     ct status dnat ip saddr SUBNET ip daddr SUBNET masquerade     # pod to a pod's host port, its own included
//!     ct status dnat ip saddr 127.0.0.0/8 ip daddr SUBNET masquerade
//!   }
//!   chain guard       { type filter hook prerouting priority raw;   iifname BRIDGE ip daddr 127.0.0.0/8 drop }
//! }
//! ```
//!
//! A pod costs map elements, never rules. The guard is needed since `route_localnet` of the bridge, without which a
//! connection to 127.0.0.1:hostPort has no way to the pod, would else open the host's loopback to the pods (CVE-2020-8558);
//! answers to such connections come before their addresses are translated back, so it does not meet them. nftables has
//! no way to overrule a drop of another table: where a firewall drops what is forwarded (Docker sets such a policy), the
//! pods' traffic has to be accepted there.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::ledger::Lease;

/// A register of 4 bytes (`NFT_REG32_00` and on).
pub(crate) type Register = u32;
const R0: Register = 8;
const R1: Register = 9;
const R2: Register = 10;

/// A table of family inet.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: String,
    /// Who made it.
    pub(crate) owner: String,
    pub(crate) maps: Vec<Map>,
    pub(crate) chains: Vec<Chain>,
}

/// A map; the numbers are nft's of types, and lengths in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Map {
    pub(crate) name: &'static str,
    pub(crate) key: (u32, u32),
    pub(crate) value: (u32, u32),
}

/// A chain: `base` is type, hook and priority.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    pub(crate) base: Option<(&'static str, u32, i32)>,
    pub(crate) rules: Vec<Vec<Expression>>,
}

/// The steps of a rule, as the kernel's machine has them (linux/netfilter/nf_tables.h).
#[derive(Debug, Clone)]
pub(crate) enum Expression {
    /// Loads a field of the packet.
    Payload { base: u32, offset: u32, length: u32, into: Register },
    /// Loads a fact about the packet.
    Meta { key: u32, into: Register },
    /// Loads a fact about its connection.
    Connection { key: u32, into: Register },
    /// Loads the kind of its destination.
    DestinationType { into: Register },
    /// Masks a register.
    Mask { register: Register, mask: Vec<u8> },
    /// Goes on if a register has a value.
    Equal { register: Register, value: Vec<u8> },
    /// Goes on if it has not.
    Differ { register: Register, value: Vec<u8> },
    /// Replaces a key by its value in a map; ends the rule if there is none.
    Lookup { map: &'static str, from: Register, into: Register },
    /// Sends the connection to an address and port.
    Dnat { family: u32, address: Register, port: Register },
    /// Lets the connection come from the outgoing interface's address.
    Masquerade,
    /// Goes through another chain.
    Jump(&'static str),
    /// Ends the packet.
    Drop,
}

use Expression::{
    Connection, DestinationType, Differ, Dnat, Drop, Equal, Jump, Lookup, Mask, Masquerade, Meta, Payload,
};

// nft's numbers of types; a concatenation has six bits for each.
const IPV4_ADDR: u32 = 7;
const INET_PROTO: u32 = 12;
const INET_SERVICE: u32 = 13;

/// Host ports on every address of the host.
pub(crate) const PORTS: Map =
    Map { name: "ports4", key: (INET_PROTO << 6 | INET_SERVICE, 8), value: (IPV4_ADDR << 6 | INET_SERVICE, 8) };
/// Host ports on one.
pub(crate) const PORTS_AT: Map = Map {
    name: "ports4_at",
    key: (IPV4_ADDR << 12 | INET_PROTO << 6 | INET_SERVICE, 12),
    value: (IPV4_ADDR << 6 | INET_SERVICE, 8),
};

// enum nft_payload_bases
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
// enum nft_meta_keys
const META_IIFNAME: u32 = 6;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_STATUS: u32 = 2;
/// `IPS_DST_NAT`: the destination was translated.
const STATUS_DNAT: u32 = 1 << 5;
/// `NFPROTO_IPV4`
pub(crate) const IPV4: u32 = 2;
/// `RTN_LOCAL`
const LOCAL: u32 = 2;
// enum nf_inet_hooks, and the usual priorities
const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
const PRIORITY_RAW: i32 = -300;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_SRCNAT: i32 = 100;

const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;

/// The table of an instance, without any pod.
pub(crate) fn table(name: &str, owner: &str, bridge: &str, subnets: &[IpNet]) -> Table {
    let to_local = || {
        let rule =
            [only_ipv4(), vec![DestinationType { into: R0 }, equal(LOCAL.to_ne_bytes()), Jump("ports")]].concat();
        vec![rule]
    };
    let loopback = IpNet::V4(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8));
    let translated = || {
        vec![
            Connection { key: CT_STATUS, into: R0 },
            Mask { register: R0, mask: STATUS_DNAT.to_ne_bytes().to_vec() },
            Differ { register: R0, value: vec![0; 4] },
        ]
    };
    let mut masquerades = Vec::new();
    for subnet in subnets.iter().filter(|subnet| matches!(subnet, IpNet::V4(_))) {
        let from_to = |from, to_inside| {
            [only_ipv4(), within(SOURCE, from, true), within(DESTINATION, subnet, to_inside)].concat()
        };
        masquerades.push([from_to(subnet, false), vec![Masquerade]].concat());
        masquerades.push([translated(), from_to(subnet, true), vec![Masquerade]].concat());
        masquerades.push([translated(), from_to(&loopback, true), vec![Masquerade]].concat());
    }
    let mut interface = bridge.as_bytes().to_vec();
    interface.resize(16, 0);
    let guard = [
        vec![Meta { key: META_IIFNAME, into: R0 }, Equal { register: R0, value: interface }],
        only_ipv4(),
        within(DESTINATION, &loopback, true),
        vec![Drop],
    ];
    let base = |kind, hook, priority| Some((kind, hook, priority));
    Table {
        name: name.to_owned(),
        owner: owner.to_owned(),
        maps: vec![PORTS, PORTS_AT],
        chains: vec![
            Chain { name: "ports", base: None, rules: vec![by_address_and_port(), by_port()] },
            Chain { name: "prerouting", base: base("nat", PREROUTING, PRIORITY_DSTNAT), rules: to_local() },
            Chain { name: "output", base: base("nat", OUTPUT, PRIORITY_DSTNAT), rules: to_local() },
            Chain { name: "postrouting", base: base("nat", POSTROUTING, PRIORITY_SRCNAT), rules: masquerades },
            Chain { name: "guard", base: base("filter", PREROUTING, PRIORITY_RAW), rules: vec![guard.concat()] },
        ],
    }
}

fn by_address_and_port() -> Vec<Expression> {
    vec![
        Payload { base: NETWORK, offset: DESTINATION, length: 4, into: R0 },
        Meta { key: META_L4PROTO, into: R1 },
        Payload { base: TRANSPORT, offset: 2, length: 2, into: R2 },
        Lookup { map: PORTS_AT.name, from: R0, into: R0 },
        Dnat { family: IPV4, address: R0, port: R1 },
    ]
}

fn by_port() -> Vec<Expression> {
    vec![
        Meta { key: META_L4PROTO, into: R0 },
        Payload { base: TRANSPORT, offset: 2, length: 2, into: R1 },
        Lookup { map: PORTS.name, from: R0, into: R0 },
        Dnat { family: IPV4, address: R0, port: R1 },
    ]
}

fn only_ipv4() -> Vec<Expression> {
    vec![Meta { key: META_NFPROTO, into: R0 }, equal([IPV4 as u8])]
}

fn equal(value: impl Into<Vec<u8>>) -> Expression {
    Equal { register: R0, value: value.into() }
}

/// Whether the address at an offset of the IPv4 header is in a subnet (or is not).
fn within(offset: u32, subnet: &IpNet, inside: bool) -> Vec<Expression> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let value = octets(subnet.network());
    vec![
        Payload { base: NETWORK, offset, length: 4, into: R0 },
        Mask { register: R0, mask: octets(subnet.netmask()) },
        if inside { Equal { register: R0, value } } else { Differ { register: R0, value } },
    ]
}

/// An element of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) map: &'static str,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    /// The sandbox.
    pub(crate) comment: String,
}

/// What the ports of a pod add to the maps.
pub(crate) fn elements(lease: &Lease) -> Vec<Element> {
    let Some(IpAddr::V4(address)) = lease.addresses.iter().copied().find(IpAddr::is_ipv4) else { return Vec::new() };
    let mut found: Vec<Element> = Vec::new();
    for port in &lease.ports {
        let service = [&[port.protocol.number(), 0, 0, 0][..], &padded(port.host_port)].concat();
        let (map, key) = match port.host_ip() {
            Some(IpAddr::V4(ip)) => (PORTS_AT.name, [&ip.octets()[..], &service].concat()),
            _ => (PORTS.name, service),
        };
        let value = [&address.octets()[..], &padded(port.container_port)].concat();
        let element = Element { map, key, value, comment: lease.sandbox.clone() };
        if !found.contains(&element) {
            found.push(element);
        }
    }
    found
}

fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{PortMapping, Protocol};

    #[test]
    fn a_port_is_an_element_of_the_map_of_its_kind() {
        let port = |protocol, ip: &str, host_port| PortMapping {
            protocol,
            host_ip: ip.parse().ok(),
            host_port,
            container_port: 80,
        };
        let lease = Lease {
            sandbox: "a".into(),
            addresses: vec!["10.85.0.2".parse().unwrap()],
            ports: vec![
                port(Protocol::Tcp, "", 0x1234),
                port(Protocol::Tcp, "0.0.0.0", 0x1234),
                port(Protocol::Sctp, "127.0.0.1", 80),
            ],
        };
        let found = elements(&lease);
        assert_eq!(found.len(), 2, "the same twice is once");
        assert_eq!((found[0].map, found[0].key.as_slice()), ("ports4", &[6, 0, 0, 0, 0x12, 0x34, 0, 0][..]));
        assert_eq!(
            (found[1].map, found[1].key.as_slice()),
            ("ports4_at", &[127, 0, 0, 1, 132, 0, 0, 0, 0, 80, 0, 0][..])
        );
        assert_eq!((found[0].value.as_slice(), found[0].comment.as_str()), (&[10, 85, 0, 2, 0, 80, 0, 0][..], "a"));
        for (element, map) in found.iter().zip([PORTS, PORTS_AT]) {
            assert_eq!((element.key.len() as u32, element.value.len() as u32), (map.key.1, map.value.1));
        }
    }

    #[test]
    fn every_rule_ends_in_what_it_does_and_loads_before_it_looks() {
        let table = table("podd", "me", "podd0", &["10.85.0.0/16".parse().unwrap()]);
        assert_eq!(table.chains.iter().map(|chain| chain.rules.len()).collect::<Vec<_>>(), [2, 1, 1, 3, 1]);
        for rule in table.chains.iter().flat_map(|chain| &chain.rules) {
            assert!(matches!(rule.last(), Some(Dnat { .. } | Masquerade | Jump(_) | Drop)), "{rule:?}");
            let mut loaded = std::collections::BTreeSet::new();
            for expression in rule {
                match expression {
                    Payload { into, .. } | Meta { into, .. } | Connection { into, .. } | DestinationType { into } => {
                        loaded.insert(*into);
                    }
                    Mask { register, .. } | Equal { register, .. } | Differ { register, .. } => {
                        assert!(loaded.contains(register), "{rule:?}");
                    }
                    Lookup { from, into, .. } => {
                        assert!(loaded.contains(from), "{rule:?}");
                        loaded.extend([*into, *into + 1]);
                    }
                    Dnat { address, port, .. } => {
                        assert!(loaded.contains(address) && loaded.contains(port), "{rule:?}")
                    }
                    Masquerade | Jump(_) | Drop => {}
                }
            }
        }
    }
}
