//! What the server would object to in a manifest, without a server: the command line checks here before it sends
//! anything, where file and line are known.

use serde_json::Value;

use crate::decode::Decoded;
use crate::kinds::{Context, KINDS, Kind};
use crate::meta;

/// An objection to one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    /// The field's path (`spec.containers[0].image`); empty for the object as a whole.
    pub path: String,
    /// What is wrong, as it stands in a `Status` cause.
    pub message: String,
}

/// Everything that a creation of `object` would be refused for, whatever else is in the store.
///
/// Unknown fields are objections, as under `fieldValidation=Strict`. An object whose `apiVersion` and `kind` the server
/// does not have gets one objection.
#[must_use]
pub fn check(object: &Value) -> Vec<Objection> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let found = KINDS.iter().find(|row| row.kind == text("kind") && row.api_version() == text("apiVersion"));
    match found {
        Some(kind) => check_as(kind, object),
        None => {
            let message = format!("there is no kind {} {}", text("apiVersion"), text("kind"));
            vec![Objection { path: "kind".into(), message }]
        }
    }
}

fn check_as(kind: &Kind, object: &Value) -> Vec<Objection> {
    let mut sent = object.clone();
    if !sent["metadata"].is_object() {
        match sent["metadata"].is_null() {
            true => sent["metadata"] = Value::Object(serde_json::Map::new()),
            false => {
                let message = format!("invalid type: {}, expected an object", sent["metadata"]);
                return vec![Objection { path: "metadata".into(), message }];
            }
        }
    }
    let Decoded { value: mut object, unknown } = match (kind.decode)(sent) {
        Ok(decoded) => decoded,
        Err(problem) => {
            let (path, message) = problem.located();
            return vec![Objection { path, message }];
        }
    };
    let mut objections: Vec<Objection> =
        unknown.into_iter().map(|path| Objection { path, message: "unknown field".into() }).collect();
    // Neither the node's name nor the time decides on an objection.
    let context = Context { node_name: "node".into(), now: "2000-01-01T00:00:00Z".into() };
    let (mut errors, _) = (kind.verdict)(&object);
    meta::prepare_create(kind, &mut object, &context);
    (kind.default)(&mut object);
    (kind.prepare_create)(&mut object, &context);
    errors.extend(meta::validate(kind, &object));
    errors.extend((kind.validate)(&object));
    if object["metadata"]["uid"].as_str().is_none_or(str::is_empty) {
        // One with a uid was printed from an object that is there.
        errors.extend((kind.validate_create)(&object));
    }
    for error in errors {
        let objection = Objection { message: error.message(), path: error.path };
        if !objections.contains(&objection) {
            objections.push(objection);
        }
    }
    objections
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "default"}, "spec": spec})
    }

    #[test]
    fn a_good_object_is_not_objected_to() {
        assert_eq!(check(&pod(json!({"containers": [{"name": "c", "image": "i"}]}))), []);
    }

    #[test]
    fn every_objection_has_its_path() {
        let table = [
            (pod(json!({"containers": [{"name": "c"}]})), "spec.containers[0].image", "Required value"),
            (
                pod(json!({"containers": [{"name": "c", "image": "i", "x": 1}]})),
                "spec.containers[0].x",
                "unknown field",
            ),
            (pod(json!({"containers": 3})), "spec.containers", "invalid type"),
            (json!({"apiVersion": "v2", "kind": "Pod"}), "kind", "there is no kind v2 Pod"),
            (json!({"apiVersion": "v1", "kind": "Pod", "metadata": 3}), "metadata", "expected an object"),
            (json!({"apiVersion": "v1", "kind": "ConfigMap"}), "metadata.name", "Required value"),
        ];
        for (object, path, message) in table {
            let found = check(&object);
            assert!(
                found.iter().any(|o| o.path == path && o.message.contains(message)),
                "{path}: {message} not in {found:?}"
            );
        }
    }
}
