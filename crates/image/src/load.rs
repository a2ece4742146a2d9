//! Loading archives: a tar of an OCI layout, or what `docker save` writes (`manifest.json`), compressed or not.
//!
//! The members come in any order, so they are spooled to the store's scratch space first, within limits; blobs of
//! an OCI archive are then verified where they lie and renamed into the store. Links between members, which old
//! archives use for equal layers, are followed by name only.

mod spool;

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use oci_spec::image::ImageConfiguration;
use serde::Deserialize;

use crate::digest::Digest;
use crate::error::{During as _, Error};
use crate::image::{Image, Loaded};
use crate::layer::{Blob, Compression, Job, Source, process};
use crate::manifest::{
    Annotations, Descriptor, Document, Manifest, OCI_CONFIG, OCI_MANIFEST, Platform, parse_config, parse_document,
    select,
};
use crate::reference::Reference;
use crate::store::{Lease, Record, Store, blocking};
use spool::Spool;

const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// An index may point at an index; nobody nests them deeper.
const MAX_INDEX_DEPTH: usize = 3;

impl Store {
    /// Takes the images of an archive into the store, under the names that it gives them.
    ///
    /// # Errors
    /// [`Error::Content`] and [`Error::Limit`] for a bad archive, [`Error::Io`] for the disk. Images of the archive
    /// that were complete before the error stay.
    pub async fn load(&self, archive: impl Read + Send + 'static) -> Result<Vec<Loaded>, Error> {
        let store = self.clone();
        blocking(move || {
            let spool = Spool::read(archive, &store.inner.layout, &store.inner.config.limits)?;
            let mut loading = Loading { store, spool, layers: BTreeMap::new(), loaded: BTreeMap::new() };
            loading.run()
        })
        .await
    }
}

struct Loading {
    store: Store,
    spool: Spool,
    /// What the members that held layers turned out to be. The leases keep them until the end.
    layers: BTreeMap<String, Member>,
    /// Images by id, with the names that they got.
    loaded: BTreeMap<Digest, Loaded>,
}

/// A member that held a layer.
struct Member {
    blob: Blob,
    /// The digest of its uncompressed bytes.
    diff_id: Digest,
    _lease: Lease,
}

/// One image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct LayoutIndex {
    manifests: Vec<Descriptor>,
}

impl Loading {
    fn run(&mut self) -> Result<Vec<Loaded>, Error> {
        let (index, docker) = (self.spool.has("index.json"), self.spool.has("manifest.json"));
        if index {
            let index: LayoutIndex = self.json("index.json")?;
            for entry in &index.manifests {
                self.entry(entry, names_of(&entry.annotations), 0)?;
            }
        }
        if docker {
            let images: Vec<DockerImage> = self.json("manifest.json")?;
            for image in &images {
                self.docker(image)?;
            }
        }
        match index || docker {
            true => Ok(std::mem::take(&mut self.loaded).into_values().collect()),
            false => Err(Error::content("the archive", "it has neither index.json nor manifest.json")),
        }
    }

    fn json<T: for<'de> Deserialize<'de>>(&mut self, member: &str) -> Result<T, Error> {
        let bytes = self.spool.small(member, self.store.inner.config.limits.manifest_bytes)?;
        serde_json::from_slice(&bytes).map_err(|error| Error::content(subject(member), error.to_string()))
    }

    /// An entry of an OCI layout's index.
    fn entry(&mut self, entry: &Descriptor, names: Vec<Reference>, depth: usize) -> Result<(), Error> {
        let limits = self.store.inner.config.limits.clone();
        let bytes = self.blob(&entry.digest, limits.manifest_bytes)?;
        match parse_document(&bytes, &format!("manifest {} of the archive", entry.digest), &limits)? {
            Document::Image(manifest) => self.image(entry.digest, &bytes, *manifest, &names),
            Document::Index(_) if depth >= MAX_INDEX_DEPTH => {
                Err(Error::content(format!("index {} of the archive", entry.digest), "it is nested too deep"))
            }
            Document::Index(entries) => {
                let host = Platform::host();
                let chosen = select(&entries, &host).cloned().map_err(|there| {
                    let there = there.join(", ");
                    let reason = format!("it has nothing for {host}, only for {there}");
                    Error::content(format!("index {} of the archive", entry.digest), reason)
                })?;
                self.entry(&chosen, names, depth + 1)
            }
        }
    }

    fn image(&mut self, digest: Digest, bytes: &[u8], manifest: Manifest, names: &[Reference]) -> Result<(), Error> {
        let parts = manifest.layers.iter().map(|layer| layer.digest);
        let _blobs = self.store.hold([digest, manifest.config.digest].into_iter().chain(parts).collect());
        let config_bytes = self.blob(&manifest.config.digest, manifest.config.size)?;
        let what = format!("configuration {} of the archive", manifest.config.digest);
        let (config, diff_ids) = parse_config(&config_bytes, manifest.layers.len(), &what)?;
        let _layers = self.store.hold(diff_ids.clone());
        for (layer, diff_id) in manifest.layers.iter().zip(&diff_ids) {
            self.layer(layer, *diff_id)?;
        }
        self.commit((digest, bytes), manifest, (config, &config_bytes), diff_ids, names)
    }

