//! Removal: of an image with its names, and of what nothing refers to any more.

use std::collections::BTreeSet;

use super::{Inner, Record, Scratch, State};
use crate::digest::Digest;
use crate::error::Error;
use crate::image::Removed;

impl Inner {
    pub(super) fn remove(&self, id: &Digest) -> Result<Removed, Error> {
        let names = {
            let _commit = self.committing();
            let mut index = self.state().index.clone();
            let names = index.remove(id);
            self.layout.write_index(&index)?;
            let mut state = self.state();
            state.index = index;
            state.images.remove(id);
            names
        };
        let freed = self.collect()?;
        Ok(Removed { names, freed })
    }

    pub(super) fn collect(&self) -> Result<u64, Error> {
        let (retired, freed, mut problem) = self.retire_garbage();
        for scratch in retired {
            if let Err(error) = scratch.remove() {
                problem = problem.or(Some(error));
            }
        }
        problem.map_or(Ok(freed), Err)
    }

    /// Moves garbage out of the way under the lock, so that a pull which wants the same blob again a moment later
    /// makes its own and none is removed under it.
    fn retire_garbage(&self) -> (Vec<Scratch>, u64, Option<Error>) {
        // An image on its way in has leases on its parts until it is in the index, so no commit is waited for.
        let mut state = self.state();
        let (blobs, layers) = garbage(&state);
        let mut retired = Vec::new();
        let mut freed = 0;
        let mut problem = None;
        for digest in blobs {
            freed += state.blobs.remove(&digest).unwrap_or_default();
            match self.layout.retire_blob(&digest) {
                Ok(scratch) => retired.push(scratch),
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        for digest in layers {
            let Some(layer) = state.layers.remove(&digest) else {
                continue;
            };
            freed += layer.bytes;
            match self.layout.retire_layer(&layer) {
                Ok(scratch) => retired.push(scratch),
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        (retired, freed, problem)
    }
}

/// Blobs and layers that no image and no lease refers to.
fn garbage(state: &State) -> (Vec<Digest>, Vec<Digest>) {
    let mut used: BTreeSet<Digest> = state.index.manifests().collect();
    used.extend(state.images.values().flat_map(Record::blobs));
    used.extend(state.held.keys());
    let blobs = state.blobs.keys().filter(|digest| !used.contains(digest)).copied();
    let blobs = blobs.collect();
    used.extend(state.images.values().flat_map(|record| &record.diff_ids));
    let layers = state.layers.keys().filter(|digest| !used.contains(digest)).copied();
    (blobs, layers.collect())
}
