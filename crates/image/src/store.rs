//! The store: which images there are, by which names, and what on disk belongs to them.
//!
//! ```text
//! <root>/oci-layout, index.json     a standard OCI layout; index.json is the only record of names
//! <root>/blobs/sha256/<hex>         manifests, configurations, compressed layers
//! <root>/layers/<short>/fs          a layer unpacked, ready for overlay; <short>/layer.json says which
//! <root>/tmp                        half-made things, emptied at open
//! <root>/lock                       held by the process that has the store open
//! ```
//!
//! Everything is made in `tmp` and renamed into place, so a thing that has its name is whole. Two locks: `commit`
//! lets one writer at a time change `index.json`; `state` is what readers see and is never held over disk work
//! longer than a rename. What neither an image nor a [`Lease`] refers to is garbage.

mod collect;
mod index;
mod layout;
mod open;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci_spec::image::ImageConfiguration;

use crate::config::Config;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::{Image, Removed, Usage, user_of};
use crate::manifest::{Annotations, Descriptor, Manifest};
use crate::pull::Flights;
use crate::reference::Reference;
use crate::registry::Clients;

pub(crate) use index::Index;
pub(crate) use layout::{Layer, Layout, Scratch};

/// All images of one directory. A clone is the same store.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    pub(crate) clients: Clients,
    pub(crate) flights: Flights,
    /// One writer of `index.json` at a time. Taken before `state`.
    commit: Mutex<()>,
    state: Mutex<State>,
}

/// What there is. Cheap to read, never locked over slow work.
#[derive(Default)]
struct State {
    index: Index,
    /// By id, the digest of the configuration.
    images: BTreeMap<Digest, Record>,
    /// Unpacked layers by the digest of their uncompressed bytes.
    layers: BTreeMap<Digest, Layer>,
    /// Bytes of each blob.
    blobs: BTreeMap<Digest, u64>,
    /// How many leases keep a blob or layer.
    held: HashMap<Digest, usize>,
}

/// An image, whatever its names are.
#[derive(Clone)]
pub(crate) struct Record {
    pub(crate) manifest_digest: Digest,
    pub(crate) manifest: Manifest,
    pub(crate) config: Arc<ImageConfiguration>,
    /// Lowest first.
    pub(crate) diff_ids: Vec<Digest>,
}

impl Record {
    /// How `index.json` points at it; `size` is that of the manifest.
    fn descriptor(&self, size: u64) -> Descriptor {
        Descriptor {
            media_type: self.manifest.media_type.clone(),
            digest: self.manifest_digest,
            size,
            platform: None,
            annotations: Annotations::default(),
        }
    }

    fn blobs(&self) -> impl Iterator<Item = Digest> + '_ {
        let layers = self.manifest.layers.iter().map(|layer| layer.digest);
        [self.manifest_digest, self.manifest.config.digest].into_iter().chain(layers)
    }
}

impl Store {
    /// Opens the store of directory `root`, which is made if need be. Half-made things of a crash are removed,
    /// as are layers that a power cut may have damaged.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has it open, [`Error::Io`] if the disk refuses.
    pub fn open(root: impl Into<PathBuf>, config: Config) -> Result<Store, Error> {
        open::open(root.into(), config)
    }

    /// The directory of the store.
    pub fn root(&self) -> &Path {
        self.inner.layout.root()
    }

    /// All images, sorted by id.
    pub fn list(&self) -> Vec<Arc<Image>> {
        let state = self.inner.state();
        let ids: Vec<Digest> = state.images.keys().copied().collect();
        ids.iter().map(|id| Arc::new(self.inner.view(&state, id))).collect()
    }

    /// The image of a name (`nginx`, `r.io/x:1`, `x@sha256:…`) or an id (`sha256:…`, its hex digits, or enough of
    /// them).
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is none, `Invalid` if the name is not one or is ambiguous.
    pub fn get(&self, name: &str) -> Result<Arc<Image>, Error> {
        let state = self.inner.state();
        let id = state.resolve(name)?;
        Ok(Arc::new(self.inner.view(&state, &id)))
    }

