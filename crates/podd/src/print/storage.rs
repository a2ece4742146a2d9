//! The columns of claims, volumes and classes, by kubectl's rules.

use serde_json::Value;

use super::table::{Column, created, or_none};

pub(super) const CLAIM: &[Column] = &[
    ("STATUS", |c, _| status(c)),
    ("VOLUME", |c, _| or_empty(&c["spec"]["volumeName"])),
    ("CAPACITY", |c, _| or_empty(&c["status"]["capacity"]["storage"])),
    ("ACCESS MODES", |c, _| modes(&c["status"]["accessModes"])),
    ("STORAGECLASS", |c, _| or_empty(&c["spec"]["storageClassName"])),
    ("AGE", created),
];
pub(super) const CLAIM_WIDE: &[Column] = &[("VOLUMEMODE", |c, _| or_none(&c["spec"]["volumeMode"]))];
pub(super) const VOLUME: &[Column] = &[
    ("CAPACITY", |v, _| or_empty(&v["spec"]["capacity"]["storage"])),
    ("ACCESS MODES", |v, _| modes(&v["spec"]["accessModes"])),
    ("RECLAIM POLICY", |v, _| or_empty(&v["spec"]["persistentVolumeReclaimPolicy"])),
    ("STATUS", |v, _| status(v)),
    ("CLAIM", |v, _| claim(&v["spec"]["claimRef"])),
    ("STORAGECLASS", |v, _| or_empty(&v["spec"]["storageClassName"])),
    ("REASON", |v, _| or_empty(&v["status"]["reason"])),
    ("AGE", created),
];
pub(super) const VOLUME_WIDE: &[Column] = &[("VOLUMEMODE", |v, _| or_none(&v["spec"]["volumeMode"]))];
pub(super) const CLASS: &[Column] = &[
    ("PROVISIONER", |c, _| or_empty(&c["provisioner"])),
    ("RECLAIMPOLICY", |c, _| or_empty(&c["reclaimPolicy"])),
    ("VOLUMEBINDINGMODE", |c, _| or_empty(&c["volumeBindingMode"])),
    ("ALLOWVOLUMEEXPANSION", |c, _| (c["allowVolumeExpansion"] == true).to_string()),
    ("AGE", created),
];

/// The name of a class, which says if it is the default one.
pub(super) fn name(class: &Value) -> String {
    let meta = &class["metadata"];
    let is_default = meta["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true";
    format!("{}{}", or_empty(&meta["name"]), if is_default { " (default)" } else { "" })
}

/// A claim's or volume's phase, unless it is on its way out.
pub(super) fn status(object: &Value) -> String {
    if object["metadata"]["deletionTimestamp"].is_string() {
        return "Terminating".into();
    }
    or_empty(&object["status"]["phase"])
}

/// `RWO,ROX`.
pub(super) fn modes(modes: &Value) -> String {
    let short = |mode: &Value| match mode.as_str() {
        Some("ReadWriteOnce") => "RWO".to_owned(),
        Some("ReadOnlyMany") => "ROX".to_owned(),
        Some("ReadWriteMany") => "RWX".to_owned(),
        Some("ReadWriteOncePod") => "RWOP".to_owned(),
        other => other.unwrap_or_default().to_owned(),
    };
    modes.as_array().into_iter().flatten().map(short).collect::<Vec<_>>().join(",")
}

fn claim(reference: &Value) -> String {
    match (reference["namespace"].as_str(), reference["name"].as_str()) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => String::new(),
    }
}

fn or_empty(value: &Value) -> String {
    value.as_str().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_are_kubectls() {
        assert_eq!(modes(&json!(["ReadWriteOnce", "ReadOnlyMany"])), "RWO,ROX");
        let claim = json!({"metadata": {}, "status": {"phase": "Bound"}});
        assert_eq!(status(&claim), "Bound");
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Bound"}});
        assert_eq!(status(&going), "Terminating");
        let annotations = json!({"storageclass.kubernetes.io/is-default-class": "true"});
        assert_eq!(name(&json!({"metadata": {"name": "a", "annotations": annotations}})), "a (default)");
    }
}
