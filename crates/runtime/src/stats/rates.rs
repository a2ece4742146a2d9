//! How busy things are: CPU time between two readings.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Two readings less apart than this say little; until then the rate before stands.
const WINDOW: Duration = Duration::from_secs(1);
/// What nobody asked after for this long is forgotten.
const FORGET: Duration = Duration::from_secs(600);

/// The last reading of each container and sandbox.
#[derive(Default)]
pub(crate) struct Rates(Mutex<HashMap<String, Reading>>);

struct Reading {
    at: i64,
    usage: u64,
    rate: Option<u64>,
}

impl Rates {
    /// Billionths of a core since the last reading; `None` for the first. `at` is in nanoseconds, as `usage` is.
    pub(super) fn nano_cores(&self, id: &str, at: i64, usage: u64) -> Option<u64> {
        let mut readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = readings.get_mut(id) else {
            readings.retain(|_, reading| u128::try_from(at - reading.at).is_ok_and(|age| age < FORGET.as_nanos()));
            readings.insert(id.to_owned(), Reading { at, usage, rate: None });
            return None;
        };
        let passed = u128::try_from(at - last.at).unwrap_or(0);
        if passed >= WINDOW.as_nanos() {
            let used = u128::from(usage.saturating_sub(last.usage));
            let rate = u64::try_from(used * 1_000_000_000 / passed).ok();
            *last = Reading { at, usage, rate };
        }
        last.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_was_used_by_what_has_passed() {
        const SECOND: i64 = 1_000_000_000;
        let rates = Rates::default();
        let table = [
            (0, 100, None),
            (SECOND / 2, 200, None),
            (SECOND, 500_000_100, Some(500_000_000)),
            (SECOND + 1, 900_000_000, Some(500_000_000)),
            (3 * SECOND, 2_500_000_100, Some(1_000_000_000)),
            // A group that was made anew counts from nothing.
            (5 * SECOND, 5, Some(0)),
        ];
        for (at, usage, expected) in table {
            assert_eq!(rates.nano_cores("a", at, usage), expected, "at {at}");
        }
        assert_eq!(rates.nano_cores("b", SECOND, 1), None);
    }
}
