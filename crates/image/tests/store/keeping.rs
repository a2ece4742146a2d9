//! What the store keeps, and for how long: names, removal, leases, collection, and the next process.

use podd_image::{Config, Credentials, Error, ErrorKind, Reference, Store};

use crate::packed::{Packed, Packing, tar};
use crate::registry::Registry;
use crate::{Place, config, content};

/// A store with one image of two tags, and another that shares its lower layer.
async fn filled(registry: &Registry) -> (Place, Packed, Packed) {
    let base = tar(&[("base", "base")]);
    let first = Packed::new(&[base.clone(), tar(&[("top", "first")])], Packing::Gzip);
    let second = Packed::new(&[base, tar(&[("top", "second")])], Packing::Gzip);
    registry.push("app", "1", &first);
    registry.push("app", "one", &first);
    registry.push("app", "2", &second);
    let place = Place::new();
    for tag in ["1", "one", "2"] {
        place.pull(&registry.name(&format!("app:{tag}"))).await.unwrap();
    }
    (place, first, second)
}

#[tokio::test]
async fn an_image_is_found_by_every_name_it_has() {
    let registry = Registry::start().await;
    let (place, first, _) = filled(&registry).await;
    let hex = first.id().hex();
    for name in [
        registry.name("app:1"),
        registry.name("app:one"),
        format!("{}@{}", registry.name("app"), first.digest()),
        format!("{}@{}", registry.name("app:whatever"), first.digest()),
        first.id().to_string(),
        hex.clone(),
        hex[..12].to_owned(),
        format!("sha256:{}", &hex[..12]),
    ] {
        assert_eq!(place.store.get(&name).expect(&name).id, first.id(), "{name}");
    }
    for (name, kind) in [
        (registry.name("app:3"), ErrorKind::NotFound),
        (registry.name("app"), ErrorKind::NotFound),
        ("0000000000".into(), ErrorKind::NotFound),
        (format!("sha256:{}", "0".repeat(64)), ErrorKind::NotFound),
        ("UPPER".into(), ErrorKind::Invalid),
        (String::new(), ErrorKind::Invalid),
    ] {
        let error = place.store.get(&name).expect_err(&name);
        assert_eq!(error.kind(), kind, "{name}: {error}");
    }
}

#[tokio::test]
async fn an_ambiguous_id_is_refused() {
    let registry = Registry::start().await;
    let place = Place::new();
    // Seventeen images have sixteen first digits to share.
    for number in 0..17 {
        registry.push("app", &format!("t{number}"), &Packed::of(&[&number.to_string()], Packing::Gzip));
        place.pull(&registry.name(&format!("app:t{number}"))).await.unwrap();
    }
    let mut firsts: Vec<String> = place.store.list().iter().map(|image| image.id.hex()[..1].to_owned()).collect();
    let shared = firsts.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone());
    firsts.dedup();
    let error = place.store.get(&shared.expect("a shared first digit")).unwrap_err();
    assert!(matches!(error, Error::Ambiguous { count: 2.., .. }), "{error}");
}

#[tokio::test]
async fn removal_by_any_name_takes_the_image_with_all_its_names_and_spares_shared_layers() {
    for by in ["tag", "digest", "id", "short id"] {
        let registry = Registry::start().await;
        let (place, first, second) = filled(&registry).await;
        let name = match by {
            "tag" => registry.name("app:one"),
            "digest" => format!("{}@{}", registry.name("app"), first.digest()),
            "id" => first.id().to_string(),
            _ => first.id().hex()[..10].to_owned(),
        };
        let before = place.store.usage();
        let removed = place.store.remove(&name).await.expect(by);
        let digest = format!("{}@{}", registry.name("app"), first.digest());
        let mut names = vec![registry.name("app:1"), registry.name("app:one"), digest];
        names.sort();
        let mut found = removed.names.clone();
        found.sort();
        assert_eq!(found, names, "{by}");
        let usage = place.store.usage();
        assert_eq!(removed.freed, before.bytes - usage.bytes, "{by}");
        assert!(removed.freed > 0, "{by}");
        assert_eq!(place.store.get(&name).unwrap_err().kind(), ErrorKind::NotFound, "{by}");
        let left = place.store.list();
        assert_eq!(left.len(), 1, "{by}");
        assert_eq!(left[0].id, second.id(), "{by}");
        assert_eq!(content(&left[0], "base").as_deref(), Some("base"), "{by}: the shared layer stays");
        assert_eq!(place.names("layers").len(), 2, "{by}");
        assert_eq!(place.names("blobs/sha256").len(), 4, "{by}");
        assert_eq!(place.store.remove(&name).await.unwrap_err().kind(), ErrorKind::NotFound, "{by}");
    }
}

