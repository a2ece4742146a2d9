//! All sandboxes and containers of this instance, by id, and the names that they hold.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::container::Container;
use crate::error::{CriError, Result};
use crate::records::Owner;
use crate::sandbox::Sandbox;

/// A name: the sandbox that it is unique in (empty for a sandbox's own), and the name.
type Key = (String, Owner);

#[derive(Default)]
struct Tables {
    sandboxes: HashMap<String, Arc<Sandbox>>,
    containers: HashMap<String, Arc<Container>>,
    names: HashMap<Key, String>,
}

/// The one owner of what exists. Its lock is never held over anything slow.
#[derive(Default)]
pub(crate) struct Registry {
    tables: Mutex<Tables>,
}

/// A reserved name; free again when dropped, unless kept.
pub(crate) struct Reservation<'a> {
    registry: &'a Registry,
    key: Option<Key>,
}

impl Registry {
    /// Reserves a sandbox's name for `id`.
    pub(crate) fn reserve_sandbox(&self, owner: &Owner, id: &str) -> Result<Reservation<'_>> {
        self.reserve("sandbox", (String::new(), owner.clone()), id)
    }

    /// Reserves a container's name in its sandbox for `id`.
    pub(crate) fn reserve_container(&self, sandbox: &str, owner: &Owner, id: &str) -> Result<Reservation<'_>> {
        self.reserve("container", (sandbox.to_owned(), owner.clone()), id)
    }

    fn reserve(&self, what: &'static str, key: Key, id: &str) -> Result<Reservation<'_>> {
        let mut tables = self.tables();
        if let Some(holder) = tables.names.get(&key) {
            let name = shown(&key.1);
            return Err(CriError::AlreadyExists { what, name, holder: holder.clone() });
        }
        tables.names.insert(key.clone(), id.to_owned());
        Ok(Reservation { registry: self, key: Some(key) })
    }

    pub(crate) fn add_sandbox(&self, sandbox: Arc<Sandbox>) {
        let mut tables = self.tables();
        let key = (String::new(), sandbox.meta.owner.clone());
        tables.names.insert(key, sandbox.meta.id.clone());
        tables.sandboxes.insert(sandbox.meta.id.clone(), sandbox);
    }

    pub(crate) fn add_container(&self, container: Arc<Container>) {
        let mut tables = self.tables();
        let key = (container.meta.sandbox_id.clone(), container.meta.owner.clone());
        tables.names.insert(key, container.meta.id.clone());
        tables.containers.insert(container.meta.id.clone(), container);
    }

    /// Takes a sandbox and its name off the list.
    pub(crate) fn drop_sandbox(&self, sandbox: &Sandbox) {
        let mut tables = self.tables();
        tables.sandboxes.remove(sandbox.id());
        tables.names.remove(&(String::new(), sandbox.meta.owner.clone()));
    }

    /// Takes a container and its name off the list.
    pub(crate) fn drop_container(&self, container: &Container) {
        let mut tables = self.tables();
        tables.containers.remove(container.id());
        tables.names.remove(&(container.meta.sandbox_id.clone(), container.meta.owner.clone()));
    }

    /// The sandbox of an id or of the beginning of one.
    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        find(&self.tables().sandboxes, id, "pod_sandbox_id", CriError::sandbox)
    }

    /// The same for a call to which a sandbox that is not there is as good as done.
    pub(crate) fn sandbox_if_any(&self, id: &str) -> Result<Option<Arc<Sandbox>>> {
        if_any(self.sandbox(id))
    }

    /// The container of an id or of the beginning of one.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>> {
        find(&self.tables().containers, id, "container_id", CriError::container)
    }

    /// The same for a call to which a container that is not there is as good as done.
    pub(crate) fn container_if_any(&self, id: &str) -> Result<Option<Arc<Container>>> {
        if_any(self.container(id))
    }

    pub(crate) fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.tables().sandboxes.values().cloned().collect()
    }

    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        self.tables().containers.values().cloned().collect()
    }

    pub(crate) fn containers_in(&self, sandbox: &str) -> Vec<Arc<Container>> {
        let tables = self.tables();
        tables.containers.values().filter(|container| container.meta.sandbox_id == sandbox).cloned().collect()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation<'_> {
    /// The name stays, since its object is in the registry now.
    pub(crate) fn keep(mut self) {
        self.key = None;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.registry.tables().names.remove(&key);
        }
    }
}

fn if_any<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Err(CriError::NotFound { .. }) => Ok(None),
        other => other.map(Some),
    }
}

fn find<T>(table: &HashMap<String, Arc<T>>, id: &str, field: &str, missing: fn(&str) -> CriError) -> Result<Arc<T>> {
    if id.is_empty() {
        return Err(CriError::invalid(format!("{field} is empty")));
    }
    if let Some(exact) = table.get(id) {
        return Ok(Arc::clone(exact));
    }
    let mut matching = table.iter().filter(|(full, _)| full.starts_with(id));
    match (matching.next(), matching.next()) {
        (Some((_, found)), None) => Ok(Arc::clone(found)),
        (Some(_), Some(_)) => Err(CriError::invalid(format!("{field} {id:?} is the beginning of more than one"))),
        (None, _) => Err(missing(id)),
    }
}

fn shown(owner: &Owner) -> String {
    let parts = [&owner.namespace, &owner.name, &owner.uid].into_iter().filter(|part| !part.is_empty());
    let joined = parts.map(String::as_str).collect::<Vec<_>>().join("/");
    format!("{joined}, attempt {}", owner.attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(attempt: u32) -> Owner {
        Owner { name: "web".into(), namespace: "ns".into(), uid: "u".into(), attempt }
    }

    #[test]
    fn a_name_is_held_once_and_freed_when_its_maker_gives_up() {
        let registry = Registry::default();
        let held = registry.reserve_sandbox(&owner(0), "a").ok();
        let error = registry.reserve_sandbox(&owner(0), "b").err().expect("held").to_string();
        assert_eq!(error, "sandbox name \"ns/web/u, attempt 0\" is reserved for a");
        assert!(registry.reserve_sandbox(&owner(1), "b").is_ok());
        assert!(registry.reserve_container("x", &owner(0), "b").is_ok());
        drop(held);
        assert!(registry.reserve_sandbox(&owner(0), "b").is_ok());
    }

    #[test]
    fn an_id_may_be_shortened_as_long_as_it_is_unique() {
        let table: HashMap<String, Arc<u8>> =
            [("abc", 1), ("abd", 2), ("b", 3)].map(|(id, value)| (id.to_owned(), Arc::new(value))).into();
        let found = |id: &str| {
            find(&table, id, "pod_sandbox_id", CriError::sandbox).map(|value| *value).map_err(|e| e.to_string())
        };
        assert_eq!(found("abc"), Ok(1));
        assert_eq!(found("b"), Ok(3));
        assert!(found("ab").expect_err("ambiguous").contains("more than one"));
        assert_eq!(found("").expect_err("empty"), "pod_sandbox_id is empty");
        assert!(found("x").expect_err("missing").contains("not found"));
    }
}
