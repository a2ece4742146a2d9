//! `podd apply --prune`: what was applied before and the files do not name any more is deleted.
//!
//! As with kubectl, two things tell what "applied before" is: labels (`-l`), or an apply-set ([`super::set`]). By labels,
//! an object goes when its kind can be applied, its namespace is one that the files name, its labels are selected, and
//! podd has applied it, which the API server has written down in `managedFields`.

use std::collections::BTreeSet;

use anyhow::{anyhow, bail};
use kube::api::{DeleteParams, ListParams, Preconditions};
use serde_json::Value;

use super::{MANAGER, set};
use crate::cli::{Apply, Output};
use crate::commands::{api_error, objects};
use crate::kinds::{KINDS, Kind};
use crate::manifests::Item;
use crate::print::say;

/// What tells the objects that may be pruned.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Prune {
    Labelled(String),
    Set(set::Parent),
}

impl Prune {
    /// What the flags ask for.
    pub(super) fn of(args: &Apply) -> anyhow::Result<Option<Self>> {
        match (args.prune, &args.manifests.selector, &args.applyset) {
            (false, _, Some(_)) => bail!("--applyset: say --prune too; a set is kept only to know what to delete"),
            (false, _, None) => Ok(None),
            (true, None, None) => bail!("--prune: say what may be deleted with -l LABELS or --applyset NAME"),
            (true, _, Some(name)) => {
                Ok(Some(Prune::Set(set::Parent::parse(name, &args.manifests.namespace.namespace)?)))
            }
            (true, Some(selector), None) if selector.trim().is_empty() => {
                bail!("--prune: -l \"\" selects every object; name labels")
            }
            (true, Some(selector), None) => Ok(Some(Prune::Labelled(selector.clone()))),
        }
    }
}

/// The objects that a label selector selects.
pub(super) fn selected(items: Vec<Item>, selector: &str) -> anyhow::Result<Vec<Item>> {
    let mut found = Vec::new();
    for item in items {
        if podd_api::selects(selector, &item.value).map_err(|message| anyhow!("-l: {message}"))? {
            found.push(item);
        }
    }
    if found.is_empty() {
        bail!("no object of the files has the labels {selector}");
    }
    Ok(found)
}

/// What the files name, whatever its labels are.
#[derive(Debug, Default)]
pub(in crate::commands) struct Named(BTreeSet<(&'static str, String, String)>);

impl Named {
    /// Of all that the files hold, before any of it is left out.
    pub(super) fn of(items: &[Item]) -> Self {
        let key = |item: &Item| (item.kind.kind, item.namespace().unwrap_or("").to_owned(), item.name().to_owned());
        Self(items.iter().map(key).collect())
    }

    pub(super) fn has(&self, kind: &Kind, namespace: &str, object: &Value) -> bool {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        self.0.contains(&(kind.kind, namespace.to_owned(), name.to_owned()))
    }

    fn namespaces(&self) -> BTreeSet<&str> {
        self.0.iter().map(|(_, namespace, _)| namespace.as_str()).filter(|namespace| !namespace.is_empty()).collect()
    }
}

/// Deletes what has the labels and is in no file.
pub(super) async fn labelled(
    client: &kube::Client,
    named: &Named,
    selector: &str,
    dry_run: bool,
    output: Option<Output>,
) -> anyhow::Result<()> {
    let namespaces = named.namespaces();
    for kind in prunable().rev() {
        for namespace in &namespaces {
            let list = ListParams::default().labels(selector);
            for object in objects(client, kind, namespace).list(&list).await.map_err(api_error)?.items {
                let object = serde_json::to_value(object)?;
                if applied_by_podd(&object) && !named.has(kind, namespace, &object) {
                    delete(client, kind, namespace, &object, dry_run, output).await?;
                }
            }
        }
    }
    Ok(())
}

/// Kinds whose objects are pruned: those of a namespace that manifests make, what others need first. Namespaces and other
/// objects of the whole node may belong to more than these files.
pub(super) fn prunable() -> impl DoubleEndedIterator<Item = &'static Kind> {
    KINDS.iter().filter(|kind| kind.namespaced && kind.kind != "Event")
}

/// Whether `podd apply` (or `play kube`, which is the same) has made the object or taken part in it.
fn applied_by_podd(object: &Value) -> bool {
    let managers = object["metadata"]["managedFields"].as_array();
    managers.into_iter().flatten().any(|entry| entry["manager"] == MANAGER && entry["operation"] == "Apply")
}

/// Deletes one object and says so; it goes on its own time.
pub(super) async fn delete(
    client: &kube::Client,
    kind: &Kind,
    namespace: &str,
    object: &Value,
    dry_run: bool,
    output: Option<Output>,
) -> anyhow::Result<()> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if object["metadata"]["deletionTimestamp"].is_string() {
        return Ok(());
    }
    if !dry_run {
        let uid = object["metadata"]["uid"].as_str().map(str::to_owned);
        let params = DeleteParams::default().preconditions(Preconditions { uid, resource_version: None });
        match objects(client, kind, namespace).delete(name, &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(api_error(error)),
        }
    }
    // Among printed objects, a line about another one would not be read.
    if !matches!(output, Some(Output::Json | Output::Yaml)) {
        say!("{}/{name} pruned{}", kind.singular(), if dry_run { " (server dry run)" } else { "" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_podd_applied_is_pruned() {
        let by = |manager: &str, operation: &str| json!({"metadata": {"managedFields": [{"manager": manager, "operation": operation}]}});
        let table = [(MANAGER, "Apply", true), (MANAGER, "Update", false), ("kubectl", "Apply", false)];
        for (manager, operation, wanted) in table {
            assert_eq!(applied_by_podd(&by(manager, operation)), wanted, "{manager} {operation}");
        }
        assert!(!applied_by_podd(&json!({"metadata": {}})));
    }

    #[test]
    fn namespaces_nodes_and_events_are_never_pruned() {
        let kinds: Vec<&str> = prunable().map(|kind| kind.kind).collect();
        assert!(kinds.contains(&"Pod") && kinds.contains(&"Secret"), "{kinds:?}");
        for kind in ["Namespace", "Node", "Event"] {
            assert!(!kinds.contains(&kind), "{kinds:?}");
        }
    }
}
