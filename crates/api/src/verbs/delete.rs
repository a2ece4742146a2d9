//! Delete: at once, or marked and finished by somebody else.
//!
//! ```text
//! delete ─► marked (deletionTimestamp) ─► grace over: the agent deletes with grace 0 ─┐
//!    │                                  └► finalizers taken off by their owners ──────┤
//!    └────────── nothing to wait for ─────────────────────────────────────────────► gone
//! ```
//! A namespace waits for its content; what empties it removes it, so that no controller has to look.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::failure::Failure;
use crate::kinds::{Context, KINDS, Kind, NAMESPACE};
use crate::meta;
use crate::query::DeleteOptions;
use crate::selector::Selector;
use crate::store::{Key, Object, Transaction};

/// Namespaces that are always there.
pub(crate) const IMMORTAL: [&str; 2] = ["default", "kube-system"];
/// Objects that one request for a collection deletes at most.
const MAX_COLLECTION: usize = 10_000;

/// The outcome of a deletion.
pub(crate) struct Deleted {
    /// The last state when it is gone, else the marked one.
    pub(crate) object: Arc<Object>,
    pub(crate) gone: bool,
}

/// Deletes an object, or marks it.
pub(crate) fn delete(
    transaction: &mut Transaction<'_>,
    kind: &'static Kind,
    key: &Key,
    options: &DeleteOptions,
    context: &Context,
) -> Result<Deleted, Failure> {
    let deleted = delete_one(transaction, kind, key, options, context)?;
    if deleted.gone && kind.namespaced {
        remove_empty_namespace(transaction, &key.namespace);
    }
    Ok(deleted)
}

/// The same, without a look at the namespace that may be left empty: whoever deletes many looks once.
fn delete_one(
    transaction: &mut Transaction<'_>,
    kind: &'static Kind,
    key: &Key,
    options: &DeleteOptions,
    context: &Context,
) -> Result<Deleted, Failure> {
    let live = transaction.get(kind, key).ok_or_else(|| Failure::not_found(kind, &key.name))?;
    let object = live.value();
    check_preconditions(kind, &object, options)?;
    if std::ptr::eq(kind, NAMESPACE) {
        return delete_namespace(transaction, key, object, context);
    }
    let grace = (kind.grace)(&object, options.grace, context);
    Ok(mark_or_remove(transaction, &live, object, (grace, options.grace.is_some()), context))
}

fn check_preconditions(kind: &Kind, object: &Value, options: &DeleteOptions) -> Result<(), Failure> {
    let conditions = [("UID", &options.uid, "uid"), ("ResourceVersion", &options.resource_version, "resourceVersion")];
    for (word, asked, field) in conditions {
        let found = meta::text(object, field);
        if let Some(asked) = asked.as_deref().filter(|asked| *asked != found) {
            let why = format!("Precondition failed: {word} in precondition: {asked}, {word} in object meta: {found}");
            return Err(Failure::conflict(kind, meta::text(object, "name"), &why));
        }
    }
    Ok(())
}

/// `grace` in seconds, and whether the client asked for it.
fn mark_or_remove(
    transaction: &mut Transaction<'_>,
    live: &Arc<Object>,
    mut object: Value,
    (grace, asked): (i64, bool),
    context: &Context,
) -> Deleted {
    let (kind, key) = (live.kind, &live.key);
    let grace = match deletion(&object) {
        None => grace,
        // A grace only shrinks; a repeated deletion that asks for none changes nothing.
        Some((_, current)) if asked || grace == 0 => grace.min(current),
        Some((_, current)) => current,
    };
    if grace == 0 && !meta::has_finalizers(&object) {
        object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
        if !meta::is_deleting(&object) {
            object["metadata"]["deletionTimestamp"] = context.now.clone().into();
        }
        return Deleted { object: transaction.remove(kind, key.clone(), object), gone: true };
    }
    let since = match deletion(&object) {
        Some((_, current)) if current == grace => {
            return Deleted { object: live.clone(), gone: false };
        }
        // The grace shrinks from where it began.
        Some((deadline, current)) => add_seconds(deadline, -current),
        None => {
            meta::next_generation(&mut object);
            context.now.parse().unwrap_or(Timestamp::UNIX_EPOCH)
        }
    };
    object["metadata"]["deletionTimestamp"] = rfc3339(add_seconds(since, grace)).into();
    object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
    Deleted { object: transaction.put(kind, key.clone(), object), gone: false }
}

/// The deadline and the grace of an object that was marked before.
fn deletion(object: &Value) -> Option<(Timestamp, i64)> {
    let deadline = meta::text(object, "deletionTimestamp").parse().ok()?;
    Some((deadline, object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0)))
}

