//! Which events are written, which only count up an earlier one, and which are dropped. The three rules and their numbers
//! are client-go's: a bucket per object against floods, one combined event from the tenth similar one in ten minutes on,
//! and one Event object for repetitions of the same sentence.

use std::collections::{HashMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

use super::{Record, Severity};

/// Events of one object that may come at once.
const BURST: f64 = 25.0;
/// Afterwards, one per this many seconds.
const REFILL_SECONDS: f64 = 300.0;
/// This many distinct messages of one reason stand for themselves; further ones are combined.
const SIMILAR: usize = 9;
/// Similar events further apart than this start over.
const SIMILAR_WINDOW: SignedDuration = SignedDuration::from_secs(600);
/// Objects, groups and events remembered, each.
const REMEMBERED: usize = 4096;

const COMBINED: &str = "(combined from similar events): ";

/// One write to the API.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Write {
    /// Create the Event object, or else patch the one of this name.
    pub(super) create: bool,
    pub(super) name: String,
    pub(super) count: i32,
    /// When the first of these was seen.
    pub(super) first: Timestamp,
    pub(super) record: Record,
}

type Subject = (String, String, String, String);
type Group = (Subject, Severity, String);

/// Memory of what was recorded lately.
#[derive(Default)]
pub(super) struct Correlator {
    buckets: Remembered<Subject, Bucket>,
    groups: Remembered<Group, Similar>,
    written: Remembered<(Group, String), Written>,
    last_name: i64,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

#[derive(Default)]
struct Similar {
    messages: Vec<String>,
    last: Option<Timestamp>,
}

struct Written {
    name: String,
    count: i32,
    first: Timestamp,
}

impl Correlator {
    /// What to write for a record; nothing when its object floods.
    pub(super) fn observe(&mut self, mut record: Record) -> Option<Write> {
        let subject = subject(&record);
        if !self.take_token(&subject, record.at) {
            return None;
        }
        let group = (subject, record.severity, record.reason.clone());
        let path = record.subject.field_path.as_deref().unwrap_or_default();
        let mut key = (group.clone(), format!("{path}\0{}", record.message));
        if self.is_combined(group.clone(), &record) {
            key = (group, String::new());
            record.message.insert_str(0, COMBINED);
        }
        if let Some(written) = self.written.get_mut(&key) {
            written.count = written.count.saturating_add(1);
            let (name, count, first) = (written.name.clone(), written.count, written.first);
            return Some(Write { create: false, name, count, first, record });
        }
        let name = self.name(&record);
        self.written.insert(key, Written { name: name.clone(), count: 1, first: record.at });
        Some(Write { create: true, name, count: 1, first: record.at, record })
    }

    fn take_token(&mut self, subject: &Subject, now: Timestamp) -> bool {
        let bucket = self.buckets.entry(subject.clone(), || Bucket { tokens: BURST, at: now });
        let elapsed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + elapsed / REFILL_SECONDS).min(BURST);
        bucket.at = now;
        let free = bucket.tokens >= 1.0;
        if free {
            bucket.tokens -= 1.0;
        }
        free
    }

    fn is_combined(&mut self, group: Group, record: &Record) -> bool {
        let similar = self.groups.entry(group, Similar::default);
        if similar.last.is_some_and(|last| record.at.duration_since(last) > SIMILAR_WINDOW) {
            similar.messages.clear();
        }
        similar.last = Some(record.at);
        if similar.messages.contains(&record.message) {
            return false;
        }
        if similar.messages.len() >= SIMILAR {
            return true;
        }
        similar.messages.push(record.message.clone());
        false
    }

    /// `<object>.<nanoseconds in hex>`, made unique by never giving the same nanosecond twice.
    fn name(&mut self, record: &Record) -> String {
        let nanos = i64::try_from(record.at.as_nanosecond()).unwrap_or(i64::MAX - 1);
        self.last_name = nanos.max(self.last_name.saturating_add(1));
        format!("{}.{:x}", record.subject.name.as_deref().unwrap_or("unknown"), self.last_name)
    }
}

