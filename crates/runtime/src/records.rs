//! What the runtime knows about sandboxes and containers, on disk: one small append-only file per object.
//!
//! The first line is the object's immutable description; every further line is its whole mutable status, and the last
//! complete line counts. So a record is written *before* the first effect with one `write`, a status change is one
//! `write` more (no rename, no `fsync` on the start path), a crash can at most tear the last line, and the previous one
//! still stands. A thread of this module syncs changed files in the background, so that exit results survive a power
//! loss shortly after.
//!
//! Nothing here is tied to a boot. What a boot invalidates lives in the run directory ([`crate::shim::launch`]).

mod file;
mod types;

pub(crate) use file::{Record, Records, Syncer};
pub(crate) use types::{
    ContainerMeta, ContainerStatus, Exit, ImageNames, MountMeta, NamespaceMode, Namespaces, Owner, PodResources,
    PortMeta, Reason, Resources, SandboxMeta, SandboxStage, SandboxStatus, Stage, User, VolumeImage, mappings,
};
