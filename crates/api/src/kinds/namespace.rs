//! Namespaces: their phase, and the label that selectors go by.

use serde_json::{Value, json};

use super::Context;

/// The label that every namespace carries with its own name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) fn prepare_create(namespace: &mut Value, _: &Context) {
    namespace["spec"]["finalizers"] = json!(["kubernetes"]);
    namespace["status"] = json!({"phase": "Active"});
    label(namespace);
}

pub(super) fn prepare_update(namespace: &mut Value, old: &Value) {
    namespace["spec"] = old["spec"].clone();
    label(namespace);
}

fn label(namespace: &mut Value) {
    let name = namespace["metadata"]["name"].clone();
    if name.is_string() {
        namespace["metadata"]["labels"][NAME_LABEL] = name;
    }
}
