//! What the verbs do to objects: plain functions over a transaction; the HTTP side is in `server`.

mod admit;
mod create;
mod delete;
mod operations;
mod patch;
mod strategic;
mod update;

pub(crate) use create::create;
pub(crate) use delete::{Deleted, IMMORTAL, delete, delete_collection, expire, rfc3339};
pub(crate) use patch::{Patch, check_options, patch};
pub(crate) use update::replace;

use std::sync::Arc;

use podd_core::field::FieldError;
use serde_json::Value;

use crate::apply::Who;
use crate::body::Document;
use crate::bounds;
use crate::decode::Decoded;
use crate::failure::Failure;
use crate::kinds::{Context, Kind, Subresource};
use crate::query::{FieldValidation, WriteOptions};
use crate::store::Object;

/// The outcome of a write.
pub(crate) struct Written {
    pub(crate) object: Arc<Object>,
    pub(crate) created: bool,
    pub(crate) warnings: Vec<String>,
}

/// Who writes, for `managedFields`.
fn who(kind: &Kind, subresource: Option<Subresource>, options: &WriteOptions, context: &Context) -> Who {
    Who {
        manager: options.manager().to_owned(),
        api_version: kind.api_version().into_owned(),
        subresource: subresource.map_or("", Subresource::name),
        now: context.now.clone(),
    }
}

/// Reads what a client sent as an object of the kind: its type, and unknown or duplicate fields as
/// `fieldValidation` has it.
pub(crate) fn read_object(
    kind: &Kind,
    document: Document,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, Failure> {
    let Document { mut value, duplicates } = document;
    check_type(kind, &mut value)?;
    let Decoded { value, unknown } = decode(kind, value)?;
    report(kind, validation, &unknown, &duplicates, warnings)?;
    Ok(value)
}

/// The object must be of the path's kind; silence means that it is.
fn check_type(kind: &Kind, value: &mut Value) -> Result<(), Failure> {
    if !value.is_object() {
        return Err(Failure::bad_request(format!("the body is no {} object", kind.kind)));
    }
    let api_version = kind.api_version();
    for (field, want) in [("apiVersion", &*api_version), ("kind", kind.kind)] {
        match value[field].as_str() {
            None | Some("") => value[field] = want.into(),
            Some(found) if found == want => {}
            Some(found) => {
                return Err(Failure::bad_request(format!(
                    "the {field} in the data ({found}) does not match the expected {field} ({want})"
                )));
            }
        }
    }
    Ok(())
}

/// Reads a value as its type. Every object passes here: as it was sent, and as a patch or an apply made it.
fn decode(kind: &Kind, value: Value) -> Result<Decoded, Failure> {
    bounds::check_depth(bounds::extent(&value).depth)?;
    (kind.decode)(value).map_err(|problem| Failure::mistyped(cannot_be_handled(kind), problem))
}

fn cannot_be_handled(kind: &Kind) -> String {
    format!("{0} in version \"{1}\" cannot be handled as a {0}", kind.kind, kind.api_version())
}

fn report(
    kind: &Kind,
    validation: FieldValidation,
    unknown: &[String],
    duplicates: &[String],
    warnings: &mut Vec<String>,
) -> Result<(), Failure> {
    let unknown_texts = unknown.iter().map(|path| format!("unknown field \"{path}\""));
    let duplicate_texts = duplicates.iter().map(|path| format!("duplicate field \"{path}\""));
    let texts: Vec<String> = duplicate_texts.chain(unknown_texts).collect();
    match validation {
        _ if texts.is_empty() => Ok(()),
        FieldValidation::Ignore => Ok(()),
        FieldValidation::Warn => {
            warnings.extend(texts);
            Ok(())
        }
        FieldValidation::Strict => {
            let cause = |path: &String, detail: &str| {
                let mut error = FieldError::invalid(path.clone(), Value::Null, detail);
                error.value = None;
                error
            };
            let errors: Vec<FieldError> = (duplicates.iter().map(|p| cause(p, "duplicate field")))
                .chain(unknown.iter().map(|path| cause(path, "unknown field")))
                .collect();
            let cannot = cannot_be_handled(kind);
            let message = format!("{cannot}: strict decoding error: {}", texts.join(", "));
            Err(Failure::bad_fields(message, &errors))
        }
    }
}

/// Refuses when there is an objection; the same objection from two sides is told once.
fn refuse(kind: &Kind, object: &Value, errors: Vec<FieldError>) -> Result<(), Failure> {
    let mut told: Vec<FieldError> = Vec::with_capacity(errors.len());
    for error in errors {
        if !told.contains(&error) {
            told.push(error);
        }
    }
    if told.is_empty() {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str();
    let name = name.or(object["metadata"]["generateName"].as_str()).unwrap_or_default();
    Err(Failure::invalid(kind, name, &told))
}

#[cfg(test)]
mod tests;
