//! Every decision of the node, as plain functions over values: Kubernetes objects and small observation types
//! go in, actions and statuses come out. Nothing here reads a clock, a file, a socket or a global.

pub mod admission;
pub mod claims;
pub mod classes;
pub mod collection;
pub mod defaults;
pub mod eviction;
pub mod field;
pub mod invariants;
pub mod names;
pub mod pod;
pub mod pull_secrets;
pub mod qos;
pub mod quantity;
pub mod shutdown;
pub mod swap;
pub mod sysctl;
pub mod validation;
pub mod verdict;
