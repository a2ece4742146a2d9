//! The runtime's side of a shim: how one is started, and the connection to it.

mod client;
pub(crate) mod launch;

pub(crate) use client::{Client, unexpected};
pub(crate) use launch::{Holder, Launched, Launcher};
