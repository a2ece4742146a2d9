//! The node agent, a small kubelet: it takes pods from the API and from a directory of static manifests, gives each one a
//! worker that observes, lets `podd_core` decide, acts through CRI and publishes status. It owns what surrounds the
//! containers: volumes, claims, pod cgroups, the hosts file, the Node object, events, and the kubelet's HTTP interface.
//!
//! It knows its runtime only as the two CRI service traits and its API only as a `kube::Client`.

mod agent;
mod claims;
pub mod config;
mod desired;
mod dns;
mod downward;
pub mod events;
mod eviction;
mod hosts;
mod housekeeping;
mod images;
mod kubelet;
pub mod logs;
mod machine;
mod names;
mod node;
mod objects;
mod pod_cgroups;
mod probes;
mod references;
mod refresh;
mod resources;
mod shutdown;
pub mod source;
mod strangers;
mod turns;
mod users;
pub mod volumes;
mod watch;
pub mod worker;

pub use agent::{Agent, Error, Parts, StopPods};
pub use config::Config;
pub use images::images_in_use;
pub use names::NameServer;
