//! What a container mounts, in CRI's words: its volumes, each whole or by a path in it, and the pod's hosts file.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod, VolumeMount};
use podd_core::pod::{Failure, mounts_recursively_read_only};
use podd_cri::v1;

use super::{expand::expand_known, start::config_error};
use crate::{
    volumes::SubPath,
    worker::services::{Prepared, Services},
};

/// Where a pod's hosts file is seen, unless a volume is mounted there.
const HOSTS: &str = "/etc/hosts";

/// What mounts are made of.
pub(super) struct Sources<'a> {
    pub(super) prepared: &'a Prepared,
    /// The pod's hosts file.
    pub(super) hosts: &'a Path,
    /// The container's environment, for `subPathExpr`.
    pub(super) environment: &'a BTreeMap<String, String>,
    /// Whether the runtime can make a mount read-only with all below it.
    pub(super) recursive_read_only: bool,
}

/// A container's mounts. Paths in volumes are bound on the node by this.
pub(super) async fn mounts(
    services: &Services,
    pod: &Pod,
    container: &Container,
    sources: &Sources<'_>,
) -> Result<Vec<v1::Mount>, Failure> {
    let mut mounts = Vec::new();
    for (index, wanted) in container.volume_mounts.iter().flatten().enumerate() {
        if let Some(image) = image_of(pod, &wanted.name) {
            mounts.push(of_image(wanted, image, sources)?);
            continue;
        }
        let (mount, sub_path) = plan(container, wanted, sources)?;
        let host_path = match sub_path {
            None => mount.host_path,
            Some(path) => {
                let volume = PathBuf::from(&mount.host_path);
                let written = written(wanted).to_owned();
                let sub_path = SubPath { container: container.name.clone(), index, volume, path, written };
                let bound = services.resources.sub_path(pod, &sub_path).await.map_err(|failure| {
                    config_error(format!(
                        "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {}",
                        wanted.name, container.name, failure.message
                    ))
                })?;
                text(&bound)
            }
        };
        mounts.push(v1::Mount { host_path, ..mount });
    }
    mounts.extend(hosts_file(&mounts, sources.hosts));
    Ok(mounts)
}

/// The pod's hosts file, unless something else is mounted there.
fn hosts_file(mounts: &[v1::Mount], path: &Path) -> Option<v1::Mount> {
    let taken = mounts.iter().any(|mount| mount.container_path.trim_end_matches('/') == HOSTS);
    (!taken).then(|| v1::Mount { container_path: HOSTS.to_owned(), host_path: text(path), ..Default::default() })
}

/// The mount of a whole volume, and the path in it that is meant instead.
fn plan(
    container: &Container,
    wanted: &VolumeMount,
    sources: &Sources<'_>,
) -> Result<(v1::Mount, Option<String>), Failure> {
    let volume = sources.prepared.volumes.get(&wanted.name).ok_or_else(|| {
        let (volume, name) = (&wanted.name, &container.name);
        config_error(format!("cannot find volume \"{volume}\" to mount into container \"{name}\""))
    })?;
    let sub_path = sub_path(wanted, sources.environment)?;
    let recursive = mounts_recursively_read_only(wanted, sources.recursive_read_only)
        .map_err(|message| config_error(format!("failed to resolve recursive read-only mode: {message}")))?;
    let mount = v1::Mount {
        // A relative path is meant from the root.
        container_path: text(&Path::new("/").join(&wanted.mount_path)),
        host_path: text(&volume.path),
        readonly: volume.read_only || wanted.read_only == Some(true),
        recursive_read_only: recursive,
        propagation: propagation(wanted) as i32,
        ..Default::default()
    };
    Ok((mount, sub_path))
}

/// The image of an image volume.
fn image_of<'a>(pod: &'a Pod, volume: &str) -> Option<&'a ImageVolumeSource> {
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.find(|found| found.name == volume)?.image.as_ref()
}

/// The mount of an image volume: the runtime shows what is in the image, or a path of it, read-only.
fn of_image(wanted: &VolumeMount, image: &ImageVolumeSource, sources: &Sources<'_>) -> Result<v1::Mount, Failure> {
    let reference = image.reference.clone().unwrap_or_default();
    Ok(v1::Mount {
        container_path: text(&Path::new("/").join(&wanted.mount_path)),
        readonly: true,
        image: Some(v1::ImageSpec { image: reference.clone(), user_specified_image: reference, ..Default::default() }),
        image_sub_path: sub_path(wanted, sources.environment)?.unwrap_or_default(),
        ..Default::default()
    })
}

fn propagation(wanted: &VolumeMount) -> v1::MountPropagation {
    match wanted.mount_propagation.as_deref() {
        Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
        _ => v1::MountPropagation::PropagationPrivate,
    }
}

/// `subPath`, or `subPathExpr` with the container's variables in it. What validation forbids can come from a variable's
/// value.
fn sub_path(wanted: &VolumeMount, environment: &BTreeMap<String, String>) -> Result<Option<String>, Failure> {
    let path = match (wanted.sub_path.as_deref(), wanted.sub_path_expr.as_deref()) {
        (_, Some(expression)) if !expression.is_empty() => expand_known(expression, environment)
            .map_err(|name| config_error(format!("missing value for \"{name}\"")))?,
        (Some(path), _) => path.to_owned(),
        _ => String::new(),
    };
    let written = written(wanted);
    if Path::new(&path).is_absolute() {
        return Err(config_error(format!("error SubPath `{written}` must not be an absolute path")));
    }
    if Path::new(&path).components().any(|part| part == Component::ParentDir) {
        return Err(config_error(format!("unable to provision SubPath `{written}`: must not contain '..'")));
    }
    Ok(Some(path).filter(|path| !path.is_empty()))
}

