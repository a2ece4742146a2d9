//! Images as they travel: packed layers, configuration, manifest.

use std::io::Write as _;

use podd_image::Digest;
use serde_json::{Value, json};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[derive(Clone, Copy, Debug)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

#[derive(Clone, Debug)]
pub(crate) struct Packed {
    /// As they travel, lowest first.
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

impl Packed {
    pub(crate) fn new(layers: &[Vec<u8>], packing: Packing) -> Packed {
        let config = json!({
            "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
            "os": "linux",
            "config": {"User": "7:8", "Entrypoint": ["/bin/app"], "Env": ["A=b"], "StopSignal": "SIGQUIT"},
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| Digest::of(l)).collect::<Vec<_>>()},
        });
        Packed::with(layers.iter().map(|layer| pack(layer, packing)).collect(), &config)
    }

    /// An image of one layer per text, which it has in the file `<number>`.
    pub(crate) fn of(texts: &[&str], packing: Packing) -> Packed {
        let layers = texts.iter().enumerate().map(|(number, text)| tar(&[(&number.to_string(), text)]));
        Packed::new(&layers.collect::<Vec<_>>(), packing)
    }

    pub(crate) fn with(layers: Vec<Vec<u8>>, config: &Value) -> Packed {
        let config = config.to_string().into_bytes();
        let describe = |layer: &Vec<u8>| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(describe).collect::<Vec<_>>(),
        });
        Packed { layers, config, manifest: manifest.to_string().into_bytes() }
    }

    /// The same image, with a changed manifest.
    pub(crate) fn change_manifest(mut self, change: impl FnOnce(&mut Value)) -> Packed {
        let mut manifest = serde_json::from_slice(&self.manifest).unwrap();
        change(&mut manifest);
        self.manifest = manifest.to_string().into_bytes();
        self
    }

    pub(crate) fn id(&self) -> Digest {
        Digest::of(&self.config)
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.layers.iter().chain([&self.config])
    }
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

/// A tar of files.
pub(crate) fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let files: Vec<_> = files.iter().map(|(path, content)| (*path, content.as_bytes())).collect();
    tar_of(&files)
}

pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn pack(bytes: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Plain => bytes.to_vec(),
        Packing::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Packing::Zstd => zstd::encode_all(bytes, 1).unwrap(),
    }
}

/// Bytes that do not compress.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}
