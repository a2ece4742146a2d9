//! What the server serves, told in the ways that clients ask: plain and aggregated discovery, versions.

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::kinds::{KINDS, Kind, Subresource};

const READ_WRITE: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// The Kubernetes version whose API this is.
const MINOR: &str = "36";

/// `/version`.
pub(crate) fn version() -> Value {
    json!({
        "major": "1",
        "minor": MINOR,
        "gitVersion": format!("v1.{MINOR}.0+podd"),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }),
    })
}

/// `/api`: the versions of the core group.
pub(crate) fn core_versions() -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [],
    })
}

/// `/apis`: the named groups.
pub(crate) fn groups() -> Value {
    let groups: Vec<Value> = named_groups().into_iter().map(|(name, versions)| group(name, &versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub(crate) fn group_of(name: &str) -> Result<Value, Failure> {
    let (name, versions) = named_groups().into_iter().find(|(n, _)| *n == name).ok_or_else(Failure::no_route)?;
    let mut group = group(name, &versions);
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Ok(group)
}

fn named_groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for kind in KINDS.iter().filter(|kind| !kind.group.is_empty()) {
        match groups.iter_mut().find(|(name, _)| *name == kind.group) {
            Some((_, versions)) if versions.contains(&kind.version) => {}
            Some((_, versions)) => versions.push(kind.version),
            None => groups.push((kind.group, vec![kind.version])),
        }
    }
    groups
}

fn group(name: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "preferredVersion": versions[0], "versions": versions})
}

/// `/api/v1` and `/apis/GROUP/VERSION`: the resources of one version.
pub(crate) fn resources(group: &str, version: &str) -> Result<Value, Failure> {
    let kinds = KINDS.iter().filter(|kind| kind.group == group && kind.version == version);
    let resources: Vec<Value> = kinds.flat_map(resources_of).collect();
    if resources.is_empty() {
        return Err(Failure::no_route());
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": group_version, "resources": resources,
    }))
}

fn resources_of(kind: &'static Kind) -> impl Iterator<Item = Value> {
    let mut main = json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
        "kind": kind.kind, "verbs": READ_WRITE,
    });
    if !kind.short_names.is_empty() {
        main["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        main["categories"] = json!(kind.categories);
    }
    let subresources = kind.subresources.iter().map(|sub| {
        let (kind_name, verbs) = subresource(kind, *sub);
        json!({
            "name": format!("{}/{}", kind.plural, sub.name()), "singularName": "",
            "namespaced": kind.namespaced, "kind": kind_name, "verbs": verbs,
        })
    });
    std::iter::once(main).chain(subresources)
}

fn subresource(kind: &Kind, sub: Subresource) -> (&'static str, &'static [&'static str]) {
    match sub {
        Subresource::Status | Subresource::EphemeralContainers => (kind.kind, &["get", "patch", "update"]),
        Subresource::Log => (kind.kind, &["get"]),
        Subresource::Exec => ("PodExecOptions", &["create", "get"]),
        Subresource::Attach => ("PodAttachOptions", &["create", "get"]),
        Subresource::PortForward => ("PodPortForwardOptions", &["create", "get"]),
    }
}

/// The media type of aggregated discovery, which `/api` and `/apis` may be asked for.
pub(crate) const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Whether an `Accept` header asks for aggregated discovery.
pub(crate) fn wants_aggregated(accept: &str) -> bool {
    accept.split(',').any(|choice| {
        let mut parameters = choice.split(';').map(str::trim);
        parameters.next() == Some("application/json")
            && ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"]
                .iter()
                .all(|want| choice.split(';').any(|p| p.trim() == *want))
    })
}

/// Everything in one answer: the core group for `/api`, the named ones for `/apis`.
pub(crate) fn aggregated(core: bool) -> Value {
    let groups: Vec<(&str, Vec<&str>)> = if core { vec![("", vec!["v1"])] } else { named_groups() };
    let items: Vec<Value> = groups
        .into_iter()
        .map(|(name, versions)| {
            let versions: Vec<Value> = versions.iter().map(|v| aggregated_version(name, v)).collect();
            let mut item = json!({"metadata": {"creationTimestamp": null}, "versions": versions});
            if !name.is_empty() {
                item["metadata"]["name"] = name.into();
            }
            item
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {}, "items": items,
    })
}

fn aggregated_version(group: &str, version: &str) -> Value {
    let scope = |kind: &Kind| {
        if kind.namespaced { "Namespaced" } else { "Cluster" }
    };
    let resources: Vec<Value> = KINDS
        .iter()
        .filter(|kind| kind.group == group && kind.version == version)
        .map(|kind| {
            let of = |name: &str| json!({"group": group, "version": version, "kind": name});
            let subresources: Vec<Value> = kind
                .subresources
                .iter()
                .map(|sub| {
                    let (kind_name, verbs) = subresource(kind, *sub);
                    json!({"subresource": sub.name(), "responseKind": of(kind_name), "verbs": verbs})
                })
                .collect();
            json!({
                "resource": kind.plural, "responseKind": of(kind.kind), "scope": scope(kind),
                "singularResource": kind.singular, "verbs": READ_WRITE,
                "shortNames": kind.short_names, "categories": kind.categories,
                "subresources": subresources,
            })
        })
        .collect();
    json!({"version": version, "freshness": "Current", "resources": resources})
}
