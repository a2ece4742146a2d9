//! Manifests, indexes and configurations, parsed from verified bytes. Pure: no file, no registry.
//!
//! OCI and docker's schema 2 differ in media types alone, so one set of types reads both. Layers are told apart
//! by their first bytes when they are unpacked; their media type only has to be that of a layer.

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use crate::config::Limits;
use crate::digest::Digest;
use crate::error::Error;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// What a registry may answer when it is asked for a manifest.
pub(crate) const ACCEPT: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];

const CONFIGS: [&str; 2] = [OCI_CONFIG, DOCKER_CONFIG];

/// Media types of layers start with one of these; what follows is the compression.
const LAYERS: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

/// A pointer to content, as manifests and indexes hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Annotations::is_empty")]
    pub(crate) annotations: Annotations,
}

/// The annotations of a descriptor that podd knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Annotations {
    /// The name of an image in an OCI layout: a tag, or podd's and others' complete reference.
    #[serde(rename = "org.opencontainers.image.ref.name", default, skip_serializing_if = "Option::is_none")]
    pub(crate) ref_name: Option<String>,
    /// The complete reference that containerd and its tools write.
    #[serde(rename = "io.containerd.image.name", default, skip_serializing_if = "Option::is_none")]
    pub(crate) containerd_name: Option<String>,
}

impl Annotations {
    fn is_empty(&self) -> bool {
        *self == Annotations::default()
    }
}

/// What an image of an index runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

impl Platform {
    /// This machine, in Go's words.
    pub(crate) fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Platform { architecture: architecture.to_owned(), os: "linux".to_owned(), variant: None }
    }

    /// How well an image for `self` runs on `host`; `None` if it does not, less is better.
    fn distance(&self, host: &Platform) -> Option<u8> {
        if self.os != host.os || self.architecture != host.architecture {
            return None;
        }
        // The baseline variants; a newer one might use instructions that this machine lacks.
        match (self.architecture.as_str(), self.variant.as_deref()) {
            (_, None | Some("")) => Some(0),
            ("amd64", Some("v1")) | ("arm64", Some("v8")) => Some(1),
            ("arm", Some("v7" | "v6" | "v5")) => Some(2),
            _ => None,
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// What a manifest request brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Document {
    Image(Box<Manifest>),
    Index(Vec<Descriptor>),
}

/// The manifest of one image for one platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    /// Lowest first, as in the configuration.
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// Reads a manifest or an index. `subject` names it in errors.
pub(crate) fn parse_document(bytes: &[u8], subject: &str, limits: &Limits) -> Result<Document, Error> {
    let invalid = |reason: String| Error::content(subject, reason);
    let raw: RawDocument = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
    if raw.schema_version != 2 {
        return Err(invalid(format!(
            "schema version {} is not supported, only 2; push the image again with a current tool",
            raw.schema_version
        )));
    }
    match raw {
        // A document that is both is a trick on those who look at one half only.
        RawDocument { manifests: Some(manifests), config: None, layers: None, .. } => Ok(Document::Index(manifests)),
        RawDocument { manifests: None, config: Some(config), layers: Some(layers), media_type, .. } => {
            let manifest = Manifest {
                schema_version: 2,
                media_type: media_type.unwrap_or_else(|| OCI_MANIFEST.to_owned()),
                config,
                layers,
            };
            check_manifest(&manifest, subject, limits)?;
            Ok(Document::Image(Box::new(manifest)))
        }
        _ => Err(invalid("it is neither an image manifest nor an index".to_owned())),
    }
}

/// Reads a manifest that must be an image's.
pub(crate) fn parse_manifest(bytes: &[u8], subject: &str, limits: &Limits) -> Result<Manifest, Error> {
    match parse_document(bytes, subject, limits)? {
        Document::Image(manifest) => Ok(*manifest),
        Document::Index(_) => Err(Error::content(subject, "an index stands where an image manifest must")),
    }
}

fn check_manifest(manifest: &Manifest, subject: &str, limits: &Limits) -> Result<(), Error> {
    if !CONFIGS.contains(&manifest.config.media_type.as_str()) {
        return Err(Error::content(
            subject,
            format!("it is no container image: its configuration is {:?}", manifest.config.media_type),
        ));
    }
    let over = |limit, value| Error::Limit { subject: subject.to_owned(), limit, value };
    if manifest.config.size > limits.config_bytes {
        return Err(over("config_bytes", limits.config_bytes));
    }
    if manifest.layers.len() as u64 > limits.layers {
        return Err(over("layers", limits.layers));
    }
    for layer in &manifest.layers {
        if !LAYERS.iter().any(|known| layer.media_type.starts_with(known)) {
            return Err(Error::content(
                subject,
                format!("layer {} has the unknown media type {:?}", layer.digest, layer.media_type),
            ));
        }
        if layer.size > limits.blob_bytes {
            return Err(over("blob_bytes", limits.blob_bytes));
        }
    }
    Ok(())
}

/// The entry of an index for `host`; `Err` lists what there is instead.
pub(crate) fn select<'a>(entries: &'a [Descriptor], host: &Platform) -> Result<&'a Descriptor, Vec<String>> {
    let image = |entry: &&Descriptor| matches!(entry.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST);
    let distance = |entry: &Descriptor| match &entry.platform {
        Some(platform) => platform.distance(host),
        // An index of one image need not say what it is for.
        None => Some(9),
    };
    entries
        .iter()
        .filter(image)
        .filter_map(|entry| Some((distance(entry)?, entry)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, entry)| entry)
        .ok_or_else(|| {
            let platforms = entries.iter().filter_map(|entry| entry.platform.as_ref());
            platforms.map(Platform::to_string).collect()
        })
}

/// Reads an image's configuration and the digests of its uncompressed layers, lowest first.
pub(crate) fn parse_config(
    bytes: &[u8],
    layers: usize,
    subject: &str,
) -> Result<(ImageConfiguration, Vec<Digest>), Error> {
    let config: ImageConfiguration =
        serde_json::from_slice(bytes).map_err(|error| Error::content(subject, error.to_string()))?;
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() != layers {
        return Err(Error::content(subject, format!("it names {} layers, its manifest {layers}", diff_ids.len())));
    }
    let parse = |id: &String| id.parse().map_err(|reason| Error::content(subject, format!("diff id {id:?}: {reason}")));
    let diff_ids = diff_ids.iter().map(parse).collect::<Result<_, _>>()?;
    Ok((config, diff_ids))
}

#[cfg(test)]
mod tests;
