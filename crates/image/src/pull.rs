//! Pulling: manifest, configuration, then the missing layers side by side, and at last the name.
//!
//! Callers that want the same image with the same credentials share one pull. It runs in whoever of them waits,
//! and stops when the last one goes away. What a stopped pull leaves is whole blobs and layers without a name: the
//! next pull uses them, and [`Store::collect`] removes them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::future::{BoxFuture, FutureExt as _, Shared, WeakShared};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::mpsc;

use crate::config::Credentials;
use crate::digest::Digest;
use crate::error::{During as _, Error, ErrorKind};
use crate::image::{Image, Progress, ProgressSink};
use crate::layer::{Feed, Job, Source, process};
use crate::manifest::{Descriptor, Document, Manifest, Platform, parse_config, parse_document, select};
use crate::reference::Reference;
use crate::registry::{Endpoint, Receiver, Session};
use crate::store::{Record, Store, blocking};

/// Chunks of a download that may wait for the thread that takes them.
const FEED: usize = 32;
/// Progress is told no more often than this, in bytes.
const PROGRESS_STEP: u64 = 256 << 10;

type Outcome = Result<Arc<Image>, Error>;
type LayerLock = tokio::sync::Mutex<()>;
type Pulling = Shared<BoxFuture<'static, Outcome>>;

/// The pulls that are under way.
#[derive(Default)]
pub(crate) struct Flights {
    pulls: Mutex<HashMap<(Reference, Credentials), Flight>>,
    /// One download of a layer from one host at a time; another host's slowness is not waited for.
    layers: Mutex<HashMap<(String, Digest), Weak<LayerLock>>>,
}

struct Flight {
    pulling: WeakShared<BoxFuture<'static, Outcome>>,
    listeners: Listeners,
}

/// Who wants to hear about progress.
#[derive(Clone, Default)]
struct Listeners(Arc<Mutex<Vec<ProgressSink>>>);

impl Listeners {
    fn add(&self, sink: Option<ProgressSink>) {
        let mut sinks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sinks.extend(sink);
    }

    fn tell(&self, progress: &Progress) {
        let sinks = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for sink in sinks {
            sink(progress);
        }
    }
}

impl Flights {
    fn layer_lock(&self, host: &str, digest: Digest) -> Arc<LayerLock> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.retain(|_, lock| lock.strong_count() > 0);
        let key = (host.to_owned(), digest);
        if let Some(lock) = layers.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        layers.insert(key, Arc::downgrade(&lock));
        lock
    }
}

impl Store {
    /// Brings an image from its registry (or a mirror of it) and names it. What the store has already is not
    /// fetched again, but the registry is always asked what the name means now.
    ///
    /// Dropping the future stops the work, unless another caller waits for the same image.
    ///
    /// # Errors
    /// By [`ErrorKind`]: `NotFound`, `Unauthorized`, `Unavailable`, `Invalid` (digests, manifests, layers),
    /// `Exhausted` (the disk).
    pub async fn pull(
        &self,
        reference: &Reference,
        credentials: &Credentials,
        progress: Option<ProgressSink>,
    ) -> Result<Arc<Image>, Error> {
        self.join_or_start(reference, credentials, progress).await
    }

    fn join_or_start(
        &self,
        reference: &Reference,
        credentials: &Credentials,
        progress: Option<ProgressSink>,
    ) -> Pulling {
        let key = (reference.clone(), credentials.clone());
        let mut pulls = self.inner.flights.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = pulls.get(&key)
            && let Some(pulling) = flight.pulling.upgrade()
        {
            flight.listeners.add(progress);
            return pulling;
        }
        pulls.retain(|_, flight| flight.pulling.upgrade().is_some());
        let listeners = Listeners::default();
        listeners.add(progress);
        let work = pull(self.clone(), reference.clone(), credentials.clone(), listeners.clone());
        let pulling = work.boxed().shared();
        if let Some(weak) = pulling.downgrade() {
            pulls.insert(key, Flight { pulling: weak, listeners });
        }
        pulling
    }
}

