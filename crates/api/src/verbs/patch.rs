//! Patch: JSON patch, merge patch, server-side apply.

use bytes::Bytes;
use serde_json::Value;

use super::create::create_applied;
use super::operations;
use super::strategic;
use super::update::{Managed, Update, key};
use super::{Written, check_type, decode, report, who};
use crate::apply;
use crate::body::{self, Document};
use crate::failure::Failure;
use crate::kinds::{Context, Kind, Subresource};
use crate::meta;
use crate::query::WriteOptions;
use crate::store::Transaction;
use crate::target::Target;

/// A patch as it was sent.
pub(crate) enum Patch {
    Json(json_patch::Patch),
    Merge(Document),
    Strategic(Document),
    Apply(Document),
}

impl Patch {
    /// Reads the body by its media type.
    pub(crate) fn parse(media_type: &str, bytes: &Bytes, part: Option<Subresource>) -> Result<Self, Failure> {
        match media_type {
            "application/json-patch+json" => json_patch_of(bytes).map(Self::Json),
            "application/merge-patch+json" => body::json(bytes).map(Self::Merge),
            // JSON is YAML; a JSON body keeps its lenient duplicates.
            "application/apply-patch+yaml" if bytes.trim_ascii_start().starts_with(b"{") => {
                body::json(bytes).or_else(|_| body::yaml(bytes)).map(Self::Apply)
            }
            "application/apply-patch+yaml" => body::yaml(bytes).map(Self::Apply),
            "application/strategic-merge-patch+json" if part == Some(Subresource::EphemeralContainers) => {
                body::json(bytes).map(Self::Strategic)
            }
            "application/strategic-merge-patch+json" => Err(Failure::unsupported_media_type(
                "podd does not implement strategic merge patches yet \
                 (application/strategic-merge-patch+json): use server-side apply \
                 (application/apply-patch+yaml), application/merge-patch+json or \
                 application/json-patch+json",
            )),
            other => Err(Failure::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, \
                 application/apply-patch+yaml (it was {other:?})"
            ))),
        }
    }
}

fn json_patch_of(bytes: &[u8]) -> Result<json_patch::Patch, Failure> {
    let patch: json_patch::Patch =
        serde_json::from_slice(bytes).map_err(|e| Failure::bad_request(format!("error decoding JSON patch: {e}")))?;
    let (asked, most) = (patch.0.len(), operations::MAX_OPERATIONS);
    if asked > most {
        let why = format!("The allowed maximum operations in a JSON patch is {most}, got {asked}");
        return Err(Failure::too_large(why));
    }
    Ok(patch)
}

/// Patches an object; apply creates it when it is not there.
pub(crate) fn patch(
    transaction: &mut Transaction<'_>,
    target: &Target,
    patch: Patch,
    options: &WriteOptions,
    context: &Context,
) -> Result<Written, Failure> {
    match patch {
        Patch::Apply(config) => apply_config(transaction, target, config, options, context),
        Patch::Json(patch) => {
            let change = |object: &mut Value| operations::apply(object, &patch);
            change_live(transaction, target, change, &[], options, context)
        }
        Patch::Strategic(Document { value, duplicates }) => {
            if !value.is_object() {
                return Err(Failure::bad_request("a strategic merge patch is a JSON object"));
            }
            let change = |object: &mut Value| strategic::apply(object, &value);
            change_live(transaction, target, change, &duplicates, options, context)
        }
        Patch::Merge(Document { value, duplicates }) => {
            if !value.is_object() {
                return Err(Failure::bad_request("a merge patch is a JSON object"));
            }
            let change = |object: &mut Value| {
                json_patch::merge(object, &value);
                Ok(())
            };
            change_live(transaction, target, change, &duplicates, options, context)
        }
    }
}

fn change_live(
    transaction: &mut Transaction<'_>,
    target: &Target,
    change: impl FnOnce(&mut Value) -> Result<(), Failure>,
    duplicates: &[String],
    options: &WriteOptions,
    context: &Context,
) -> Result<Written, Failure> {
    let kind = target.kind;
    let key = key(target);
    let live = transaction.get(kind, &key).ok_or_else(|| Failure::not_found(kind, &key.name))?;
    let old = live.value();
    let mut new = old.clone();
    change(&mut new)?;
    check_type(kind, &mut new)?;
    meta::place(&mut new, target)?;
    let mut warnings = Vec::new();
    let decoded = decode(kind, new)?;
    report(kind, options.validation, &decoded.unknown, duplicates, &mut warnings)?;
    let update = Update { kind, subresource: target.subresource, old };
    update.finish(transaction, decoded.value, Managed::Update(options), context, warnings)
}

