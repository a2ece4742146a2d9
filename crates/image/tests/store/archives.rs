//! Archives: what `docker save`, `skopeo` and the like write.

use podd_image::{Config, Digest, ErrorKind, Limits};
use serde_json::{Value, json};

use crate::packed::{INDEX, MANIFEST, Packed, Packing, descriptor, pack, tar, tar_of};
use crate::{Place, config, content};

const REF_NAME: &str = "org.opencontainers.image.ref.name";

fn blob_path(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::of(bytes).hex())
}

/// A tar of members.
fn members(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    tar_of(&files)
}

/// The members of an OCI layout with one image.
fn layout(image: &Packed, annotations: &Value) -> Vec<(String, Vec<u8>)> {
    let mut entry = descriptor(MANIFEST, &image.manifest);
    entry["annotations"] = annotations.clone();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
    let blobs = image.blobs().chain([&image.manifest]);
    let mut files: Vec<_> = blobs.map(|blob| (blob_path(blob), blob.clone())).collect();
    files.push(("oci-layout".into(), br#"{"imageLayoutVersion": "1.0.0"}"#.to_vec()));
    files.push(("index.json".into(), index.to_string().into_bytes()));
    files
}

/// The members that `docker save` wrote for many years.
fn docker(image: &Packed, tags: &Value) -> Vec<(String, Vec<u8>)> {
    let config = format!("{}.json", image.id().hex());
    let layers: Vec<String> = image.layers.iter().map(|l| format!("{}/layer.tar", Digest::of(l).hex())).collect();
    let manifest = json!([{"Config": config, "RepoTags": tags, "Layers": layers}]);
    let mut files: Vec<_> = layers.into_iter().zip(image.layers.iter().cloned()).collect();
    files.push((config, image.config.clone()));
    files.push(("repositories".into(), b"{}".to_vec()));
    files.push(("manifest.json".into(), manifest.to_string().into_bytes()));
    files
}

async fn load(place: &Place, archive: Vec<u8>) -> Result<Vec<podd_image::Loaded>, podd_image::Error> {
    place.store.load(std::io::Cursor::new(archive)).await
}

#[tokio::test]
async fn an_oci_archive_gives_its_images_under_their_names() {
    for (packing, outer) in [
        (Packing::Gzip, Packing::Plain),
        (Packing::Zstd, Packing::Plain),
        (Packing::Plain, Packing::Gzip),
        (Packing::Gzip, Packing::Zstd),
    ] {
        let case = format!("{packing:?} in {outer:?}");
        let image = Packed::of(&["low", "high"], packing);
        let archive = pack(&members(&layout(&image, &json!({REF_NAME: "r.io/team/app:1"}))), outer);
        let place = Place::new();
        let loaded = load(&place, archive).await.expect(&case);
        assert_eq!(loaded.len(), 1, "{case}");
        assert_eq!(loaded[0].names, ["r.io/team/app:1"], "{case}");
        let found = place.store.get("r.io/team/app:1").expect(&case);
        assert_eq!((found.id, found.manifest), (image.id(), image.digest()), "{case}");
        assert_eq!(content(&found, "1").as_deref(), Some("high"), "{case}");
        assert_eq!(place.names("tmp"), [""; 0], "{case}");
    }
}

#[tokio::test]
async fn names_come_from_whichever_annotation_is_complete() {
    let image = Packed::of(&["x"], Packing::Gzip);
    for (annotations, names) in [
        (
            json!({REF_NAME: "latest", "io.containerd.image.name": "docker.io/library/app:2"}),
            vec!["docker.io/library/app:2"],
        ),
        (json!({REF_NAME: "app:3"}), vec!["docker.io/library/app:3"]),
        (json!({REF_NAME: "latest"}), vec![]),
        (json!({}), vec![]),
    ] {
        let place = Place::new();
        let loaded = load(&place, members(&layout(&image, &annotations))).await.unwrap();
        assert_eq!(loaded[0].names, names, "{annotations}");
        assert_eq!(place.store.get(&image.id().to_string()).unwrap().repo_tags, names, "{annotations}");
    }
}

#[tokio::test]
async fn what_docker_saves_is_loaded_with_plain_and_gzipped_layers() {
    for packing in [Packing::Plain, Packing::Gzip] {
        let image = Packed::of(&["low", "high"], packing);
        let place = Place::new();
        let archive = members(&docker(&image, &json!(["app:1", "r.io/app:2"])));
        let loaded = load(&place, archive).await.unwrap();
        assert_eq!(loaded[0].names, ["docker.io/library/app:1", "r.io/app:2"], "{packing:?}");
        let found = place.store.get("app:1").unwrap();
        assert_eq!(found.id, image.id());
        assert_eq!(content(&found, "1").as_deref(), Some("high"));
        // The made-up manifest must stand the test of the next process.
        let place = place.reopen(config()).await;
        assert_eq!(place.store.get("r.io/app:2").unwrap().id, image.id());
    }
}

#[tokio::test]
async fn an_archive_that_describes_its_image_twice_gives_it_once_with_all_names() {
    let image = Packed::of(&["x"], Packing::Gzip);
    let mut files = layout(&image, &json!({"io.containerd.image.name": "docker.io/library/app:1"}));
    let layers: Vec<String> = image.layers.iter().map(|layer| blob_path(layer)).collect();
    let manifest = json!([{"Config": blob_path(&image.config), "RepoTags": ["app:2"], "Layers": layers}]);
    files.push(("manifest.json".into(), manifest.to_string().into_bytes()));
    let place = Place::new();
    let loaded = load(&place, members(&files)).await.unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].names, ["docker.io/library/app:1", "docker.io/library/app:2"]);
    assert_eq!(loaded[0].image.manifest, image.digest(), "the manifest of the registry is kept");
}

