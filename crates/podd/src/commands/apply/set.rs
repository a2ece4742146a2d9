//! Apply-sets (KEP-3659), in kubectl's format, so that either tool reads the other's sets.
//!
//! A set is a parent object, a Secret or a ConfigMap, whose label is the set's id and whose annotations say which tool keeps
//! it, and which kinds and namespaces its members may have. Every member has the id in a label. The parent names more before
//! anything is applied, and less after everything was pruned, so that an apply that was cut off loses no member.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{existing, object_path, prune};
use crate::cli::Output;
use crate::commands::{api_error, objects};
use crate::kinds::{KINDS, Kind};
use crate::manifests::Item;

const ID: &str = "applyset.kubernetes.io/id";
const PART_OF: &str = "applyset.kubernetes.io/part-of";
const TOOLING: &str = "applyset.kubernetes.io/tooling";
const KINDS_HELD: &str = "applyset.kubernetes.io/contains-group-kinds";
const NAMESPACES_HELD: &str = "applyset.kubernetes.io/additional-namespaces";
/// The tool that keeps the set, before the slash of [`TOOLING`].
const TOOL: &str = "podd";
/// The name under which the parent's fields are owned.
const MANAGER: &str = "podd-applyset";

/// The object that stands for a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parent {
    kind: &'static Kind,
    name: String,
    namespace: String,
}

impl Parent {
    /// Reads `NAME` (a Secret), `secret/NAME`, `configmap/NAME`.
    pub(super) fn parse(text: &str, namespace: &str) -> anyhow::Result<Self> {
        let (kind, name) = text.split_once('/').unwrap_or(("secret", text));
        let kind = Kind::by_name(kind)?;
        if !["Secret", "ConfigMap"].contains(&kind.kind) || name.is_empty() {
            bail!("--applyset={text}: write NAME, secret/NAME or configmap/NAME");
        }
        Ok(Self { kind, name: name.into(), namespace: namespace.into() })
    }

    /// The id as the KEP makes it from name, namespace, kind and group.
    fn id(&self) -> String {
        let parts = [&self.name, &self.namespace, self.kind.kind, self.kind.group].join(".");
        format!("applyset-{}-v1", URL_SAFE_NO_PAD.encode(Sha256::digest(parts)))
    }
}

/// What the members of a set may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Extent {
    /// `Pod`, `Deployment.apps`.
    kinds: BTreeSet<String>,
    /// Beside the parent's own.
    namespaces: BTreeSet<String>,
}

impl Extent {
    fn of_items(items: &[Item], own: &str) -> Self {
        let kinds = items.iter().map(|item| group_kind(item.kind)).collect();
        let namespaces = items.iter().filter_map(Item::namespace).filter(|n| *n != own).map(str::to_owned).collect();
        Self { kinds, namespaces }
    }

    fn of_parent(parent: &Value) -> Self {
        let list = |name: &str| {
            let text = parent["metadata"]["annotations"][name].as_str().unwrap_or_default();
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
        };
        Self { kinds: list(KINDS_HELD), namespaces: list(NAMESPACES_HELD) }
    }

    fn and(&self, other: &Self) -> Self {
        Self { kinds: &self.kinds | &other.kinds, namespaces: &self.namespaces | &other.namespaces }
    }
}

fn group_kind(kind: &Kind) -> String {
    if kind.group.is_empty() { kind.kind.into() } else { format!("{}.{}", kind.kind, kind.group) }
}

