//! What the node may be short of, and from when on it is.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::quantity::Quantity;

/// Something that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Memory that is free, or cache that can go at once.
    MemoryAvailable,
    /// Space on the file system of the state: volumes, logs.
    NodefsAvailable,
    /// Inodes there.
    NodefsInodesFree,
    /// Space on the file system of images and writable layers.
    ImagefsAvailable,
    /// Inodes there.
    ImagefsInodesFree,
    /// Process ids.
    PidAvailable,
}

/// Name, condition, the resource as messages name it.
const SIGNALS: [(Signal, &str, Condition, &str); 6] = [
    (Signal::MemoryAvailable, "memory.available", Condition::MemoryPressure, "memory"),
    (Signal::NodefsAvailable, "nodefs.available", Condition::DiskPressure, "ephemeral-storage"),
    (Signal::NodefsInodesFree, "nodefs.inodesFree", Condition::DiskPressure, "inodes"),
    (Signal::ImagefsAvailable, "imagefs.available", Condition::DiskPressure, "ephemeral-storage"),
    (Signal::ImagefsInodesFree, "imagefs.inodesFree", Condition::DiskPressure, "inodes"),
    (Signal::PidAvailable, "pid.available", Condition::PidPressure, "pids"),
];

impl Signal {
    /// Of a kubelet's name, such as `memory.available`.
    fn parse(name: &str) -> Option<Signal> {
        SIGNALS.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    fn row(self) -> &'static (Signal, &'static str, Condition, &'static str) {
        SIGNALS.iter().find(|row| row.0 == self).expect("every signal has a row")
    }

    /// The kubelet's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The condition of a node that is short of it.
    #[must_use]
    pub fn condition(self) -> Condition {
        self.row().2
    }

    /// As messages name it: `memory`, `ephemeral-storage`, `inodes`, `pids`.
    #[must_use]
    pub fn resource(self) -> &'static str {
        self.row().3
    }

    /// Whether it is about disk, where images and dead containers can go before pods do.
    #[must_use]
    pub fn is_disk(self) -> bool {
        self.condition() == Condition::DiskPressure
    }
}

/// What a node that is short of something says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Short of memory.
    MemoryPressure,
    /// Short of disk or inodes.
    DiskPressure,
    /// Short of process ids.
    PidPressure,
}

impl Condition {
    /// The type of the node's condition.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Condition::MemoryPressure => "MemoryPressure",
            Condition::DiskPressure => "DiskPressure",
            Condition::PidPressure => "PIDPressure",
        }
    }
}

/// An amount, or a part of all there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Bytes, inodes or ids.
    Of(i64),
    /// In thousandths of a per cent.
    Part(i64),
}

impl Amount {
    fn parse(text: &str) -> Result<Amount, String> {
        if let Some(number) = text.strip_suffix('%') {
            let part = Quantity::parse(number).ok().filter(|part| !part.is_negative() && *part <= Quantity::of(100));
            return part.map(|part| Amount::Part(part.milli())).ok_or_else(|| format!("{text:?} is no percentage"));
        }
        let amount = Quantity::parse(text)
            .map_err(|_| format!("{text:?} is neither an amount, like 100Mi, nor a percentage"))?;
        if amount.is_negative() {
            Err(format!("{text:?} is less than nothing"))
        } else {
            Ok(Amount::Of(amount.value()))
        }
    }

    /// The amount, where there is so much in all.
    #[must_use]
    pub fn of(self, capacity: i64) -> i64 {
        match self {
            Amount::Of(amount) => amount,
            Amount::Part(part) => i64::try_from(i128::from(capacity) * i128::from(part) / 100_000).unwrap_or(i64::MAX),
        }
    }
}

/// A line that the node does not want to go below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// What is measured.
    pub signal: Signal,
    /// The line.
    pub value: Amount,
    /// How long it may be crossed before pods go; none at all makes the threshold a hard one.
    pub grace: Duration,
    /// How far above the line it must be again.
    pub min_reclaim: Option<Amount>,
}

/// What the node does when it is short of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The lines.
    pub thresholds: Vec<Threshold>,
    /// How long a condition stays after the last time that a line was crossed.
    pub transition: Duration,
    /// The most that a pod gets to end by itself when a soft threshold is met.
    pub max_pod_grace: Duration,
}

/// The kubelet's hard thresholds.
const HARD: [(&str, &str); 5] = [
    ("memory.available", "100Mi"),
    ("nodefs.available", "10%"),
    ("nodefs.inodesFree", "5%"),
    ("imagefs.available", "15%"),
    ("imagefs.inodesFree", "5%"),
];

/// The kubelet's hard thresholds, as they are written.
#[must_use]
pub fn default_hard() -> BTreeMap<String, String> {
    HARD.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

impl Default for Settings {
    fn default() -> Self {
        let thresholds =
            Written { hard: default_hard(), ..Written::default() }.read().expect("the defaults are well written");
        Settings { thresholds, transition: Duration::from_secs(300), max_pod_grace: Duration::ZERO }
    }
}

/// Thresholds as they are written in a configuration, by the names of signals.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Lines below which pods go at once.
    pub hard: BTreeMap<String, String>,
    /// Lines below which pods go after a grace.
    pub soft: BTreeMap<String, String>,
    /// Those graces; every soft threshold has one.
    pub soft_grace: BTreeMap<String, Duration>,
    /// How far above its line something must be again.
    pub minimum_reclaim: BTreeMap<String, String>,
}