fn subject(record: &Record) -> Subject {
    let part = |value: &Option<String>| value.clone().unwrap_or_default();
    let subject = &record.subject;
    (part(&subject.kind), part(&subject.namespace), part(&subject.name), part(&subject.uid))
}

/// A map that forgets its oldest entries beyond [`REMEMBERED`].
struct Remembered<K, V> {
    values: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Self { values: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Clone + Eq + std::hash::Hash, V> Remembered<K, V> {
    fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.values.get_mut(key)
    }

    fn insert(&mut self, key: K, value: V) {
        if self.values.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.values.remove(&oldest);
            }
        }
    }

    fn entry(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        if !self.values.contains_key(&key) {
            self.insert(key.clone(), make());
        }
        self.values.get_mut(&key).expect("inserted above, and the newest entry is never forgotten")
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;

    use super::*;

    fn record(object: &str, message: &str, second: i64) -> Record {
        Record {
            subject: ObjectReference { name: Some(object.into()), ..Default::default() },
            severity: Severity::Normal,
            reason: "Pulled".into(),
            message: message.into(),
            at: Timestamp::from_second(1_000_000 + second).expect("in range"),
        }
    }

    #[test]
    fn a_repeated_sentence_counts_up_one_event() {
        let mut correlator = Correlator::default();
        let first = correlator.observe(record("a", "x", 0)).expect("written");
        assert!(first.create);
        let second = correlator.observe(record("a", "x", 5)).expect("written");
        assert_eq!((second.create, second.count, &second.name), (false, 2, &first.name));
        assert_eq!(second.first, first.first);
    }

    #[test]
    fn events_of_two_objects_never_share_a_name() {
        let mut correlator = Correlator::default();
        let first = correlator.observe(record("a", "x", 0)).expect("written");
        let second = correlator.observe(record("a", "y", 0)).expect("written");
        assert_ne!(first.name, second.name);
        assert!(first.name.starts_with("a."));
    }

    #[test]
    fn the_tenth_distinct_message_of_a_reason_is_combined() {
        let mut correlator = Correlator::default();
        for n in 0..9 {
            let write = correlator.observe(record("a", &format!("m{n}"), n)).expect("written");
            assert!(write.create && !write.record.message.starts_with(COMBINED));
        }
        let combined = correlator.observe(record("a", "m9", 11)).expect("written");
        assert!(combined.create);
        assert_eq!(combined.record.message, format!("{COMBINED}m9"));
        let again = correlator.observe(record("a", "m11", 12)).expect("written");
        assert_eq!((again.create, again.count), (false, 2));
    }

    #[test]
    fn ten_quiet_minutes_end_the_combining() {
        let mut correlator = Correlator::default();
        for n in 0..11 {
            correlator.observe(record("a", &format!("m{n}"), n));
        }
        let later = correlator.observe(record("a", "new", 700)).expect("written");
        assert_eq!(later.record.message, "new");
    }

    #[test]
    fn a_flood_from_one_object_is_cut_at_the_burst_and_spares_the_others() {
        let mut correlator = Correlator::default();
        let written = (0..100).filter(|_| correlator.observe(record("a", "x", 0)).is_some()).count();
        assert_eq!(written, 25);
        assert!(correlator.observe(record("b", "x", 0)).is_some());
        assert!(correlator.observe(record("a", "x", 299)).is_none());
        assert!(correlator.observe(record("a", "x", 301)).is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = Correlator::default();
        for n in 0..10_000 {
            correlator.observe(record(&n.to_string(), "x", 0));
        }
        assert!(correlator.buckets.values.len() <= REMEMBERED);
        assert!(correlator.written.values.len() <= REMEMBERED);
        assert_eq!(correlator.written.order.len(), correlator.written.values.len());
    }
}