fn joined(set: &BTreeSet<String>) -> String {
    set.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

/// A set in the middle of an apply.
pub(super) struct Set {
    parent: Parent,
    id: String,
    /// What the set may hold now: what it held, and what is applied.
    held: Extent,
    wanted: Extent,
}

impl Set {
    /// Makes the objects members, and the parent name what they are. Nothing has been applied yet.
    pub(super) async fn enter(
        client: &kube::Client,
        parent: &Parent,
        items: &mut [Item],
        dry_run: bool,
    ) -> anyhow::Result<Self> {
        let id = parent.id();
        let api = objects(client, parent.kind, &parent.namespace);
        let before = api.get_opt(&parent.name).await.map_err(api_error)?;
        let before = before.map(serde_json::to_value).transpose()?.unwrap_or(Value::Null);
        ours(parent, &before, &id)?;
        for item in items.iter_mut() {
            not_of_another(client, item, &id).await?;
            label(item, &id)?;
        }
        let wanted = Extent::of_items(items, &parent.namespace);
        let held = Extent::of_parent(&before).and(&wanted);
        let set = Self { parent: parent.clone(), id, held, wanted };
        if !dry_run {
            set.write(client, &set.held).await?;
        }
        Ok(set)
    }

    /// Deletes the members that the files do not name; the parent names only what is left.
    pub(super) async fn leave(
        &self,
        client: &kube::Client,
        named: &prune::Named,
        dry_run: bool,
        output: Option<Output>,
    ) -> anyhow::Result<()> {
        let own = std::iter::once(&self.parent.namespace);
        let namespaces: BTreeSet<&String> = own.chain(&self.held.namespaces).collect();
        for kind in KINDS.iter().rev().filter(|kind| self.held.kinds.contains(&group_kind(kind))) {
            let places: Vec<&str> =
                if kind.namespaced { namespaces.iter().map(|n| n.as_str()).collect() } else { vec![""] };
            for place in places {
                let list = ListParams::default().labels(&format!("{PART_OF}={}", self.id));
                for object in objects(client, kind, place).list(&list).await.map_err(api_error)?.items {
                    let object = serde_json::to_value(object)?;
                    if !named.has(kind, place, &object) {
                        prune::delete(client, kind, place, &object, dry_run, output).await?;
                    }
                }
            }
        }
        if !dry_run {
            self.write(client, &self.wanted).await?;
        }
        Ok(())
    }

    async fn write(&self, client: &kube::Client, extent: &Extent) -> anyhow::Result<()> {
        let parent = manifest(&self.parent, &self.id, extent);
        let api = objects(client, self.parent.kind, &self.parent.namespace);
        let params = PatchParams::apply(MANAGER).force();
        api.patch(&self.parent.name, &params, &Patch::Apply(parent)).await.map_err(api_error)?;
        Ok(())
    }
}

/// The parent as it is applied.
fn manifest(parent: &Parent, id: &str, extent: &Extent) -> Value {
    json!({
        "apiVersion": parent.kind.api_version(),
        "kind": parent.kind.kind,
        "metadata": {
            "name": parent.name,
            "namespace": parent.namespace,
            "labels": {ID: id},
            "annotations": {
                TOOLING: format!("{TOOL}/v{}", env!("CARGO_PKG_VERSION")),
                KINDS_HELD: joined(&extent.kinds),
                NAMESPACES_HELD: joined(&extent.namespaces),
            },
        },
    })
}

/// Refuses a parent that stands for something else, or that another tool keeps.
fn ours(parent: &Parent, before: &Value, id: &str) -> anyhow::Result<()> {
    if before.is_null() {
        return Ok(());
    }
    let who = format!("{}/{}", parent.kind.singular(), parent.name);
    match before["metadata"]["labels"][ID].as_str() {
        None => bail!("{who} is there already and is no apply-set: it has no label {ID}"),
        Some(other) if other != id => bail!("{who} has the label {ID}={other}, which is not its id {id}"),
        Some(_) => {}
    }
    let tooling = before["metadata"]["annotations"][TOOLING].as_str().unwrap_or_default();
    let tool = tooling.split('/').next().unwrap_or_default();
    if tool != TOOL {
        bail!(
            "the apply-set {who} is kept by another tool ({TOOLING}={tooling:?}); prune with that one, or take another set"
        );
    }
    Ok(())
}

/// Refuses an object that another set has.
async fn not_of_another(client: &kube::Client, item: &Item, id: &str) -> anyhow::Result<()> {
    let live = existing(client, &object_path(item)).await?.unwrap_or(Value::Null);
    match live["metadata"]["labels"][PART_OF].as_str() {
        Some(other) if other != id => {
            bail!("{}", item.objection("metadata.name", &format!("it is part of another apply-set already: {other}")))
        }
        _ => Ok(()),
    }
}

/// Makes an object a member.
fn label(item: &mut Item, id: &str) -> anyhow::Result<()> {
    if item.value["metadata"]["labels"].get(PART_OF).is_some_and(|value| value != id) {
        bail!(
            "{}",
            item.objection("metadata.labels", &format!("the label {PART_OF} is of apply-sets, not of manifests"))
        );
    }
    let meta = item.value.get_mut("metadata").and_then(Value::as_object_mut).context("an object without metadata")?;
    let labels = meta.entry("labels").or_insert(Value::Null);
    if labels.is_null() {
        *labels = json!({});
    }
    labels[PART_OF] = id.into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(text: &str) -> Parent {
        Parent::parse(text, "default").expect("a parent")
    }

    #[test]
    fn a_set_has_the_id_that_the_kep_gives_it() {
        // printf 'my-set.default.Secret.' | sha256sum | xxd -r -p | basenc --base64url | tr -d =
        assert_eq!(parent("my-set").id(), "applyset-kdySOVBWs584aaOTmku9Ul1xDuN7LXBjs-R96jQcisk-v1");
        assert_eq!(parent("configmap/my-set").id(), "applyset-DaObTxGT41gT7jz9wyulA3kuIrhUKfuOcjAfLI6wcmQ-v1");
    }

    #[test]
    fn a_parent_is_a_secret_or_a_config_map() {
        assert_eq!(parent("cm/a").kind.kind, "ConfigMap");
        assert_eq!(parent("a").kind.kind, "Secret");
        for text in ["pod/a", "secret/", "", "widget/a"] {
            assert!(Parent::parse(text, "default").is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_parent_says_is_read_back() {
        let extent = Extent {
            kinds: ["Pod", "ConfigMap"].map(str::to_owned).into(),
            namespaces: ["b", "a"].map(str::to_owned).into(),
        };
        let written = manifest(&parent("a"), "x", &extent);
        assert_eq!(written["metadata"]["annotations"][KINDS_HELD], "ConfigMap,Pod");
        assert_eq!(written["metadata"]["annotations"][NAMESPACES_HELD], "a,b");
        assert_eq!(Extent::of_parent(&written), extent);
    }

    #[test]
    fn the_set_of_another_tool_and_what_is_no_set_are_refused() {
        let parent = parent("a");
        let id = parent.id();
        let of = |tooling: &str| json!({"metadata": {"labels": {ID: id}, "annotations": {TOOLING: tooling}}});
        assert!(ours(&parent, &of("podd/v9"), &id).is_ok());
        assert!(ours(&parent, &Value::Null, &id).is_ok());
        let table = [
            (of("kubectl/v1.36"), "another tool"),
            (of(""), "another tool"),
            (json!({"metadata": {}}), "no apply-set"),
        ];
        for (object, wanted) in table {
            let error = ours(&parent, &object, &id).expect_err("refused").to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