#[tokio::test]
async fn equal_layers_that_are_links_between_members_are_followed() {
    let layer = tar(&[("x", "x")]);
    let image = Packed::new(&[layer.clone(), layer.clone()], Packing::Plain);
    let config = format!("{}.json", image.id().hex());
    let manifest = json!([{"Config": config, "RepoTags": null, "Layers": ["a/layer.tar", "b/layer.tar"]}]);
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, bytes).unwrap();
    };
    add("a/layer.tar", &layer);
    add(&config, &image.config);
    add("manifest.json", manifest.to_string().as_bytes());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "b/layer.tar", "../a/layer.tar").unwrap();
    let place = Place::new();
    let loaded = load(&place, builder.into_inner().unwrap()).await.unwrap();
    assert_eq!(loaded[0].image.layers.len(), 2);
    assert!(loaded[0].names.is_empty());
}

#[tokio::test]
async fn a_nested_index_is_followed_to_the_image_of_this_machine() {
    let (mine, other) = (Packed::of(&["mine"], Packing::Gzip), Packed::of(&["other"], Packing::Gzip));
    let host = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let entry = |image: &Packed, architecture: &str| {
        let mut entry = descriptor(MANIFEST, &image.manifest);
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    };
    let inner = json!({"schemaVersion": 2, "manifests": [entry(&other, "s390x"), entry(&mine, host)]});
    let inner = inner.to_string().into_bytes();
    let mut files = layout(&mine, &json!({}));
    files.retain(|(path, _)| path != "index.json");
    let mut outer = descriptor(INDEX, &inner);
    outer["annotations"] = json!({REF_NAME: "app:1"});
    let index = json!({"schemaVersion": 2, "manifests": [outer]});
    files.push((blob_path(&inner), inner));
    files.push(("index.json".into(), index.to_string().into_bytes()));
    let place = Place::new();
    load(&place, members(&files)).await.unwrap();
    assert_eq!(content(&place.store.get("app:1").unwrap(), "0").as_deref(), Some("mine"));
}

