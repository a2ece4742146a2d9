//! ConfigMaps: keys, sizes, immutability.

use podd_core::field::FieldError;
use serde_json::Value;

/// The most that all values may hold, in bytes.
const MAX_BYTES: usize = 1 << 20;

pub(super) fn validate(map: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut bytes = 0;
    for part in ["data", "binaryData"] {
        for (key, value) in map[part].as_object().into_iter().flatten() {
            errors.extend(key_error(part, key));
            if part == "binaryData" && map["data"].get(key).is_some() {
                let detail = format!("duplicate of key present in {part}");
                errors.push(FieldError::invalid(format!("data[{key}]"), key.as_str(), detail));
            }
            let length = value.as_str().map_or(0, str::len);
            bytes += if part == "data" { length } else { length / 4 * 3 };
        }
    }
    if bytes > MAX_BYTES {
        errors.push(FieldError::too_long("", MAX_BYTES));
    }
    errors
}

/// What is wrong with a key of a config map or secret.
pub(super) fn key_error(part: &str, key: &str) -> Option<FieldError> {
    let rule = podd_core::names::config_key(key)?;
    Some(FieldError::invalid(format!("{part}[{key}]"), key, rule))
}

pub(super) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    immutable(new, old, &["data", "binaryData"])
}

/// The rules of `immutable: true`, for config maps and secrets.
pub(super) fn immutable(new: &Value, old: &Value, parts: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if old["immutable"] == true {
        let detail = "field is immutable when `immutable` is set";
        if new["immutable"] != true {
            errors.push(FieldError::forbidden("immutable", detail));
        }
        let changed = parts.iter().filter(|part| new[**part] != old[**part]);
        errors.extend(changed.map(|part| FieldError::forbidden(*part, detail)));
    }
    errors
}
