//! Messages, service traits, gRPC servers and clients of CRI v1, generated from `proto/api.proto`.
//!
//! Names and numbers are the protocol's; the comments of the `.proto` file are the documentation of what
//! stands here. Maps are `BTreeMap`, so that what is printed or stored has one order.

// Generated: shape and wording come from the protocol.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
#![allow(rustdoc::all)]

use std::fmt;

tonic::include_proto!("runtime.v1");

/// Says which credentials are there, and none of them.
impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = |value: &str| if value.is_empty() { "" } else { "<hidden>" };
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("password", &secret(&self.password))
            .field("auth", &secret(&self.auth))
            .field("server_address", &self.server_address)
            .field("identity_token", &secret(&self.identity_token))
            .field("registry_token", &secret(&self.registry_token))
            .finish()
    }
}

#[cfg(test)]
mod tests;
