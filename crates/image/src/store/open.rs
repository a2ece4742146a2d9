//! Opening a store: what is whole is believed, what is not is removed.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::{Index, Inner, Layer, Layout, Record, State, Store};
use crate::config::{Config, Limits};
use crate::digest::Digest;
use crate::error::{During as _, Error};
use crate::manifest::{Descriptor, parse_config, parse_manifest};
use crate::pull::Flights;
use crate::registry::Clients;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

pub(super) fn open(root: PathBuf, config: Config) -> Result<Store, Error> {
    let boot = fs::read_to_string(BOOT_ID).during("read", BOOT_ID.as_ref())?;
    let layout = Layout::open(root, boot.trim().to_owned())?;
    let state = read_state(&layout, &config.limits)?;
    let inner = Inner {
        clients: Clients::new(&config),
        config,
        layout,
        flights: Flights::default(),
        commit: Mutex::default(),
        state: Mutex::new(state),
    };
    inner.layout.flush_behind();
    Ok(Store { inner: Arc::new(inner) })
}

fn read_state(layout: &Layout, limits: &Limits) -> Result<State, Error> {
    let layers = layout.read_layers()?.into_iter().map(|layer| (layer.diff_id, layer));
    let mut state =
        State { layers: layers.collect(), blobs: layout.read_blobs()?.into_iter().collect(), ..State::default() };
    let path = layout.index();
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(state),
        Err(error) => return Err(error).during("read", &path),
    };
    let mut images = BTreeMap::new();
    let mut dropped = false;
    let index = Index::parse(&bytes, |entry| match read_image(layout, &state.layers, entry, limits) {
        Ok(record) => {
            let id = record.manifest.config.digest;
            images.insert(id, record);
            Some(id)
        }
        Err(error) => {
            tracing::warn!(manifest = %entry.digest, %error, "dropping an image that is not whole");
            dropped = true;
            None
        }
    });
    state.index = index.map_err(|error| Error::content(path.display().to_string(), error.to_string()))?;
    state.images = images;
    drop_torn_blobs(layout, &mut state)?;
    if dropped {
        layout.write_index(&state.index)?;
    }
    Ok(state)
}

/// A blob whose size is not what its manifest says was being written when the power went.
fn drop_torn_blobs(layout: &Layout, state: &mut State) -> Result<(), Error> {
    for layer in state.images.values().flat_map(|record| &record.manifest.layers) {
        if state.blobs.get(&layer.digest).is_some_and(|size| *size != layer.size) {
            layout.remove_blob(&layer.digest)?;
            state.blobs.remove(&layer.digest);
        }
    }
    Ok(())
}

fn read_image(
    layout: &Layout,
    layers: &BTreeMap<Digest, Layer>,
    entry: &Descriptor,
    limits: &Limits,
) -> Result<Record, Error> {
    let bytes = read_blob(layout, &entry.digest)?;
    let manifest = parse_manifest(&bytes, &format!("manifest {}", entry.digest), limits)?;
    let subject = format!("configuration {}", manifest.config.digest);
    let bytes = read_blob(layout, &manifest.config.digest)?;
    let (config, diff_ids) = parse_config(&bytes, manifest.layers.len(), &subject)?;
    if let Some(missing) = diff_ids.iter().find(|id| !layers.contains_key(id)) {
        return Err(Error::content(subject, format!("layer {missing} is missing")));
    }
    Ok(Record { manifest_digest: entry.digest, manifest, config: Arc::new(config), diff_ids })
}

/// A small blob, verified again.
fn read_blob(layout: &Layout, digest: &Digest) -> Result<Vec<u8>, Error> {
    let path = layout.blob(digest);
    let bytes = fs::read(&path).during("read", &path)?;
    match Digest::of(&bytes) {
        found if found == *digest => Ok(bytes),
        found => Err(Error::content(format!("blob {digest}"), format!("its digest is {found}"))),
    }
}
