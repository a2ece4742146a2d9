//! Events: what may be selected, and the rules that keep them attached to their object.

use podd_core::field::FieldError;
use serde_json::Value;

pub(super) static FIELDS: &[(&str, &str)] = &[
    ("involvedObject.kind", "/involvedObject/kind"),
    ("involvedObject.namespace", "/involvedObject/namespace"),
    ("involvedObject.name", "/involvedObject/name"),
    ("involvedObject.uid", "/involvedObject/uid"),
    ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
    ("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
    ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
    ("reason", "/reason"),
    ("reportingComponent", "/reportingComponent"),
    ("source", "/source/component"),
    ("type", "/type"),
];

/// The longest message, in bytes.
const MESSAGE_MAX: usize = 1024;

pub(super) fn default(event: &mut Value) {
    // Fields that the Go type always writes; older clients rely on them.
    for field in ["reportingComponent", "reportingInstance"] {
        if event[field].is_null() {
            event[field] = "".into();
        }
    }
}

/// An event lives in the namespace of its object; for one without a namespace in `default`.
pub(super) fn validate(event: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let namespace = event["metadata"]["namespace"].as_str().unwrap_or_default();
    let involved = event["involvedObject"]["namespace"].as_str().unwrap_or_default();
    let fits = if involved.is_empty() { namespace == "default" } else { namespace == involved };
    if !fits {
        let detail = "does not match event.namespace";
        errors.push(FieldError::invalid("involvedObject.namespace", involved, detail));
    }
    if event["message"].as_str().is_some_and(|message| message.len() > MESSAGE_MAX) {
        errors.push(FieldError::too_long("message", MESSAGE_MAX));
    }
    errors
}
