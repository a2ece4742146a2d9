//! A stored object: its JSON as clients get it, and beside it what selectors look at.
//!
//! The JSON is kept as text: it is what get, list and watch send, and takes a fraction of a parsed value's memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;

use crate::kinds::Kind;

/// Where an object lives within its kind; objects of no namespace have an empty one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// One version of one object; immutable.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) kind: &'static Kind,
    pub(crate) key: Key,
    pub(crate) revision: u64,
    pub(crate) json: Bytes,
    labels: BTreeMap<String, String>,
    /// The values of `kind.fields`, in its order.
    fields: Box<[String]>,
}

impl Object {
    /// Takes a value whose `metadata.resourceVersion` is `revision` already.
    pub(crate) fn new(kind: &'static Kind, key: Key, revision: u64, value: &Value) -> Self {
        let labels = value["metadata"]["labels"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
            .collect();
        let fields = kind.fields.iter().map(|(_, at)| text(value.pointer(at))).collect();
        Self { kind, key, revision, json: value.to_string().into(), labels, fields }
    }

    /// The object as a value, to be changed or looked into.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.json).expect("it was written by serde_json")
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    /// The value of a selectable field; `None` when the kind has no such field selector.
    pub(crate) fn field(&self, label: &str) -> Option<&str> {
        match label {
            "metadata.name" => Some(&self.key.name),
            "metadata.namespace" if self.kind.namespaced => Some(&self.key.namespace),
            _ => {
                let at = self.kind.fields.iter().position(|(field, _)| *field == label)?;
                Some(&self.fields[at])
            }
        }
    }
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Bool(b)) => b.to_string(),
        Some(Value::Number(n)) => n.to_string(),
        _ => String::new(),
    }
}
