//! What an object gets from other objects, or is refused for: the part of Kubernetes' admission that podd has.

use podd_core::{classes, quantity::Quantity};
use serde_json::Value;

use crate::failure::Failure;
use crate::kinds::{self, Kind};
use crate::meta;
use crate::store::{Key, Transaction};

/// Changes a new object that is otherwise right, or forbids it.
pub(super) fn admit(transaction: &Transaction<'_>, kind: &'static Kind, object: &mut Value) -> Result<(), Failure> {
    let outcome = match kind.kind {
        "Pod" => pod(transaction, &mut object["spec"]),
        "PriorityClass" if object["globalDefault"] == true => one_default(transaction, object),
        _ => return Ok(()),
    };
    outcome.map_err(|why| Failure::forbidden(kind, meta::text(object, "name"), &why))
}

/// Forbids a change of an object that is otherwise right.
pub(super) fn admit_update(
    transaction: &Transaction<'_>,
    kind: &'static Kind,
    new: &Value,
    old: &Value,
) -> Result<(), Failure> {
    let outcome = match kind.kind {
        "PriorityClass" if new["globalDefault"] == true => one_default(transaction, new),
        "PersistentVolumeClaim" if grows(new, old) => may_grow(transaction, new),
        _ => return Ok(()),
    };
    outcome.map_err(|why| Failure::forbidden(kind, meta::text(new, "name"), &why))
}

fn grows(new: &Value, old: &Value) -> bool {
    let asked = |claim: &Value| {
        let text = claim["spec"]["resources"]["requests"]["storage"].as_str()?;
        Some(Quantity::parse(text).ok()?.value())
    };
    asked(new) > asked(old)
}

fn may_grow(transaction: &Transaction<'_>, claim: &Value) -> Result<(), String> {
    let class = find(transaction, kinds::of("StorageClass"), claim["spec"]["storageClassName"].as_str());
    if class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
        return Ok(());
    }
    Err("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize \
         (allowVolumeExpansion: true)"
        .to_owned())
}

fn pod(transaction: &Transaction<'_>, spec: &mut Value) -> Result<(), String> {
    let priorities = kinds::of("PriorityClass");
    let named = find(transaction, priorities, spec["priorityClassName"].as_str());
    let default = classes::default_priority(all(transaction, priorities));
    classes::prioritise(spec, named.as_ref(), default.as_ref())?;
    let class = find(transaction, kinds::of("RuntimeClass"), spec["runtimeClassName"].as_str());
    classes::place(spec, class.as_ref())
}

fn one_default(transaction: &Transaction<'_>, class: &Value) -> Result<(), String> {
    match classes::default_priority(all(transaction, kinds::of("PriorityClass"))) {
        Some(other) if meta::text(&other, "name") != meta::text(class, "name") => Err(format!(
            "PriorityClass {} is already marked as default. Only one default can exist",
            meta::text(&other, "name")
        )),
        _ => Ok(()),
    }
}

fn all<'a>(transaction: &'a Transaction<'_>, kind: &'static Kind) -> impl Iterator<Item = Value> + 'a {
    transaction.list(kind, None).into_iter().map(|object| object.value())
}

fn find(transaction: &Transaction<'_>, kind: &'static Kind, name: Option<&str>) -> Option<Value> {
    let name = name.filter(|name| !name.is_empty())?;
    transaction.get(kind, &Key::new("", name)).map(|object| object.value())
}
