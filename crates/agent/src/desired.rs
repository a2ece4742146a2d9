//! What the sources want on this node, as one value: which pods each source has, which of them the node takes, and which
//! mirror objects must come or go. Pure: changes go in, commands come out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use podd_core::{
    admission::{self, Allocatable, Rules},
    eviction::{self, Condition},
    pod::Refusal,
    shutdown,
};

use crate::source::{Change, Source, annotation, annotation_of, full_name, is_mirror, uid};

/// What to do about a change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    /// Hand a pod, or its newest version, to its worker.
    Apply(Source, Arc<Pod>),
    /// The node does not take this pod: it fails with this reason.
    Refuse(Source, Arc<Pod>, Refusal),
    /// The pod is gone from its source.
    Remove(Source, String),
    /// The source has told all it has.
    Synced(Source),
}

/// What to do in the API about mirrors.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum MirrorAction {
    /// Make the mirror of this static pod.
    Create(Arc<Pod>),
    /// Remove this mirror at once.
    Delete(Arc<Pod>),
}

/// Every pod that the sources want on this node.
#[derive(Debug)]
pub(crate) struct Desired {
    allocatable: Allocatable,
    rules: Rules,
    /// By source, then UID.
    pods: BTreeMap<Source, BTreeMap<String, Arc<Pod>>>,
    /// Mirrors in the API, by full name.
    mirrors: BTreeMap<String, Arc<Pod>>,
    synced: BTreeSet<Source>,
    /// What the node is short of.
    short: Vec<Condition>,
    shutting_down: bool,
    /// Pods that were refused, by UID.
    refused: BTreeMap<String, Refusal>,
}

impl Desired {
    pub(crate) fn new(allocatable: Allocatable, rules: Rules) -> Self {
        Self {
            allocatable,
            rules,
            pods: BTreeMap::new(),
            mirrors: BTreeMap::new(),
            synced: BTreeSet::new(),
            short: Vec::new(),
            shutting_down: false,
            refused: BTreeMap::new(),
        }
    }

    /// What the node is short of, and whether it goes down, from now on.
    pub(crate) fn short_of(&mut self, conditions: Vec<Condition>, shutting_down: bool) {
        (self.short, self.shutting_down) = (conditions, shutting_down);
    }

    /// Whether the node takes new pods. One that has begun was taken when it did.
    fn is_open_to(&self, pod: &Pod) -> Result<(), Refusal> {
        match self.shutting_down {
            _ if has_begun(pod) => Ok(()),
            true => Err(shutdown::refusal()),
            false => eviction::admit(pod, &self.short),
        }
    }

    /// Take in a change of a source.
    pub(crate) fn take(&mut self, source: Source, change: Change) -> Vec<Command> {
        match change {
            Change::Applied(pod) => self.apply(source, pod).into_iter().collect(),
            Change::Gone(pod) => self.remove(source, &pod).into_iter().collect(),
            Change::All(pods) => self.replace(source, pods),
        }
    }

    /// Whether every one of these sources has told all it has at least once. Nothing unknown is cleared away before.
    pub(crate) fn all_synced(&self, sources: &[Source]) -> bool {
        sources.iter().all(|source| self.synced.contains(source))
    }

