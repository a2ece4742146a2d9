//! Nodes: the agent registers its own through the API, as a kubelet does.

use serde_json::Value;

use super::Context;

/// A kubelet may send its first status with the new node; unlike a pod's it is kept.
pub(super) fn prepare_create(node: &mut Value, _: &Context) {
    if !node["spec"].is_object() {
        node["spec"] = Value::Object(serde_json::Map::new());
    }
}
