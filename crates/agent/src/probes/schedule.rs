//! When a probe is due: the first time after its delay, then every period; one that took longer than its period is
//! followed at once by the next, and from then on the old beat is kept. Pure.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use jiff::Timestamp;
use podd_core::pod::Watch;

/// When a probe that is asked for now is due first. Those of containers that an agent takes over are spread over their
/// period: they would all be due in this moment.
pub(super) fn first(watch: &Watch, period: Duration, since: Timestamp, now: Timestamp) -> Timestamp {
    let due = watch.first_at.max(now);
    let taken_over = watch.started_at < since && now < later(since, period);
    if taken_over && due == now { later(due, period.mul_f64(share(watch))) } else { due }
}

/// The next time after `due`, given that the probe ended at `now`.
pub(super) fn next(due: Timestamp, period: Duration, now: Timestamp) -> Timestamp {
    let passed = Duration::try_from(now.duration_since(due)).unwrap_or_default();
    // Whole beats that went by; the last of them is made up for at once.
    let beats = u32::try_from(passed.as_nanos() / period.as_nanos().max(1)).unwrap_or(u32::MAX).max(1);
    later(due, period.saturating_mul(beats))
}

/// A number between 0 and 1 that is this probe's own, the same each time: a simulation can be run again.
fn share(watch: &Watch) -> f64 {
    let mut hasher = DefaultHasher::new();
    (&watch.id, watch.kind).hash(&mut hasher);
    f64::from(u32::try_from(hasher.finish() >> 32).unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use podd_core::pod::ProbeKind;

    use super::*;

    const PERIOD: Duration = Duration::from_secs(10);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).expect("a time")
    }

    fn watch(id: &str, started: i64, first: i64) -> Watch {
        Watch {
            id: id.into(),
            kind: ProbeKind::Readiness,
            container: "a".into(),
            sandbox_id: "s".into(),
            started_at: at(started),
            first_at: at(first),
        }
    }

    #[test]
    fn the_first_probe_comes_when_its_delay_is_over_and_never_in_the_past() {
        assert_eq!(first(&watch("x", 5, 8), PERIOD, at(0), at(6)), at(8));
        assert_eq!(first(&watch("x", 5, 8), PERIOD, at(0), at(20)), at(20));
    }

    #[test]
    fn what_an_agent_takes_over_is_spread_over_one_period() {
        let firsts: Vec<_> =
            (0..100).map(|n| first(&watch(&format!("id{n}"), -100, -90), PERIOD, at(0), at(0))).collect();
        assert!(firsts.iter().all(|due| (at(0)..at(10)).contains(due)));
        let early = firsts.iter().filter(|due| **due < at(5)).count();
        assert!((25..75).contains(&early), "{early} of 100 in the first half");
        // Not once the agent has been there for a while, and not what is not due yet.
        assert_eq!(first(&watch("x", -100, -90), PERIOD, at(0), at(11)), at(11));
        assert_eq!(first(&watch("x", -1, 5), PERIOD, at(0), at(0)), at(5));
    }

    #[test]
    fn a_probe_that_is_slow_is_followed_at_once_and_keeps_its_beat() {
        assert_eq!(next(at(0), PERIOD, at(1)), at(10));
        assert_eq!(next(at(0), PERIOD, at(10)), at(10));
        assert_eq!(next(at(0), PERIOD, at(15)), at(10));
        assert_eq!(next(at(0), PERIOD, at(34)), at(30));
        assert_eq!(next(at(30), PERIOD, at(35)), at(40));
    }
}
