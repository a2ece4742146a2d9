//! How large and how deep an object may become, whatever it was made by.
//!
//! A body is bounded where it is read. What a patch makes of an object is bounded here: a value that nests too deep
//! would overflow the stack of whoever walks or drops it, and one beyond the depth that a JSON reader takes could not be
//! read back from the store.

use std::sync::Arc;

use serde_json::Value;

use crate::body::MAX_BODY;
use crate::failure::Failure;
use crate::store::Object;

/// The deepest nesting of lists and objects within an object. The Pod API has about 15 levels; JSON readers take 127,
/// of which `managedFields` needs some for itself.
pub(crate) const MAX_DEPTH: usize = 100;
/// The largest object, in bytes of JSON: what a body may have, so that an object can be sent back as it was read.
pub(crate) const MAX_OBJECT: usize = MAX_BODY;

/// What a value consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Scalars, lists and objects, the value itself included.
    pub(crate) nodes: usize,
    /// How deep lists and objects nest; 0 for a scalar.
    pub(crate) depth: usize,
}

/// Walks a value without recursion.
pub(crate) fn extent(value: &Value) -> Extent {
    let mut extent = Extent { nodes: 0, depth: 0 };
    let mut open = vec![(value, 0)];
    while let Some((value, above)) = open.pop() {
        extent.nodes += 1;
        match value {
            Value::Object(fields) => open.extend(fields.values().map(|inner| (inner, above + 1))),
            Value::Array(items) => open.extend(items.iter().map(|inner| (inner, above + 1))),
            _ => continue,
        }
        extent.depth = extent.depth.max(above + 1);
    }
    extent
}

/// Refuses a nesting of `depth` levels.
pub(crate) fn check_depth(depth: usize) -> Result<(), Failure> {
    if depth <= MAX_DEPTH {
        return Ok(());
    }
    Err(Failure::unprocessable(format!(
        "the server rejected our request: the object is nested more than {MAX_DEPTH} deep"
    )))
}

/// Refuses an object that is too large, unless it was larger before: what has grown too large must be able to shrink.
pub(crate) fn check_size(object: &Object, before: Option<&Arc<Object>>) -> Result<(), Failure> {
    let (bytes, allowed) = (object.json.len(), before.map_or(0, |before| before.json.len()).max(MAX_OBJECT));
    if bytes <= allowed {
        return Ok(());
    }
    Err(Failure::too_large(format!("the object would have {bytes} bytes, limit is {MAX_OBJECT}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::POD;
    use crate::store::Key;

    #[test]
    fn nodes_and_levels_are_counted() {
        let table = [
            (json!(1), 1, 0),
            (json!({}), 1, 1),
            (json!([[], [[]], 2]), 5, 3),
            (json!({"a": {"b": [1, 2]}, "c": null}), 6, 3),
        ];
        for (value, nodes, depth) in table {
            assert_eq!(extent(&value), Extent { nodes, depth }, "{value}");
        }
    }

    #[test]
    fn the_deepest_object_is_one_level_below_the_first_refused() {
        assert!(check_depth(MAX_DEPTH).is_ok());
        assert_eq!(check_depth(MAX_DEPTH + 1).unwrap_err().code(), 422);
    }

    #[test]
    fn an_object_grows_to_its_limit_and_one_beyond_it_only_shrinks() {
        let object = |bytes: usize| {
            let value = json!({"x": "y".repeat(bytes - r#"{"x":""}"#.len())});
            Arc::new(Object::new(POD, Key::new("a", "b"), 1, &value))
        };
        assert!(check_size(&object(MAX_OBJECT), None).is_ok());
        let refused = check_size(&object(MAX_OBJECT + 1), Some(&object(10))).unwrap_err();
        assert_eq!(refused.code(), 413);
        assert!(refused.message().ends_with("limit is 3145728"), "{}", refused.message());
        let before = object(MAX_OBJECT + 10);
        assert!(check_size(&object(MAX_OBJECT + 10), Some(&before)).is_ok());
        assert!(check_size(&object(MAX_OBJECT + 11), Some(&before)).is_err());
    }
}
