//! Where a container's variables come from. What an object holds is never read, so that no secret is shown.

use serde_json::Value;

/// One variable: its value, or its source in kubectl's words.
pub(super) fn variable(one: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let from = &one["valueFrom"];
    let optional = |source: &Value| source["optional"].as_bool().unwrap_or_default();
    let key = |source: &Value, kind: &str| {
        let (key, name) = (text(&source["key"]), text(&source["name"]));
        format!("<set to the key '{key}' of {kind} '{name}'>  Optional: {}", optional(source))
    };
    let value = if from["configMapKeyRef"].is_object() {
        key(&from["configMapKeyRef"], "config map")
    } else if from["secretKeyRef"].is_object() {
        key(&from["secretKeyRef"], "secret")
    } else if from["fieldRef"].is_object() {
        format!(
            "({}:{})",
            from["fieldRef"]["apiVersion"].as_str().unwrap_or("v1"),
            text(&from["fieldRef"]["fieldPath"])
        )
    } else if from["resourceFieldRef"].is_object() {
        let source = &from["resourceFieldRef"];
        let of = source["containerName"].as_str().map_or(String::new(), |name| format!(" of {name}"));
        format!("({}{of})", text(&source["resource"]))
    } else if from["fileKeyRef"].is_object() {
        let source = &from["fileKeyRef"];
        let (key, path, volume) = (text(&source["key"]), text(&source["path"]), text(&source["volumeName"]));
        format!("<set to the key '{key}' of file '{path}' of volume '{volume}'>  Optional: {}", optional(source))
    } else {
        text(&one["value"])
    };
    format!("{}={value}", text(&one["name"]))
}

/// All the variables of an object.
pub(super) fn from(source: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (object, kind) = if source["secretRef"].is_object() {
        (&source["secretRef"], "Secret")
    } else {
        (&source["configMapRef"], "ConfigMap")
    };
    let prefix = source["prefix"].as_str().map_or(String::new(), |prefix| format!(" with prefix '{prefix}'"));
    let optional = object["optional"].as_bool().unwrap_or_default();
    format!("{} {kind}{prefix}  Optional: {optional}", text(&object["name"]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_variable_tells_its_source() {
        let table = [
            (json!({"name": "A", "value": "1"}), "A=1"),
            (json!({"name": "A"}), "A="),
            (
                json!({"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}),
                "A=<set to the key 'k' of secret 's'>  Optional: false",
            ),
            (
                json!({"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k", "optional": true}}}),
                "A=<set to the key 'k' of config map 'm'>  Optional: true",
            ),
            (json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}), "A=(v1:metadata.name)"),
            (
                json!({"name": "A", "valueFrom": {"resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}}}),
                "A=(limits.cpu of c)",
            ),
            (
                json!({"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "p", "key": "k"}}}),
                "A=<set to the key 'k' of file 'p' of volume 'v'>  Optional: false",
            ),
        ];
        for (one, want) in table {
            assert_eq!(variable(&one), want);
        }
        assert_eq!(
            from(&json!({"secretRef": {"name": "s"}, "prefix": "P_"})),
            "s Secret with prefix 'P_'  Optional: false"
        );
    }
}
