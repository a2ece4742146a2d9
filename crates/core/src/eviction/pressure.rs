//! What the node is short of, round after round: which conditions it has, and what is to be reclaimed now.

use std::{collections::BTreeMap, fmt, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::threshold::{Condition, Settings, Signal, Threshold};
use crate::{
    classes::is_critical,
    pod::Refusal,
    qos::{self, Class},
};

/// How much of something is left, and how much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Left.
    pub available: i64,
    /// In all.
    pub capacity: i64,
}

/// What was measured. What could not be is left out.
pub type Observations = BTreeMap<Signal, Observed>;

/// The memory of earlier rounds.
#[derive(Clone, Debug)]
pub struct Pressure {
    settings: Settings,
    /// Since when each threshold is met, by its place in the settings.
    since: BTreeMap<usize, Timestamp>,
    /// When each condition was last seen.
    seen: BTreeMap<Condition, Timestamp>,
    /// Thresholds that were met for their grace: they hold until `min_reclaim` is there, too.
    held: Vec<usize>,
}

/// What follows from one round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// The conditions of the node.
    pub conditions: Vec<Condition>,
    /// What to reclaim; nothing while all is well or a grace runs.
    pub reclaim: Option<Reclaim>,
}

/// Something that the node must have more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reclaim {
    /// The threshold that was crossed.
    pub threshold: Threshold,
    /// What is left.
    pub observed: Observed,
}

impl Pressure {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new(settings: Settings) -> Pressure {
        Pressure { settings, since: BTreeMap::new(), seen: BTreeMap::new(), held: Vec::new() }
    }

    /// Takes in a round's measurements.
    pub fn observe(&mut self, observations: &Observations, now: Timestamp) -> Round {
        let thresholds = &self.settings.thresholds;
        let met = |place: &usize| {
            let reclaims = self.held.contains(place);
            is_met(&thresholds[*place], observations, reclaims)
        };
        let met: Vec<usize> = (0..thresholds.len()).filter(met).collect();
        self.since.retain(|place, _| met.contains(place));
        for place in &met {
            self.since.entry(*place).or_insert(now);
            self.seen.insert(thresholds[*place].signal.condition(), now);
        }
        let transition = self.settings.transition;
        self.seen.retain(|_, at| now == *at || passed(*at, now) < transition);
        self.held =
            met.into_iter().filter(|place| passed(self.since[place], now) >= thresholds[*place].grace).collect();
        // Memory before all others: nothing else ends a machine as fast.
        let first = self.held.iter().min_by_key(|place| thresholds[**place].signal);
        let reclaim = first.and_then(|place| {
            let threshold = thresholds[*place];
            Some(Reclaim { threshold, observed: *observations.get(&threshold.signal)? })
        });
        Round { conditions: self.seen.keys().copied().collect(), reclaim }
    }

    /// Whether nothing is short any more, after images and dead containers have gone.
    #[must_use]
    pub fn is_relieved(&self, observations: &Observations) -> bool {
        !self.settings.thresholds.iter().any(|threshold| is_met(threshold, observations, true))
    }

    /// What a pod may take to end by itself when this is reclaimed.
    #[must_use]
    pub fn grace(&self, threshold: &Threshold, of_pod: Duration) -> Duration {
        if threshold.grace.is_zero() { super::GRACE } else { self.settings.max_pod_grace.min(of_pod) }
    }
}

fn is_met(threshold: &Threshold, observations: &Observations, reclaims: bool) -> bool {
    let Some(observed) = observations.get(&threshold.signal) else { return false };
    let more = threshold.min_reclaim.filter(|_| reclaims).map_or(0, |more| more.of(observed.capacity));
    threshold.value.of(observed.capacity).saturating_add(more) > observed.available
}

fn passed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

/// Whether a node with these conditions takes a pod. Short of memory alone it takes all but those that ask for none and do
/// not say that they tolerate that.
///
/// # Errors
/// The kubelet's refusal.
pub fn admit(pod: &Pod, conditions: &[Condition]) -> Result<(), Refusal> {
    let spared = match conditions {
        [] => true,
        [Condition::MemoryPressure] => qos::class(pod) != Class::BestEffort || tolerates_memory_pressure(pod),
        _ => false,
    };
    if spared || is_critical(pod) {
        return Ok(());
    }
    let message = format!("The node had condition: {}. ", Names(conditions));
    Err(Refusal { reason: super::EVICTED.to_owned(), message })
}

fn tolerates_memory_pressure(pod: &Pod) -> bool {
    let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    tolerations.into_iter().any(|toleration| {
        let any = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
        let exists = toleration.operator.as_deref() == Some("Exists");
        let effect = any(&toleration.effect) || toleration.effect.as_deref() == Some("NoSchedule");
        let key = match toleration.key.as_deref() {
            None | Some("") => exists,
            key => key == Some("node.kubernetes.io/memory-pressure"),
        };
        effect && key && (exists || any(&toleration.value))
    })
}

