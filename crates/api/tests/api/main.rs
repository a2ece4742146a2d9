//! The API as its clients see it: through its router in this process, or over a unix socket.

mod deletion;
mod harness;
mod kube;
mod lists;
mod patch;
mod proxy;
mod store;
mod verbs;
mod watch;