fn apply_config(
    transaction: &mut Transaction<'_>,
    target: &Target,
    config: Document,
    options: &WriteOptions,
    context: &Context,
) -> Result<Written, Failure> {
    let kind = target.kind;
    let mut warnings = Vec::new();
    let config = read_config(kind, config, target, options, &mut warnings)?;
    let key = key(target);
    let live = transaction.get(kind, &key);
    let who = who(kind, target.subresource, options, context);
    let Some(live) = live else {
        if target.subresource.is_some() {
            return Err(Failure::not_found(kind, &key.name));
        }
        let object = apply::apply(kind.schema, None, &config, &who, options.force)
            .map_err(|conflicts| Failure::apply_conflict(&conflicts))?;
        let object = canonical(kind, object)?;
        return create_applied(transaction, kind, object, context, warnings);
    };
    let old = live.value();
    meta::check_identity(kind, &config, &old)?;
    let merged = apply::apply(kind.schema, Some(&old), &config, &who, options.force)
        .map_err(|conflicts| Failure::apply_conflict(&conflicts))?;
    let merged = canonical(kind, merged)?;
    let update = Update { kind, subresource: target.subresource, old };
    update.finish(transaction, merged, Managed::Applied, context, warnings)
}

/// The configuration with only what its type knows: what is absent stays absent, so that it claims nothing.
fn read_config(
    kind: &Kind,
    config: Document,
    target: &Target,
    options: &WriteOptions,
    warnings: &mut Vec<String>,
) -> Result<Value, Failure> {
    let Document { mut value, duplicates } = config;
    check_type(kind, &mut value)?;
    if !value["metadata"]["managedFields"].is_null() {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    meta::place(&mut value, target)?;
    let decoded = decode(kind, value.clone())?;
    let validation = options.validation;
    report(kind, validation, &decoded.unknown, &duplicates, warnings)?;
    keep_known(&mut value, &decoded.value);
    Ok(value)
}

/// Drops nulls and unknown fields, and takes scalars in their canonical form.
fn keep_known(value: &mut Value, typed: &Value) {
    match (value, typed) {
        (Value::Object(fields), Value::Object(typed)) => {
            fields.retain(|name, inner| !inner.is_null() && typed.contains_key(name));
            for (name, inner) in fields {
                keep_known(inner, &typed[name]);
            }
        }
        (Value::Array(items), Value::Array(typed)) => {
            items.iter_mut().zip(typed).for_each(|(item, typed)| keep_known(item, typed));
        }
        (value, typed) => *value = typed.clone(),
    }
}

/// The merged object in its canonical form.
fn canonical(kind: &Kind, object: Value) -> Result<Value, Failure> {
    decode(kind, object).map(|decoded| decoded.value)
}

/// Whether the options of a patch fit its kind; checked before the object is looked at.
pub(crate) fn check_options(patch: &Patch, options: &WriteOptions) -> Result<(), Failure> {
    use podd_core::field::FieldError;
    let wrong = match patch {
        Patch::Apply(_) if options.manager.is_none() => {
            FieldError::required("fieldManager", "is required for apply patch")
        }
        Patch::Json(_) | Patch::Merge(_) | Patch::Strategic(_) if options.force => {
            FieldError::forbidden("force", "may not be specified for non-apply patch")
        }
        _ => return Ok(()),
    };
    Err(Failure::invalid_as("PatchOptions", "meta.k8s.io", "", &[wrong]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_configuration_claims_only_what_it_says() {
        let mut value = json!({"a": null, "b": [{"c": 1, "x": 2}], "d": "1.0"});
        keep_known(&mut value, &json!({"b": [{"c": 1, "required": ""}], "d": "1", "e": 5}));
        assert_eq!(value, json!({"b": [{"c": 1}], "d": "1"}));
    }

    #[test]
    fn unknown_kinds_of_patches_are_refused_by_name() {
        let strategic = "application/strategic-merge-patch+json";
        let body = Bytes::from_static(b"{}");
        let refused = Patch::parse(strategic, &body, None).err().unwrap();
        assert_eq!(refused.code(), 415);
        assert!(refused.message().contains(strategic));
        assert_eq!(Patch::parse("text/plain", &Bytes::new(), None).err().unwrap().code(), 415);
        assert!(Patch::parse(strategic, &body, Some(Subresource::EphemeralContainers)).is_ok());
    }
}
