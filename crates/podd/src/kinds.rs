//! The kinds that the command line knows by name: a row each.

use anyhow::bail;
use kube::core::ApiResource;

/// A kind of objects.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) kind: &'static str,
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    /// What it may be called on the command line beside its plural.
    names: &'static [&'static str],
    pub(crate) namespaced: bool,
    /// Objects of lower rank are made first: what others need.
    pub(crate) rank: u8,
}

/// The category of what runs: of podd's kinds only pods.
pub(crate) const ALL: &str = "all";

/// Every kind that this version serves.
pub(crate) const KINDS: &[Kind] = &[
    Kind {
        kind: "Namespace",
        group: "",
        version: "v1",
        plural: "namespaces",
        names: &["namespace", "ns"],
        namespaced: false,
        rank: 0,
    },
    Kind {
        kind: "Node",
        group: "",
        version: "v1",
        plural: "nodes",
        names: &["node", "no"],
        namespaced: false,
        rank: 1,
    },
    Kind {
        kind: "ConfigMap",
        group: "",
        version: "v1",
        plural: "configmaps",
        names: &["configmap", "cm"],
        namespaced: true,
        rank: 2,
    },
    Kind { kind: "Secret", group: "", version: "v1", plural: "secrets", names: &["secret"], namespaced: true, rank: 2 },
    Kind {
        kind: "PriorityClass",
        group: "scheduling.k8s.io",
        version: "v1",
        plural: "priorityclasses",
        names: &["priorityclass", "pc"],
        namespaced: false,
        rank: 1,
    },
    Kind {
        kind: "RuntimeClass",
        group: "node.k8s.io",
        version: "v1",
        plural: "runtimeclasses",
        names: &["runtimeclass"],
        namespaced: false,
        rank: 1,
    },
    Kind {
        kind: "StorageClass",
        group: "storage.k8s.io",
        version: "v1",
        plural: "storageclasses",
        names: &["storageclass", "sc"],
        namespaced: false,
        rank: 2,
    },
    Kind {
        kind: "PersistentVolume",
        group: "",
        version: "v1",
        plural: "persistentvolumes",
        names: &["persistentvolume", "pv"],
        namespaced: false,
        rank: 2,
    },
    Kind {
        kind: "PersistentVolumeClaim",
        group: "",
        version: "v1",
        plural: "persistentvolumeclaims",
        names: &["persistentvolumeclaim", "pvc"],
        namespaced: true,
        rank: 2,
    },
    Kind {
        kind: "Pod",
        group: "",
        version: "v1",
        plural: "pods",
        names: &["pod", "po", ALL],
        namespaced: true,
        rank: 3,
    },
    Kind {
        kind: "Event",
        group: "",
        version: "v1",
        plural: "events",
        names: &["event", "ev"],
        namespaced: true,
        rank: 4,
    },
];

impl Kind {
    /// The kind with this `apiVersion` and `kind`.
    pub(crate) fn of_manifest(api_version: &str, kind: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|k| k.kind == kind && k.api_version() == api_version)
    }

    /// The kind that a person calls `name`.
    pub(crate) fn by_name(name: &str) -> anyhow::Result<&'static Kind> {
        let lower = name.to_ascii_lowercase();
        let found = KINDS.iter().find(|k| k.plural == lower || k.names.contains(&lower.as_str()));
        match found {
            Some(kind) => Ok(kind),
            None => {
                let all: Vec<&str> = KINDS.iter().map(|k| k.plural).collect();
                bail!("podd has no resource type \"{name}\"; it has {}", all.join(", "))
            }
        }
    }

    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The singular name, as it stands before a slash.
    pub(crate) fn singular(&self) -> String {
        self.kind.to_ascii_lowercase()
    }

    pub(crate) fn resource(&self) -> ApiResource {
        ApiResource {
            group: self.group.into(),
            version: self.version.into(),
            api_version: self.api_version(),
            kind: self.kind.into(),
            plural: self.plural.into(),
        }
    }
}

/// What a command names: all objects of a kind, or one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) kind: &'static Kind,
    pub(crate) name: Option<String>,
}

/// Reads `pods`, `pod a b`, `pod/a node/b`, `pods,nodes`.
pub(crate) fn targets(words: &[String]) -> anyhow::Result<Vec<Target>> {
    let Some(first) = words.first() else {
        return Ok(Vec::new());
    };
    if first.contains('/') {
        return words
            .iter()
            .map(|word| match word.split_once('/') {
                Some((kind, name)) if !name.is_empty() => {
                    Ok(Target { kind: Kind::by_name(kind)?, name: Some(name.into()) })
                }
                _ => bail!("\"{word}\": name every object as KIND/NAME when the first is named so"),
            })
            .collect();
    }
    let kinds = first.split(',').map(Kind::by_name).collect::<anyhow::Result<Vec<_>>>()?;
    let mut list = Vec::new();
    for kind in kinds {
        if words.len() == 1 {
            list.push(Target { kind, name: None });
        }
        for name in &words[1..] {
            if name.contains('/') {
                bail!("\"{name}\": a name has no slash; write KIND NAME... or KIND/NAME...");
            }
            list.push(Target { kind, name: Some(name.clone()) });
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Vec<String>, String> {
        let words: Vec<String> = words.iter().map(|w| (*w).into()).collect();
        let show = |t: Target| format!("{}/{}", t.kind.plural, t.name.unwrap_or("*".into()));
        targets(&words).map(|list| list.into_iter().map(show).collect()).map_err(|e| e.to_string())
    }

    #[test]
    fn objects_are_named_as_with_kubectl() {
        assert_eq!(read(&["pods"]).unwrap(), ["pods/*"]);
        assert_eq!(read(&["po", "a", "b"]).unwrap(), ["pods/a", "pods/b"]);
        assert_eq!(read(&["pod/a", "ns/b"]).unwrap(), ["pods/a", "namespaces/b"]);
        assert_eq!(read(&["cm,secret"]).unwrap(), ["configmaps/*", "secrets/*"]);
        assert!(read(&["widgets"]).unwrap_err().contains("widgets"));
        assert!(read(&["pod/a", "b"]).is_err());
        assert!(read(&["pod", "a/b"]).is_err());
    }
}
