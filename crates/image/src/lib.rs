//! Images: what they are called, where they come from and where they lie on disk.
//!
//! * [`Reference`] is the name of an image, parsed and completed (`nginx` is `docker.io/library/nginx:latest`).
//! * [`Store`] keeps images under one directory: a standard OCI layout for what registries hand out, and each
//!   layer unpacked once beside it, ready to be a lower directory of an overlay mount.
//! * [`Store::pull`] brings an image from a registry, [`Store::load`] from an archive.
//!
//! Everything that comes from a registry or an archive is hostile until its digest is verified, and a layer's
//! content stays hostile after that. This crate mounts nothing and runs nothing.

mod config;
mod digest;
mod error;
mod image;
mod layer;
mod load;
mod login;
mod manifest;
mod pull;
mod reference;
mod registry;
mod store;
mod unpack;

pub use config::{Config, Credentials, Limits, Mirror, Tls};
pub use digest::Digest;
pub use error::{Error, ErrorKind};
pub use image::{Image, Loaded, Progress, ProgressSink, Removed, Usage};
pub use login::same_registry;
pub use oci_spec::image::ImageConfiguration;
pub use reference::{Reference, ReferenceError};
pub use store::{Lease, Store};