    /// The image of a name or id together with a lease on its layers, in one step: nothing can remove them in
    /// between.
    ///
    /// # Errors
    /// Those of [`Store::get`].
    pub fn acquire(&self, name: &str) -> Result<(Arc<Image>, Lease), Error> {
        let mut state = self.inner.state();
        let id = state.resolve(name)?;
        let image = Arc::new(self.inner.view(&state, &id));
        let layers = state.images[&id].diff_ids.clone();
        Ok((image, self.lease(&mut state, layers)))
    }

    /// A lease on layers by their directories ([`Image::layers`]), for containers that were there before this
    /// process. Directories that are no layers of this store are passed over.
    pub fn lease_layers(&self, directories: &[PathBuf]) -> Lease {
        let mut state = self.inner.state();
        let layers = state.layers.iter();
        let wanted = layers.filter(|(_, layer)| directories.contains(&self.inner.layout.layer_fs(layer)));
        let wanted = wanted.map(|(id, _)| *id).collect();
        self.lease(&mut state, wanted)
    }

    /// Keeps blobs and layers, present or to come, from being collected.
    pub(crate) fn hold(&self, digests: Vec<Digest>) -> Lease {
        self.lease(&mut self.inner.state(), digests)
    }

    fn lease(&self, state: &mut State, digests: Vec<Digest>) -> Lease {
        for digest in &digests {
            *state.held.entry(*digest).or_default() += 1;
        }
        Lease { inner: Arc::clone(&self.inner), digests }
    }

    /// Removes an image by any of its names or its id, with all its names, as the kubelet expects of CRI. Layers
    /// that other images share stay, and layers under a [`Lease`] stay until a later [`Store::collect`].
    ///
    /// # Errors
    /// Those of [`Store::get`], and [`Error::Io`].
    pub async fn remove(&self, name: &str) -> Result<Removed, Error> {
        let id = self.inner.state().resolve(name)?;
        let store = self.clone();
        blocking(move || store.inner.remove(&id)).await
    }

    /// Removes blobs and layers that no image and no lease refers to; returns the bytes that were freed.
    ///
    /// # Errors
    /// [`Error::Io`] with the first of what could not be removed; the rest is removed all the same.
    pub async fn collect(&self) -> Result<u64, Error> {
        let store = self.clone();
        blocking(move || store.inner.collect()).await
    }

    /// Waits until everything that was pulled survives a power cut. Pulls do this in the background.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn flush(&self) -> Result<(), Error> {
        let store = self.clone();
        blocking(move || store.inner.layout.flush()).await
    }

    /// What blobs and unpacked layers take on disk.
    pub fn usage(&self) -> Usage {
        let state = self.inner.state();
        let layers = state.layers.values();
        let unpacked = layers.fold(Usage::default(), |sum, layer| Usage {
            bytes: sum.bytes + layer.bytes,
            inodes: sum.inodes + layer.inodes,
        });
        Usage {
            bytes: unpacked.bytes + state.blobs.values().sum::<u64>(),
            inodes: unpacked.inodes + state.blobs.len() as u64,
        }
    }
}

