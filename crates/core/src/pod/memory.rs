//! What the agent remembers of a pod between two turns because nothing on the node tells it again: back-offs,
//! what the last try of something said, and whether an image was just found or pulled.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use super::{
    Action, BackOff, BackOffLimits, Decision, Failure, Health, KillReason, NodeFacts, Observation, Outcome, PullPolicy,
    Target, back_off::add, images,
};

/// How long a failed start waits for its next try, as a kubelet whose sync failed.
const RETRY_START: Duration = Duration::from_secs(10);
/// The first and the longest wait of whatever else failed.
const RETRY_OTHER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// The memory of one pod. The back-offs are written to disk by the agent and survive it; the rest may be lost, at
/// the price of one more try.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Restarts of crashed containers, by container name.
    pub crashes: BTreeMap<String, BackOff>,
    /// Failed image pulls, by container name.
    pub pulls: BTreeMap<String, BackOff>,
    /// The last failure of what is still to be done, by target.
    #[serde(skip)]
    pub failures: BTreeMap<Target, Failed>,
    /// What is known of the image of a container that is about to start, by container name: the image as the spec
    /// names it, and what was found.
    #[serde(skip)]
    pub images: BTreeMap<String, (String, ImageKnown)>,
    /// Sandboxes that were stopped. CRI has no word for "stopped": one that is not ready may still hold a network.
    #[serde(skip)]
    pub stopped: BTreeSet<String>,
    /// What probes have told, by container id.
    #[serde(skip)]
    pub health: BTreeMap<String, Health>,
    /// The postStart hooks that have not ended well, by container id. One that was under way when an agent died is
    /// not run again.
    #[serde(skip)]
    pub post_starts: BTreeMap<String, PostStart>,
    /// The containers that are being ended, by id.
    #[serde(skip)]
    pub kills: BTreeMap<String, Kill>,
    /// Containers, by id, whose preStop hook has ended, however it did.
    #[serde(skip)]
    pub pre_stopped: BTreeSet<String>,
    /// Whether the status that tells how everything ended was accepted.
    #[serde(skip)]
    pub final_status_published: bool,
    /// Whether the object is gone from the API.
    #[serde(skip)]
    pub object_deleted: bool,
}

/// The last failure of a target, or the last try that changed nothing yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    /// What it said; none when it said that it went well, and the next look decides whether it is tried again.
    pub failure: Option<Failure>,
    /// When.
    pub at: Timestamp,
    /// How often in a row.
    pub times: u32,
}

/// Where a postStart hook stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostStart {
    /// It is to be run, or runs.
    Pending,
    /// It failed: its container is stopped.
    Failed,
}

