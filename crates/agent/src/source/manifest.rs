//! One static manifest: bytes to a Pod, strictly. Every objection names file, line, column and field. A file holds exactly
//! one Pod, as the kubelet demands.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use podd_core::{defaults, field::FieldError, validation, verdict};
use podd_manifest::{Document, Report};
use serde_ignored::Path;

use super::identity;

/// Longest report of one file: the first objections are the ones that help.
const SHOWN: usize = 10;

/// Read the manifest of one static pod. The error is the whole report, for a person.
pub fn read(bytes: &[u8], file: &str, node: &str, seen: Timestamp) -> Result<Pod, String> {
    let text = String::from_utf8_lossy(bytes);
    let mut documents =
        podd_manifest::parse(bytes).map_err(|problem| Report::of_problem(file, &text, &problem).to_string())?;
    let document = match (documents.pop(), documents.is_empty()) {
        (Some(document), true) => document,
        (None, _) => return Err(format!("{file}: the file is empty; a static manifest holds one Pod")),
        (Some(_), false) => return Err(format!("{file}: more than one document; a static manifest holds one Pod")),
    };
    let report = |path: &str, message: &str| {
        let (at, _) = document.positions.find(path);
        Report::new(file, &text, at, path, message).to_string()
    };
    let all = |errors: Vec<FieldError>| {
        let lines: Vec<String> = errors.iter().take(SHOWN).map(|error| report(&error.path, &error.message())).collect();
        if lines.is_empty() { Ok(()) } else { Err(lines.join("\n")) }
    };
    for (field, expected) in [("apiVersion", "v1"), ("kind", "Pod")] {
        let found = document.value.get(field).and_then(|value| value.as_str());
        if found != Some(expected) {
            let found = found.unwrap_or_default();
            return Err(report(field, &format!("static manifests are {expected:?} here, found {found:?}")));
        }
    }
    let mut pod = decode(&document).map_err(|(path, message)| report(&path, &message))?;
    all(verdict::pod(&document.value).refused)?;
    all(references(&pod))?;
    defaults::pod(&mut pod);
    identity::adopt(&mut pod, node, file, seen);
    all(validation::pod_create(&pod))?;
    Ok(pod)
}

/// Decode with every unknown field an error.
fn decode(document: &Document) -> Result<Pod, (String, String)> {
    let mut unknown = None;
    let mut track = serde_path_to_error::Track::new();
    let decoded: Result<Pod, serde_json::Error> =
        serde_ignored::deserialize(serde_path_to_error::Deserializer::new(&document.value, &mut track), |path| {
            unknown.get_or_insert_with(|| field_path(&path));
        });
    match (decoded, unknown) {
        (Ok(_), Some(path)) => Err((path, "unknown field".into())),
        (Ok(pod), None) => Ok(pod),
        (Err(error), _) => Err((track.path().to_string(), error.to_string())),
    }
}

/// The path in Kubernetes' form, `spec.containers[0].image`.
fn field_path(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", field_path(parent)),
        Path::Map { parent, key } => {
            let parent = field_path(parent);
            if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") }
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => field_path(parent),
    }
}

/// A static pod may not refer to objects of the API: it runs without one.
fn references(pod: &Pod) -> Vec<FieldError> {
    const WHY: &str = "static pods may not refer to objects of the API";
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut errors = Vec::new();
    if spec.service_account_name.as_deref().is_some_and(|name| !name.is_empty()) {
        errors.push(FieldError::forbidden("spec.serviceAccountName", WHY));
    }
    if spec.image_pull_secrets.as_ref().is_some_and(|secrets| !secrets.is_empty()) {
        errors.push(FieldError::forbidden("spec.imagePullSecrets", WHY));
    }
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let sources = [
            ("configMap", volume.config_map.is_some()),
            ("secret", volume.secret.is_some()),
            ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
            ("ephemeral", volume.ephemeral.is_some()),
            ("csi", volume.csi.is_some()),
        ];
        for (source, _) in sources.into_iter().filter(|(_, set)| *set) {
            errors.push(FieldError::forbidden(format!("spec.volumes[{index}].{source}"), WHY));
        }
        let projected = volume.projected.iter().flat_map(|source| source.sources.iter().flatten());
        for (number, source) in projected.enumerate() {
            let sources = [
                ("configMap", source.config_map.is_some()),
                ("secret", source.secret.is_some()),
                ("serviceAccountToken", source.service_account_token.is_some()),
                ("clusterTrustBundle", source.cluster_trust_bundle.is_some()),
            ];
            for (source, _) in sources.into_iter().filter(|(_, set)| *set) {
                let path = format!("spec.volumes[{index}].projected.sources[{number}].{source}");
                errors.push(FieldError::forbidden(path, WHY));
            }
        }
    }
    let lists = [("initContainers", spec.init_containers.as_ref()), ("containers", Some(&spec.containers))];
    for (list, containers) in lists {
        for (index, container) in containers.into_iter().flatten().enumerate() {
            let path = format!("spec.{list}[{index}]");
            if container.env_from.as_ref().is_some_and(|sources| !sources.is_empty()) {
                errors.push(FieldError::forbidden(format!("{path}.envFrom"), WHY));
            }
            for (number, env) in container.env.iter().flatten().enumerate() {
                let refers = env
                    .value_from
                    .as_ref()
                    .is_some_and(|from| from.config_map_key_ref.is_some() || from.secret_key_ref.is_some());
                if refers {
                    errors.push(FieldError::forbidden(format!("{path}.env[{number}].valueFrom"), WHY));
                }
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Pod, String> {
        read(text.as_bytes(), "/m/web.yaml", "n1", Timestamp::UNIX_EPOCH)
    }

    const GOOD: &str =
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: c\n    image: nginx\n";

    #[test]
    fn a_good_manifest_becomes_a_pod_with_defaults() {
        let pod = read_text(GOOD).expect("read");
        assert_eq!(pod.metadata.name.as_deref(), Some("web-n1"));
        assert_eq!(pod.spec.and_then(|spec| spec.restart_policy).as_deref(), Some("Always"));
    }

    #[test]
    fn json_is_a_manifest_too() {
        let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},"spec":{"containers":[{"name":"c","image":"nginx"}]}}"#;
        assert!(read_text(json).is_ok());
    }

    #[test]
    fn each_bad_manifest_is_refused_with_its_place() {
        let table = [
            ("", "/m/web.yaml: the file is empty"),
            ("a: [", "/m/web.yaml:"),
            (&format!("{GOOD}---\n{GOOD}"), "/m/web.yaml: more than one document"),
            (&GOOD.replace("kind: Pod", "kind: Deployment"), "/m/web.yaml:2:7: kind: "),
            (&GOOD.replace("image: nginx", "imagee: nginx"), "/m/web.yaml:8:"),
            (&GOOD.replace("name: c\n", "name: C_\n"), "/m/web.yaml:7:"),
            (&format!("{GOOD}    resources: {{claims: [{{name: x}}]}}\n"), "/m/web.yaml:9:"),
            (&format!("{GOOD}  restartPolicy: 5\n"), "/m/web.yaml:9:18: spec.restartPolicy: "),
            (&GOOD.replace("image: nginx", "image: yes"), "/m/web.yaml:8:12: spec.containers[0].image: "),
        ];
        for (text, begin) in table {
            let report = read_text(text).expect_err(text);
            assert!(report.starts_with(begin), "{text}\ngave: {report}\nwanted: {begin}");
        }
    }
}