impl State {
    /// The id of the image that a name or id means.
    fn resolve(&self, name: &str) -> Result<Digest, Error> {
        let missing = || Error::NoImage { name: name.to_owned() };
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if let Ok(id) = format!("sha256:{hex}").parse::<Digest>() {
            return self.images.contains_key(&id).then_some(id).ok_or_else(missing);
        }
        let parsed = Reference::parse(name);
        if let Ok(reference) = &parsed
            && let Some(id) = self.index.id_of(reference)
        {
            return Ok(id);
        }
        let digits = !hex.is_empty() && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !digits {
            parsed?;
            return Err(missing());
        }
        let matching: Vec<Digest> = self.images.keys().filter(|id| id.hex().starts_with(hex)).copied().collect();
        match matching[..] {
            [id] => Ok(id),
            [] => Err(missing()),
            _ => Err(Error::Ambiguous { prefix: name.to_owned(), count: matching.len() }),
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is our own mistake; the state is a few maps that are each changed in one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn committing(&self) -> MutexGuard<'_, ()> {
        self.commit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has_blob(&self, digest: &Digest) -> bool {
        self.state().blobs.contains_key(digest)
    }

    pub(crate) fn has_layer(&self, diff_id: &Digest) -> bool {
        self.state().layers.contains_key(diff_id)
    }

    pub(crate) fn record(&self, id: &Digest) -> Option<Record> {
        self.state().images.get(id).cloned()
    }

    pub(crate) fn add_blob(&self, digest: Digest, scratch: Scratch, bytes: u64) -> Result<(), Error> {
        self.layout.commit_blob(&digest, scratch)?;
        self.state().blobs.insert(digest, bytes);
        Ok(())
    }

    /// A blob turned out not to hold what its name says.
    pub(crate) fn drop_blob(&self, digest: &Digest) -> Result<(), Error> {
        self.state().blobs.remove(digest);
        self.layout.remove_blob(digest)
    }

    pub(crate) fn add_layer(&self, scratch: Scratch, layer: Layer) -> Result<(), Error> {
        let mut state = self.state();
        if state.layers.contains_key(&layer.diff_id) {
            return Ok(());
        }
        let taken: BTreeSet<String> = state.layers.values().map(|layer| layer.short.clone()).collect();
        let layer = self.layout.commit_layer(scratch, layer, &taken)?;
        state.layers.insert(layer.diff_id, layer);
        Ok(())
    }

    /// Stores an image's documents, then makes it known under `names`, which leave the image that had them. Its
    /// layers must be there and held.
    pub(crate) fn commit_image(
        &self,
        record: Record,
        manifest: &[u8],
        config: &[u8],
        names: &[Reference],
    ) -> Result<Arc<Image>, Error> {
        let id = record.manifest.config.digest;
        for (digest, bytes) in [(record.manifest_digest, manifest), (id, config)] {
            if !self.has_blob(&digest) {
                self.add_blob(digest, self.layout.small_blob(bytes)?, bytes.len() as u64)?;
            }
        }
        let _commit = self.committing();
        let mut index = self.state().index.clone();
        index.add(record.descriptor(manifest.len() as u64), id, names);
        self.layout.write_index(&index)?;
        let mut state = self.state();
        state.index = index;
        state.images.insert(id, record);
        let image = Arc::new(self.view(&state, &id));
        drop(state);
        self.layout.flush_behind();
        Ok(image)
    }

    /// What callers see of an image.
    fn view(&self, state: &State, id: &Digest) -> Image {
        let record = &state.images[id];
        let (tags, digests): (Vec<_>, Vec<_>) =
            state.index.names_of(id).into_iter().partition(|name| name.tag().is_some());
        let text = |names: Vec<Reference>| names.iter().map(Reference::to_string).collect::<Vec<_>>();
        let (repo_tags, repo_digests) = (text(tags), text(digests));
        let (uid, username) = user_of(&record.config);
        let layers: Vec<&Layer> = record.diff_ids.iter().filter_map(|id| state.layers.get(id)).collect();
        let blobs = record.blobs().filter_map(|blob| state.blobs.get(&blob));
        Image {
            id: *id,
            manifest: record.manifest_digest,
            size: layers.iter().map(|layer| layer.bytes).sum::<u64>() + blobs.sum::<u64>(),
            uid,
            username,
            pinned: repo_tags.iter().chain(&repo_digests).any(|name| self.config.pinned.contains(name)),
            config: Arc::clone(&record.config),
            layers: layers.iter().rev().map(|layer| self.layout.layer_fs(layer)).collect(),
            repo_tags,
            repo_digests,
        }
    }
}

/// Keeps layers on disk while containers use them, whatever happens to their image.
#[must_use = "dropping a lease lets the layers be collected"]
pub struct Lease {
    inner: Arc<Inner>,
    digests: Vec<Digest>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        for digest in &self.digests {
            if let Some(count) = state.held.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    state.held.remove(digest);
                }
            }
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lease").field(&self.digests).finish()
    }
}

/// Runs disk work off the async threads. A panic in it goes on in the caller.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Cancelled { what: "disk work of the image store".to_owned() }),
    }
}
