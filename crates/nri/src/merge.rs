//! What several plugins ask for, made into one: each field belongs to the first plugin that sets it, and a second one
//! that wants it otherwise is an error, unless it says that it takes it over (it removes the entry, then sets it).

mod adjust;
mod resources;

use std::collections::BTreeMap;

use crate::message::{
    Container, ContainerAdjustment, ContainerEviction, ContainerUpdate, CreateContainerResponse, Field, FieldOwners,
    LinuxContainerUpdate, LinuxResources, OwningPlugins,
};

/// Two plugins want the same field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Both set it.
    #[error("plugins {first:?} and {second:?} both tried to set {what} of container {container}")]
    Both {
        /// Who had it.
        first: String,
        /// Who wanted it, too.
        second: String,
        /// The field, with the entry that it is about.
        what: String,
        /// Whose.
        container: String,
    },
    /// A plugin wants the container that is being created updated instead of adjusted.
    #[error("plugin {plugin:?} asked for an update of container {container}, which is being created")]
    Own {
        /// Who.
        plugin: String,
        /// Which.
        container: String,
    },
}

/// Who owns what.
#[derive(Debug, Clone, Default)]
struct Owners(BTreeMap<String, FieldOwners>);

impl Owners {
    fn claim(&mut self, container: &str, field: Field, entry: &str, plugin: &str) -> Result<(), Conflict> {
        let fields = self.0.entry(container.to_owned()).or_default();
        let (owner, what) = if entry.is_empty() {
            (fields.simple.entry(field as i32).or_default(), format!("{field:?}"))
        } else {
            let owners = &mut fields.compound.entry(field as i32).or_default().owners;
            (owners.entry(entry.to_owned()).or_default(), format!("{field:?} {entry}"))
        };
        if !owner.is_empty() {
            return Err(conflict(owner.clone(), plugin, what, container));
        }
        plugin.clone_into(owner);
        Ok(())
    }

    fn clear(&mut self, container: &str, field: Field, entry: &str) {
        let Some(fields) = self.0.get_mut(container) else { return };
        match entry {
            "" => fields.simple.remove(&(field as i32)),
            _ => fields.compound.get_mut(&(field as i32)).and_then(|compound| compound.owners.remove(entry)),
        };
    }
}

fn conflict(first: String, second: &str, what: String, container: &str) -> Conflict {
    Conflict::Both { first, second: second.to_owned(), what, container: container.to_owned() }
}

/// The name behind a mark of removal.
#[must_use]
pub fn removed(name: &str) -> Option<&str> {
    name.strip_prefix('-')
}

/// A container that is being created, as the plugins change it one after the other.
#[derive(Debug, Clone)]
pub struct Creation {
    /// As the next plugin sees it.
    pub container: Container,
    /// All that was asked for so far.
    pub adjust: ContainerAdjustment,
    /// Updates of other containers.
    pub updates: Updates,
}

impl Creation {
    /// Nothing was asked for yet.
    #[must_use]
    pub fn new(container: Container) -> Self {
        Self { container, adjust: ContainerAdjustment::default(), updates: Updates::default() }
    }

    /// Adds what a plugin answered.
    ///
    /// # Errors
    /// When it wants what another plugin has set.
    pub fn add(&mut self, plugin: &str, answer: CreateContainerResponse) -> Result<(), Conflict> {
        let CreateContainerResponse { adjust, update, evict } = answer;
        if let Some(adjust) = adjust {
            self.adjust(plugin, adjust)?;
        }
        if let Some(own) = update.iter().find(|update| update.container_id == self.container.id) {
            return Err(Conflict::Own { plugin: plugin.to_owned(), container: own.container_id.clone() });
        }
        self.updates.add(plugin, update)?;
        self.updates.evict.extend(evict);
        Ok(())
    }

    /// Who set what, for the plugins that look adjustments over.
    #[must_use]
    pub fn owners(&self) -> OwningPlugins {
        OwningPlugins { owners: self.updates.owners.0.clone() }
    }
}

/// Updates of containers that are there.
#[derive(Debug, Clone, Default)]
pub struct Updates {
    /// One for each container.
    pub list: Vec<ContainerUpdate>,
    /// Containers to be stopped.
    pub evict: Vec<ContainerEviction>,
    owners: Owners,
}

impl Updates {
    /// Adds the updates that a plugin asked for.
    ///
    /// # Errors
    /// When it wants what another plugin has set, and does not say that its update may fail.
    pub fn add(&mut self, plugin: &str, updates: Vec<ContainerUpdate>) -> Result<(), Conflict> {
        for update in updates {
            let before = update.ignore_failure.then(|| (self.list.clone(), self.owners.clone()));
            match (self.add_one(plugin, &update), before) {
                (Err(error), None) => return Err(error),
                (Err(error), Some((list, owners))) => {
                    tracing::debug!(%error, "an update that may fail is left out");
                    (self.list, self.owners) = (list, owners);
                }
                (Ok(()), _) => {}
            }
        }
        Ok(())
    }

    fn add_one(&mut self, plugin: &str, update: &ContainerUpdate) -> Result<(), Conflict> {
        let id = &update.container_id;
        let at = match self.list.iter().position(|known| known.container_id == *id) {
            Some(at) => at,
            None => {
                self.list.push(ContainerUpdate { linux: None, ..update.clone() });
                self.list.len() - 1
            }
        };
        let known = &mut self.list[at];
        // One that must not fail makes the whole one that must not.
        known.ignore_failure &= update.ignore_failure;
        let Some(wanted) = update.linux.as_ref().and_then(|linux| linux.resources.as_ref()) else { return Ok(()) };
        let into = known
            .linux
            .get_or_insert_with(LinuxContainerUpdate::default)
            .resources
            .get_or_insert_with(LinuxResources::default);
        let owners = &mut self.owners;
        resources::merge(into, wanted, &mut |field, entry| owners.claim(id, field, entry, plugin))
    }

    /// Takes out the update of one container, and lays it over what the caller asked for.
    #[must_use]
    pub fn take(&mut self, container: &str, asked: &LinuxResources) -> LinuxResources {
        let mut whole = asked.clone();
        if let Some(at) = self.list.iter().position(|update| update.container_id == container)
            && let Some(wanted) = self.list.remove(at).linux.and_then(|linux| linux.resources)
        {
            resources::lay_over(&mut whole, &wanted);
        }
        whole
    }

    /// What a container would get by now, for the next plugin to see.
    #[must_use]
    pub fn seen(&self, container: &str, asked: &LinuxResources) -> LinuxResources {
        self.clone().take(container, asked)
    }
}

#[cfg(test)]
mod tests;
