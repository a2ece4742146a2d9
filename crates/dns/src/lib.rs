//! Names of pods and services, for pods: a name server that answers from a table, and passes on what is not its own.
//!
//! ```text
//!  agent ── Table (a file, replaced whole) ──► server ── what is not in the domain ──► the node's name servers
//!                                                ▲
//!                                  pods ── UDP and TCP, port 53
//! ```
//! The server is a process of its own (`podd dns`), so that names resolve while the agent restarts or is down. It looks at
//! the table anew when the file has been replaced; its answers have a lifetime of 0 seconds, so that nobody keeps an address
//! that was given to another pod meanwhile. What a question means is decided in [`answer`], without I/O.

mod answer;
mod server;
mod table;
mod upstream;

pub use server::{Error, Listeners, Options, listen, serve};
pub use table::{Entry, Table};
