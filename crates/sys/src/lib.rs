//! The kernel as podd needs it, and the only crate with `unsafe` code.
//!
//! Where rustix has a safe call, podd uses rustix directly; what stands here is what rustix lacks or what podd wants
//! as one checked step: spawning, cloning, namespaces, mounts, resolution beneath a directory, verified procfs writes,
//! descriptor passing, capabilities, seccomp, device filters.
//!
//! Functions take [`BorrowedFd`](std::os::fd::BorrowedFd) and return [`OwnedFd`](std::os::fd::OwnedFd), close-on-exec
//! from birth. Errors are [`std::io::Error`] with the errno of the call unless a module says otherwise.
#![allow(unsafe_code)]

pub mod socket;