#[tokio::test]
async fn layers_under_a_lease_outlive_their_image() {
    let registry = Registry::start().await;
    let (place, ..) = filled(&registry).await;
    let (image, lease) = place.store.acquire(&registry.name("app:1")).unwrap();
    let (other, other_lease) = place.store.acquire(&registry.name("app:2")).unwrap();
    for name in ["app:1", "app:2"] {
        place.store.remove(&registry.name(name)).await.unwrap();
    }
    assert!(place.store.list().is_empty());
    drop(other_lease);
    place.store.collect().await.unwrap();
    assert_eq!(content(&image, "top").as_deref(), Some("first"));
    assert_eq!(content(&image, "base").as_deref(), Some("base"));
    assert!(!other.layers[0].exists(), "nothing holds the second image's own layer");
    // The next process knows the layers by their directories alone.
    let again = place.store.lease_layers(&image.layers);
    drop(lease);
    place.store.collect().await.unwrap();
    assert!(image.layers.iter().all(|layer| layer.exists()));
    drop(again);
    place.check_nothing_stays("after the last lease").await;
}

#[tokio::test]
async fn the_next_process_finds_what_was_there() {
    let registry = Registry::start().await;
    let (place, ..) = filled(&registry).await;
    let describe = |store: &Store| {
        let images = store.list();
        images.iter().map(|i| (i.id, i.repo_tags.clone(), i.repo_digests.clone(), i.layers.clone(), i.size)).collect()
    };
    let before: Vec<_> = describe(&place.store);
    let usage = place.store.usage();
    let error = Store::open(place.path(), config()).err().unwrap();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    place.store.flush().await.unwrap();
    std::fs::write(place.path().join("tmp/9"), "half").unwrap();
    std::fs::create_dir(place.path().join("layers/half-made")).unwrap();
    let place = place.reopen(config()).await;
    assert_eq!(describe(&place.store), before);
    assert_eq!(place.store.usage(), usage);
    assert_eq!(place.names("tmp"), [""; 0]);
    assert_eq!(place.names("layers").len(), 3);
}

#[tokio::test]
async fn an_image_that_lost_a_layer_is_dropped_and_pulled_again() {
    let registry = Registry::start().await;
    let packed = Packed::of(&["x"], Packing::Gzip);
    registry.push("app", "1", &packed);
    let place = Place::new();
    let image = place.pull(&registry.name("app:1")).await.unwrap();
    let Place { directory, store } = place;
    drop(store);
    // What a power cut may do: the mark of another boot stays on the layer.
    std::fs::write(image.layers[0].parent().unwrap().join("unsynced"), "another boot").unwrap();
    let store = Store::open(directory.path(), config()).unwrap();
    let place = Place { directory, store };
    assert!(place.store.list().is_empty());
    let image = place.pull(&registry.name("app:1")).await.unwrap();
    assert_eq!(content(&image, "0").as_deref(), Some("x"));
    let digest = podd_image::Digest::of(&packed.layers[0]).to_string();
    assert_eq!(registry.seen(&digest).len(), 1, "the blob was still good");
}

#[tokio::test]
async fn the_directory_is_a_standard_oci_layout() {
    let registry = Registry::start().await;
    let (place, first, _) = filled(&registry).await;
    let json = |path: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(place.path().join(path)).unwrap()).unwrap()
    };
    assert_eq!(json("oci-layout")["imageLayoutVersion"], "1.0.0");
    let index = json("index.json");
    assert_eq!(index["schemaVersion"], 2);
    let entries = index["manifests"].as_array().unwrap();
    let entry = entries
        .iter()
        .find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == registry.name("app:one"))
        .expect("an entry per name");
    assert_eq!(entry["digest"], first.digest().to_string());
    assert_eq!(entry["size"], first.manifest.len());
    for blob in first.blobs().chain([&first.manifest]) {
        let path = place.path().join("blobs/sha256").join(podd_image::Digest::of(blob).hex());
        assert_eq!(&std::fs::read(path).unwrap(), blob);
    }
}

#[tokio::test]
async fn a_pinned_name_pins_its_image() {
    let registry = Registry::start().await;
    registry.push("app", "1", &Packed::of(&["x"], Packing::Gzip));
    let place = Place::with(Config { pinned: [registry.name("app:1")].into(), ..config() });
    let reference = Reference::parse(&registry.name("app:1")).unwrap();
    let image = place.store.pull(&reference, &Credentials::Anonymous, None).await.unwrap();
    assert!(image.pinned);
}

#[tokio::test]
async fn pulls_removals_and_collections_at_once_leave_a_sound_store() {
    let registry = Registry::start().await;
    let base = tar(&[("base", "base")]);
    for number in 0..4 {
        let top = tar(&[("top", &number.to_string())]);
        registry.push("app", &format!("t{number}"), &Packed::new(&[base.clone(), top], Packing::Gzip));
    }
    let place = Place::new();
    let rounds = (0..4).map(|number| {
        let (store, name) = (place.store.clone(), registry.name(&format!("app:t{number}")));
        tokio::spawn(async move {
            let reference = Reference::parse(&name).unwrap();
            for _ in 0..8 {
                let image = store.pull(&reference, &Credentials::Anonymous, None).await.unwrap();
                let (image, _lease) = match store.acquire(&image.id.to_string()) {
                    Ok(found) => found,
                    Err(error) => panic!("an image of one's own is gone: {error}"),
                };
                store.collect().await.unwrap();
                store.remove(&name).await.unwrap();
                assert_eq!(content(&image, "top"), Some(number.to_string()));
                assert_eq!(content(&image, "base").as_deref(), Some("base"));
            }
        })
    });
    for round in futures::future::join_all(rounds).await {
        round.unwrap();
    }
    place.check_nothing_stays("after the rounds").await;
}
