//! Manifests, good and bad.

use serde_json::{Value, json};

use super::*;

fn descriptor(media_type: &str, platform: Option<(&str, &str, Option<&str>)>) -> Value {
    let mut value = json!({"mediaType": media_type, "digest": Digest::of(b"x"), "size": 1});
    if let Some((os, architecture, variant)) = platform {
        value["platform"] = json!({"os": os, "architecture": architecture, "variant": variant});
    }
    value
}

fn parse(value: &Value) -> Result<Document, Error> {
    parse_document(value.to_string().as_bytes(), "manifest x", &Limits::default())
}

fn image(config: &str, layer: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "config": descriptor(config, None),
        "layers": [descriptor(layer, None)],
    })
}

#[test]
fn oci_and_docker_manifests_are_read_alike() {
    for (config, layer) in [
        (OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar+zstd"),
        (DOCKER_CONFIG, "application/vnd.docker.image.rootfs.diff.tar.gzip"),
    ] {
        assert!(matches!(parse(&image(config, layer)).unwrap(), Document::Image(_)), "{config}");
    }
}

#[test]
fn a_bad_manifest_is_refused_with_its_reason() {
    let good = image(OCI_CONFIG, LAYERS[0]);
    let with = |key: &str, value: Value| {
        let mut changed = good.clone();
        changed[key] = value;
        changed
    };
    let mut other_algorithm = good.clone();
    other_algorithm["layers"][0]["digest"] = json!("sha512:00");
    let mut negative = good.clone();
    negative["layers"][0]["size"] = json!(-1);
    let mut huge = good.clone();
    huge["layers"][0]["size"] = json!(u64::MAX);
    for (value, reason) in [
        (json!({}), "schemaVersion"),
        (json!([]), "invalid"),
        (json!({"schemaVersion": 1, "fsLayers": []}), "schema version 1"),
        (json!({"schemaVersion": 2}), "neither"),
        (with("manifests", json!([])), "neither"),
        (image("application/vnd.cncf.helm.config.v1+json", LAYERS[0]), "no container image"),
        (image(OCI_CONFIG, "text/plain"), "media type"),
        (with("layers", Value::Array(vec![good["layers"][0].clone(); 501])), "limit layers"),
        (other_algorithm, "sha512"),
        (negative, "-1"),
        (huge, "blob_bytes"),
    ] {
        let error = parse(&value).unwrap_err().to_string();
        assert!(error.contains(reason), "{value}: {error}");
    }
}

#[test]
fn an_index_gives_the_entry_of_this_machine_or_says_what_it_has() {
    let host = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    let index = |platforms: &[(&str, &str, Option<&str>)]| -> Vec<Descriptor> {
        let entries = platforms.iter().map(|p| descriptor(OCI_MANIFEST, Some(*p)));
        let value = json!({"schemaVersion": 2, "manifests": entries.collect::<Vec<_>>()});
        match parse(&value).unwrap() {
            Document::Index(entries) => entries,
            Document::Image(_) => panic!("an image"),
        }
    };
    let chosen = |entries: &[Descriptor]| {
        let entry = select(entries, &host).cloned();
        entry.map(|entry| entry.platform.unwrap().to_string())
    };
    let all = index(&[
        ("unknown", "unknown", None),
        ("windows", "amd64", None),
        ("linux", "arm64", Some("v8")),
        ("linux", "amd64", Some("v3")),
        ("linux", "amd64", None),
    ]);
    assert_eq!(chosen(&all).unwrap(), "linux/amd64");
    assert_eq!(chosen(&all[..3]).unwrap_err(), ["unknown/unknown", "windows/amd64", "linux/arm64/v8"]);
}

#[test]
fn the_configuration_must_name_as_many_layers_as_the_manifest() {
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"User": "1:2", "Volumes": null, "Healthcheck": {"Test": ["NONE"]}},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"a")]},
    })
    .to_string();
    let (_, ids) = parse_config(config.as_bytes(), 1, "config").unwrap();
    assert_eq!(ids, [Digest::of(b"a")]);
    let error = parse_config(config.as_bytes(), 2, "config").unwrap_err().to_string();
    assert!(error.contains("1 layers, its manifest 2"), "{error}");
}
