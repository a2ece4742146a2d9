//! Reading an object as its Kubernetes type: what is canonical, what is unknown, what has a wrong type and where.

use std::fmt::Write as _;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::Value;

/// Field removals tried to find the place of a type error; beyond it the error comes without a path.
const TRIALS: usize = 500;
/// The largest object whose type error is located, in bytes of JSON.
const LOCATED_BYTES: usize = 128 << 10;
/// Unknown fields told of one object (upstream's limit).
const MAX_UNKNOWN: usize = 100;

/// An object as its type has it.
#[derive(Debug, PartialEq)]
pub(crate) struct Decoded {
    /// Canonical JSON: no nulls, no unknown fields.
    pub(crate) value: Value,
    /// The paths of fields that the type does not have.
    pub(crate) unknown: Vec<String>,
}

/// A value of a wrong type, somewhere in an object.
#[derive(Debug, Clone)]
pub(crate) struct TypeProblem {
    /// In serde's words.
    message: String,
    /// The object, if it is small enough to look for the place.
    object: Option<Value>,
    /// What is wrong with an object of the type.
    error: fn(&Value) -> Option<String>,
}

impl TypeProblem {
    /// The field's path (empty when it was not found), and what was found there and expected. Reads the object up to
    /// [`TRIALS`] times.
    pub(crate) fn located(self) -> (String, String) {
        let Self { message, object, error } = self;
        let path = object.map_or_else(String::new, |mut object| locate(&mut object, &message, error));
        (path, in_plain_words(&message))
    }
}

/// Reads `value` as a `T`.
pub(crate) fn typed<T: DeserializeOwned + Serialize>(value: Value) -> Result<Decoded, TypeProblem> {
    let mut unknown = Vec::new();
    let mut note = |path| {
        if unknown.len() < MAX_UNKNOWN {
            unknown.push(path);
        }
    };
    match read::<T>(&value, &mut note) {
        Ok(object) => Ok(Decoded { value: serde_json::to_value(object).expect("Kubernetes types are JSON"), unknown }),
        Err(message) => {
            let object = (value.to_string().len() <= LOCATED_BYTES).then_some(value);
            Err(TypeProblem { message, object, error: |value| read::<T>(value, &mut |_| {}).err() })
        }
    }
}

fn read<T: DeserializeOwned>(value: &Value, unknown: &mut dyn FnMut(String)) -> Result<T, String> {
    let mut note = |path: Path<'_>| unknown(field_path(&path));
    let mut note: &mut dyn FnMut(Path<'_>) = &mut note;
    T::deserialize(serde_ignored::Deserializer::new(value, &mut note)).map_err(|e| e.to_string())
}

fn field_path(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", field_path(parent)),
        Path::Map { parent, key } => join(&field_path(parent), key),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => field_path(parent),
    }
}

fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

/// The deepest field without which the object has another error, or none. serde tells no place, and asking it
/// again is cheaper, in compile time above all, than a second set of deserializers that track one.
fn locate(value: &mut Value, message: &str, error: fn(&Value) -> Option<String>) -> String {
    let mut path = String::new();
    let mut pointer = String::new();
    let mut trials = 0;
    'deeper: loop {
        let node = value.pointer(&pointer).expect("the pointer was walked");
        let steps: Vec<String> = match node {
            Value::Object(fields) => fields.keys().cloned().collect(),
            Value::Array(items) => (0..items.len()).map(|n| n.to_string()).collect(),
            _ => return path,
        };
        for step in steps {
            trials += 1;
            if trials > TRIALS {
                return path;
            }
            let node = value.pointer_mut(&pointer).expect("the pointer was walked");
            let is_list = node.is_array();
            let removed = remove(node, &step);
            let changed = error(value).as_deref() != Some(message);
            let node = value.pointer_mut(&pointer).expect("the pointer was walked");
            restore(node, &step, removed);
            if changed {
                let _ = if is_list {
                    write!(path, "[{step}]")
                } else {
                    path = join(&path, &step);
                    Ok(())
                };
                let _ = write!(pointer, "/{}", step.replace('~', "~0").replace('/', "~1"));
                continue 'deeper;
            }
        }
        return path;
    }
}

fn remove(node: &mut Value, step: &str) -> Value {
    match node {
        Value::Object(fields) => fields.remove(step).expect("the key was just listed"),
        Value::Array(items) => items.remove(step.parse().expect("the index was just listed")),
        _ => unreachable!("only collections have steps"),
    }
}

fn restore(node: &mut Value, step: &str, removed: Value) {
    match node {
        Value::Object(fields) => drop(fields.insert(step.to_owned(), removed)),
        Value::Array(items) => {
            items.insert(step.parse().expect("the index was just listed"), removed);
        }
        _ => unreachable!("only collections have steps"),
    }
}

/// serde speaks of Rust's types.
fn in_plain_words(message: &str) -> String {
    let words = [
        ("expected i32", "expected an integer"),
        ("expected i64", "expected an integer"),
        ("expected u32", "expected an integer"),
        ("expected a sequence", "expected a list"),
        ("sequence, expected", "list, expected"),
        ("expected a map", "expected an object"),
        ("map, expected", "object, expected"),
    ];
    words.iter().fold(message.to_owned(), |text, (rust, plain)| text.replace(rust, plain))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_fields_are_listed_by_path_and_dropped() {
        let value = json!({
            "metadata": {"name": "a", "nmae": "b"},
            "spec": {"containers": [{"name": "c", "imagee": "x"}], "hostname": null},
        });
        let decoded = typed::<Pod>(value).unwrap();
        assert_eq!(decoded.unknown, ["metadata.nmae", "spec.containers[0].imagee"]);
        assert_eq!(decoded.value["spec"], json!({"containers": [{"name": "c"}]}));
    }

    #[test]
    fn a_hundred_unknown_fields_are_enough() {
        let fields = (0..150).map(|n| (n.to_string(), Value::Null)).collect::<serde_json::Map<_, _>>();
        assert_eq!(typed::<Pod>(fields.into()).unwrap().unknown.len(), 100);
    }

    #[test]
    fn a_wrong_type_is_told_with_its_path() {
        let container = |port: Value| json!({"name": "c", "ports": [{"containerPort": port}]});
        let value = json!({"spec": {"containers": [container(json!(1)), container(json!("x"))]}});
        let (path, message) = typed::<Pod>(value).unwrap_err().located();
        assert_eq!(path, "spec.containers[1].ports[0].containerPort");
        assert_eq!(message, "invalid type: string \"x\", expected an integer");
    }

    #[test]
    fn the_first_of_two_wrong_types_is_told() {
        let value = json!({"spec": {"containers": "x", "volumes": 3}});
        let (path, _) = typed::<Pod>(value).unwrap_err().located();
        assert_eq!(path, "spec.containers");
    }
}