/// Asks each endpoint in turn until one has the image.
async fn pull(store: Store, reference: Reference, credentials: Credentials, listeners: Listeners) -> Outcome {
    let config = &store.inner.config;
    let mut endpoints = Endpoint::of(&reference, config).into_iter().peekable();
    while let Some(endpoint) = endpoints.next() {
        let session = Session::new(&store.inner.clients, config, endpoint, &reference, &credentials);
        let pulled = match session {
            Ok(session) => {
                let pull = Pull { store: &store, session, reference: &reference, listeners: &listeners };
                pull.run().await
            }
            Err(error) => Err(error),
        };
        match pulled {
            Err(error) if error.kind() == ErrorKind::Exhausted => {
                // Half an image is of no use to a full disk.
                if let Err(error) = store.collect().await {
                    tracing::warn!(%error, "could not make room after a pull that found the disk full");
                }
                return Err(error);
            }
            Err(error) if endpoints.peek().is_some() => {
                tracing::warn!(%error, "a mirror does not have the image; asking the next");
            }
            outcome => return outcome,
        }
    }
    unreachable!("the last endpoint is the registry itself, and its outcome is returned")
}

struct Pull<'a> {
    store: &'a Store,
    session: Arc<Session>,
    reference: &'a Reference,
    listeners: &'a Listeners,
}

/// A manifest with the bytes that its digest is of.
struct Found {
    manifest: Manifest,
    digest: Digest,
    bytes: Vec<u8>,
}