    /// All pods wanted, of all sources.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.values().flat_map(BTreeMap::values)
    }

    /// All pods as the API has them, mirrors among them.
    pub(crate) fn of_api(&self) -> impl Iterator<Item = &Pod> {
        let own = self.pods.get(&Source::Api).into_iter().flat_map(BTreeMap::values);
        own.chain(self.mirrors.values()).map(Arc::as_ref)
    }

    /// What must come or go among the mirrors. Nothing is removed before `sources` have all been read once.
    pub(crate) fn mirror_actions(&self, sources: &[Source]) -> Vec<MirrorAction> {
        let statics: BTreeMap<String, &Arc<Pod>> = self
            .pods
            .get(&Source::File)
            .into_iter()
            .flat_map(BTreeMap::values)
            .map(|pod| (full_name(pod), pod))
            .collect();
        let mut actions = Vec::new();
        for (name, mirror) in &self.mirrors {
            let wanted = statics.get(name).is_some_and(|pod| {
                annotation_of(pod, annotation::HASH) == annotation_of(mirror, annotation::MIRROR)
                    && mirror.metadata.deletion_timestamp.is_none()
            });
            if !wanted && self.all_synced(sources) {
                actions.push(MirrorAction::Delete(mirror.clone()));
            }
        }
        if self.synced.contains(&Source::Api) {
            let missing = statics.iter().filter(|(name, _)| !self.mirrors.contains_key(*name));
            actions.extend(missing.map(|(_, pod)| MirrorAction::Create((*pod).clone())));
        }
        actions
    }

    fn apply(&mut self, source: Source, pod: Arc<Pod>) -> Option<Command> {
        if source == Source::Api && is_mirror(&pod) {
            self.mirrors.insert(full_name(&pod), pod);
            return None;
        }
        let known = self.pods.entry(source).or_default().insert(uid(&pod).to_owned(), pod.clone()).is_some();
        // A pod that is ending, or has ended, needs no room.
        let needs_room = pod.metadata.deletion_timestamp.is_none() && admission::counts(&pod);
        if !needs_room {
            self.refused.remove(uid(&pod));
            return Some(Command::Apply(source, pod));
        }
        if !known {
            let others = self.pods().filter(|other| !self.refused.contains_key(uid(other))).map(Arc::as_ref);
            let verdict = self
                .is_open_to(&pod)
                .and_then(|()| admission::permit(&pod, &self.rules))
                .and_then(|()| admission::admit(&pod, others, &self.allocatable));
            if let Err(refusal) = verdict {
                self.refused.insert(uid(&pod).to_owned(), refusal);
            }
        }
        Some(match self.refused.get(uid(&pod)) {
            Some(refusal) => Command::Refuse(source, pod, refusal.clone()),
            None => Command::Apply(source, pod),
        })
    }

    fn remove(&mut self, source: Source, pod: &Pod) -> Option<Command> {
        if source == Source::Api && is_mirror(pod) {
            // A newer mirror of the same name may be there already.
            let name = full_name(pod);
            if self.mirrors.get(&name).is_some_and(|mirror| mirror.metadata.uid == pod.metadata.uid) {
                self.mirrors.remove(&name);
            }
            return None;
        }
        self.refused.remove(uid(pod));
        self.pods.get_mut(&source)?.remove(uid(pod))?;
        Some(Command::Remove(source, uid(pod).to_owned()))
    }

    /// First what is gone, then what is there in the order in which it was admitted before: what has started already, then
    /// by age. So an agent that starts anew refuses nobody that runs.
    fn replace(&mut self, source: Source, mut pods: Vec<Arc<Pod>>) -> Vec<Command> {
        if source == Source::Api {
            self.mirrors.clear();
        }
        let now: BTreeSet<&str> = pods.iter().map(|pod| uid(pod)).collect();
        let gone: Vec<Arc<Pod>> = self
            .pods
            .get(&source)
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter(|pod| !now.contains(uid(pod)))
            .cloned()
            .collect();
        let mut commands: Vec<Command> = gone.iter().filter_map(|pod| self.remove(source, pod)).collect();
        pods.sort_by_key(|pod| seniority(pod));
        commands.extend(pods.into_iter().filter_map(|pod| self.apply(source, pod)));
        self.synced.insert(source);
        commands.push(Command::Synced(source));
        commands
    }
}

fn has_begun(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.start_time.is_some())
}

fn seniority(pod: &Pod) -> (bool, Option<Timestamp>, String) {
    (!has_begun(pod), pod.metadata.creation_timestamp.as_ref().map(|time| time.0), full_name(pod))
}

#[cfg(test)]
mod tests;
