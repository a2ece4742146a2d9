//! The shim as a runtime meets it: its real binary, real containers of a busybox image, its socket.
//!
//! Every test has a shim, namespaces and a directory of its own; whatever it started ends with it, also when it fails.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod attach;
mod exec;
mod external;
mod group;
mod harness;
mod hooks;
mod hostile;
mod image;
mod life;
mod logs;
mod measure;
mod mounts;
mod pod;
mod users;
mod wire;
