//! Pulls that succeed, some of them against odds.

use std::sync::{Arc, Mutex};

use podd_image::{Config, Credentials, Mirror, Progress, ProgressSink, Reference};
use serde_json::json;

use crate::packed::{MANIFEST, Packed, Packing, descriptor, noise, tar, tar_of};
use crate::registry::{Login, Registry, Wrong};
use crate::{Place, config, content};

#[tokio::test]
async fn an_image_is_pulled_verified_unpacked_and_named() {
    for packing in [Packing::Gzip, Packing::Zstd, Packing::Plain] {
        let registry = Registry::start().await;
        let packed = Packed::new(&[tar(&[("a", "low"), ("b", "b")]), tar(&[("a", "high"), (".wh.b", "")])], packing);
        registry.push("team/app", "1", &packed);
        let place = Place::new();
        let image = place.pull(&registry.name("team/app:1")).await.unwrap();
        assert_eq!(image.id, packed.id());
        assert_eq!(image.manifest, packed.digest());
        assert_eq!(image.repo_tags, [registry.name("team/app:1")]);
        assert_eq!(image.repo_digests, [format!("{}@{}", registry.name("team/app"), packed.digest())]);
        assert_eq!((image.uid, image.username.as_str()), (Some(7), ""));
        assert_eq!(image.layers.len(), 2);
        assert_eq!(content(&image, "a").as_deref(), Some("high"), "the topmost layer comes first");
        assert!(image.size > packed.blobs().map(|blob| blob.len() as u64).sum());
        assert_eq!(place.names("blobs/sha256").len(), 4);
        assert_eq!(place.names("tmp"), [""; 0]);
        let again = place.pull(&registry.name("team/app:1")).await.unwrap();
        assert_eq!(again.id, image.id);
        assert_eq!(registry.seen("/blobs/").len(), 3, "{packing:?}: what is here is not fetched again");
        assert_eq!(registry.seen("/manifests/1").len(), 2, "{packing:?}: what the tag means is asked again");
    }
}

#[tokio::test]
async fn an_index_gives_the_image_of_this_machine_under_the_digest_of_the_index() {
    let registry = Registry::start().await;
    let (mine, other) = (Packed::of(&["mine"], Packing::Gzip), Packed::of(&["other"], Packing::Gzip));
    registry.push("app", "mine", &mine);
    registry.push("app", "other", &other);
    let entry = |image: &Packed, os: &str, architecture: &str| {
        let mut entry = descriptor(MANIFEST, &image.manifest);
        entry["platform"] = json!({"os": os, "architecture": architecture});
        entry
    };
    let host = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let entries = [entry(&other, "linux", "s390x"), entry(&other, "windows", host), entry(&mine, "linux", host)];
    let digest = registry.push_index("app", "multi", &json!({"schemaVersion": 2, "manifests": entries}));
    let place = Place::new();
    let image = place.pull(&registry.name("app:multi")).await.unwrap();
    assert_eq!(content(&image, "0").as_deref(), Some("mine"));
    assert_eq!(image.repo_digests, [format!("{}@{digest}", registry.name("app"))]);
    let by_digest = place.pull(&image.repo_digests[0]).await.unwrap();
    assert_eq!(by_digest.id, image.id);

    registry.push_index("app", "foreign", &json!({"schemaVersion": 2, "manifests": entries[..2]}));
    let error = place.pull(&registry.name("app:foreign")).await.unwrap_err();
    assert_eq!(error.kind(), podd_image::ErrorKind::NotFound);
    assert!(error.to_string().contains(&format!("nothing for linux/{host}, only for linux/s390x")), "{error}");
}

#[tokio::test]
async fn a_tag_that_moves_leaves_the_old_image_without_it() {
    let registry = Registry::start().await;
    let (old, new) = (Packed::of(&["old"], Packing::Gzip), Packed::of(&["new"], Packing::Gzip));
    registry.push("app", "1", &old);
    let place = Place::new();
    place.pull(&registry.name("app:1")).await.unwrap();
    registry.push("app", "1", &new);
    let image = place.pull(&registry.name("app:1")).await.unwrap();
    assert_eq!(image.id, new.id());
    let before = place.store.get(&old.id().to_string()).unwrap();
    assert!(before.repo_tags.is_empty());
    assert_eq!(before.repo_digests.len(), 1);
}

#[tokio::test]
async fn credentials_open_what_wants_them() {
    let good = Credentials::Basic { username: "user".into(), password: "pa:ss".into() };
    for (login, credentials) in [
        (Login::Basic("user", "pa:ss"), good.clone()),
        (Login::Bearer(Some(("user", "pa:ss"))), good.clone()),
        (Login::Bearer(None), Credentials::Anonymous),
        (Login::Bearer(None), good.clone()),
        (Login::Bearer(None), Credentials::Bearer("the-token".into())),
        (Login::Open, good.clone()),
    ] {
        let case = format!("{login:?} {credentials:?}");
        let registry = Registry::start().await;
        registry.login(login.clone());
        registry.push("app", "1", &Packed::of(&["a", "b", "c"], Packing::Gzip));
        let place = Place::new();
        let reference = Reference::parse(&registry.name("app:1")).unwrap();
        place.store.pull(&reference, &credentials, None).await.expect(&case);
        let tokens = registry.seen("/token").len();
        assert!(tokens <= 1, "{case}: one token serves the whole pull, not {tokens}");
        if matches!(login, Login::Open) {
            assert!(registry.seen("").iter().all(|seen| seen.authorization.is_none()), "nobody asked who we are");
        }
    }
}

