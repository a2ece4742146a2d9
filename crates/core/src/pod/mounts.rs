//! What a container's mounts come to: whether one is read-only with all below it, and how the status shows them.

use k8s_openapi::api::core::v1::{Container, VolumeMount, VolumeMountStatus};

/// Whether a mount is made read-only with all below it, by what its manifest asks and the runtime can; the message of one
/// that asks for the impossible is the kubelet's.
///
/// # Errors
/// When it asks for what the runtime cannot do, or contradicts itself.
pub fn mounts_recursively_read_only(mount: &VolumeMount, supported: bool) -> Result<bool, String> {
    let mode = mount.recursive_read_only.as_deref().unwrap_or("Disabled");
    let refuse =
        |why: String| Err(format!("volume \"{}\" requested recursive read-only mode, but it is not {why}", mount.name));
    let propagation = mount.mount_propagation.as_deref().unwrap_or("None");
    match mode {
        "Disabled" => Ok(false),
        _ if mount.read_only != Some(true) => refuse("read-only".into()),
        _ if propagation != "None" => refuse(format!("compatible with propagation \"{propagation}\"")),
        "IfPossible" => Ok(supported),
        _ if supported => Ok(true),
        _ => refuse("supported by the runtime".into()),
    }
}

/// The mounts as a container's status shows them; none for a container without mounts.
pub(super) fn statuses(container: &Container, supported: bool) -> Option<Vec<VolumeMountStatus>> {
    let one = |mount: &VolumeMount| {
        let read_only = mount.read_only == Some(true);
        let recursive = mounts_recursively_read_only(mount, supported).unwrap_or(false);
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: Some(read_only).filter(|read_only| *read_only),
            recursive_read_only: read_only.then(|| if recursive { "Enabled" } else { "Disabled" }.to_owned()),
            ..Default::default()
        }
    };
    let mounts = container.volume_mounts.as_deref().filter(|mounts| !mounts.is_empty())?;
    Some(mounts.iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_status_says_of_each_read_only_mount_how_far_it_goes() {
        let container: Container = serde_json::from_value(json!({"name": "c", "volumeMounts": [
            {"name": "a", "mountPath": "/a"},
            {"name": "b", "mountPath": "/b", "readOnly": true},
            {"name": "c", "mountPath": "/c", "readOnly": true, "recursiveReadOnly": "IfPossible"},
        ]}))
        .unwrap();
        let shown = |supported| serde_json::to_value(statuses(&container, supported)).unwrap();
        let want = |mode: &str| {
            json!([
                {"name": "a", "mountPath": "/a"},
                {"name": "b", "mountPath": "/b", "readOnly": true, "recursiveReadOnly": "Disabled"},
                {"name": "c", "mountPath": "/c", "readOnly": true, "recursiveReadOnly": mode},
            ])
        };
        assert_eq!(shown(true), want("Enabled"));
        assert_eq!(shown(false), want("Disabled"));
        assert_eq!(statuses(&Container::default(), true), None);
    }

    #[test]
    fn what_cannot_be_is_refused_in_the_kubelets_words() {
        let table = [
            (json!({"recursiveReadOnly": "Enabled"}), "read-only"),
            (
                json!({"readOnly": true, "recursiveReadOnly": "IfPossible", "mountPropagation": "HostToContainer"}),
                "compatible with propagation \"HostToContainer\"",
            ),
            (json!({"readOnly": true, "recursiveReadOnly": "Enabled"}), "supported by the runtime"),
        ];
        for (mut mount, why) in table {
            mount["name"] = json!("v");
            mount["mountPath"] = json!("/v");
            let mount: VolumeMount = serde_json::from_value(mount).unwrap();
            let want = format!("volume \"v\" requested recursive read-only mode, but it is not {why}");
            assert_eq!(mounts_recursively_read_only(&mount, false), Err(want));
        }
    }
}
