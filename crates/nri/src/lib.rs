//! NRI, the Node Resource Interface: plugins are told what becomes of pods and containers, and may change containers
//! while they are made.
//!
//! ```text
//!  runtime ──► Plugins ── one Plugin each ── Connection ── frame ── unix socket ── plugin
//!     ▲           │ merge: many answers, one adjustment
//!     └── Host ◄──┘ inventory, updates
//! ```
//!
//! - [`Plugins`]: the sockets, who is connected, the order of calls, and the gate between a plugin that is being told
//!   what there is and operations that change it;
//! - [`merge`]: what several plugins ask for as one adjustment, or an error where they disagree;
//! - [`connection`] and [`frame`]: the protocol, for either side; [`message`]: its messages.
//!
//! What is not here: what a pod is, and how an adjustment is applied. That is the runtime's ([`Host`]).

pub mod connection;
pub mod frame;
pub mod merge;
pub mod message;
mod plugin;
mod plugins;

pub use connection::{CallError, Connection, Service, Side, Status};
pub use plugins::{Config, Created, Gate, Host, NriError, Plugins};

#[cfg(test)]
mod tests;
