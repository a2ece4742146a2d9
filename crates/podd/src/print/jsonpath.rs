//! The part of kubectl's JSONPath that `wait --for=jsonpath` needs: a path of names and indices.

use serde_json::Value;

/// The value at `.status.containerStatuses[0].ready`.
pub(crate) fn find<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let mut here = value;
    for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
        let step = step.trim_end_matches(']').trim_matches(['\'', '"']);
        here = match here {
            Value::Array(items) => items.get(step.parse::<usize>().ok()?)?,
            other => other.get(step)?,
        };
    }
    Some(here)
}

/// A value as kubectl prints it: strings bare.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_and_indices_are_followed() {
        let value = json!({"a": {"b": [{"c": "x"}, {"c": 7}]}});
        let table = [(".a.b[0].c", Some("x")), ("a.b[1].c", Some("7")), (".a.b[2].c", None), (".nope", None)];
        for (path, want) in table {
            assert_eq!(find(&value, path).map(text).as_deref(), want, "{path}");
        }
    }
}