#[tokio::test]
async fn a_blob_behind_a_redirect_is_fetched_without_our_credentials() {
    let (registry, elsewhere) = (Registry::start().await, Registry::start().await);
    registry.login(Login::Basic("user", "secret"));
    let packed = Packed::of(&["x"], Packing::Gzip);
    registry.push("app", "1", &packed);
    elsewhere.push("store", "1", &packed);
    for blob in packed.blobs() {
        let digest = podd_image::Digest::of(blob);
        let to = format!("http://localhost:{}/v2/store/blobs/{digest}", elsewhere.host().split_once(':').unwrap().1);
        registry.fault(digest, 9, Wrong::Redirect(to));
    }
    elsewhere.fault("/blobs/", 1, Wrong::Cut(10));
    let place = Place::new();
    let credentials = Credentials::Basic { username: "user".into(), password: "secret".into() };
    let reference = Reference::parse(&registry.name("app:1")).unwrap();
    let image = place.store.pull(&reference, &credentials, None).await.unwrap();
    assert_eq!(content(&image, "0").as_deref(), Some("x"));
    let seen = elsewhere.seen("/blobs/");
    assert!(seen.len() >= 2 && seen.iter().all(|seen| seen.authorization.is_none()), "{seen:?}");
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped() {
    let layer = tar_of(&[("noise", &noise(300_000))]);
    let packed = Packed::new(&[layer], Packing::Gzip);
    let digest = podd_image::Digest::of(&packed.layers[0]);
    for ranges in [true, false] {
        let registry = Registry::start().await;
        registry.push("app", "1", &packed);
        // More breaks than attempts: each brings progress, so none is the last.
        registry.fault(digest, 6, Wrong::Cut(40_000));
        if !ranges {
            registry.without_ranges();
            registry.heal();
            registry.fault(digest, 1, Wrong::Cut(40_000));
            registry.fault(digest, 1, Wrong::Cut(90_000));
        }
        let place = Place::new();
        let image = place.pull(&registry.name("app:1")).await.unwrap();
        assert_eq!(std::fs::read(image.layers[0].join("noise")).unwrap(), noise(300_000));
        let asked: Vec<_> = registry.seen(&digest.to_string()).into_iter().filter_map(|seen| seen.range).collect();
        match ranges {
            true => assert_eq!(asked.len(), 6, "{asked:?}"),
            false => assert_eq!(asked.len(), 2, "{asked:?}"),
        }
        assert!(!asked.contains(&"bytes=0-".to_owned()), "{asked:?}");
    }
}

#[tokio::test]
async fn a_registry_that_is_busy_or_ill_for_a_moment_is_asked_again() {
    for wrong in [Wrong::Busy(3600), Wrong::Status(500), Wrong::Status(503), Wrong::Cut(1)] {
        for path in ["/manifests/", "/blobs/"] {
            let registry = Registry::start().await;
            registry.push("app", "1", &Packed::of(&["x"], Packing::Gzip));
            registry.fault(path, 2, wrong.clone());
            let image = Place::new().pull(&registry.name("app:1")).await;
            image.unwrap_or_else(|error| panic!("{wrong:?} {path}: {error}"));
        }
    }
}

#[tokio::test]
async fn callers_that_want_one_image_share_the_work() {
    let registry = Registry::start().await;
    let packed = Packed::of(&["a", "b", "c"], Packing::Gzip);
    registry.push("app", "1", &packed);
    registry.push("app", "2", &packed);
    let place = Place::new();
    let (one, two) = (registry.name("app:1"), registry.name("app:2"));
    // The other tag is a pull of its own, and waits for the layers of the first.
    let pulls = (0..16).map(|n| place.pull(if n % 2 == 0 { &one } else { &two }));
    for image in futures::future::join_all(pulls).await {
        assert_eq!(image.unwrap().id, packed.id());
    }
    for layer in &packed.layers {
        assert_eq!(registry.seen(&podd_image::Digest::of(layer).to_string()).len(), 1);
    }
    assert_eq!(registry.seen("/manifests/1").len(), 1);
    let image = place.store.get(&one).unwrap();
    assert_eq!(image.repo_tags, [one, two]);
}

#[tokio::test]
async fn progress_is_told_for_each_layer_and_ends_complete() {
    let registry = Registry::start().await;
    let layers = [tar_of(&[("noise", &noise(1_000_000))]), tar(&[("x", "x")])];
    let packed = Packed::new(&layers, Packing::Gzip);
    registry.push("app", "1", &packed);
    let told = Arc::new(Mutex::new(Vec::<Progress>::new()));
    let sink: ProgressSink = {
        let told = Arc::clone(&told);
        Arc::new(move |progress: &Progress| told.lock().unwrap().push(progress.clone()))
    };
    let place = Place::new();
    let reference = Reference::parse(&registry.name("app:1")).unwrap();
    place.store.pull(&reference, &Credentials::Anonymous, Some(sink)).await.unwrap();
    let told = told.lock().unwrap();
    for layer in &packed.layers {
        let digest = podd_image::Digest::of(layer);
        let of_layer: Vec<_> = told.iter().filter(|progress| progress.layer == digest).collect();
        assert!(of_layer.is_sorted_by_key(|progress| progress.done), "{of_layer:?}");
        assert!(of_layer.iter().all(|progress| progress.total == layer.len() as u64));
        let last = of_layer.last().unwrap();
        assert!(last.complete && last.done == last.total, "{last:?}");
    }
    let steps = told.iter().filter(|progress| progress.total > 900_000).count();
    assert!((4..=8).contains(&steps), "{steps}");
}

#[tokio::test]
async fn a_mirror_is_asked_first_without_credentials_and_the_registry_itself_last() {
    let (registry, empty, mirror) = (Registry::start().await, Registry::start().await, Registry::start().await);
    registry.login(Login::Basic("user", "secret"));
    let packed = Packed::of(&["x"], Packing::Gzip);
    registry.push("app", "1", &packed);
    mirror.push("cache/app", "1", &packed);
    // This one would like to know.
    empty.login(Login::Basic("user", "secret"));
    let hosts = [(&empty, ""), (&mirror, "cache")];
    let mirrors = hosts.map(|(server, prefix)| Mirror { host: server.host(), prefix: prefix.into() });
    let with_mirrors = Config { mirrors: [(registry.host(), mirrors.to_vec())].into(), ..config() };
    let credentials = Credentials::Basic { username: "user".into(), password: "secret".into() };
    let reference = Reference::parse(&registry.name("app:1")).unwrap();

    let place = Place::with(with_mirrors.clone());
    let image = place.store.pull(&reference, &credentials, None).await.unwrap();
    assert_eq!(image.repo_tags, [registry.name("app:1")], "the image keeps its own name");
    assert!(!empty.seen("").is_empty() && registry.seen("").is_empty());

    mirror.forget("");
    let place = Place::with(with_mirrors);
    place.store.pull(&reference, &credentials, None).await.unwrap();
    for seen in [empty.seen(""), mirror.seen("")].concat() {
        assert_eq!(seen.authorization, None, "{seen:?}");
    }
    assert!(!registry.seen("/blobs/").is_empty());
}

#[tokio::test]
async fn a_file_of_credentials_serves_pulls_that_bring_none_and_mirrors() {
    let (registry, mirror) = (Registry::start().await, Registry::start().await);
    let packed = Packed::of(&["x"], Packing::Gzip);
    registry.push("app", "1", &packed);
    mirror.push("cache/app", "1", &packed);
    registry.login(Login::Basic("user", "secret"));
    mirror.login(Login::Basic("mirror", "other"));
    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |auths: serde_json::Value| std::fs::write(file.path(), json!({"auths": auths}).to_string()).unwrap();
    let user = |username: &str, password: &str| json!({"username": username, "password": password});
    let hosts = vec![Mirror { host: mirror.host(), prefix: "cache".into() }];
    let plain = Config { auth_file: Some(file.path().to_owned()), ..config() };
    let mirrored = Config { mirrors: [(registry.host(), hosts)].into(), ..plain.clone() };
    let name = registry.name("app:1");

    write(json!({ registry.name("app"): user("user", "secret"), registry.host(): user("user", "wrong") }));
    Place::with(plain.clone()).pull(&name).await.expect("the most specific entry");
    let given = Credentials::Basic { username: "user".into(), password: "wrong".into() };
    let pulled = Place::with(plain.clone()).store.pull(&Reference::parse(&name).unwrap(), &given, None).await;
    assert_eq!(pulled.unwrap_err().kind(), podd_image::ErrorKind::Unauthorized, "what the caller gives goes first");
    assert!(mirror.seen("").is_empty());

    write(json!({ mirror.name("cache"): user("mirror", "other") }));
    let before = registry.seen("").len();
    let image = Place::with(mirrored).pull(&name).await.expect("the mirror's entry");
    assert_eq!((image.repo_tags.as_slice(), registry.seen("").len()), ([name.clone()].as_slice(), before));

    std::fs::write(file.path(), "{").unwrap();
    let error = Place::with(plain).pull(&name).await.unwrap_err();
    assert!(error.to_string().contains("line 1"), "{error}");
}

#[tokio::test]
async fn a_name_with_a_tag_and_a_digest_goes_by_the_digest() {
    let registry = Registry::start().await;
    let packed = Packed::of(&["x"], Packing::Gzip);
    registry.push("app", "1", &packed);
    let place = Place::new();
    let image = place.pull(&format!("{}@{}", registry.name("app:other"), packed.digest())).await.unwrap();
    assert!(image.repo_tags.is_empty());
    assert_eq!(image.repo_digests.len(), 1);
}
