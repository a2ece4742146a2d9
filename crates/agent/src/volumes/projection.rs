//! What the files of configMap, secret, downwardAPI and projected volumes are: a value made of the pod and of the objects
//! that it names. Errors are the kubelet's words, and hold no values.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, Volume, VolumeProjection},
};

use crate::{
    downward::{self, DefaultLimits},
    references::Referenced,
};

/// The mode of a file of which nothing else is said.
const MODE: i32 = 0o644;

/// One file. It cannot be printed, for what may be in it.
#[derive(PartialEq, Eq)]
pub(super) struct File {
    pub(super) data: Vec<u8>,
    pub(super) mode: u32,
}

/// By path in the volume.
pub(super) type Files = BTreeMap<String, File>;

/// A volume that shows what the API has.
pub(crate) struct Projection {
    /// The directory of volumes of its kind.
    pub(super) directory: &'static str,
    /// Whether its files are never on disk.
    pub(super) memory: bool,
    pub(super) files: Files,
}

/// All such volumes of a pod, by name.
pub(crate) type Projections = BTreeMap<String, Projection>;

/// Whether a volume is made of what the API has. Such a volume is never written to by containers.
pub(crate) fn is_projected(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// The contents of all such volumes of a pod; an error names its volume.
pub(crate) fn project(
    pod: &Pod,
    objects: &Referenced,
    limits: &DefaultLimits,
) -> Result<Projections, (String, String)> {
    let of = Of { pod, objects, limits };
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let mut projections = Projections::new();
    for volume in volumes.iter().filter(|volume| is_projected(volume)) {
        let projection = of.volume(volume).map_err(|message| (volume.name.clone(), message))?;
        projections.insert(volume.name.clone(), projection);
    }
    Ok(projections)
}

struct Of<'a> {
    pod: &'a Pod,
    objects: &'a Referenced,
    limits: &'a DefaultLimits,
}

impl Of<'_> {
    fn volume(&self, volume: &Volume) -> Result<Projection, String> {
        let mut files = Files::new();
        let (directory, memory) = if let Some(source) = &volume.config_map {
            let mode = source.default_mode.unwrap_or(MODE);
            self.config_map(&source.name, source.items.as_deref(), source.optional, mode, &mut files)?;
            ("config-map", false)
        } else if let Some(source) = &volume.secret {
            let (name, mode) = (source.secret_name.as_deref().unwrap_or_default(), source.default_mode.unwrap_or(MODE));
            self.secret(name, source.items.as_deref(), source.optional, mode, &mut files)?;
            ("secret", true)
        } else if let Some(source) = &volume.downward_api {
            self.downward(source.items.as_deref(), source.default_mode.unwrap_or(MODE), &mut files)?;
            ("downward-api", true)
        } else {
            let source = volume.projected.clone().unwrap_or_default();
            let mode = source.default_mode.unwrap_or(MODE);
            let sources = source.sources.unwrap_or_default();
            let mut errors: Vec<String> =
                sources.iter().filter_map(|source| self.source(source, mode, &mut files).err()).collect();
            match errors.len() {
                0 => {}
                1 => return Err(errors.remove(0)),
                _ => return Err(format!("[{}]", errors.join(", "))),
            }
            ("projected", true)
        };
        if let Some(path) = files.keys().find(|path| !is_inside(path)) {
            return Err(format!("invalid path: {path}"));
        }
        Ok(Projection { directory, memory, files })
    }

    fn source(&self, source: &VolumeProjection, mode: i32, files: &mut Files) -> Result<(), String> {
        if let Some(source) = &source.config_map {
            self.config_map(&source.name, source.items.as_deref(), source.optional, mode, files)
        } else if let Some(source) = &source.secret {
            self.secret(&source.name, source.items.as_deref(), source.optional, mode, files)
        } else if let Some(source) = &source.downward_api {
            self.downward(source.items.as_deref(), mode, files)
        } else {
            Err("its kind of projected source is not implemented".into())
        }
    }

    fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: i32,
        files: &mut Files,
    ) -> Result<(), String> {
        let optional = optional == Some(true);
        let Some(object) = self.objects.config_map(name, optional)? else { return Ok(()) };
        let texts = object.data.iter().flatten().map(|(key, text)| (key.as_str(), text.as_bytes()));
        let bytes = object.binary_data.iter().flatten().map(|(key, bytes)| (key.as_str(), bytes.0.as_slice()));
        let data = texts.chain(bytes).collect();
        let missing = |key: &str| format!("configmap references non-existent config key: {key}");
        pick(&data, items, optional, mode, missing, files)
    }

    fn secret(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: i32,
        files: &mut Files,
    ) -> Result<(), String> {
        let optional = optional == Some(true);
        let Some(object) = self.objects.secret(name, optional)? else { return Ok(()) };
        let bytes = |(key, bytes): (&'_ String, &'_ ByteString)| (key.clone(), bytes.0.clone());
        let data: BTreeMap<String, Vec<u8>> = object.data.iter().flatten().map(bytes).collect();
        let data = data.iter().map(|(key, bytes)| (key.as_str(), bytes.as_slice())).collect();
        let missing = |key: &str| format!("references non-existent secret key: {key}");
        pick(&data, items, optional, mode, missing, files)
    }

    fn downward(&self, items: Option<&[DownwardAPIVolumeFile]>, mode: i32, files: &mut Files) -> Result<(), String> {
        for item in items.into_iter().flatten() {
            let text = if let Some(field) = &item.field_ref {
                downward::metadata(self.pod, &field.field_path)
                    .ok_or_else(|| format!("unsupported fieldPath: {}", field.field_path))?
            } else if let Some(selector) = &item.resource_field_ref {
                downward::resource(self.pod, None, selector, self.limits)?
            } else {
                continue;
            };
            put(files, &item.path, text.into_bytes(), item.mode.unwrap_or(mode));
        }
        Ok(())
    }
}

