//! The operations of a JSON patch, one at a time, within limits.
//!
//! The body bounds what a patch says, not what it builds: twenty copies of a value into itself make a million of it, and
//! moves under moves nest as deep as there are operations. So each operation is measured before it is done.

use std::slice;

use json_patch::PatchOperation;
use serde_json::Value;

use crate::bounds::{self, Extent};
use crate::failure::Failure;

/// The most operations of one JSON patch (upstream's limit).
pub(super) const MAX_OPERATIONS: usize = 10_000;
/// The bytes of JSON that the copies of one patch may add (upstream's limit).
const MAX_COPIED: usize = 3 << 20;
/// The values that the operations of one patch may walk over or shift within lists.
const MAX_TOUCHED: usize = 16 << 20;

/// Changes a document; after a failure it is changed in part.
pub(super) fn apply(document: &mut Value, operations: &[PatchOperation]) -> Result<(), Failure> {
    let mut spent = Spent::default();
    for (n, operation) in operations.iter().enumerate() {
        spent.charge(document, operation)?;
        json_patch::patch_unsafe(document, slice::from_ref(operation)).map_err(|mut error| {
            error.operation = n;
            rejected(error)
        })?;
    }
    Ok(())
}

fn rejected(why: impl std::fmt::Display) -> Failure {
    Failure::unprocessable(format!("the server rejected our request: {why}"))
}

/// What the operations so far have cost.
#[derive(Default)]
struct Spent {
    copied: usize,
    touched: usize,
}

impl Spent {
    /// Refuses an operation that nests too deep or spends too much. One that cannot be done costs nothing: it fails.
    fn charge(&mut self, document: &Value, operation: &PatchOperation) -> Result<(), Failure> {
        let path = operation.path().as_str();
        self.shift(document, path)?;
        let Extent { nodes, depth } = match operation {
            PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(()),
            // These are in the body, which bounds their number.
            PatchOperation::Add(add) => Extent { nodes: 0, ..bounds::extent(&add.value) },
            PatchOperation::Replace(replace) => Extent { nodes: 0, ..bounds::extent(&replace.value) },
            PatchOperation::Move(from) => {
                self.shift(document, from.from.as_str())?;
                document.pointer(from.from.as_str()).map_or(Extent { nodes: 0, depth: 0 }, bounds::extent)
            }
            PatchOperation::Copy(from) => {
                let Some(source) = document.pointer(from.from.as_str()) else {
                    return Ok(());
                };
                self.copy(source)?;
                bounds::extent(source)
            }
        };
        self.touch(nodes)?;
        bounds::check_depth(path.matches('/').count() + depth)
    }

    /// What a list shifts when an item is put into it or taken out.
    fn shift(&mut self, document: &Value, path: &str) -> Result<(), Failure> {
        let list = path.rsplit_once('/').and_then(|(parent, _)| document.pointer(parent)).and_then(Value::as_array);
        self.touch(list.map_or(0, Vec::len))
    }

    fn touch(&mut self, nodes: usize) -> Result<(), Failure> {
        self.touched += nodes;
        if self.touched <= MAX_TOUCHED {
            return Ok(());
        }
        Err(rejected(format!("the operations of a JSON patch may touch {MAX_TOUCHED} values, these touch more")))
    }