/// `[MemoryPressure DiskPressure]`
struct Names<'a>(&'a [Condition]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|condition| condition.name()).collect();
        write!(f, "[{}]", names.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::eviction::threshold::Amount;

    const MEMORY: Signal = Signal::MemoryAvailable;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).expect("a time")
    }

    fn threshold(signal: Signal, value: i64, grace: u64, more: Option<i64>) -> Threshold {
        let min_reclaim = more.map(Amount::Of);
        Threshold { signal, value: Amount::Of(value), grace: Duration::from_secs(grace), min_reclaim }
    }

    fn pressure(thresholds: Vec<Threshold>) -> Pressure {
        Pressure::new(Settings { thresholds, ..Settings::default() })
    }

    fn left(amounts: &[(Signal, i64)]) -> Observations {
        amounts
            .iter()
            .map(|(signal, available)| (*signal, Observed { available: *available, capacity: 1000 }))
            .collect()
    }

    #[test]
    fn a_hard_threshold_reclaims_at_once_and_its_condition_stays_for_five_minutes() {
        let mut pressure = pressure(vec![threshold(MEMORY, 100, 0, None)]);
        assert_eq!(pressure.observe(&left(&[(MEMORY, 100)]), at(0)), Round::default());
        let round = pressure.observe(&left(&[(MEMORY, 99)]), at(10));
        assert_eq!(round.conditions, [Condition::MemoryPressure]);
        assert_eq!(round.reclaim.map(|reclaim| reclaim.observed.available), Some(99));
        let expected = Round { conditions: vec![Condition::MemoryPressure], reclaim: None };
        for seconds in [20, 309] {
            assert_eq!(pressure.observe(&left(&[(MEMORY, 500)]), at(seconds)), expected);
        }
        assert_eq!(pressure.observe(&left(&[(MEMORY, 500)]), at(310)), Round::default());
    }

    #[test]
    fn a_soft_threshold_tells_at_once_and_reclaims_after_its_grace() {
        let mut pressure = pressure(vec![threshold(MEMORY, 100, 90, None)]);
        let mut reclaims = |available, seconds| {
            let round = pressure.observe(&left(&[(MEMORY, available)]), at(seconds));
            assert_eq!(round.conditions, [Condition::MemoryPressure]);
            round.reclaim.is_some()
        };
        assert!(!reclaims(50, 0) && !reclaims(50, 89));
        // The grace begins anew after a moment above the line.
        assert!(!reclaims(150, 89) && !reclaims(50, 90) && !reclaims(50, 179) && reclaims(50, 180));
    }

    #[test]
    fn reclaiming_goes_on_until_there_is_as_much_more_as_was_asked_for() {
        let mut pressure = pressure(vec![threshold(MEMORY, 100, 0, Some(50))]);
        let mut reclaims =
            |available, seconds| pressure.observe(&left(&[(MEMORY, available)]), at(seconds)).reclaim.is_some();
        assert!(!reclaims(120, 0), "it was never below");
        assert!(reclaims(99, 10) && reclaims(149, 20) && !reclaims(150, 30) && !reclaims(120, 40));
    }

    #[test]
    fn memory_comes_first_and_what_was_not_measured_is_not_short() {
        let disk = Signal::NodefsAvailable;
        let mut pressure = pressure(vec![threshold(disk, 100, 0, None), threshold(MEMORY, 100, 0, None)]);
        assert_eq!(pressure.observe(&Observations::new(), at(0)), Round::default());
        let round = pressure.observe(&left(&[(disk, 1), (MEMORY, 1)]), at(1));
        assert_eq!(round.reclaim.map(|reclaim| reclaim.threshold.signal), Some(MEMORY));
        assert_eq!(round.conditions, [Condition::MemoryPressure, Condition::DiskPressure]);
        assert!(!pressure.is_relieved(&left(&[(disk, 1), (MEMORY, 500)])));
        assert!(pressure.is_relieved(&left(&[(disk, 500), (MEMORY, 500)])));
    }

    #[test]
    fn the_grace_of_a_soft_threshold_is_the_pods_or_less() {
        let settings = Settings { max_pod_grace: Duration::from_secs(20), ..Settings::default() };
        let pressure = Pressure::new(settings);
        let grace = |soft, own| pressure.grace(&threshold(MEMORY, 1, soft, None), Duration::from_secs(own)).as_secs();
        assert_eq!([grace(0, 30), grace(5, 30), grace(5, 7)], [1, 20, 7]);
    }

    #[test]
    fn a_node_under_pressure_takes_what_it_must() {
        use Condition::{DiskPressure, MemoryPressure, PidPressure};
        let pod = |spec: Value| -> Pod { serde_json::from_value(json!({"spec": spec})).expect("a pod") };
        let best_effort = || json!({"containers": [{"name": "c"}]});
        let with = |key: &str, value: Value| {
            let mut spec = best_effort();
            spec[key] = value;
            pod(spec)
        };
        let burstable = pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}));
        let tolerant =
            with("tolerations", json!([{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]));
        let other = with("tolerations", json!([{"key": "node.kubernetes.io/disk-pressure", "operator": "Exists"}]));
        let critical = with("priority", json!(2_000_000_000));
        let table: [(&Pod, [bool; 4]); 5] = [
            (&pod(best_effort()), [true, false, false, false]),
            (&burstable, [true, true, false, false]),
            (&tolerant, [true, true, false, false]),
            (&other, [true, false, false, false]),
            (&critical, [true, true, true, true]),
        ];
        for (pod, expected) in table {
            let found = [&[][..], &[MemoryPressure], &[DiskPressure], &[MemoryPressure, PidPressure]];
            assert_eq!(found.map(|conditions| admit(pod, conditions).is_ok()), expected, "{pod:?}");
        }
        let refusal = admit(&pod(best_effort()), &[MemoryPressure, DiskPressure]).expect_err("refused");
        assert_eq!(
            (&*refusal.reason, &*refusal.message),
            ("Evicted", "The node had condition: [MemoryPressure DiskPressure]. ")
        );
    }
}
