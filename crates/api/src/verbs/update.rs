//! Update: the whole object replaced, or its status.

use serde_json::{Value, json};

use super::{Written, refuse, who};
use crate::apply;
use crate::bounds;
use crate::failure::Failure;
use crate::kinds::{Context, Kind, NAMESPACE, Subresource, validate_ephemeral};
use crate::meta;
use crate::query::WriteOptions;
use crate::store::{Key, Transaction};
use crate::target::Target;
use crate::verbs::admit::admit_update;
use crate::verbs::delete::{remove, remove_empty_namespace};

/// Replaces an object by what a client sent (decoded already).
pub(crate) fn replace(
    transaction: &mut Transaction<'_>,
    target: &Target,
    mut object: Value,
    options: &WriteOptions,
    context: &Context,
    warnings: Vec<String>,
) -> Result<Written, Failure> {
    meta::place(&mut object, target)?;
    let key = key(target);
    let live = transaction.get(target.kind, &key);
    let live = live.ok_or_else(|| Failure::not_found(target.kind, &key.name))?;
    let update = Update { kind: target.kind, subresource: target.subresource, old: live.value() };
    let manager = Managed::Update(options);
    update.finish(transaction, object, manager, context, warnings)
}

/// The key of the object that a path names.
pub(super) fn key(target: &Target) -> Key {
    Key::new(target.namespace.as_deref().unwrap_or_default(), target.name.as_deref().unwrap_or_default())
}

/// How the managed fields of an update come about.
pub(super) enum Managed<'a> {
    /// By comparing old and new.
    Update(&'a WriteOptions),
    /// They are in the new object: it was applied.
    Applied,
}

/// The way from an old object to a new one that is the same for update, patch and apply.
pub(super) struct Update {
    pub(super) kind: &'static Kind,
    pub(super) subresource: Option<Subresource>,
    pub(super) old: Value,
}

impl Update {
    pub(super) fn finish(
        self,
        transaction: &mut Transaction<'_>,
        mut new: Value,
        managed: Managed<'_>,
        context: &Context,
        mut warnings: Vec<String>,
    ) -> Result<Written, Failure> {
        let Self { kind, subresource, old } = self;
        meta::check_identity(kind, &new, &old)?;
        let applied = new["metadata"]["managedFields"].clone();
        meta::prepare_update(&mut new, &old);
        let mut errors = Vec::new();
        if subresource == Some(Subresource::Status) {
            new = status_of(new, &old);
        } else if subresource == Some(Subresource::EphemeralContainers) {
            new = with_ephemeral_of(&new, &old);
            let added = json!({"spec": {"ephemeralContainers": new["spec"]["ephemeralContainers"]}});
            let (refused, remarks) = (kind.verdict)(&added);
            errors.extend(refused);
            warnings.extend(remarks);
            (kind.default)(&mut new);
            errors.extend(validate_ephemeral(&new, &old));
        } else {
            if kind.has_status() {
                meta::carry(&mut new, &old, "status");
            }
            let (refused, remarks) = (kind.verdict)(&new);
            errors.extend(refused);
            warnings.extend(remarks);
            (kind.default)(&mut new);
            (kind.prepare_update)(&mut new, &old);
            errors.extend((kind.validate)(&new));
            errors.extend((kind.validate_update)(&new, &old));
        }
        errors.extend(meta::validate(kind, &new));
        errors.extend(meta::validate_update(&new, &old));
        refuse(kind, &new, errors)?;
        if subresource.is_none() {
            admit_update(transaction, kind, &new, &old)?;
        }
        if new["spec"] != old["spec"] {
            meta::next_generation(&mut new);
        }
        match managed {
            Managed::Applied => new["metadata"]["managedFields"] = applied,
            Managed::Update(options) => {
                let who = who(kind, subresource, options, context);
                apply::update(kind.schema, Some(&old), &mut new, &who);
            }
        }
        store(transaction, kind, new, &old, warnings)
    }
}

/// The old object with the new status, and the metadata that may change through `/status`.
fn status_of(new: Value, old: &Value) -> Value {
    let mut result = old.clone();
    meta::carry(&mut result, &new, "status");
    for field in ["labels", "annotations", "finalizers"] {
        meta::carry(&mut result["metadata"], &new["metadata"], field);
    }
    result
}

/// The old object with the ephemeral containers of the new one.
fn with_ephemeral_of(new: &Value, old: &Value) -> Value {
    let mut result = old.clone();
    if result["spec"].is_object() {
        meta::carry(&mut result["spec"], &new["spec"], "ephemeralContainers");
    }
    result
}

/// Stores what changed: nothing is written when nothing did, and the object goes when that was the last thing
/// its deletion waited for.
fn store(
    transaction: &mut Transaction<'_>,
    kind: &'static Kind,
    mut new: Value,
    old: &Value,
    warnings: Vec<String>,
) -> Result<Written, Failure> {
    let key = Key::new(meta::text(old, "namespace"), meta::text(old, "name"));
    meta::carry(&mut new["metadata"], &old["metadata"], "resourceVersion");
    let object = if std::ptr::eq(kind, NAMESPACE) && meta::may_go(&new) {
        let name = key.name.clone();
        let object = transaction.put(kind, key, new);
        remove_empty_namespace(transaction, &name).unwrap_or(object)
    } else if meta::may_go(&new) {
        remove(transaction, kind, key, new)
    } else if new == *old {
        transaction.get(kind, &key).expect("its old state was just read")
    } else {
        let before = transaction.get(kind, &key);
        let object = transaction.put(kind, key, new);
        bounds::check_size(&object, before.as_ref())?;
        object
    };
    Ok(Written { object, created: false, warnings })
}