/// What is wrong with a written threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadThreshold {
    /// `hard.memory.available`, or another entry.
    pub entry: String,
    /// Why.
    pub why: String,
}

impl fmt::Display for BadThreshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.entry, self.why)
    }
}

impl Written {
    /// Reads them.
    ///
    /// # Errors
    /// The first entry that means nothing.
    pub fn read(&self) -> Result<Vec<Threshold>, BadThreshold> {
        let soft = self.soft.iter().map(|(name, value)| ("soft", name, value));
        let all = self.hard.iter().map(|(name, value)| ("hard", name, value)).chain(soft);
        let mut thresholds = Vec::new();
        for (list, name, value) in all {
            let bad = |why| BadThreshold { entry: format!("{list}.{name}"), why };
            let signal = signal(list, name)?;
            let value = Amount::parse(value).map_err(bad)?;
            let grace = match (list, self.soft_grace.get(name)) {
                ("hard", _) => Duration::ZERO,
                (_, Some(grace)) if !grace.is_zero() => *grace,
                _ => return Err(bad("a soft threshold needs its time in soft-grace, more than 0s".into())),
            };
            thresholds.push(Threshold { signal, value, grace, min_reclaim: None });
        }
        for (name, value) in &self.minimum_reclaim {
            let signal = signal("minimum-reclaim", name)?;
            let reclaim =
                Amount::parse(value).map_err(|why| BadThreshold { entry: format!("minimum-reclaim.{name}"), why })?;
            let of_it = thresholds.iter_mut().filter(|threshold| threshold.signal == signal);
            of_it.for_each(|threshold| threshold.min_reclaim = Some(reclaim));
        }
        match self.soft_grace.keys().find(|name| !self.soft.contains_key(*name)) {
            Some(name) => {
                Err(BadThreshold { entry: format!("soft-grace.{name}"), why: "there is no such soft threshold".into() })
            }
            None => Ok(thresholds),
        }
    }
}

fn signal(list: &str, name: &str) -> Result<Signal, BadThreshold> {
    Signal::parse(name).ok_or_else(|| {
        let known: Vec<_> = SIGNALS.iter().map(|row| row.1).collect();
        BadThreshold { entry: format!("{list}.{name}"), why: format!("no such signal; there are {}", known.join(", ")) }
    })
}

impl Settings {
    /// What is kept from pods so that the node does not cross a hard line when they use all they may.
    #[must_use]
    pub fn reserved(&self, signal: Signal, capacity: i64) -> i64 {
        let hard = self.thresholds.iter().filter(|threshold| threshold.grace.is_zero() && threshold.signal == signal);
        hard.map(|threshold| threshold.value.of(capacity)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_defaults_are_the_kubelets() {
        let settings = Settings::default();
        let all: Vec<_> =
            settings.thresholds.iter().map(|t| (t.signal.name(), t.value.of(1000 << 20), t.grace.as_secs())).collect();
        let mib = |count: i64| count << 20;
        assert!(
            all.contains(&("memory.available", mib(100), 0)) && all.contains(&("nodefs.available", mib(100), 0)),
            "{all:?}"
        );
        assert!(
            all.contains(&("imagefs.available", mib(150), 0)) && all.contains(&("nodefs.inodesFree", mib(50), 0)),
            "{all:?}"
        );
        assert_eq!((settings.transition.as_secs(), all.len()), (300, 5));
        assert_eq!(settings.reserved(Signal::MemoryAvailable, 1 << 30), mib(100));
        assert_eq!(settings.reserved(Signal::PidAvailable, 1 << 30), 0);
    }

    #[test]
    fn a_soft_threshold_has_a_grace_and_what_is_wrong_is_named() {
        let seconds = |entries: &[(&str, u64)]| {
            entries.iter().map(|(name, seconds)| ((*name).to_owned(), Duration::from_secs(*seconds))).collect()
        };
        let good = Written {
            soft: map(&[("pid.available", "12.5%")]),
            soft_grace: seconds(&[("pid.available", 90)]),
            minimum_reclaim: map(&[("pid.available", "10")]),
            ..Written::default()
        };
        let expected = Threshold {
            signal: Signal::PidAvailable,
            value: Amount::Part(12_500),
            grace: Duration::from_secs(90),
            min_reclaim: Some(Amount::Of(10)),
        };
        assert_eq!(good.read(), Ok(vec![expected]));
        let hard = |name: &str, value: &str| Written { hard: map(&[(name, value)]), ..Written::default() };
        let table = [
            (hard("memory.free", "1"), "hard.memory.free: no such signal"),
            (hard("memory.available", "-1"), "hard.memory.available: \"-1\" is less than nothing"),
            (hard("memory.available", "101%"), "\"101%\" is no percentage"),
            (hard("memory.available", "much"), "neither an amount"),
            (Written { soft_grace: BTreeMap::new(), ..good.clone() }, "soft.pid.available: a soft threshold needs"),
            (Written { soft: BTreeMap::new(), ..good.clone() }, "soft-grace.pid.available: there is no such"),
            (Written { minimum_reclaim: map(&[("x", "1")]), ..good }, "minimum-reclaim.x: no such signal"),
        ];
        for (written, expected) in table {
            let said = written.read().expect_err(expected).to_string();
            assert!(said.contains(expected), "{said}");
        }
    }
}
