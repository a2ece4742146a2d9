//! Every object in memory, with a bounded history of changes per kind.
//!
//! Readers see only what was published. The history answers watches, and lists at a version that has passed:
//! every change holds what it replaced, so a version is rebuilt by walking back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::watch;

use super::object::{Key, Object};
use crate::kinds::{KINDS, Kind};

/// Bytes of objects that the history of one kind may hold; what one change holds is its object and what that replaced.
const HISTORY_BYTES: usize = 32 << 20;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happened {
    Added,
    Modified,
    Deleted,
}

/// One change; `object.revision` is the revision of the change, of a deletion too.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) happened: Happened,
    pub(crate) object: Arc<Object>,
    pub(crate) previous: Option<Arc<Object>>,
}

/// The version asked for lies before what is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooOld {
    pub(crate) oldest: u64,
}

pub(crate) struct Cache {
    /// The revision of the newest published change of any kind.
    pub(crate) revision: u64,
    kinds: BTreeMap<&'static str, KindCache>,
    limit: usize,
}

struct KindCache {
    objects: BTreeMap<Key, Arc<Object>>,
    history: VecDeque<Change>,
    /// Of all changes in the history.
    history_bytes: usize,
    /// All changes after this revision are in the history.
    horizon: u64,
    newest: watch::Sender<u64>,
}

impl Change {
    fn bytes(&self) -> usize {
        self.object.json.len() + self.previous.as_ref().map_or(0, |previous| previous.json.len())
    }
}

impl KindCache {
    /// Adds to the history, and forgets its oldest changes where it grows too long or too large.
    fn remember(&mut self, change: Change, limit: usize) {
        self.history_bytes += change.bytes();
        self.history.push_back(change);
        while self.history.len() > limit || self.history_bytes > HISTORY_BYTES {
            let Some(oldest) = self.history.pop_front() else { break };
            self.history_bytes -= oldest.bytes();
            self.horizon = oldest.object.revision;
        }
    }
}

impl Cache {
    /// An empty cache at a revision, with at most `limit` changes (and [`HISTORY_BYTES`]) of history per kind.
    pub(crate) fn new(revision: u64, limit: usize) -> Self {
        let kind_cache = || KindCache {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            horizon: revision,
            newest: watch::Sender::new(revision),
        };
        let kinds = KINDS.iter().map(|kind| (kind.plural, kind_cache())).collect();
        Self { revision, kinds, limit: limit.max(1) }
    }

    fn of(&self, kind: &Kind) -> &KindCache {
        &self.kinds[kind.plural]
    }

    /// Takes an object read at the start; no watcher is told.
    pub(crate) fn load(&mut self, object: Object) {
        let kind = self.kinds.get_mut(object.kind.plural).expect("every kind has a cache");
        kind.objects.insert(object.key.clone(), Arc::new(object));
    }

    /// Makes a change visible and wakes the watchers of its kind.
    pub(crate) fn publish(&mut self, change: Change) {
        let revision = change.object.revision;
        let kind = self.kinds.get_mut(change.object.kind.plural).expect("every kind has a cache");
        match change.happened {
            Happened::Deleted => kind.objects.remove(&change.object.key),
            _ => kind.objects.insert(change.object.key.clone(), change.object.clone()),
        };
        kind.remember(change, self.limit);
        self.revision = revision;
        kind.newest.send_replace(revision);
    }

    /// Tells when a kind changes.
    pub(crate) fn subscribe(&self, kind: &Kind) -> watch::Receiver<u64> {
        self.of(kind).newest.subscribe()
    }

    pub(crate) fn get(&self, kind: &Kind, key: &Key) -> Option<Arc<Object>> {
        self.of(kind).objects.get(key).cloned()
    }

    /// The objects of a kind in a namespace, or in all, in the order of their keys.
    pub(crate) fn objects<'a>(
        &'a self,
        kind: &Kind,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Object>> {
        let start = Key::new(namespace.unwrap_or_default(), "");
        self.of(kind)
            .objects
            .range(start..)
            .map(|(_, object)| object)
            .take_while(move |object| namespace.is_none_or(|n| object.key.namespace == n))
    }

    /// The objects as they were when `revision` was the newest.
    pub(crate) fn objects_at(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        revision: u64,
    ) -> Result<Vec<Arc<Object>>, TooOld> {
        let of = self.of(kind);
        if revision < of.horizon {
            return Err(TooOld { oldest: of.horizon });
        }
        let mut objects: BTreeMap<&Key, &Arc<Object>> =
            self.objects(kind, namespace).map(|object| (&object.key, object)).collect();
        let passed = of.history.iter().rev().take_while(|c| c.object.revision > revision);
        for change in passed.filter(|c| namespace.is_none_or(|n| c.object.key.namespace == n)) {
            match &change.previous {
                Some(previous) => objects.insert(&previous.key, previous),
                None => objects.remove(&change.object.key),
            };
        }
        Ok(objects.into_values().cloned().collect())
    }

    /// At most `limit` changes of a kind after a revision, and the revision that is reached with them.
    pub(crate) fn changes_after(&self, kind: &Kind, revision: u64, limit: usize) -> Result<(Vec<Change>, u64), TooOld> {
        let of = self.of(kind);
        if revision < of.horizon {
            return Err(TooOld { oldest: of.horizon });
        }
        let from = of.history.partition_point(|change| change.object.revision <= revision);
        let changes: Vec<Change> = of.history.range(from..).take(limit).cloned().collect();
        let reached = match changes.last() {
            Some(last) if changes.len() == limit => last.object.revision,
            _ => self.revision.max(revision),
        };
        Ok((changes, reached))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_history_of_large_objects_is_short() {
        let kind = KINDS.iter().find(|kind| kind.plural == "configmaps").unwrap();
        let mut cache = Cache::new(1, 4096);
        let text = "x".repeat(1 << 20);
        let mut previous = None;
        for revision in 2..=100 {
            let value = json!({"metadata": {"name": "big"}, "data": {"text": text}});
            let object = Arc::new(Object::new(kind, Key::new("default", "big"), revision, &value));
            let happened = if previous.is_some() { Happened::Modified } else { Happened::Added };
            cache.publish(Change { happened, object: Arc::clone(&object), previous: previous.replace(object) });
        }
        let held = cache.of(kind);
        assert!(held.history_bytes <= HISTORY_BYTES, "{} bytes", held.history_bytes);
        assert!(held.history.len() >= 8, "{} changes", held.history.len());
        assert_eq!(held.history_bytes, held.history.iter().map(Change::bytes).sum::<usize>());
        // Who is behind is told so, who is not goes on.
        assert!(cache.changes_after(kind, 2, 1).is_err());
        assert_eq!(cache.changes_after(kind, 98, 10).unwrap().0.len(), 2);
    }
}