    fn copy(&mut self, source: &Value) -> Result<(), Failure> {
        self.copied += source.to_string().len();
        if self.copied <= MAX_COPIED {
            return Ok(());
        }
        Err(rejected(format!(
            "Unable to complete the copy, the accumulated size increase of copy is {}, exceeding the limit {MAX_COPIED}",
            self.copied
        )))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bounds::MAX_DEPTH;

    fn patched(mut document: Value, operations: Value) -> Result<Value, Failure> {
        let patch: json_patch::Patch = serde_json::from_value(operations).unwrap();
        apply(&mut document, &patch).map(|()| document)
    }

    fn times(round: &[Value], n: usize) -> Value {
        round.iter().cycle().take(n * round.len()).cloned().collect()
    }

    #[test]
    fn operations_follow_each_other_and_the_one_that_fails_is_named() {
        let operations = json!([
            {"op": "add", "path": "/a/-", "value": 2},
            {"op": "copy", "from": "/a", "path": "/b"},
            {"op": "move", "from": "/a/0", "path": "/c"},
            {"op": "test", "path": "/b/1", "value": 2},
            {"op": "replace", "path": "/c", "value": {"d": 3}},
            {"op": "remove", "path": "/b/0"},
        ]);
        let done = patched(json!({"a": [1]}), operations).unwrap();
        assert_eq!(done, json!({"a": [2], "b": [2], "c": {"d": 3}}));
        let operations = json!([{"op": "add", "path": "/a", "value": 1}, {"op": "remove", "path": "/x"}]);
        let failed = patched(json!({}), operations).unwrap_err();
        assert_eq!(failed.code(), 422);
        assert!(failed.message().contains("operation '/1' failed at path '/x'"), "{}", failed.message());
    }

    #[test]
    fn copies_of_copies_end_at_three_mebibytes() {
        let copy = json!({"op": "copy", "from": "/a", "path": "/a/-"});
        // Each doubles the list: 20 would make 10 MiB of ten bytes, 40 a terabyte.
        let doubled = |times: usize| patched(json!({"a": ["ten bytes."]}), vec![copy.clone(); times].into());
        assert!(doubled(5).is_ok());
        let refused = doubled(40).unwrap_err();
        assert_eq!(refused.code(), 422);
        let message = refused.message();
        assert!(message.contains("accumulated size increase of copy is ") && message.ends_with("3145728"), "{message}");
    }

    #[test]
    fn no_operation_nests_deeper_than_the_limit() {
        let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        let add = |levels| json!([{"op": "add", "path": "/a", "value": nested(levels)}]);
        assert!(patched(json!({}), add(MAX_DEPTH - 1)).is_ok());
        assert_eq!(patched(json!({}), add(MAX_DEPTH)).unwrap_err().code(), 422);
        let replace = json!([{"op": "replace", "path": "/a", "value": nested(MAX_DEPTH)}]);
        assert_eq!(patched(json!({"a": 1}), replace).unwrap_err().code(), 422);
        // Without a limit each round puts the value one level deeper, by a move and by a copy.
        let moves = [
            json!({"op": "move", "from": "/a", "path": "/b"}),
            json!({"op": "add", "path": "/a", "value": []}),
            json!({"op": "move", "from": "/b", "path": "/a/0"}),
        ];
        let copies = [
            json!({"op": "copy", "from": "/a", "path": "/b"}),
            json!({"op": "add", "path": "/a", "value": []}),
            json!({"op": "copy", "from": "/b", "path": "/a/0"}),
        ];
        for round in [moves, copies] {
            let rounds = |n: usize| patched(json!({"a": [0]}), times(&round, n));
            assert!(rounds(10).is_ok());
            let refused = rounds(MAX_DEPTH).unwrap_err();
            assert!(refused.message().contains("nested more than 100 deep"), "{}", refused.message());
        }
    }

    #[test]
    fn moves_of_large_values_and_shifts_of_long_lists_are_bounded() {
        let document = || json!({"a": vec![0; 100_000], "b": {}});
        let there = json!({"op": "move", "from": "/a", "path": "/b/a"});
        let back = json!({"op": "move", "from": "/b/a", "path": "/a"});
        let insert = json!({"op": "add", "path": "/a/0", "value": 1});
        let remove = json!({"op": "remove", "path": "/a/0"});
        for round in [vec![there, back], vec![insert], vec![remove]] {
            assert!(patched(document(), times(&round, 1)).is_ok());
            let refused = patched(document(), times(&round, 500)).unwrap_err();
            assert!(refused.message().contains("may touch 16777216 values"), "{}", refused.message());
        }
    }
}
