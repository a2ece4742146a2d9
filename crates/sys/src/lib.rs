//! The kernel as podd needs it, and the only crate with `unsafe` code.
//!
//! Where rustix has a safe call, podd uses rustix directly; what stands here is what rustix lacks or what podd wants
//! as one checked step: spawning, forking, namespaces, mounts, resolution beneath a directory, verified procfs writes,
//! descriptor passing, capabilities, seccomp, device filters.
//!
//! Functions take [`BorrowedFd`](std::os::fd::BorrowedFd) and return [`OwnedFd`](std::os::fd::OwnedFd), close-on-exec
//! from birth. Errors are [`std::io::Error`] with the errno of the call unless a module says otherwise.
#![allow(unsafe_code)]

pub mod bpf;
pub mod capability;
pub mod exec;
pub mod fork;
pub mod memfd;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod procfs;
pub mod resolve;
pub mod rlimit;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod spawn;

use std::io;

/// The result of a raw system call as the kernel tells it to libc.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
