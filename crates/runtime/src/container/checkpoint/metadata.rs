//! The JSON files of a checkpoint's archive, by the names and fields that container engines and `checkpointctl` read.

use serde_json::{Value, json};

use crate::clock::now;
use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Context, CriError, Result};
use crate::records::Stage;

/// Files of the archive and what is in them.
pub(super) type Described = Vec<(&'static str, Vec<u8>)>;

/// Says what was written down.
pub(super) fn describe(engine: &Engine, container: &Container) -> Result<Described> {
    let what = || "describe the checkpoint";
    let (meta, status) = (&container.meta, container.status());
    let started_at = match status.stage {
        Stage::Running { started_at } => started_at,
        _ => 0,
    };
    let config = json!({
        "id": meta.id,
        "name": meta.owner.name,
        "rootfsImage": meta.image.id,
        "rootfsImageRef": meta.image.reference,
        "rootfsImageName": meta.image.requested,
        "runtime": "podd-shim",
        "createdTime": time(meta.created_at)?,
        "checkpointedTime": time(now())?,
        // Go's zero, which its readers take for "never".
        "restoredTime": "0001-01-01T00:00:00Z",
        "restored": false,
    });
    let container_status = json!({
        "CreatedAt": meta.created_at,
        "StartedAt": started_at,
        "FinishedAt": 0,
        "ExitCode": 0,
        "Pid": status.pid,
        "Reason": "",
        "Message": "",
    });
    let spec = spec(engine, container)?;
    [("config.dump", config), ("spec.dump", spec), ("status", container_status)]
        .into_iter()
        .map(|(name, value)| Ok((name, serde_json::to_vec(&value).context(what)?)))
        .collect()
}

/// The OCI configuration as far as podd knows it; unlike what callers are shown, with the environment, which is in the
/// memory's images anyway.
fn spec(engine: &Engine, container: &Container) -> Result<Value> {
    let told = engine.describe_container(container)?;
    let info = told.get("info").map(String::as_str).unwrap_or_default();
    let mut info: Value = serde_json::from_str(info).context(|| "describe the checkpoint")?;
    let (meta, pod) = (&container.meta, &container.sandbox.meta);
    let mut spec = info["runtimeSpec"].take();
    spec["ociVersion"] = json!("1.2.1");
    spec["process"]["args"] = json!(meta.args);
    spec["process"]["env"] = json!(meta.exec.env);
    spec["root"] = json!({ "path": "rootfs" });
    let mut annotations = json!(meta.annotations);
    for (name, value) in [
        ("io.kubernetes.cri.container-type", "container"),
        ("io.kubernetes.cri.container-name", &meta.owner.name),
        ("io.kubernetes.cri.image-name", &meta.image.requested),
        ("io.kubernetes.cri.sandbox-id", &meta.sandbox_id),
        ("io.kubernetes.cri.sandbox-name", &pod.owner.name),
        ("io.kubernetes.cri.sandbox-namespace", &pod.owner.namespace),
        ("io.kubernetes.cri.sandbox-uid", &pod.owner.uid),
    ] {
        annotations[name] = json!(value);
    }
    spec["annotations"] = annotations;
    Ok(spec)
}

/// CRI's time as RFC 3339.
fn time(nanoseconds: i64) -> Result<String> {
    let time = jiff::Timestamp::from_nanosecond(nanoseconds.into());
    time.map(|time| time.to_string()).map_err(|error| CriError::internal("write a time", error.to_string()))
}
