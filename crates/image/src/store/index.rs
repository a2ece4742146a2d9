//! `index.json`: the one record of which images there are and what they are called.
//!
//! It is an ordinary OCI index with one entry per image and name, the complete name standing in the annotation
//! that OCI layouts use for it. An image without a name (its tag went to another) keeps one entry without.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::manifest::{Annotations, Descriptor, OCI_INDEX};
use crate::reference::Reference;

/// The entries, with what they mean already looked up.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Index {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    manifest: Descriptor,
    /// The digest of the manifest's configuration. Two manifests can have the same (one compressed anew).
    id: Digest,
    name: Option<Reference>,
}

/// The file's form.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    manifests: Vec<Descriptor>,
}

impl Index {
    /// Reads the file's bytes. `id_of` finds a manifest's configuration; entries for which it knows none, and
    /// names that do not parse, are left out.
    pub(crate) fn parse(
        bytes: &[u8],
        mut id_of: impl FnMut(&Descriptor) -> Option<Digest>,
    ) -> Result<Index, serde_json::Error> {
        let file: File = serde_json::from_slice(bytes)?;
        let entries = file.manifests.into_iter().filter_map(|manifest| {
            let name = match &manifest.annotations.ref_name {
                Some(name) => Some(Reference::parse(name).ok()?),
                None => None,
            };
            let id = id_of(&manifest)?;
            Some(Entry { manifest, id, name })
        });
        Ok(Index { entries: entries.collect() })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let file = File {
            schema_version: 2,
            media_type: Some(OCI_INDEX.to_owned()),
            manifests: self.entries.iter().map(|entry| entry.manifest.clone()).collect(),
        };
        serde_json::to_vec_pretty(&file).expect("strings and numbers always serialise")
    }

    /// Puts an image under `names`; each leaves the image that had it. An image that has lost its last name, or
    /// never had one, keeps an entry without.
    pub(crate) fn add(&mut self, manifest: Descriptor, id: Digest, names: &[Reference]) {
        let mut nameless = Vec::new();
        for name in names {
            let (gone, kept) =
                std::mem::take(&mut self.entries).into_iter().partition(|entry| entry.name.as_ref() == Some(name));
            self.entries = kept;
            nameless.extend::<Vec<Entry>>(gone);
            self.push(&manifest, id, Some(name.clone()));
        }
        nameless.push(Entry { manifest, id, name: None });
        for entry in nameless {
            if self.entries.iter().all(|other| other.id != entry.id) {
                self.push(&entry.manifest, entry.id, None);
            }
        }
        let named: Vec<Digest> = self.entries.iter().filter(|e| e.name.is_some()).map(|e| e.id).collect();
        self.entries.retain(|entry| entry.name.is_some() || !named.contains(&entry.id));
    }

    fn push(&mut self, manifest: &Descriptor, id: Digest, name: Option<Reference>) {
        let annotations = Annotations { ref_name: name.as_ref().map(Reference::to_string), containerd_name: None };
        self.entries.push(Entry { manifest: Descriptor { annotations, ..manifest.clone() }, id, name });
    }

    /// Takes an image out, and returns the names that it had.
    pub(crate) fn remove(&mut self, id: &Digest) -> Vec<String> {
        let names = self.names_of(id).iter().map(Reference::to_string).collect();
        self.entries.retain(|entry| entry.id != *id);
        names
    }

    pub(crate) fn id_of(&self, name: &Reference) -> Option<Digest> {
        let named = self.entries.iter().find(|entry| entry.name.as_ref() == Some(name));
        named.map(|entry| entry.id)
    }

    /// Sorted.
    pub(crate) fn names_of(&self, id: &Digest) -> Vec<Reference> {
        let entries = self.entries.iter().filter(|entry| entry.id == *id);
        let mut names: Vec<Reference> = entries.filter_map(|entry| entry.name.clone()).collect();
        names.sort();
        names
    }

    /// The manifests that some entry points at.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = Digest> + '_ {
        self.entries.iter().map(|entry| entry.manifest.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::OCI_MANIFEST;

    fn manifest(seed: &str) -> Descriptor {
        Descriptor {
            media_type: OCI_MANIFEST.to_owned(),
            digest: Digest::of(seed.as_bytes()),
            size: 1,
            platform: None,
            annotations: Annotations::default(),
        }
    }

    fn id(seed: &str) -> Digest {
        Digest::of(format!("config of {seed}").as_bytes())
    }

    fn add(index: &mut Index, seed: &str, names: &[&str]) {
        let names: Vec<_> = names.iter().map(|name| Reference::parse(name).unwrap()).collect();
        index.add(manifest(seed), id(seed), &names);
    }

    #[test]
    fn a_tag_moves_to_the_newest_image_and_the_old_one_stays_without_a_name() {
        let mut index = Index::default();
        add(&mut index, "old", &["x"]);
        add(&mut index, "new", &["x"]);
        assert_eq!(index.id_of(&Reference::parse("x").unwrap()), Some(id("new")));
        assert_eq!(index.names_of(&id("old")), []);
        assert!(index.manifests().any(|digest| digest == manifest("old").digest));
        add(&mut index, "old", &["y"]);
        assert_eq!(index.entries.len(), 2, "the nameless entry gave way to the name");
    }

    #[test]
    fn the_file_reads_back_and_passes_over_what_it_does_not_know() {
        let mut index = Index::default();
        add(&mut index, "a", &["x", "r.io/y:1"]);
        add(&mut index, "b", &[]);
        let bytes = index.to_bytes();
        let find = |entry: &Descriptor| ["a", "b"].iter().find(|s| manifest(s).digest == entry.digest).map(|s| id(s));
        assert_eq!(Index::parse(&bytes, find).unwrap(), index);
        assert_eq!(Index::parse(&bytes, |_| None).unwrap(), Index::default());
    }

    #[test]
    fn removal_takes_all_names() {
        let mut index = Index::default();
        add(&mut index, "a", &["x", "r.io/y:1"]);
        assert_eq!(index.remove(&id("a")), ["docker.io/library/x:latest", "r.io/y:1"]);
        assert_eq!(index, Index::default());
    }
}
