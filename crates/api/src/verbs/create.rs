//! Create.

use podd_core::field::FieldError;
use serde_json::Value;

use super::{Written, admit::admit, refuse, who};
use crate::apply;
use crate::bounds;
use crate::failure::Failure;
use crate::kinds::{Context, Kind, NAMESPACE};
use crate::meta;
use crate::query::WriteOptions;
use crate::store::{Key, Transaction};
use crate::target::Target;

/// Tries for a generated name that is free.
const NAME_TRIES: usize = 8;

/// Creates an object that a client sent (decoded already).
pub(crate) fn create(
    transaction: &mut Transaction<'_>,
    target: &Target,
    mut object: Value,
    options: &WriteOptions,
    context: &Context,
    warnings: Vec<String>,
) -> Result<Written, Failure> {
    let kind = target.kind;
    if !matches!(meta::text(&object, "resourceVersion"), "" | "0") {
        return Err(Failure::bad_request("resourceVersion should not be set on objects to be created"));
    }
    meta::place(&mut object, target)?;
    name(transaction, kind, &mut object);
    check_namespace(transaction, kind, &object)?;
    let (mut object, errors, warnings) = prepare(kind, object, context, warnings);
    refuse(kind, &object, errors)?;
    admit(transaction, kind, &mut object)?;
    apply::update(kind.schema, None, &mut object, &who(kind, None, options, context));
    put(transaction, kind, object, warnings)
}

/// Creates an object out of an applied configuration, whose managed fields are set.
pub(super) fn create_applied(
    transaction: &mut Transaction<'_>,
    kind: &'static Kind,
    object: Value,
    context: &Context,
    warnings: Vec<String>,
) -> Result<Written, Failure> {
    let uid = meta::text(&object, "uid");
    if !uid.is_empty() {
        let why = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
        return Err(Failure::conflict(kind, meta::text(&object, "name"), &why));
    }
    check_namespace(transaction, kind, &object)?;
    let managed = object["metadata"]["managedFields"].clone();
    let (mut object, errors, warnings) = prepare(kind, object, context, warnings);
    refuse(kind, &object, errors)?;
    admit(transaction, kind, &mut object)?;
    if !managed.is_null() {
        object["metadata"]["managedFields"] = managed;
    }
    put(transaction, kind, object, warnings)
}

/// Verdict, defaults, the server's own fields, validation.
fn prepare(
    kind: &Kind,
    mut object: Value,
    context: &Context,
    mut warnings: Vec<String>,
) -> (Value, Vec<FieldError>, Vec<String>) {
    let (mut errors, remarks) = (kind.verdict)(&object);
    warnings.extend(remarks);
    meta::prepare_create(kind, &mut object, context);
    (kind.default)(&mut object);
    (kind.prepare_create)(&mut object, context);
    errors.extend(meta::validate(kind, &object));
    errors.extend((kind.validate)(&object));
    errors.extend((kind.validate_create)(&object));
    (object, errors, warnings)
}

fn name(transaction: &Transaction<'_>, kind: &'static Kind, object: &mut Value) {
    let base = meta::text(object, "generateName").to_owned();
    if base.is_empty() || !meta::text(object, "name").is_empty() {
        return;
    }
    let namespace = meta::text(object, "namespace").to_owned();
    for _ in 0..NAME_TRIES {
        let name = meta::generate_name(&base);
        object["metadata"]["name"] = name.as_str().into();
        if transaction.get(kind, &Key::new(namespace.as_str(), name)).is_none() {
            return;
        }
    }
}

/// The namespace must exist and stay.
fn check_namespace(transaction: &Transaction<'_>, kind: &Kind, object: &Value) -> Result<(), Failure> {
    if !kind.namespaced {
        return Ok(());
    }
    let namespace = meta::text(object, "namespace");
    match transaction.get(NAMESPACE, &Key::new("", namespace)) {
        None => Err(Failure::not_found(NAMESPACE, namespace)),
        Some(found) if meta::is_deleting(&found.value()) => {
            let name = meta::text(object, "name");
            Err(Failure::namespace_terminating(kind, name, namespace))
        }
        Some(_) => Ok(()),
    }
}

fn put(
    transaction: &mut Transaction<'_>,
    kind: &'static Kind,
    object: Value,
    warnings: Vec<String>,
) -> Result<Written, Failure> {
    let key = Key::new(meta::text(&object, "namespace"), meta::text(&object, "name"));
    if transaction.get(kind, &key).is_some() {
        return Err(Failure::already_exists(kind, &key.name));
    }
    let object = transaction.put(kind, key, object);
    bounds::check_size(&object, None)?;
    Ok(Written { object, created: true, warnings })
}
