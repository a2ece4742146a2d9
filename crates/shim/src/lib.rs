//! What podd's runtime and its per-pod shim have in common: the [`wire`] between them.
//!
//! The shim itself is the binary of this crate; nothing of it is public.

pub mod wire;