impl Pull<'_> {
    async fn run(&self) -> Outcome {
        let (found, names) = self.find().await?;
        let Found { manifest, digest, bytes } = found;
        let layers = manifest.layers.iter().map(|layer| layer.digest);
        let _blobs = self.store.hold([digest, manifest.config.digest].into_iter().chain(layers).collect());
        let (config_bytes, config, diff_ids) = self.config(&manifest).await?;
        let _layers = self.store.hold(diff_ids.clone());
        let parts = manifest.layers.iter().zip(&diff_ids);
        let parts: Vec<BoxFuture<'_, _>> = parts.map(|(layer, id)| self.layer(layer, *id).boxed()).collect();
        let parallel = self.store.inner.config.parallel_layers.max(1);
        stream::iter(parts).buffer_unordered(parallel).try_collect::<Vec<()>>().await?;
        let record = Record { manifest_digest: digest, manifest, config: Arc::new(config), diff_ids };
        let store = self.store.clone();
        blocking(move || store.inner.commit_image(record, &bytes, &config_bytes, &names)).await
    }

    /// The manifest for this machine, and the names that the image gets.
    async fn find(&self) -> Result<(Found, Vec<Reference>), Error> {
        let limits = &self.store.inner.config.limits;
        let version = match (self.reference.tag(), self.reference.digest()) {
            (Some(tag), _) => tag.to_owned(),
            (None, Some(digest)) => digest.to_string(),
            (None, None) => unreachable!("a complete name has a tag or a digest"),
        };
        let answer = self.session.manifest(&version).await?;
        let mut names = vec![self.reference.with_digest(answer.digest)];
        if self.reference.tag().is_some() {
            names.push(self.reference.clone());
        }
        let entry = match parse_document(&answer.bytes, &self.subject("manifest", &answer.digest), limits)? {
            Document::Image(manifest) => {
                let found = Found { manifest: *manifest, digest: answer.digest, bytes: answer.bytes };
                return Ok((found, names));
            }
            Document::Index(entries) => {
                let host = Platform::host();
                let chosen = select(&entries, &host).cloned();
                chosen.map_err(|there| Error::Registry {
                    kind: ErrorKind::NotFound,
                    registry: self.session.host().to_owned(),
                    image: self.reference.to_string(),
                    action: format!("choose from index {}", answer.digest),
                    reason: format!("it has nothing for {host}, only for {}", there.join(", ")),
                })?
            }
        };
        let answer = self.session.manifest(&entry.digest.to_string()).await?;
        let subject = self.subject("manifest", &answer.digest);
        let manifest = crate::manifest::parse_manifest(&answer.bytes, &subject, limits)?;
        let found = Found { manifest, digest: answer.digest, bytes: answer.bytes };
        Ok((found, names))
    }

    async fn config(
        &self,
        manifest: &Manifest,
    ) -> Result<(Vec<u8>, oci_spec::image::ImageConfiguration, Vec<Digest>), Error> {
        let Descriptor { digest, size, .. } = &manifest.config;
        let path = self.store.inner.layout.blob(digest);
        let stored = match self.store.inner.has_blob(digest) {
            true => tokio::fs::read(&path).await.during("read", &path).ok(),
            false => None,
        };
        let bytes = match stored.filter(|bytes| Digest::of(bytes) == *digest) {
            Some(bytes) => bytes,
            None => self.session.small_blob(digest, *size).await?,
        };
        let subject = self.subject("configuration", digest);
        let (config, diff_ids) = parse_config(&bytes, manifest.layers.len(), &subject)?;
        let (architecture, host) = (config.architecture().to_string(), Platform::host().architecture);
        if architecture != host {
            tracing::warn!(image = %self.reference, architecture, host, "the image is for another architecture");
        }
        Ok((bytes, config, diff_ids))
    }

    /// Sees to it that the store has a layer, packed and unpacked.
    async fn layer(&self, layer: &Descriptor, diff_id: Digest) -> Result<(), Error> {
        let inner = &self.store.inner;
        let lock = inner.flights.layer_lock(self.session.host(), layer.digest);
        let _alone = lock.lock().await;
        let told = |done: u64, complete| {
            self.listeners.tell(&Progress { layer: layer.digest, done, total: layer.size, complete });
        };
        let job = || Job {
            store: self.store.clone(),
            subject: self.subject("layer", &layer.digest),
            blob: Some((layer.digest, layer.size)),
            diff_id,
        };
        let (has_blob, has_layer) = (inner.has_blob(&layer.digest), inner.has_layer(&diff_id));
        if has_blob && !has_layer {
            let job = job();
            // A blob that turns out to be damaged is gone afterwards, and fetched anew below.
            if let Err(error) = blocking(move || process(&job, Source::Stored)).await {
                if !matches!(error, Error::Content { .. }) {
                    return Err(error);
                }
                tracing::warn!(%error, "fetching a damaged blob again");
            }
        }
        if !inner.has_blob(&layer.digest) || !inner.has_layer(&diff_id) {
            self.fetch(layer, job(), &told).await?;
        }
        told(layer.size, true);
        Ok(())
    }

    async fn fetch(&self, layer: &Descriptor, job: Job, told: &(dyn Fn(u64, bool) + Sync)) -> Result<(), Error> {
        let (sender, feed) = mpsc::channel(FEED);
        let processed = blocking(move || process(&job, Source::Stream(feed)));
        let download = async {
            let mut receiver = Feeding { sender, done: 0, told_at: 0, told };
            told(0, false);
            self.session.blob(&layer.digest, layer.size, &mut receiver).await?;
            // The other side may have failed and left, and says so itself.
            receiver.sender.send(Feed::End).await.ok();
            Ok(())
        };
        match futures::join!(download, processed) {
            // The cut that the other side reports is this one.
            (Err(error), _) => Err(error),
            (Ok(()), processed) => processed.map(drop),
        }
    }

    fn subject(&self, what: &str, digest: &Digest) -> String {
        format!("{what} {digest} of {} from {}", self.reference, self.session.host())
    }
}

/// Passes a download on to the thread that processes it.
struct Feeding<'a> {
    sender: mpsc::Sender<Feed>,
    done: u64,
    told_at: u64,
    told: &'a (dyn Fn(u64, bool) + Sync),
}

impl Receiver for Feeding<'_> {
    async fn receive(&mut self, bytes: bytes::Bytes) -> bool {
        self.done += bytes.len() as u64;
        if self.done - self.told_at >= PROGRESS_STEP {
            self.told_at = self.done;
            (self.told)(self.done, false);
        }
        self.sender.send(Feed::Bytes(bytes)).await.is_ok()
    }
}
