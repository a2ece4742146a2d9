//! The table of kinds: everything that the verbs need to know of a kind is a row here.
//!
//! A new kind is a row (and a file under `kinds/` if it has rules of its own); routes, discovery, storage,
//! selectors, patches and server-side apply follow from it.

mod claim;
mod class;
mod configmap;
mod event;
mod namespace;
mod node;
mod pod;
mod secret;

pub(crate) use pod::validate_ephemeral;

use std::borrow::Cow;
use std::fmt;

use podd_core::field::FieldError;
use podd_core::names;
use serde_json::Value;

use crate::apply::{self, Schema};
use crate::decode::{self, Decoded, TypeProblem};

/// What one row tells. Functions work on whole objects as JSON; those that refuse return field errors.
pub(crate) struct Kind {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) short_names: &'static [&'static str],
    pub(crate) categories: &'static [&'static str],
    pub(crate) namespaced: bool,
    /// What is wrong with a name.
    pub(crate) name_rule: fn(&str) -> Option<String>,
    pub(crate) subresources: &'static [Subresource],
    /// Which lists are merged by key and which maps are replaced whole.
    pub(crate) schema: &'static Schema,
    /// Field selectors beyond name and namespace, and where their values are.
    pub(crate) fields: &'static [(&'static str, &'static str)],
    /// Events: made visible before they are durable, and dropped after [`Config::event_ttl`](crate::Config).
    pub(crate) transient: bool,
    /// Reads the object as its Kubernetes type: canonical JSON, unknown fields listed.
    pub(crate) decode: fn(Value) -> Result<Decoded, TypeProblem>,
    /// Fields that podd refuses, and warnings on those without effect.
    pub(crate) verdict: fn(&Value) -> (Vec<FieldError>, Vec<String>),
    /// Fills in what a client may leave out.
    pub(crate) default: fn(&mut Value),
    /// Sets what only the server may set in a new object.
    pub(crate) prepare_create: fn(&mut Value, &Context),
    /// Restores what a client may not change through the main resource (new, old).
    pub(crate) prepare_update: fn(&mut Value, &Value),
    /// What the kind's rules object to.
    pub(crate) validate: fn(&Value) -> Vec<FieldError>,
    /// What the kind's rules object to in a new object alone.
    pub(crate) validate_create: fn(&Value) -> Vec<FieldError>,
    /// What may not change (new, old).
    pub(crate) validate_update: fn(&Value, &Value) -> Vec<FieldError>,
    /// The seconds that a deletion waits for its finisher; 0: it goes at once.
    pub(crate) grace: fn(&Value, Option<i64>, &Context) -> i64,
    /// `metadata.generation` counts the changes of `spec`.
    pub(crate) has_generation: bool,
    /// A deletion answers with the object rather than with a `Status`.
    pub(crate) returns_deleted: bool,
}

/// What the functions of a row may need to know of the server.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The one node.
    pub(crate) node_name: String,
    /// RFC 3339, in seconds.
    pub(crate) now: String,
}

/// The parts of an object with a path of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subresource {
    Status,
    /// Of a pod: the list in its spec that may grow.
    EphemeralContainers,
    Log,
    Exec,
    Attach,
    PortForward,
}

impl Subresource {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
        }
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)
    }
}

impl Kind {
    /// A namespaced kind of the core group without rules of its own; rows override it.
    const BASE: Self = Self {
        group: "",
        version: "v1",
        plural: "",
        singular: "",
        kind: "",
        short_names: &[],
        categories: &[],
        namespaced: true,
        name_rule: names::dns_subdomain,
        subresources: &[],
        schema: &apply::OBJECT,
        fields: &[],
        transient: false,
        decode: |value| Ok(Decoded { value, unknown: Vec::new() }),
        verdict: |_| (Vec::new(), Vec::new()),
        default: |_| {},
        prepare_create: |_, _| {},
        prepare_update: |_, _| {},
        validate: |_| Vec::new(),
        validate_create: |_| Vec::new(),
        validate_update: |_, _| Vec::new(),
        grace: |_, _, _| 0,
        has_generation: false,
        returns_deleted: false,
    };

    /// `plural` or `plural.group`: the name of the kind in messages and in the store.
    pub(crate) fn resource(&self) -> Cow<'static, str> {
        match self.group {
            "" => self.plural.into(),
            group => format!("{}.{group}", self.plural).into(),
        }
    }

    /// `v1` or `group/version`.
    pub(crate) fn api_version(&self) -> Cow<'static, str> {
        match self.group {
            "" => self.version.into(),
            group => format!("{group}/{}", self.version).into(),
        }
    }

    pub(crate) fn has_status(&self) -> bool {
        self.subresources.contains(&Subresource::Status)
    }
}

/// The row of namespaces, which every namespaced object refers to.
pub(crate) static NAMESPACE: &Kind = &KINDS[0];
/// The row of pods.
#[cfg(test)]
pub(crate) static POD: &Kind = &KINDS[1];

/// The row of a kind that is sure to have one.
pub(crate) fn of(kind: &str) -> &'static Kind {
    KINDS.iter().find(|row| row.kind == kind).expect("the caller names a kind of the table")
}

