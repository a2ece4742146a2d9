//! What the agent remembers of a pod between two turns because nothing on the node tells it again: back-offs,
//! what the last try of something said, and whether an image was just found or pulled.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Action, BackOff, Failure, NodeFacts, Outcome, Target};

/// The memory of one pod. The back-offs are written to disk by the agent and survive it; the rest may be lost, at
/// the price of one more try.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Restarts of crashed containers, by container name.
    pub crashes: BTreeMap<String, BackOff>,
    /// Failed image pulls, by container name.
    pub pulls: BTreeMap<String, BackOff>,
    /// The last failure of what is still to be done, by target, with its time and how often it failed in a row.
    #[serde(skip)]
    pub failures: BTreeMap<Target, Failed>,
    /// What is known of the image of a container that is about to start, by container name.
    #[serde(skip)]
    pub images: BTreeMap<String, (String, ImageKnown)>,
    /// Whether the status that tells how everything ended was accepted.
    #[serde(skip)]
    pub final_status_published: bool,
    /// Whether the object is gone from the API.
    #[serde(skip)]
    pub object_deleted: bool,
}

/// The last failure of a target.
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    /// What it said.
    pub failure: Failure,
    /// When.
    pub at: Timestamp,
    /// How often in a row.
    pub times: u32,
}

/// What is known of an image.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageKnown {
    /// The runtime has it under this reference.
    Present(String),
    /// The runtime does not have it.
    Absent,
}

impl Memory {
    /// Notes that an action begins. To be persisted before the action's effect if [`Memory::crashes`] changed.
    pub fn began(&mut self, _action: &Action, _node: &NodeFacts, _now: Timestamp) {}

    /// Notes how an action ended.
    pub fn ended(&mut self, _action: &Action, _result: &Result<Outcome, Failure>, _now: Timestamp) {
    }
}
