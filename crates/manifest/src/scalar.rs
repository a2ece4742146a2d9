//! What a plain scalar means in YAML 1.1, as the YAML reader of Kubernetes' tools (go-yaml v2
//! under sigs.k8s.io/yaml) resolves it.

use serde_json::{Number, Value};

/// The tags that a scalar may carry, without their namespace.
const STRING_TAGS: &[&str] = &["str", "timestamp", "binary"];

/// The value of a plain scalar without a tag.
pub(crate) fn resolve(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => {
            return Ok(Value::Bool(true));
        }
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            return Ok(Value::Bool(false));
        }
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf" | "-.INF" | ".nan" | ".NaN"
        | ".NAN" => {
            return Err(format!("{text} has no place in JSON; quote it if a string is meant"));
        }
        _ => {}
    }
    let starts_like_a_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    if !starts_like_a_number {
        return Ok(Value::String(text.into()));
    }
    let plain = text.replace('_', "");
    if let Some(number) = integer(&plain).or_else(|| float(&plain)) {
        return Ok(Value::Number(number));
    }
    Ok(Value::String(text.into()))
}

/// The value of a scalar with the core-schema tag `tag` (`int`, `str` …).
pub(crate) fn resolve_tagged(tag: &str, text: &str) -> Result<Value, String> {
    if STRING_TAGS.contains(&tag) {
        return Ok(Value::String(text.into()));
    }
    let value = resolve(text)?;
    let fits = match tag {
        "null" => value.is_null(),
        "bool" => value.is_boolean(),
        "int" => value.is_i64() || value.is_u64(),
        "float" => value.is_number(),
        _ => return Err(format!("the tag !!{tag} is not known")),
    };
    if fits { Ok(value) } else { Err(format!("\"{text}\" is not of the type !!{tag}")) }
}

fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(hex) = lower.strip_prefix("0x") {
        (16, hex)
    } else if let Some(binary) = lower.strip_prefix("0b") {
        (2, binary)
    } else if let Some(octal) = lower.strip_prefix("0o") {
        (8, octal)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    if digits.is_empty() || digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if negative {
        let value = i128::from(magnitude).checked_neg()?;
        i64::try_from(value).ok().map(Number::from)
    } else {
        Some(Number::from(magnitude))
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn float(text: &str) -> Option<Number> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let shaped = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.bytes().any(|b| b.is_ascii_digit())
        && unsigned.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if !shaped || unsigned.starts_with(".e") || unsigned.starts_with(".E") {
        return None;
    }
    let value: f64 = text.parse().ok()?;
    // A whole number that no integer type holds (1e3, 1.0) stays a JSON number; JSON written by
    // Kubernetes' tools shows it without a fraction, so integer fields take it.
    if value.fract() == 0.0 && value.abs() < 9e15 {
        #[expect(clippy::cast_possible_truncation, reason = "bounded by the comparison above")]
        return Some(Number::from(value as i64));
    }
    Number::from_f64(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plain_scalars_mean_what_kubectl_reads() {
        let table = [
            ("", json!(null)),
            ("~", json!(null)),
            ("NULL", json!(null)),
            ("yes", json!(true)),
            ("on", json!(true)),
            ("n", json!(false)),
            ("Off", json!(false)),
            ("tRue", json!("tRue")),
            ("0440", json!(288)),
            ("0o17", json!(15)),
            ("0x1F", json!(31)),
            ("0b11", json!(3)),
            ("1_000", json!(1000)),
            ("-12", json!(-12)),
            ("+12", json!(12)),
            ("0", json!(0)),
            ("089", json!(89)),
            ("18446744073709551615", json!(18446744073709551615u64)),
            ("1.5", json!(1.5)),
            (".5", json!(0.5)),
            ("1e3", json!(1000)),
            ("1.10", json!(1.1)),
            ("1.2.3", json!("1.2.3")),
            ("10.0.0.1", json!("10.0.0.1")),
            ("500m", json!("500m")),
            ("1Gi", json!("1Gi")),
            ("2026-11-22", json!("2026-11-22")),
            ("-", json!("-")),
            (".", json!(".")),
            ("-x", json!("-x")),
            ("nginx:1.25", json!("nginx:1.25")),
            ("12:30:45", json!("12:30:45")),
        ];
        for (text, want) in table {
            assert_eq!(resolve(text), Ok(want), "{text:?}");
        }
    }

    #[test]
    fn numbers_that_json_cannot_hold_are_refused() {
        for text in [".inf", "-.INF", ".nan"] {
            assert!(resolve(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_tag_decides_the_type() {
        assert_eq!(resolve_tagged("str", "yes"), Ok(json!("yes")));
        assert_eq!(resolve_tagged("int", "7"), Ok(json!(7)));
        assert!(resolve_tagged("int", "seven").is_err());
        assert!(resolve_tagged("omap", "x").is_err());
    }
}
