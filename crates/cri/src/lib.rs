//! CRI v1, the protocol between whoever manages pods and whoever runs them.
//!
//! - [`v1`]: messages, service traits, gRPC server and client, generated from `proto/api.proto`;
//! - [`RuntimeService`] and [`ImageService`]: *the* seam. The embedded runtime implements them, so does
//!   [`client::Client`] for a remote one, so does the fake. In one process they are plain async calls.
//! - [`server`]: any implementation, served on a unix socket;
//! - [`health`]: gRPC's own health check, which is not CRI's;
//! - [`lists`]: a list as a stream of chunks;
//! - [`streaming`]: what `Exec`, `Attach` and `PortForward` answer with an address for;
//! - `fake` (a feature): a runtime in memory, for the tests of everything above.
//!
//! What is not here: any opinion on how a container is made, and any on when it should be.

mod calls;
pub mod client;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod health;
pub mod lists;
pub mod server;
pub mod streaming;
pub mod v1;

pub use v1::image_service_server::ImageService;
pub use v1::runtime_service_server::RuntimeService;

/// Largest message in either direction, in bytes: what kubelet and crictl allow.
pub const MAX_MESSAGE: usize = 16 << 20;

#[cfg(test)]
mod tests;