/// All kinds. The first two rows have names above.
pub(crate) static KINDS: &[Kind] = &[
    Kind {
        plural: "namespaces",
        singular: "namespace",
        kind: "Namespace",
        short_names: &["ns"],
        namespaced: false,
        name_rule: names::dns_label,
        subresources: &[Subresource::Status],
        schema: &apply::NAMESPACE,
        fields: &[("status.phase", "/status/phase")],
        decode: decode::typed::<k8s_openapi::api::core::v1::Namespace>,
        prepare_create: namespace::prepare_create,
        prepare_update: namespace::prepare_update,
        returns_deleted: true,
        ..Kind::BASE
    },
    Kind {
        plural: "pods",
        singular: "pod",
        kind: "Pod",
        short_names: &["po"],
        categories: &["all"],
        subresources: &[
            Subresource::Status,
            Subresource::EphemeralContainers,
            Subresource::Log,
            Subresource::Exec,
            Subresource::Attach,
            Subresource::PortForward,
        ],
        schema: &apply::POD,
        fields: &[
            ("spec.nodeName", "/spec/nodeName"),
            ("spec.restartPolicy", "/spec/restartPolicy"),
            ("spec.schedulerName", "/spec/schedulerName"),
            ("spec.serviceAccountName", "/spec/serviceAccountName"),
            ("spec.hostNetwork", "/spec/hostNetwork"),
            ("status.phase", "/status/phase"),
            ("status.podIP", "/status/podIP"),
            ("status.nominatedNodeName", "/status/nominatedNodeName"),
        ],
        decode: decode::typed::<k8s_openapi::api::core::v1::Pod>,
        verdict: pod::verdict,
        default: pod::default,
        prepare_create: pod::prepare_create,
        prepare_update: pod::prepare_update,
        validate: pod::validate,
        validate_create: pod::validate_create,
        validate_update: pod::validate_update,
        grace: pod::grace,
        has_generation: true,
        returns_deleted: true,
        ..Kind::BASE
    },
    Kind {
        plural: "nodes",
        singular: "node",
        kind: "Node",
        short_names: &["no"],
        namespaced: false,
        subresources: &[Subresource::Status],
        schema: &apply::NODE,
        fields: &[("spec.unschedulable", "/spec/unschedulable")],
        decode: decode::typed::<k8s_openapi::api::core::v1::Node>,
        prepare_create: node::prepare_create,
        ..Kind::BASE
    },
    Kind {
        plural: "events",
        singular: "event",
        kind: "Event",
        short_names: &["ev"],
        schema: &apply::EVENT,
        fields: event::FIELDS,
        transient: true,
        decode: decode::typed::<k8s_openapi::api::core::v1::Event>,
        default: event::default,
        validate: event::validate,
        ..Kind::BASE
    },
    Kind {
        plural: "configmaps",
        singular: "configmap",
        kind: "ConfigMap",
        short_names: &["cm"],
        decode: decode::typed::<k8s_openapi::api::core::v1::ConfigMap>,
        validate: configmap::validate,
        validate_update: configmap::validate_update,
        ..Kind::BASE
    },
    Kind {
        plural: "secrets",
        singular: "secret",
        kind: "Secret",
        fields: &[("type", "/type")],
        decode: decode::typed::<k8s_openapi::api::core::v1::Secret>,
        default: secret::default,
        validate: secret::validate,
        validate_update: secret::validate_update,
        ..Kind::BASE
    },
    Kind {
        group: "scheduling.k8s.io",
        plural: "priorityclasses",
        singular: "priorityclass",
        kind: "PriorityClass",
        short_names: &["pc"],
        namespaced: false,
        decode: decode::typed::<k8s_openapi::api::scheduling::v1::PriorityClass>,
        default: class::default_priority,
        validate: class::validate_priority,
        validate_update: class::validate_priority_update,
        has_generation: true,
        ..Kind::BASE
    },
    Kind {
        group: "node.k8s.io",
        plural: "runtimeclasses",
        singular: "runtimeclass",
        kind: "RuntimeClass",
        namespaced: false,
        decode: decode::typed::<k8s_openapi::api::node::v1::RuntimeClass>,
        validate: class::validate_runtime,
        validate_update: class::validate_runtime_update,
        ..Kind::BASE
    },
    Kind {
        plural: "persistentvolumeclaims",
        singular: "persistentvolumeclaim",
        kind: "PersistentVolumeClaim",
        short_names: &["pvc"],
        subresources: &[Subresource::Status],
        schema: &apply::CLAIM,
        decode: decode::typed::<k8s_openapi::api::core::v1::PersistentVolumeClaim>,
        default: claim::default,
        prepare_create: claim::prepare_create,
        prepare_update: claim::prepare_update,
        validate: claim::validate,
        validate_update: claim::validate_update,
        returns_deleted: true,
        ..Kind::BASE
    },
    Kind {
        plural: "persistentvolumes",
        singular: "persistentvolume",
        kind: "PersistentVolume",
        short_names: &["pv"],
        namespaced: false,
        subresources: &[Subresource::Status],
        schema: &apply::VOLUME,
        decode: decode::typed::<k8s_openapi::api::core::v1::PersistentVolume>,
        default: claim::default_volume,
        prepare_create: claim::prepare_create_volume,
        validate: claim::validate_volume,
        validate_update: claim::validate_volume_update,
        returns_deleted: true,
        ..Kind::BASE
    },
    Kind {
        group: "storage.k8s.io",
        plural: "storageclasses",
        singular: "storageclass",
        kind: "StorageClass",
        short_names: &["sc"],
        namespaced: false,
        decode: decode::typed::<k8s_openapi::api::storage::v1::StorageClass>,
        default: claim::default_class,
        validate: claim::validate_class,
        validate_update: claim::validate_class_update,
        returns_deleted: true,
        ..Kind::BASE
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_named_once_and_the_fixed_rows_are_where_they_are_named() {
        let mut seen: Vec<_> = KINDS.iter().map(Kind::resource).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), KINDS.len());
        assert_eq!((NAMESPACE.kind, POD.kind), ("Namespace", "Pod"));
    }
}