fn add_seconds(time: Timestamp, seconds: i64) -> Timestamp {
    time.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(time)
}

/// A time as Kubernetes writes it: whole seconds.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Removes an object, and its namespace if that only waited for it.
pub(super) fn remove(transaction: &mut Transaction<'_>, kind: &'static Kind, key: Key, last: Value) -> Arc<Object> {
    let namespace = key.namespace.clone();
    let object = transaction.remove(kind, key, last);
    if kind.namespaced {
        remove_empty_namespace(transaction, &namespace);
    }
    object
}

fn delete_namespace(
    transaction: &mut Transaction<'_>,
    key: &Key,
    mut namespace: Value,
    context: &Context,
) -> Result<Deleted, Failure> {
    if IMMORTAL.contains(&key.name.as_str()) {
        let why = "this namespace may not be deleted";
        return Err(Failure::forbidden(NAMESPACE, &key.name, why));
    }
    if !meta::is_deleting(&namespace) {
        namespace["metadata"]["deletionTimestamp"] = context.now.clone().into();
        namespace["status"]["phase"] = "Terminating".into();
        transaction.put(NAMESPACE, key.clone(), namespace);
    }
    let marked = transaction.get(NAMESPACE, key);
    let marked = marked.ok_or_else(|| Failure::not_found(NAMESPACE, &key.name))?;
    let options = DeleteOptions::default();
    for kind in KINDS.iter().filter(|kind| kind.namespaced) {
        for object in transaction.list(kind, Some(&key.name)) {
            delete_one(transaction, kind, &object.key, &options, context)?;
        }
    }
    Ok(match remove_empty_namespace(transaction, &key.name) {
        Some(object) => Deleted { object, gone: true },
        None => Deleted { object: marked, gone: false },
    })
}

/// Removes a namespace that is terminating and holds nothing any more.
pub(super) fn remove_empty_namespace(transaction: &mut Transaction<'_>, name: &str) -> Option<Arc<Object>> {
    let key = Key::new("", name);
    let namespace = transaction.get(NAMESPACE, &key)?.value();
    let mut kinds = KINDS.iter().filter(|kind| kind.namespaced);
    let waits = !meta::is_deleting(&namespace)
        || meta::has_finalizers(&namespace)
        || kinds.any(|kind| transaction.holds_any(kind, name));
    (!waits).then(|| transaction.remove(NAMESPACE, key, namespace))
}

/// Deletes the selected objects of a collection.
pub(crate) fn delete_collection(
    transaction: &mut Transaction<'_>,
    kind: &'static Kind,
    namespace: Option<&str>,
    selector: &Selector,
    options: &DeleteOptions,
    context: &Context,
) -> Result<Vec<Arc<Object>>, Failure> {
    let selected = transaction.list(kind, namespace).into_iter().filter(|o| selector.matches(o));
    let selected: Vec<Arc<Object>> = selected.take(MAX_COLLECTION).collect();
    let mut deleted = Vec::with_capacity(selected.len());
    for object in &selected {
        deleted.push(delete_one(transaction, kind, &object.key, options, context)?.object);
    }
    remove_empty_namespaces(transaction, kind, &selected);
    Ok(deleted)
}

/// Looks once at each namespace that objects were taken from.
fn remove_empty_namespaces(transaction: &mut Transaction<'_>, kind: &Kind, taken: &[Arc<Object>]) {
    if kind.namespaced {
        let namespaces: BTreeSet<&str> = taken.iter().map(|object| object.key.namespace.as_str()).collect();
        for namespace in namespaces {
            remove_empty_namespace(transaction, namespace);
        }
    }
}

/// Removes the transient objects that were last written before `now - ttl`.
pub(crate) fn expire(transaction: &mut Transaction<'_>, now: Timestamp, ttl: Duration) -> usize {
    let ttl = SignedDuration::try_from(ttl).unwrap_or(SignedDuration::MAX);
    let mut expired = 0;
    for kind in KINDS.iter().filter(|kind| kind.transient) {
        let mut removed = Vec::new();
        for object in transaction.list(kind, None) {
            let value = object.value();
            if last_written(&value).is_some_and(|written| now.duration_since(written) > ttl) {
                removed.push(transaction.remove(kind, object.key.clone(), value));
            }
        }
        remove_empty_namespaces(transaction, kind, &removed);
        expired += removed.len();
    }
    expired
}

/// The newest time that an event tells of itself.
fn last_written(event: &Value) -> Option<Timestamp> {
    let times =
        [&event["metadata"]["creationTimestamp"], &event["lastTimestamp"], &event["series"]["lastObservedTime"]];
    times.into_iter().filter_map(|time| time.as_str()?.parse().ok()).max()
}
