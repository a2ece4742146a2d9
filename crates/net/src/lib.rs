//! The pods' network of an instance: addresses, links, routes and nft rules, planned as values and then applied.
//!
//! ```text
//!  Network ── ledger (leases on disk) ── pool (addresses)          who has what
//!     │
//!     ├── links, ruleset                                           plans: values, no effects
//!     └── host ── machine, netlink, nft, conntrack, sockets        effects: the kernel, found and changed
//! ```
//! A pod has `eth0`, one end of a veth pair whose other end hangs on the instance's bridge. The bridge has the first
//! address of the subnet and is the pods' gateway; what leaves the subnet is masqueraded. Host ports are elements of two
//! maps of the instance's nft table ([`ruleset`] has it in nft's words).
//!
//! Nothing in the kernel is touched before the first pod. All that is done can be done again: a torn
//! [`attach`](Network::attach) is undone by [`detach`](Network::detach), and [`restore`](Network::restore) brings disk and
//! kernel in line with the pods that live. Sysctl changed: `net.ipv4.ip_forward` (given back by
//! [`shutdown`](Network::shutdown)) and `route_localnet` of the bridge, which goes with it. `rp_filter` may be strict, and
//! `bridge-nf-call-iptables` may be on or off.

mod config;
mod conntrack;
mod error;
mod host;
mod ledger;
mod links;
mod machine;
mod netlink;
mod network;
mod nft;
mod pool;
mod ports;
mod ruleset;
mod sockets;

pub use config::{Config, host_interface};
pub use error::{Error, Kind, Result};
pub use ipnet::IpNet;
pub use network::{Attached, Network};
pub use ports::{PortHolder, PortMapping, Protocol};
