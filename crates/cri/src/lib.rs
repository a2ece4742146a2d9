//! CRI v1, the protocol between whoever manages pods and whoever runs them.
//!
//! - [`v1`]: messages, service traits, gRPC server and client, generated from `proto/api.proto`;
//! - [`RuntimeService`] and [`ImageService`]: *the* seam. The embedded runtime implements them, so does
//!   a client of a remote one, so does the fake. In one process they are plain async calls.
//!
//! What is not here: any opinion on how a container is made, and any on when it should be.

pub mod v1;

pub use v1::image_service_server::ImageService;
pub use v1::runtime_service_server::RuntimeService;
