//! The kubelet's exponential back-off: 10 s doubling to 300 s, forgotten after 600 quiet seconds.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// The bounds of a back-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The first wait.
    pub initial: Duration,
    /// The longest wait.
    pub max: Duration,
    /// An entry older than this at the next event starts over.
    pub forget: Duration,
}

impl Limits {
    /// Image pulls: 10 s to 300 s, forgotten after twice the longest.
    pub const PULL: Limits =
        Limits { initial: Duration::from_secs(10), max: Duration::from_secs(300), forget: Duration::from_secs(600) };

    /// Crashed containers, with the node's longest wait: starts at 10 s or at that, whichever is shorter.
    pub fn crash(max_restart_period: Duration) -> Limits {
        Limits {
            initial: Duration::from_secs(10).min(max_restart_period),
            max: max_restart_period,
            forget: Duration::from_secs(600),
        }
    }
}

/// One entry. It exists from the first failure on; there is nothing to wait for before it exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackOff {
    /// What the entry is about; an entry with another key does not count.
    pub key: String,
    /// The wait that is in force.
    pub wait: Duration,
    /// When it was last lengthened.
    pub updated_at: Timestamp,
}

impl BackOff {
    /// The entry after one more event at `event`, seen at `now`: the first one waits `initial`, each further one
    /// twice as long, up to `max`.
    pub fn next(old: Option<&BackOff>, key: &str, event: Timestamp, now: Timestamp, limits: &Limits) -> BackOff {
        let wait = match old {
            Some(old) if old.key == key && !old.is_forgotten(event, limits) => (old.wait * 2).min(limits.max),
            _ => limits.initial,
        };
        BackOff { key: key.to_owned(), wait, updated_at: now }
    }

    /// The end of the wait after a crash at `crashed_at`, if this entry makes it wait at all.
    pub fn until_since(&self, key: &str, crashed_at: Timestamp, limits: &Limits) -> Option<Timestamp> {
        (self.key == key && !self.is_forgotten(crashed_at, limits)).then(|| add(crashed_at, self.wait))
    }

    /// The end of the wait after the last failure, whatever the event.
    pub fn until(&self, key: &str) -> Option<Timestamp> {
        (self.key == key).then(|| add(self.updated_at, self.wait))
    }

    fn is_forgotten(&self, event: Timestamp, limits: &Limits) -> bool {
        event.duration_since(self.updated_at) > SignedDuration::try_from(limits.forget).unwrap_or(SignedDuration::MAX)
    }
}

/// A moment later, capped at the end of time.
pub(super) fn add(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
