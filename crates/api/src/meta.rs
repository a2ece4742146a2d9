//! The metadata of objects: what only the server sets, what clients may change, deletion marks.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use podd_core::field::FieldError;
use podd_core::validation::{self, Scope};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::kinds::{Context, Kind};
use crate::target::Target;

/// The longest base of a generated name, in bytes; five letters are added.
const GENERATED_BASE: usize = 58;
/// Vowels and look-alikes are left out, as upstream does.
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Fields that a client never sets.
const SERVERS: [&str; 7] = [
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "generateName",
    "selfLink",
];

/// A text of the metadata; empty when absent.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// Puts the object where the path says, or tells that it says something else.
pub(crate) fn place(object: &mut Value, target: &Target) -> Result<(), Failure> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    if let Some(name) = &target.name {
        let own = text(object, "name");
        if own.is_empty() {
            object["metadata"]["name"] = name.as_str().into();
        } else if own != name {
            return Err(Failure::bad_request(format!(
                "the name of the object ({own}) does not match the name on the URL ({name})"
            )));
        }
    }
    if let Some(namespace) = &target.namespace {
        let own = text(object, "namespace");
        if own.is_empty() {
            object["metadata"]["namespace"] = namespace.as_str().into();
        } else if own != namespace {
            return Err(Failure::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    Ok(())
}

/// A name from `generateName`.
pub(crate) fn generate_name(base: &str) -> String {
    let base: String = base.chars().take(GENERATED_BASE).collect();
    let random = uuid::Uuid::new_v4();
    let letters = random.as_bytes()[..5].iter().map(|b| LETTERS[*b as usize % LETTERS.len()] as char);
    base.chars().chain(letters).collect()
}

/// Sets what the server sets in a new object.
pub(crate) fn prepare_create(kind: &Kind, object: &mut Value, context: &Context) {
    let metadata = &mut object["metadata"];
    if let Some(fields) = metadata.as_object_mut() {
        fields.retain(|name, _| {
            name == "generateName"
                || !(SERVERS.contains(&name.as_str()) || matches!(name.as_str(), "managedFields" | "resourceVersion"))
        });
    }
    metadata["uid"] = uuid::Uuid::new_v4().to_string().into();
    metadata["creationTimestamp"] = context.now.clone().into();
    if kind.has_generation {
        metadata["generation"] = 1.into();
    }
}

/// Carries over what a client may not change.
pub(crate) fn prepare_update(new: &mut Value, old: &Value) {
    if !new["metadata"].is_object() {
        new["metadata"] = json!({});
    }
    for field in SERVERS.into_iter().chain(["name", "namespace", "managedFields"]) {
        carry(&mut new["metadata"], &old["metadata"], field);
    }
}

/// Makes a field of `to` what it is in `from`.
pub(crate) fn carry(to: &mut Value, from: &Value, field: &str) {
    match from.get(field) {
        Some(value) => to[field] = value.clone(),
        None => drop(to.as_object_mut().and_then(|fields| fields.remove(field))),
    }
}

/// Refuses an update of another object than the client thinks, or of an older state.
pub(crate) fn check_identity(kind: &Kind, new: &Value, old: &Value) -> Result<(), Failure> {
    let name = text(old, "name");
    let (asked, uid) = (text(new, "uid"), text(old, "uid"));
    if !asked.is_empty() && asked != uid {
        let why = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {uid}");
        return Err(Failure::conflict(kind, name, &why));
    }
    let asked = text(new, "resourceVersion");
    if asked.is_empty() || asked == "0" || asked == text(old, "resourceVersion") {
        return Ok(());
    }
    if asked.parse::<u64>().is_err() {
        let wrong = FieldError::invalid("metadata.resourceVersion", asked, "must be an integer");
        return Err(Failure::invalid(kind, name, &[wrong]));
    }
    Err(Failure::modified(kind, name))
}

/// What the rules for all kinds object to.
pub(crate) fn validate(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let metadata: ObjectMeta =
        serde_json::from_value(object["metadata"].clone()).expect("it was decoded as a Kubernetes object before");
    let scope = if kind.namespaced { Scope::Namespaced } else { Scope::Cluster };
    let mut errors = validation::metadata(&metadata, scope, kind.name_rule);
    for finalizer in metadata.finalizers.iter().flatten() {
        if let Some(wrong) = podd_core::names::qualified(finalizer) {
            errors.push(FieldError::invalid("metadata.finalizers", finalizer.as_str(), wrong));
        }
    }
    errors
}

/// What the rules for all kinds object to in a change: an object that goes gets no more finalizers.
pub(crate) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    if !is_deleting(old) {
        return Vec::new();
    }
    let before: BTreeSet<&str> = finalizers(old).collect();
    let added: BTreeSet<&str> = finalizers(new).filter(|finalizer| !before.contains(finalizer)).collect();
    if added.is_empty() {
        return Vec::new();
    }
    let list: Vec<String> = added.iter().map(|finalizer| format!("{finalizer:?}")).collect();
    let detail = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        list.join(", ")
    );
    vec![FieldError::forbidden("metadata.finalizers", detail)]
}

fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Whether somebody has to act before the object can go.
pub(crate) fn has_finalizers(object: &Value) -> bool {
    finalizers(object).next().is_some()
}

/// Whether the object was asked to go.
pub(crate) fn is_deleting(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

/// Whether a deletion that waited has nothing left to wait for.
pub(crate) fn may_go(object: &Value) -> bool {
    is_deleting(object)
        && !has_finalizers(object)
        && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}

/// Counts a change of what is wanted.
pub(crate) fn next_generation(object: &mut Value) {
    if let Some(generation) = object["metadata"]["generation"].as_i64() {
        object["metadata"]["generation"] = (generation + 1).into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_goes_loses_finalizers_and_gets_none() {
        let old = |deleting: Value| json!({"metadata": {"finalizers": ["a/b", "a/c"], "deletionTimestamp": deleting}});
        let new = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
        let going = old("2026-11-26T12:00:00Z".into());
        for fine in [json!(["a/c", "a/b"]), json!(["a/c"]), json!([]), Value::Null] {
            assert_eq!(validate_update(&new(fine), &going), []);
        }
        let more = new(json!(["x/z", "a/b", "x/y", "x/z"]));
        assert_eq!(validate_update(&more, &old(Value::Null)), []);
        let [refused] = &validate_update(&more, &going)[..] else { panic!("one objection") };
        let told = "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, \
                    found new finalizers []string{\"x/y\", \"x/z\"}";
        assert_eq!(refused.to_string(), told);
    }

    #[test]
    fn generated_names_keep_their_base_within_a_label() {
        let name = generate_name("web-");
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert_ne!(name, generate_name("web-"));
        assert_eq!(generate_name(&"a".repeat(80)).len(), 63);
    }
}
