//! What callers see of an image, and of the work on one.

use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::image::ImageConfiguration;

use crate::digest::Digest;

/// One image of the store, as it was when it was asked for.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of its configuration: what Kubernetes calls the image's id.
    pub id: Digest,
    /// Names with a tag, complete: `docker.io/library/nginx:1.27`. Sorted.
    pub repo_tags: Vec<String>,
    /// Names with a digest, complete: `docker.io/library/nginx@sha256:…`. Sorted.
    pub repo_digests: Vec<String>,
    /// The digest of the manifest for this platform.
    pub manifest: Digest,
    /// Bytes on disk: its blobs and its unpacked layers, shared ones included.
    pub size: u64,
    /// The user of the configuration when it is a number.
    pub uid: Option<i64>,
    /// The user of the configuration when it is a name; empty otherwise.
    pub username: String,
    /// Not to be collected, by configuration.
    pub pinned: bool,
    /// The image's configuration.
    pub config: Arc<ImageConfiguration>,
    /// Its unpacked layers as overlay wants them: topmost first.
    pub layers: Vec<PathBuf>,
}

/// Splits the `User` of a configuration (`uid`, `uid:gid`, `name`, `name:group`) the way CRI reports it.
pub(crate) fn user_of(config: &ImageConfiguration) -> (Option<i64>, String) {
    let user = config.config().as_ref().and_then(|config| config.user().as_deref());
    let user = user.unwrap_or_default().split(':').next().unwrap_or_default();
    match user.parse() {
        Ok(uid) => (Some(uid), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

/// An image that came out of an archive.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The image.
    pub image: Arc<Image>,
    /// The names that the archive gave it, complete; empty if it gave none.
    pub names: Vec<String>,
}

/// What a removal took away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub names: Vec<String>,
    /// Bytes that were freed now; layers in use free theirs later.
    pub freed: u64,
}

/// How much the store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// How far one layer of a pull has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The layer, by the digest of its compressed bytes.
    pub layer: Digest,
    /// Compressed bytes that have arrived.
    pub done: u64,
    /// Compressed bytes in all.
    pub total: u64,
    /// It is unpacked and verified (also when it was there before).
    pub complete: bool,
}

/// Is told about progress, from several threads. It must not block.
pub type ProgressSink = Arc<dyn Fn(&Progress) + Send + Sync>;
