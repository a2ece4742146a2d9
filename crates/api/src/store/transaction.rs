//! The view of one writer: the published objects with the staged changes on top.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::cache::{Cache, Change, Happened};
use super::object::{Key, Object};
use crate::kinds::Kind;

/// Staged changes over the published state. Several requests share one (a group commit); a request that
/// fails, or that is a dry run, is rolled back to its mark.
pub(crate) struct Transaction<'a> {
    cache: &'a Cache,
    staged: BTreeMap<(&'static str, Key), Option<Arc<Object>>>,
    log: Vec<Staged>,
    revision: u64,
}

struct Staged {
    change: Change,
    /// What `staged` held for the key before.
    shadowed: Option<Option<Arc<Object>>>,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(cache: &'a Cache) -> Self {
        Self { cache, staged: BTreeMap::new(), log: Vec::new(), revision: cache.revision }
    }

    pub(crate) fn get(&self, kind: &'static Kind, key: &Key) -> Option<Arc<Object>> {
        match self.staged.get(&(kind.plural, key.clone())) {
            Some(staged) => staged.clone(),
            None => self.cache.get(kind, key),
        }
    }

    /// All objects of a kind in a namespace, or in all.
    pub(crate) fn list(&self, kind: &'static Kind, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let mut objects: BTreeMap<&Key, &Arc<Object>> =
            self.cache.objects(kind, namespace).map(|object| (&object.key, object)).collect();
        for ((plural, key), object) in &self.staged {
            if *plural == kind.plural && namespace.is_none_or(|n| n == key.namespace) {
                match object {
                    Some(object) => objects.insert(key, object),
                    None => objects.remove(key),
                };
            }
        }
        objects.into_values().cloned().collect()
    }

    /// Whether there is any object of a kind in a namespace: stops at the first.
    pub(crate) fn holds_any(&self, kind: &'static Kind, namespace: &str) -> bool {
        let start = (kind.plural, Key::new(namespace, ""));
        let mut staged = (self.staged.range(start..))
            .take_while(|((plural, key), _)| *plural == kind.plural && key.namespace == namespace);
        let staged_away = |object: &Object| self.staged.contains_key(&(kind.plural, object.key.clone()));
        staged.any(|(_, object)| object.is_some())
            || self.cache.objects(kind, Some(namespace)).any(|object| !staged_away(object))
    }

    /// Stages an object; its resource version is set here.
    pub(crate) fn put(&mut self, kind: &'static Kind, key: Key, value: Value) -> Arc<Object> {
        let previous = self.get(kind, &key);
        let happened = if previous.is_some() { Happened::Modified } else { Happened::Added };
        self.stage(kind, key, value, happened, previous)
    }

    /// Stages the end of an object; `last` is its last state.
    pub(crate) fn remove(&mut self, kind: &'static Kind, key: Key, last: Value) -> Arc<Object> {
        let previous = self.get(kind, &key);
        self.stage(kind, key, last, Happened::Deleted, previous)
    }

    fn stage(
        &mut self,
        kind: &'static Kind,
        key: Key,
        mut value: Value,
        happened: Happened,
        previous: Option<Arc<Object>>,
    ) -> Arc<Object> {
        self.revision += 1;
        value["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(Object::new(kind, key.clone(), self.revision, &value));
        let now = (happened != Happened::Deleted).then(|| object.clone());
        let shadowed = self.staged.insert((kind.plural, key), now);
        let change = Change { happened, object: object.clone(), previous };
        self.log.push(Staged { change, shadowed });
        object
    }

    pub(super) fn mark(&self) -> usize {
        self.log.len()
    }

    pub(super) fn roll_back(&mut self, mark: usize) {
        while self.log.len() > mark {
            let Staged { change, shadowed } = self.log.pop().expect("it is longer than the mark");
            let at = (change.object.kind.plural, change.object.key.clone());
            match shadowed {
                Some(before) => self.staged.insert(at, before),
                None => self.staged.remove(&at),
            };
            self.revision -= 1;
        }
    }

    pub(super) fn into_changes(self) -> Vec<Change> {
        self.log.into_iter().map(|staged| staged.change).collect()
    }
}