/// The end that a container was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    /// Why.
    pub reason: KillReason,
    /// The moment its grace ends.
    pub deadline: Timestamp,
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
    /// Notes that an action begins. If [`Memory::crashes`] changed, it is to be persisted before the action's effect,
    /// so that an agent that dies in between does not restart a crashing container for free.
    pub fn began(&mut self, action: &Action, node: &NodeFacts, now: Timestamp) {
        if let Action::StartContainer { container, crash: Some(crash), .. } = action {
            let limits = BackOffLimits::crash(node.max_restart_period);
            let old = self.crashes.get(container);
            let next = BackOff::next(old, &crash.key, crash.at, now, &limits);
            self.crashes.insert(container.clone(), next);
        }
        if let Action::PreStop { id, reason, deadline, .. } | Action::KillContainer { id, reason, deadline, .. } =
            action
        {
            let kill = Kill { reason: *reason, deadline: *deadline };
            let known = self.kills.entry(id.clone()).or_insert(kill);
            if kill.deadline < known.deadline {
                *known = kill;
            }
        }
    }

    /// Notes what was decided of what was seen: a container that runs on after all is bound by no earlier end.
    pub fn decided(&mut self, decision: &Decision, seen: &Observation) {
        let runs_on =
            |id: &String| seen.containers.iter().any(|c| c.id == *id && c.may_run()) && !decision.ending.contains(id);
        self.kills.retain(|id, _| !runs_on(id));
    }

    /// Notes that an action was given up, and nothing else is done for its target: nobody waits for it any more.
    pub fn called_off(&mut self, action: &Action) {
        if let Action::PostStart { id, .. } = action {
            self.post_starts.remove(id);
        }
    }

    /// Notes how an action ended.
    pub fn ended(&mut self, action: &Action, result: &Result<Outcome, Failure>, now: Timestamp) {
        match result {
            Ok(outcome) => self.succeeded(action, outcome, now),
            Err(failure) => {
                if let Action::PullImage { container, image } = action {
                    let old = self.pulls.get(container);
                    let next = BackOff::next(old, image, now, now, &BackOffLimits::PULL);
                    self.pulls.insert(container.clone(), next);
                }
                match action {
                    Action::StartContainer { container, .. } => self.forget_images(container),
                    Action::PostStart { id, container } => {
                        self.post_starts.insert(id.clone(), PostStart::Failed);
                        return self.failed(Target::Container(container.clone()), Some(failure.clone()), now);
                    }
                    // The end goes on whether the hook ran or not.
                    Action::PreStop { id, .. } => {
                        self.pre_stopped.insert(id.clone());
                        return;
                    }
                    _ => {}
                }
                self.failed(action.target(), Some(failure.clone()), now);
            }
        }
    }

    /// Forgets what failed under an earlier definition: it may go well now. What the pull of an image said stays as
    /// long as the image does.
    pub fn spec_changed(&mut self, pod: &Pod) {
        let images = images::of_pod(pod);
        let pulls = &self.pulls;
        self.failures.retain(|target, _| match target {
            Target::Image(name) => pulls.get(name).is_some_and(|pull| images.get(name) == Some(&&*pull.key)),
            _ => false,
        });
    }

    /// When a target that failed may be tried again.
    pub fn retry_at(&self, target: &Target) -> Option<Timestamp> {
        let failed = self.failures.get(target)?;
        Some(add(failed.at, retry_delay(target, failed.times)))
    }

    fn succeeded(&mut self, action: &Action, outcome: &Outcome, now: Timestamp) {
        match action {
            // Their success is seen, not believed: a container that still runs is killed again, but not at once.
            Action::KillContainer { .. } => return self.failed(action.target(), None, now),
            Action::StopSandbox { id } => {
                self.stopped.insert(id.clone());
                return self.failed(action.target(), None, now);
            }
            Action::InspectImage { container, image, pull } => match outcome {
                Outcome::ImageAbsent if *pull == PullPolicy::Never => {
                    let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                    let failure = Failure { reason: "ErrImageNeverPull".into(), message };
                    return self.failed(action.target(), Some(failure), now);
                }
                Outcome::ImageAbsent => {
                    // The failure of an earlier pull stays: it is what the pod waits for.
                    self.images.insert(container.clone(), (image.clone(), ImageKnown::Absent));
                    return;
                }
                outcome => self.image_found(container, image, outcome),
            },
            Action::PullImage { container, image } => self.image_found(container, image, outcome),
            Action::StartContainer { container, post_start, .. } => {
                self.forget_images(container);
                if let (true, Outcome::Started { id }) = (post_start, outcome) {
                    self.post_starts.insert(id.clone(), PostStart::Pending);
                }
            }
            Action::PostStart { id, .. } => {
                self.post_starts.remove(id);
            }
            Action::PreStop { id, .. } => {
                self.pre_stopped.insert(id.clone());
            }
            Action::RemoveContainer { id, .. } => {
                self.post_starts.remove(id);
                self.kills.remove(id);
                self.pre_stopped.remove(id);
            }
            Action::PublishFinalStatus => self.final_status_published = true,
            Action::DeleteObject => self.object_deleted = true,
            Action::RemoveSandbox { id } => {
                self.stopped.remove(id);
            }
            _ => {}
        }
        self.failures.remove(&action.target());
    }

    /// Each start looks for its images anew, those of its volumes too: which they are, the memory does not know.
    fn forget_images(&mut self, container: &str) {
        self.images.retain(|key, _| key != container && images::image_volume(key).is_none());
    }

    fn image_found(&mut self, container: &str, image: &str, outcome: &Outcome) {
        let image_ref = match outcome {
            Outcome::ImagePresent { image_ref } => image_ref.clone(),
            _ => image.to_owned(),
        };
        self.images.insert(container.to_owned(), (image.to_owned(), ImageKnown::Present(image_ref)));
    }

    fn failed(&mut self, target: Target, failure: Option<Failure>, now: Timestamp) {
        let times = self.failures.get(&target).map_or(0, |f| f.times).saturating_add(1);
        self.failures.insert(target, Failed { failure, at: now, times });
    }
}

fn retry_delay(target: &Target, times: u32) -> Duration {
    match target {
        Target::Container(_) | Target::Image(_) | Target::NewSandbox => RETRY_START,
        Target::Resources | Target::Sandbox(_) | Target::Instance(_) | Target::Started(_) | Target::Object => {
            let (first, longest) = RETRY_OTHER;
            (first * 2_u32.saturating_pow(times.saturating_sub(1).min(8))).min(longest)
        }
    }
}
