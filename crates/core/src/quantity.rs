//! Resource quantities (`500m`, `1.5Gi`, `2e3`): exact, comparable, in nano-units.
//!
//! Source: Kubernetes' resource model; rounding goes up, as `Quantity.Value` and `MilliValue` do.

use std::fmt;

const NANO: i128 = 1_000_000_000;

/// A quantity, kept as a whole number of billionths. What is finer is rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Quantity {
    nano: i128,
}

/// A text that is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct BadQuantity;

/// Suffix, base, exponent.
const SUFFIXES: &[(&str, i128, i32)] = &[
    ("Ki", 1024, 1),
    ("Mi", 1024, 2),
    ("Gi", 1024, 3),
    ("Ti", 1024, 4),
    ("Pi", 1024, 5),
    ("Ei", 1024, 6),
    ("n", 10, -9),
    ("u", 10, -6),
    ("m", 10, -3),
    ("", 10, 0),
    ("k", 10, 3),
    ("M", 10, 6),
    ("G", 10, 9),
    ("T", 10, 12),
    ("P", 10, 15),
    ("E", 10, 18),
];

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity { nano: 0 };

    /// Reads a quantity.
    ///
    /// # Errors
    /// [`BadQuantity`] when the text has not the form of one. Amounts beyond 2^63 are capped
    /// there, as Kubernetes caps them.
    pub fn parse(text: &str) -> Result<Self, BadQuantity> {
        let (negative, unsigned) = match text.as_bytes().first().ok_or(BadQuantity)? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(BadQuantity);
        }
        let (base, exponent) = scale(suffix)?;
        let nano = nanos(whole, fraction, base, exponent);
        Ok(Quantity { nano: if negative { -nano } else { nano } })
    }

    /// A whole number of units.
    #[must_use]
    pub fn of(units: i64) -> Self {
        Quantity { nano: i128::from(units) * NANO }
    }

    /// In units (bytes, cores), rounded up.
    #[must_use]
    pub fn value(self) -> i64 {
        clamp(div_up(self.nano, NANO))
    }

    /// In thousandths, rounded up.
    #[must_use]
    pub fn milli(self) -> i64 {
        clamp(div_up(self.nano, NANO / 1000))
    }

    /// Units with the largest binary suffix that leaves a whole number.
    #[must_use]
    pub fn binary(self) -> String {
        let mut rest = self.value();
        for suffix in ["", "Ki", "Mi", "Gi", "Ti", "Pi"] {
            if rest % 1024 != 0 || rest == 0 {
                return format!("{rest}{suffix}");
            }
            rest /= 1024;
        }
        format!("{rest}Ei")
    }

    /// Less than nothing.
    #[must_use]
    pub fn is_negative(self) -> bool {
        self.nano < 0
    }

    /// Whether it is a whole number of thousandths.
    #[must_use]
    pub fn is_whole_milli(self) -> bool {
        self.nano % (NANO / 1000) == 0
    }

    /// Whether it is a whole number of units.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.nano % NANO == 0
    }
}

impl std::ops::Add for Quantity {
    type Output = Quantity;
    fn add(self, other: Self) -> Self {
        Quantity { nano: self.nano.saturating_add(other.nano) }
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Quantity::ZERO, |a, b| a + b)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_whole() { write!(f, "{}", self.value()) } else { write!(f, "{}m", self.milli()) }
    }
}

fn scale(suffix: &str) -> Result<(i128, i32), BadQuantity> {
    if let Some((_, base, exponent)) = SUFFIXES.iter().find(|(s, ..)| *s == suffix) {
        return Ok((*base, *exponent));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(BadQuantity)?;
    let exponent: i32 = exponent.parse().map_err(|_| BadQuantity)?;
    Ok((10, exponent.clamp(-40, 40)))
}

/// `whole.fraction × base^exponent` in nano-units, rounded up, capped at 2^63 units.
fn nanos(whole: &str, fraction: &str, base: i128, exponent: i32) -> i128 {
    const CAP: i128 = (i64::MAX as i128) * NANO;
    // Digits beyond the cap's and beyond the finest unit's cannot change the result.
    let fraction = &fraction[..fraction.len().min(24)];
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return 0;
    }
    let Ok(mantissa) = digits.parse::<i128>() else {
        return CAP;
    };
    let places = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
    let (factor, tens) =
        if base == 1024 { (1024_i128.pow(exponent.unsigned_abs()), 9 - places) } else { (1, 9 - places + exponent) };
    let Some(scaled) = mantissa.checked_mul(factor) else {
        return CAP;
    };
    let result = match 10_i128.checked_pow(tens.unsigned_abs()) {
        Some(power) if tens >= 0 => scaled.checked_mul(power).unwrap_or(CAP),
        Some(power) => div_up(scaled, power),
        None if tens >= 0 => CAP,
        None => 1,
    };
    result.min(CAP)
}

fn div_up(value: i128, by: i128) -> i128 {
    value.div_euclid(by) + i128::from(value.rem_euclid(by) != 0)
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_are_read_exactly() {
        // text, units (rounded up), thousandths (rounded up)
        let table: &[(&str, i64, i64)] = &[
            ("0", 0, 0),
            ("1", 1, 1000),
            ("500m", 1, 500),
            ("1.5", 2, 1500),
            (".5", 1, 500),
            ("5.", 5, 5000),
            ("0.1", 1, 100),
            ("100u", 1, 1),
            ("1n", 1, 1),
            ("1Ki", 1024, 1_024_000),
            ("1.5Gi", 1_610_612_736, 1_610_612_736_000),
            ("64Mi", 67_108_864, 67_108_864_000),
            ("1e3", 1000, 1_000_000),
            ("1E3", 1000, 1_000_000),
            ("12e-1", 2, 1200),
            ("1E", 1_000_000_000_000_000_000, i64::MAX),
            ("1k", 1000, 1_000_000),
            ("-2", -2, -2000),
            ("+2", 2, 2000),
            ("99999999999999999999999999", i64::MAX, i64::MAX),
            ("0.00000000001", 1, 1),
        ];
        for (text, value, milli) in table {
            let quantity = Quantity::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((quantity.value(), quantity.milli()), (*value, *milli), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_quantities() {
        for text in
            ["", "-", ".", "1..2", "1.2.3", "x", "1K", "1mi", "1 ", " 1", "1e", "0x10", "1Gib", "--1", "1e99999999999"]
        {
            assert_eq!(Quantity::parse(text), Err(BadQuantity), "{text}");
        }
    }

    proptest! {
        #[test]
        fn order_follows_the_amount(a in 0i64..1_000_000_000, b in 0i64..1_000_000_000) {
            let milli = |n: i64| Quantity::parse(&format!("{n}m")).unwrap();
            prop_assert_eq!(milli(a).cmp(&milli(b)), a.cmp(&b));
            prop_assert_eq!(milli(a).milli(), a);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[-+0-9.eEinumkKMGTP]{0,50}") {
            let _ = Quantity::parse(&text);
        }
    }
}