/// All keys of an object, or those that the items name, where they say.
fn pick(
    data: &BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: i32,
    missing: impl Fn(&str) -> String,
    files: &mut Files,
) -> Result<(), String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, bytes) in data {
            put(files, key, bytes.to_vec(), mode);
        }
        return Ok(());
    };
    for item in items {
        match data.get(item.key.as_str()) {
            Some(bytes) => put(files, &item.path, bytes.to_vec(), item.mode.unwrap_or(mode)),
            None if optional => {}
            None => return Err(missing(&item.key)),
        }
    }
    Ok(())
}

fn put(files: &mut Files, path: &str, data: Vec<u8>, mode: i32) {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let path = if path.starts_with('/') { path.to_owned() } else { parts.join("/") };
    files.insert(path, File { data, mode: u32::try_from(mode).unwrap_or(0o644) & 0o777 });
}

/// The API has checked it; this is what keeps a file in its volume all the same.
fn is_inside(path: &str) -> bool {
    !path.is_empty() && !path.starts_with("..") && path.split('/').all(|part| !part.is_empty() && part != "..")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn files(volume: Value) -> Result<Vec<String>, String> {
        let mut volume = volume;
        volume["name"] = json!("v");
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"a": "1"}},
            "spec": {"volumes": [volume, {"name": "other", "emptyDir": {}}],
                "containers": [{"name": "c", "resources": {"limits": {"cpu": "250m"}}}]},
        }))
        .expect("a pod");
        let config_map = json!({"data": {"x": "1", "y": "2"}, "binaryData": {"z": "Aw=="}});
        let objects = Referenced {
            config_maps: [("m".to_owned(), serde_json::from_value(config_map).expect("a config map"))].into(),
            secrets: [("s".to_owned(), serde_json::from_value(json!({"data": {"k": "dg=="}})).expect("a secret"))]
                .into(),
        };
        let projections = project(&pod, &objects, &DefaultLimits::default()).map_err(|(volume, message)| {
            assert_eq!(volume, "v");
            message
        })?;
        let [(name, projection)] = projections.iter().collect::<Vec<_>>()[..] else { panic!("one volume") };
        assert_eq!(name, "v");
        let row = |(path, file): (&String, &File)| format!("{path} {:o} {}", file.mode, file.data.escape_ascii());
        Ok(projection.files.iter().map(row).collect())
    }

    #[test]
    fn every_kind_of_volume_has_its_files() {
        let table = [
            (json!({"configMap": {"name": "m"}}), "x 644 1|y 644 2|z 644 \\x03"),
            (
                json!({"configMap": {"name": "m", "defaultMode": 0o400, "items": [
                {"key": "x", "path": "a/b"}, {"key": "z", "path": "c", "mode": 0o755}]}}),
                "a/b 400 1|c 755 \\x03",
            ),
            (json!({"configMap": {"name": "m", "optional": true, "items": [{"key": "n", "path": "n"}]}}), ""),
            (json!({"configMap": {"name": "none", "optional": true}}), ""),
            (json!({"secret": {"secretName": "s"}}), "k 644 v"),
            (
                json!({"downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "cpu", "mode": 0o600, "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu", "divisor": "1m"}}]}}),
                r#"cpu 600 250|labels 644 a=\"1\""#,
            ),
            (
                json!({"projected": {"defaultMode": 0o440, "sources": [
                {"configMap": {"name": "m", "items": [{"key": "x", "path": "x"}]}},
                {"secret": {"name": "s", "items": [{"key": "k", "path": "d/k", "mode": 0o400}]}},
                {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                {"secret": {"name": "none", "optional": true}}]}}),
                "d/k 400 v|name 440 p|x 440 1",
            ),
        ];
        for (volume, want) in table {
            assert_eq!(files(volume.clone()).expect("files").join("|"), want, "{volume}");
        }
    }

    #[test]
    fn what_is_missing_is_told_in_the_kubelets_words() {
        let table = [
            (json!({"configMap": {"name": "none"}}), "configmap \"none\" not found"),
            (json!({"secret": {"secretName": "none"}}), "secret \"none\" not found"),
            (
                json!({"configMap": {"name": "m", "items": [{"key": "n", "path": "n"}]}}),
                "configmap references non-existent config key: n",
            ),
            (
                json!({"secret": {"secretName": "s", "items": [{"key": "n", "path": "n"}]}}),
                "references non-existent secret key: n",
            ),
            (
                json!({"projected": {"sources": [{"configMap": {"name": "none"}}, {"secret": {"name": "none"}}]}}),
                "[configmap \"none\" not found, secret \"none\" not found]",
            ),
            (json!({"configMap": {"name": "m", "items": [{"key": "x", "path": "../x"}]}}), "invalid path: ../x"),
            (json!({"configMap": {"name": "m", "items": [{"key": "x", "path": "/x"}]}}), "invalid path: /x"),
        ];
        for (volume, want) in table {
            assert_eq!(files(volume.clone()), Err(want.to_owned()), "{volume}");
        }
    }
}