    /// A layer of an OCI layout: from the archive, or one that the store has.
    fn layer(&mut self, layer: &Descriptor, diff_id: Digest) -> Result<(), Error> {
        let inner = &self.store.inner;
        let (has_blob, has_layer) = (inner.has_blob(&layer.digest), inner.has_layer(&diff_id));
        if has_blob && has_layer {
            return Ok(());
        }
        let source = match self.spool.take(&member_of(&layer.digest)) {
            Some(scratch) => Source::Adopt(scratch),
            None if has_blob => Source::Stored,
            None => {
                return Err(Error::content(subject(&member_of(&layer.digest)), "it is missing"));
            }
        };
        let job = Job {
            store: self.store.clone(),
            subject: format!("layer {} of the archive", layer.digest),
            blob: Some((layer.digest, layer.size)),
            diff_id,
        };
        process(&job, source).map(drop)
    }

    /// A small blob of the archive, or of the store, verified.
    fn blob(&mut self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Error> {
        let member = member_of(digest);
        let bytes = self.spool.small(&member, limit)?;
        match Digest::of(&bytes) {
            found if found == *digest => Ok(bytes),
            found => Err(Error::content(subject(&member), format!("its digest is {found}"))),
        }
    }

    /// An image of `manifest.json`. It has no manifest of its own that a registry would know: one is made up.
    fn docker(&mut self, image: &DockerImage) -> Result<(), Error> {
        let tags = image.repo_tags.as_deref().unwrap_or_default();
        let names = tags.iter().map(|tag| Reference::parse(tag)).collect::<Result<Vec<_>, _>>()?;
        let config_bytes = self.spool.small(&image.config, self.store.inner.config.limits.config_bytes)?;
        let id = Digest::of(&config_bytes);
        if self.loaded.contains_key(&id) {
            return self.add_names(&id, &config_bytes, &names);
        }
        let (config, diff_ids) = parse_config(&config_bytes, image.layers.len(), &subject(&image.config))?;
        let _layers = self.store.hold(diff_ids.clone());
        let mut layers = Vec::new();
        for (member, diff_id) in image.layers.iter().zip(&diff_ids) {
            let blob = self.docker_layer(member, *diff_id)?;
            layers.push(descriptor(&format!("{OCI_LAYER}{}", suffix(blob.compression)), blob.digest, blob.size));
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: OCI_MANIFEST.to_owned(),
            config: descriptor(OCI_CONFIG, id, config_bytes.len() as u64),
            layers,
        };
        let bytes = serde_json::to_vec(&manifest).expect("strings and numbers always serialise");
        let digest = Digest::of(&bytes);
        let _documents = self.store.hold(vec![digest, id]);
        self.commit((digest, &bytes), manifest, (config, &config_bytes), diff_ids, &names)
    }

    fn docker_layer(&mut self, member: &str, diff_id: Digest) -> Result<Blob, Error> {
        let key = self.spool.resolve(member);
        if let Some(known) = self.layers.get(&key) {
            return match known.diff_id == diff_id {
                true => Ok(known.blob),
                false => {
                    let reason = format!(
                        "its uncompressed digest is {}, the image's configuration says {diff_id}",
                        known.diff_id
                    );
                    Err(Error::content(subject(member), reason))
                }
            };
        }
        let scratch = self.spool.take(&key).ok_or_else(|| Error::content(subject(member), "it is missing"))?;
        let job =
            Job { store: self.store.clone(), subject: format!("layer {member:?} of the archive"), blob: None, diff_id };
        let (blob, lease) = process(&job, Source::Adopt(scratch))?;
        self.layers.insert(key, Member { blob, diff_id, _lease: lease });
        Ok(blob)
    }

    fn commit(
        &mut self,
        (digest, bytes): (Digest, &[u8]),
        manifest: Manifest,
        (config, config_bytes): (ImageConfiguration, &[u8]),
        diff_ids: Vec<Digest>,
        names: &[Reference],
    ) -> Result<(), Error> {
        let record = Record { manifest_digest: digest, manifest, config: Arc::new(config), diff_ids };
        let image = self.store.inner.commit_image(record, bytes, config_bytes, names)?;
        self.remember(image, names);
        Ok(())
    }

    /// Archives of newer docker versions describe the same image in both ways.
    fn add_names(&mut self, id: &Digest, config: &[u8], names: &[Reference]) -> Result<(), Error> {
        let Some(record) = self.store.inner.record(id) else {
            return Err(Error::NoImage { name: id.to_string() });
        };
        let path = self.store.inner.layout.blob(&record.manifest_digest);
        let manifest = std::fs::read(&path).during("read", &path)?;
        let image = self.store.inner.commit_image(record, &manifest, config, names)?;
        self.remember(image, names);
        Ok(())
    }

    fn remember(&mut self, image: Arc<Image>, names: &[Reference]) {
        let entry =
            self.loaded.entry(image.id).or_insert_with(|| Loaded { image: Arc::clone(&image), names: Vec::new() });
        entry.image = image;
        for name in names.iter().map(Reference::to_string) {
            if !entry.names.contains(&name) {
                entry.names.push(name);
            }
        }
    }
}

/// The names in a layout's index. A bare tag (`latest`) names no repository and is passed over.
fn names_of(annotations: &Annotations) -> Vec<Reference> {
    let complete = |name: &&String| name.contains([':', '/']);
    let known = [&annotations.containerd_name, &annotations.ref_name];
    let mut names: Vec<Reference> = Vec::new();
    for name in known.into_iter().flatten().filter(complete) {
        match Reference::parse(name) {
            Ok(name) if !names.contains(&name) => names.push(name),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the archive gives an image a name that is none"),
        }
    }
    names
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor { media_type: media_type.to_owned(), digest, size, platform: None, annotations: Annotations::default() }
}

fn suffix(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    }
}

fn member_of(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn subject(member: &str) -> String {
    let member: String = member.chars().take(200).collect();
    format!("member {member:?} of the archive")
}