#[tokio::test]
async fn a_bad_archive_is_refused_and_leaves_nothing() {
    let image = Packed::of(&["x", "y"], Packing::Gzip);
    let good = layout(&image, &json!({REF_NAME: "app:1"}));
    let docker = docker(&image, &json!(["app:1"]));
    let without = |files: &[(String, Vec<u8>)], part: &str| {
        let kept: Vec<_> = files.iter().filter(|(path, _)| !path.contains(part)).cloned().collect();
        members(&kept)
    };
    let with = |files: &[(String, Vec<u8>)], part: &str, bytes: &[u8]| {
        let changed = files.iter().map(|(path, old)| {
            let new = if path.contains(part) { bytes.to_vec() } else { old.clone() };
            (path.clone(), new)
        });
        members(&changed.collect::<Vec<_>>())
    };
    let layer = blob_path(&image.layers[1]);
    let docker_layer = format!("{}/layer.tar", Digest::of(&image.layers[1]).hex());
    let twice = json!([{
        "Config": format!("{}.json", image.id().hex()),
        "RepoTags": ["app:1"],
        "Layers": [docker_layer, docker_layer],
    }])
    .to_string();
    let whole = members(&good);
    let fast = pack(&whole, Packing::Gzip);
    for (case, archive, reason) in [
        ("nothing", Vec::new(), "neither index.json nor manifest.json"),
        ("no archive", b"hello, this is a text and no archive".repeat(40), "the archive is invalid"),
        ("no index", without(&good, "index.json"), "neither index.json"),
        ("no configuration", without(&good, &blob_path(&image.config)), "missing"),
        ("no manifest", without(&good, &blob_path(&image.manifest)), "missing"),
        ("no layer", without(&good, &layer), "missing"),
        ("another layer", with(&good, &layer, &image.layers[0]), "its digest is"),
        ("another configuration", with(&good, &blob_path(&image.config), b"{}"), "digest is"),
        ("an index that is none", with(&good, "index.json", b"[]"), "index.json"),
        ("docker: no layer", without(&docker, &docker_layer), "missing"),
        ("docker: another layer", with(&docker, &docker_layer, &image.layers[0]), "uncompressed digest is"),
        ("docker: one member twice", with(&docker, "manifest.json", twice.as_bytes()), "uncompressed digest is"),
        ("docker: a bad tag", members(&self::docker(&image, &json!(["UPPER:1"]))), "lower case"),
        ("a cut archive", whole[..whole.len() / 2].to_vec(), "the archive is invalid"),
        ("a cut gzip archive", fast[..fast.len() / 2].to_vec(), "the archive is invalid"),
    ] {
        let place = Place::new();
        let error = load(&place, archive).await.expect_err(case);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{case}: {error}");
        assert!(error.to_string().contains(reason), "{case}: {error}");
        place.check_nothing_stays(case).await;
    }
}

#[tokio::test]
async fn an_archive_has_limits() {
    let image = Packed::of(&["x"], Packing::Gzip);
    let archive = members(&layout(&image, &json!({})));
    for (limits, name) in [
        (Limits { archive_members: 3, ..Limits::default() }, "archive_members"),
        (Limits { archive_bytes: 600, ..Limits::default() }, "archive_bytes"),
        (Limits { layer_bytes: 600, ..Limits::default() }, "layer_bytes"),
    ] {
        let place = Place::with(Config { limits, ..config() });
        let error = load(&place, archive.clone()).await.expect_err(name);
        assert!(error.to_string().contains(name), "{error}");
        place.check_nothing_stays(name).await;
    }
}

#[tokio::test]
async fn loading_twice_is_loading_once() {
    let image = Packed::of(&["x"], Packing::Gzip);
    let archive = members(&layout(&image, &json!({REF_NAME: "app:1"})));
    let place = Place::new();
    load(&place, archive.clone()).await.unwrap();
    let usage = place.store.usage();
    load(&place, archive).await.unwrap();
    assert_eq!(place.store.usage(), usage);
    assert_eq!(place.store.list().len(), 1);
}
