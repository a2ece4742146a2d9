//! The CRI engine: sandboxes and containers out of images, networks, cgroups and shims.
//!
//! [`Runtime`] implements CRI's two services ([`podd_cri::RuntimeService`], [`podd_cri::ImageService`]); whoever holds
//! it calls them as plain functions, [`podd_cri::server`] serves them on a socket. One file per family of calls, each
//! with a *plan* (values in, values out) and what carries it out:
//!
//! ```text
//!  service ──► engine ──┬─ sandbox/{plan,run,stop,remove,status,list}      records (disk, append-only)
//!                       ├─ container/{plan,create,start,stop,remove,…}     registry (memory)
//!                       ├─ exec, streams, stats, metrics, events, images   shim/{client,launch}
//!                       ├─ request (what is refused), describe, status
//!                       └─ recovery (at open)                              network, podd-cgroup, podd-image
//! ```
//!
//! What is not here: when a container should run, and again (that is the agent's), and what happens between `clone` and
//! `exec` (that is the shim's).

mod apparmor;
mod cdi;
mod clock;
mod config;
mod container;
mod describe;
mod engine;
mod error;
mod events;
mod exec;
mod external;
mod features;
#[cfg(test)]
mod fuzz;
mod hooks;
mod images;
mod metrics;
mod network;
mod nri;
mod paths;
mod program;
mod records;
mod recovery;
mod registry;
mod request;
mod sandbox;
mod scope;
mod seccomp;
mod service;
mod shim;
mod signals;
mod stats;
mod status;
mod streams;
mod systemd;
mod warnings;

pub use config::{CgroupDriver, CniConfig, Config, Handler, LogLimits, NetworkChoice};
pub use engine::Runtime;
pub use error::{CriError, Result};
