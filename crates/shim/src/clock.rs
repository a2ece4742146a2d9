//! Wall time as numbers and as text.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of a second.
const SECOND: i64 = 1_000_000_000;

/// Unix time in nanoseconds.
pub(crate) fn now() -> i64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec * SECOND + time.tv_nsec
}

/// Time that never goes back, in nanoseconds, for deadlines.
pub(crate) fn monotonic() -> i64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec * SECOND + time.tv_nsec
}

/// Length of [`rfc3339`].
pub(crate) const STAMP: usize = 30;

/// `2026-11-22T12:06:36.123456789Z`: RFC 3339 with nine decimals.
pub(crate) fn rfc3339(nanos: i64) -> [u8; STAMP] {
    let mut stamp = *b"0000-00-00T00:00:00.000000000Z";
    let (year, month, day, [hour, minute, second], fraction) = parts(nanos);
    let fields =
        [(0, 4, year), (5, 2, month), (8, 2, day), (11, 2, hour), (14, 2, minute), (17, 2, second), (20, 9, fraction)];
    for (at, digits, value) in fields {
        put(&mut stamp[at..at + digits], value);
    }
    stamp
}

/// `20261122-120636`: the kubelet's suffix of a rotated log.
pub(crate) fn compact(nanos: i64) -> String {
    let (year, month, day, [hour, minute, second], _) = parts(nanos);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

/// Nanoseconds within the second.
pub(crate) fn fraction(nanos: i64) -> i64 {
    nanos.rem_euclid(SECOND)
}

fn put(digits: &mut [u8], mut value: i64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).expect("a digit");
        value /= 10;
    }
}

fn parts(nanos: i64) -> (i64, i64, i64, [i64; 3], i64) {
    let seconds = nanos.div_euclid(SECOND);
    let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    (year, month, day, [second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60], fraction(nanos))
}

/// The Gregorian date of a day since 1970-01-01, counted in eras of 400 years that begin in March, so that the leap day
/// is the last of its year.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // Checked with date(1).
        let rows = [
            (0, "1970-01-01T00:00:00.000000000Z", "19700101-000000"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z", "20000229-000000"),
            (1_709_210_096, "2024-02-29T12:34:56.000000000Z", "20240229-123456"),
            (1_795_348_799, "2026-11-22T11:59:59.000000000Z", "20261122-115959"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z", "21000301-000000"),
        ];
        for (seconds, long, short) in rows {
            assert_eq!(std::str::from_utf8(&rfc3339(seconds * SECOND)).unwrap(), long);
            assert_eq!(compact(seconds * SECOND), short);
        }
        assert_eq!(&rfc3339(1_234_567)[..], b"1970-01-01T00:00:00.001234567Z");
    }
}
