//! Secrets: `stringData`, types and their required keys, sizes, immutability.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use podd_core::field::FieldError;
use serde_json::Value;

use super::configmap;

/// The most that all values may hold, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// The keys that the built-in types need; of several in one row all.
static REQUIRED: &[(&str, &[&str])] = &[
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

pub(super) fn default(secret: &mut Value) {
    if secret["type"].as_str().unwrap_or_default().is_empty() {
        secret["type"] = "Opaque".into();
    }
    let strings = secret.as_object_mut().and_then(|fields| fields.remove("stringData"));
    for (key, text) in strings.as_ref().and_then(Value::as_object).into_iter().flatten() {
        let text = text.as_str().unwrap_or_default();
        secret["data"][key.as_str()] = STANDARD.encode(text).into();
    }
}

pub(super) fn validate(secret: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut bytes = 0;
    for (key, value) in secret["data"].as_object().into_iter().flatten() {
        errors.extend(configmap::key_error("data", key));
        bytes += value.as_str().map_or(0, str::len) / 4 * 3;
    }
    if bytes > MAX_BYTES {
        errors.push(FieldError::too_long("data", MAX_BYTES));
    }
    let required = REQUIRED.iter().filter(|(name, _)| secret["type"] == **name);
    for key in required.flat_map(|(_, keys)| *keys) {
        if secret["data"].get(*key).is_none() {
            errors.push(FieldError::required(format!("data[{key}]"), ""));
        }
    }
    errors
}

pub(super) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = configmap::immutable(new, old, &["data"]);
    if new["type"] != old["type"] {
        errors.push(FieldError::invalid("type", new["type"].clone(), "field is immutable"));
    }
    errors
}
