//! Strategic merge patches, as far as `pods/ephemeralcontainers` needs them: `kubectl debug` sends no other kind. Lists are
//! replaced, but for the ephemeral containers themselves, which are merged by name; of the directives there are
//! `$setElementOrder` and, in an item of that list, `$patch: delete`.

use serde_json::{Map, Value};

use crate::failure::Failure;

/// Where the one list is that is merged by key.
const LIST: (&str, &str) = ("spec", "ephemeralContainers");
const KEY: &str = "name";
const ORDER: &str = "$setElementOrder/";

/// Changes a document; after a failure it is changed in part.
pub(super) fn apply(document: &mut Value, patch: &Value) -> Result<(), Failure> {
    merge(document, patch, "")
}

fn merge(target: &mut Value, patch: &Value, path: &str) -> Result<(), Failure> {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let fields = target.as_object_mut().expect("it was just made an object");
    for (name, value) in patch {
        let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if let Some(list) = name.strip_prefix(ORDER) {
            if !value.is_array() {
                return Err(Failure::bad_request(format!("{at}: the order of {list} is a list")));
            }
        } else if name.starts_with('$') {
            let why = "this directive is not implemented; use application/json-patch+json";
            return Err(Failure::bad_request(format!("{at}: {why}")));
        } else if value.is_null() {
            fields.remove(name);
        } else if (path, name.as_str()) == LIST
            && let Value::Array(items) = value
        {
            let list = fields.entry(name.clone()).or_insert_with(|| Value::Array(Vec::new()));
            merge_list(list, items, &at)?;
            if let Some(order) = patch.get(&format!("{ORDER}{name}")) {
                sort(list, order);
            }
        } else {
            merge(fields.entry(name.clone()).or_insert(Value::Null), value, &at)?;
        }
    }
    Ok(())
}

fn merge_list(list: &mut Value, patch: &[Value], path: &str) -> Result<(), Failure> {
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    let items = list.as_array_mut().expect("it was just made a list");
    for (n, wanted) in patch.iter().enumerate() {
        let Some(key) = wanted[KEY].as_str() else {
            let why = format!("{path}[{n}] does not contain declared merge key: {KEY}");
            return Err(Failure::bad_request(why));
        };
        let place = items.iter().position(|item| item[KEY] == key);
        if wanted["$patch"] == "delete" {
            place.into_iter().for_each(|place| drop(items.remove(place)));
            continue;
        }
        let at = format!("{path}[{n}]");
        match place {
            Some(place) => merge(&mut items[place], wanted, &at)?,
            None => {
                let mut item = Value::Null;
                merge(&mut item, wanted, &at)?;
                items.push(item);
            }
        }
    }
    Ok(())
}

/// The items that the order names as it has them, the others after them.
fn sort(list: &mut Value, order: &Value) {
    let place = |item: &Value| {
        let known = order.as_array().and_then(|order| order.iter().position(|one| one[KEY] == item[KEY]));
        known.unwrap_or(usize::MAX)
    };
    if let Some(items) = list.as_array_mut() {
        items.sort_by_key(place);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(mut object: Value, patch: Value) -> Result<Value, String> {
        apply(&mut object, &patch).map(|()| object).map_err(|failure| failure.message().to_owned())
    }

    #[test]
    fn ephemeral_containers_are_merged_by_name() {
        let old = json!({"spec": {"ephemeralContainers": [{"name": "a", "image": "i"}], "hostname": "h"}});
        let added = json!({"spec": {
            "$setElementOrder/ephemeralContainers": [{"name": "b"}, {"name": "a"}],
            "ephemeralContainers": [{"name": "b", "image": "j", "command": ["x"], "tty": null}],
        }});
        let want = json!({"spec": {"hostname": "h", "ephemeralContainers": [
            {"name": "b", "image": "j", "command": ["x"]}, {"name": "a", "image": "i"},
        ]}});
        assert_eq!(patched(old.clone(), added.clone()), Ok(want));
        let first = json!({"spec": {"ephemeralContainers": [{"name": "b", "image": "j", "command": ["x"]}]}});
        assert_eq!(patched(json!({"spec": {}}), added), Ok(first));
        let changed = json!({"spec": {"ephemeralContainers": [{"name": "a", "image": "k"}]}});
        let want = json!({"spec": {"ephemeralContainers": [{"name": "a", "image": "k"}], "hostname": "h"}});
        assert_eq!(patched(old.clone(), changed), Ok(want));
        let deleted = json!({"spec": {"ephemeralContainers": [{"name": "a", "$patch": "delete"}]}});
        assert_eq!(patched(old, deleted), Ok(json!({"spec": {"ephemeralContainers": [], "hostname": "h"}})));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let table = [
            (json!({"spec": {"$patch": "replace"}}), "spec.$patch: this directive"),
            (json!({"spec": {"$retainKeys": ["a"]}}), "spec.$retainKeys: this directive"),
            (json!({"spec": {"ephemeralContainers": [{"image": "i"}]}}), "does not contain declared merge key: name"),
            (json!({"spec": {"$setElementOrder/ephemeralContainers": 1}}), "is a list"),
        ];
        for (patch, why) in table {
            let told = patched(json!({}), patch).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }
}
