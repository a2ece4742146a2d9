//! How the fields of a kind merge: only what differs from the rule is written down.
//!
//! The rule: objects merge field by field, lists are replaced whole. The exceptions are those of Kubernetes'
//! OpenAPI (`x-kubernetes-list-type`, `x-kubernetes-list-map-keys`, `x-kubernetes-map-type`) of 1.36.

use Schema::{Atomic, Fields, Keyed, Set};

/// How a value merges.
#[derive(Debug)]
pub(crate) enum Schema {
    /// An object that merges field by field; fields not named here follow the rule.
    Fields(&'static [(&'static str, &'static Schema)]),
    /// A list whose items have an identity: the values of these fields, with the default of an absent one.
    Keyed(&'static [(&'static str, Option<&'static str>)], &'static Schema),
    /// A list of scalars without order.
    Set,
    /// Replaced whole.
    Atomic,
}

/// What is not named follows the rule.
static RULE: Schema = Fields(&[]);

impl Schema {
    pub(super) fn field(&self, name: &str) -> &'static Schema {
        match self {
            Fields(fields) => fields.iter().find(|(field, _)| *field == name).map_or(&RULE, |(_, schema)| schema),
            _ => &RULE,
        }
    }

    /// How the items of a list merge.
    pub(super) fn item(&self) -> &'static Schema {
        match self {
            Keyed(_, item) => item,
            _ => &RULE,
        }
    }
}

static NAME: &[(&str, Option<&str>)] = &[("name", None)];
static TYPE: &[(&str, Option<&str>)] = &[("type", None)];
static IP: &[(&str, Option<&str>)] = &[("ip", None)];

static METADATA: Schema = Fields(&[("finalizers", &Set), ("ownerReferences", &Keyed(&[("uid", None)], &Atomic))]);

static CONDITIONS: Schema = Keyed(TYPE, &RULE);

/// Any object without lists of its own.
pub(crate) static OBJECT: Schema = Fields(&[("metadata", &METADATA)]);

pub(crate) static NAMESPACE: Schema =
    Fields(&[("metadata", &METADATA), ("status", &Fields(&[("conditions", &CONDITIONS)]))]);

pub(crate) static NODE: Schema = Fields(&[
    ("metadata", &METADATA),
    ("spec", &Fields(&[("podCIDRs", &Set)])),
    ("status", &Fields(&[("conditions", &CONDITIONS), ("addresses", &Keyed(TYPE, &RULE))])),
]);

pub(crate) static EVENT: Schema = Fields(&[("metadata", &METADATA), ("involvedObject", &Atomic), ("related", &Atomic)]);

pub(crate) static CLAIM: Schema = Fields(&[
    ("metadata", &METADATA),
    ("spec", &Fields(&[("dataSource", &Atomic), ("selector", &Atomic)])),
    ("status", &Fields(&[("conditions", &CONDITIONS)])),
]);

pub(crate) static VOLUME: Schema =
    Fields(&[("metadata", &METADATA), ("spec", &Fields(&[("nodeAffinity", &Fields(&[("required", &Atomic)]))]))]);

static ENV: Schema = Keyed(
    NAME,
    &Fields(&[(
        "valueFrom",
        &Fields(&[
            ("configMapKeyRef", &Atomic),
            ("fieldRef", &Atomic),
            ("fileKeyRef", &Atomic),
            ("resourceFieldRef", &Atomic),
            ("secretKeyRef", &Atomic),
        ]),
    )]),
);

static CONTAINERS: Schema = Keyed(
    NAME,
    &Fields(&[
        ("env", &ENV),
        ("ports", &Keyed(&[("containerPort", None), ("protocol", Some("TCP"))], &RULE)),
        ("resources", &Fields(&[("claims", &Keyed(NAME, &RULE))])),
        ("volumeDevices", &Keyed(&[("devicePath", None)], &RULE)),
        ("volumeMounts", &Keyed(&[("mountPath", None)], &RULE)),
    ]),
);

static SECRET_REF: Schema = Fields(&[("secretRef", &Atomic)]);

static VOLUMES: Schema = Keyed(
    NAME,
    &Fields(&[
        ("cephfs", &SECRET_REF),
        ("cinder", &SECRET_REF),
        ("csi", &Fields(&[("nodePublishSecretRef", &Atomic)])),
        ("flexVolume", &SECRET_REF),
        ("iscsi", &SECRET_REF),
        ("rbd", &SECRET_REF),
        ("scaleIO", &SECRET_REF),
        ("storageos", &SECRET_REF),
        (
            "ephemeral",
            &Fields(&[(
                "volumeClaimTemplate",
                &Fields(&[("spec", &Fields(&[("dataSource", &Atomic), ("selector", &Atomic)]))]),
            )]),
        ),
    ]),
);

static POD_SPEC: Schema = Fields(&[
    ("affinity", &Fields(&[("nodeAffinity", &Fields(&[("requiredDuringSchedulingIgnoredDuringExecution", &Atomic)]))])),
    ("containers", &CONTAINERS),
    ("ephemeralContainers", &CONTAINERS),
    ("hostAliases", &Keyed(IP, &RULE)),
    ("imagePullSecrets", &Keyed(NAME, &RULE)),
    ("initContainers", &CONTAINERS),
    ("nodeSelector", &Atomic),
    ("resourceClaims", &Keyed(NAME, &RULE)),
    ("schedulingGates", &Keyed(NAME, &RULE)),
    (
        "topologySpreadConstraints",
        &Keyed(&[("topologyKey", None), ("whenUnsatisfiable", None)], &Fields(&[("labelSelector", &Atomic)])),
    ),
    ("volumes", &VOLUMES),
]);

pub(crate) static POD: Schema = Fields(&[
    ("metadata", &METADATA),
    ("spec", &POD_SPEC),
    (
        "status",
        &Fields(&[
            ("conditions", &CONDITIONS),
            ("podIPs", &Keyed(IP, &RULE)),
            ("resourceClaimStatuses", &Keyed(NAME, &RULE)),
        ]),
    ),
]);