/// The path as the manifest has it: a variable's value may be a secret, which no error shows.
fn written(wanted: &VolumeMount) -> &str {
    let expression = wanted.sub_path_expr.as_deref().filter(|expression| !expression.is_empty());
    expression.or(wanted.sub_path.as_deref()).unwrap_or_default()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::worker::HostVolume;

    fn planned(mount: Value, recursive_read_only: bool) -> Result<(v1::Mount, Option<String>), String> {
        let mut whole = json!({"name": "v", "mountPath": "/data"});
        whole.as_object_mut().expect("an object").extend(mount.as_object().expect("an object").clone());
        let wanted: VolumeMount = serde_json::from_value(whole).expect("a mount");
        let container: Container = serde_json::from_value(json!({"name": "c"})).expect("a container");
        let volume = |read_only| HostVolume { path: "/host/v".into(), read_only };
        let volumes = [("v".to_owned(), volume(false)), ("ro".to_owned(), volume(true))].into();
        let prepared = Prepared { volumes, ..Prepared::default() };
        let environment = [("A", "a"), ("UP", "x/../../y"), ("ROOT", "/etc"), ("EMPTY", "")];
        let environment = environment.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let sources =
            Sources { prepared: &prepared, hosts: Path::new("/h"), environment: &environment, recursive_read_only };
        plan(&container, &wanted, &sources).map_err(|failure| format!("{}: {}", failure.reason, failure.message))
    }

    #[test]
    fn a_mount_says_what_the_manifest_says() {
        let table = [
            (json!({}), (false, false, v1::MountPropagation::PropagationPrivate)),
            (json!({"readOnly": true}), (true, false, v1::MountPropagation::PropagationPrivate)),
            (json!({"name": "ro"}), (true, false, v1::MountPropagation::PropagationPrivate)),
            (
                json!({"mountPropagation": "HostToContainer"}),
                (false, false, v1::MountPropagation::PropagationHostToContainer),
            ),
            (
                json!({"mountPropagation": "Bidirectional"}),
                (false, false, v1::MountPropagation::PropagationBidirectional),
            ),
            (
                json!({"readOnly": true, "recursiveReadOnly": "Enabled"}),
                (true, true, v1::MountPropagation::PropagationPrivate),
            ),
            (
                json!({"readOnly": true, "recursiveReadOnly": "IfPossible"}),
                (true, true, v1::MountPropagation::PropagationPrivate),
            ),
        ];
        for (mount, (readonly, recursive, propagation)) in table {
            let (made, sub_path) = planned(mount.clone(), true).expect("a mount");
            assert_eq!(
                (made.readonly, made.recursive_read_only, made.propagation()),
                (readonly, recursive, propagation)
            );
            assert_eq!(sub_path, None, "{mount}");
        }
        let (made, _) = planned(json!({"readOnly": true, "recursiveReadOnly": "IfPossible"}), false).expect("a mount");
        assert!(made.readonly && !made.recursive_read_only);
        let refused = planned(json!({"readOnly": true, "recursiveReadOnly": "Enabled"}), false).expect_err("not here");
        assert!(refused.starts_with("CreateContainerConfigError: failed to resolve recursive"), "{refused}");
    }

    #[test]
    fn volumes_and_the_hosts_file_are_mounted() {
        let (data, _) = planned(json!({"mountPath": "data", "readOnly": true}), true).expect("a mount");
        assert_eq!((&*data.container_path, &*data.host_path, data.readonly), ("/data", "/host/v", true));
        let hosts = hosts_file(&[data], Path::new("/pods/u/etc-hosts")).expect("the hosts file");
        assert_eq!(
            (&*hosts.container_path, &*hosts.host_path, hosts.readonly),
            ("/etc/hosts", "/pods/u/etc-hosts", false)
        );
        let (own, _) = planned(json!({"mountPath": "/etc/hosts"}), true).expect("a mount");
        assert_eq!(hosts_file(&[own], Path::new("/h")), None, "a volume of one's own goes before the hosts file");
    }

    #[test]
    fn a_volume_that_is_not_there_is_a_configuration_error() {
        let failure = planned(json!({"name": "w"}), true).expect_err("no such volume");
        assert!(failure.starts_with("CreateContainerConfigError: cannot find volume \"w\""), "{failure}");
    }

    #[test]
    fn a_sub_path_is_what_is_left_when_its_variables_are_known_and_stays_inside() {
        let table = [
            (json!({"subPath": "a/$(A)"}), Ok(Some("a/$(A)"))),
            (json!({"subPathExpr": "a/$(A)"}), Ok(Some("a/a"))),
            (json!({"subPathExpr": "$$(A)"}), Ok(Some("$(A)"))),
            (json!({"subPathExpr": "$(EMPTY)"}), Ok(None)),
            (json!({"subPathExpr": "$(NOPE)"}), Err("missing value for \"NOPE\"")),
            (json!({"subPathExpr": "$(ROOT)"}), Err("error SubPath `$(ROOT)` must not be an absolute path")),
            (json!({"subPathExpr": "$(UP)"}), Err("unable to provision SubPath `$(UP)`: must not contain '..'")),
        ];
        for (mount, want) in table {
            let found = planned(mount.clone(), true).map(|(_, sub_path)| sub_path);
            let want = want.map(|path| path.map(str::to_owned));
            assert_eq!(found, want.map_err(|message| format!("CreateContainerConfigError: {message}")), "{mount}");
        }
    }
}
