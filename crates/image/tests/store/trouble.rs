//! Pulls that fail: the right kind, a message that says what happened, and nothing left behind.

use std::time::{Duration, Instant};

use podd_image::{Config, Credentials, Digest, ErrorKind, Limits, Reference};
use serde_json::json;

use crate::packed::{Packed, Packing, descriptor, noise, pack, tar, tar_of};
use crate::registry::{Login, Registry, Wrong};
use crate::{Place, config, content, eventually};

/// Pulls `app:1` in vain, and looks at the error and the store.
async fn check(case: &str, registry: &Registry, config: Config, kind: ErrorKind, reasons: &[&str]) {
    let place = Place::with(config);
    let error = place.pull(&registry.name("app:1")).await.expect_err(case);
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{case}: {text}");
    for reason in reasons.iter().copied().chain(["/app:1"]) {
        assert!(text.contains(reason), "{case}: {text:?} does not say {reason:?}");
    }
    place.check_nothing_stays(case).await;
}

#[tokio::test]
async fn a_registry_that_lies_is_found_out() {
    let packed = Packed::new(&[tar_of(&[("noise", &noise(100_000))])], Packing::Gzip);
    let (layer, id) = (Digest::of(&packed.layers[0]), packed.id());
    let mut other = packed.layers[0].clone();
    other[50_000] ^= 1;
    let longer = [&packed.layers[0][..], b"more"].concat();
    let shorter = packed.layers[0][..50_000].to_vec();
    let valid_but_other = pack(&tar(&[("x", "evil")]), Packing::Gzip);
    let mut padded = valid_but_other.clone();
    padded.resize(packed.layers[0].len(), 0);
    for (case, path, wrong, reasons) in [
        ("one bit of a layer", layer.to_string(), Wrong::Lie(other), vec!["layer sha256:", "its digest is sha256:"]),
        ("a longer layer", layer.to_string(), Wrong::Lie(longer), vec!["get blob sha256:", "bytes instead of"]),
        ("a shorter layer", layer.to_string(), Wrong::Lie(shorter), vec!["ends after 50000 of"]),
        ("another layer, padded", layer.to_string(), Wrong::Lie(padded), vec!["its digest is sha256:"]),
        ("an empty layer", layer.to_string(), Wrong::Lie(Vec::new()), vec!["ends after 0 of"]),
        ("another configuration", id.to_string(), Wrong::Lie(b"{}".to_vec()), vec!["digest mismatch"]),
        ("a huge configuration", id.to_string(), Wrong::Lie(vec![b' '; 100_000]), vec!["longer than"]),
        (
            "another manifest",
            "/manifests/".into(),
            Wrong::Header(format!("sha256:{}", "0".repeat(64))),
            vec!["digest mismatch"],
        ),
        ("no manifest", "/manifests/".into(), Wrong::Lie(b"<html>".to_vec()), vec!["digest mismatch"]),
    ] {
        let registry = Registry::start().await;
        registry.push("app", "1", &packed);
        registry.fault(path, usize::MAX, wrong);
        check(case, &registry, config(), ErrorKind::Invalid, &reasons).await;
    }
}

#[tokio::test]
async fn a_manifest_that_does_not_fit_is_refused() {
    let layer = tar(&[("x", "x")]);
    let good = Packed::new(std::slice::from_ref(&layer), Packing::Gzip);
    let config_with = |diff_ids: serde_json::Value| json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let packed = |layers: Vec<Vec<u8>>, diff_ids| Packed::with(layers, &config_with(diff_ids));
    let gzip = pack(&layer, Packing::Gzip);
    let truncated = gzip[..gzip.len() - 9].to_vec();
    let zstd = pack(&tar_of(&[("noise", &noise(5000))]), Packing::Zstd);
    let right = || json!([Digest::of(&layer)]);
    for (case, image, reasons) in [
        ("a wrong diff id", packed(vec![gzip.clone()], json!([Digest::of(b"x")])), vec!["uncompressed digest is"]),
        ("too few diff ids", packed(vec![gzip.clone()], json!([])), vec!["0 layers, its manifest 1"]),
        ("a diff id that is none", packed(vec![gzip.clone()], json!(["sha512:00"])), vec!["sha512"]),
        ("truncated gzip", packed(vec![truncated], right()), vec!["Gzip stream is broken"]),
        ("truncated zstd", packed(vec![zstd[..zstd.len() - 9].to_vec()], right()), vec!["Zstd stream is broken"]),
        ("garbage after gzip", packed(vec![[&gzip[..], b"garbage"].concat()], right()), vec!["Gzip stream is broken"]),
        ("garbage in place of a layer", packed(vec![noise(5000)], right()), vec!["tar stream is broken"]),
        (
            "a hostile layer",
            packed(vec![pack(&hostile(), Packing::Gzip)], json!([Digest::of(&hostile())])),
            vec!["'..'"],
        ),
        (
            "a stated size that is too big",
            good.clone().change_manifest(|manifest| manifest["layers"][0]["size"] = json!(100_000)),
            vec!["of 100000 bytes"],
        ),
        (
            "a stated size that is too small",
            good.clone().change_manifest(|manifest| manifest["layers"][0]["size"] = json!(10)),
            vec!["bytes instead of 10"],
        ),
        (
            "a configuration of another size",
            good.clone().change_manifest(|manifest| manifest["config"]["size"] = json!(10_000)),
            vec!["bytes instead of 10000"],
        ),
        (
            "a manifest of another thing",
            good.clone()
                .change_manifest(|m| m["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json")),
            vec!["no container image"],
        ),
    ] {
        let registry = Registry::start().await;
        registry.push("app", "1", &image);
        check(case, &registry, config(), ErrorKind::Invalid, &reasons).await;
    }
}

fn hostile() -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    header.as_old_mut().name[..5].copy_from_slice(b"../up");
    header.set_cksum();
    [header.as_bytes().as_slice(), &[0; 1024]].concat()
}

#[tokio::test]
async fn a_layer_that_unpacks_to_too_much_meets_the_limit() {
    let bomb = pack(&tar_of(&[("zeros", &vec![0; 20_000_000])]), Packing::Gzip);
    let zstd_bomb = pack(&tar_of(&[("zeros", &vec![0; 20_000_000])]), Packing::Zstd);
    let ids = json!([Digest::of(b"x")]);
    let image_config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}});
    assert!(bomb.len() < 200_000);
    for bomb in [bomb, zstd_bomb] {
        let registry = Registry::start().await;
        registry.push("app", "1", &Packed::with(vec![bomb], &image_config));
        let limits = Limits { layer_bytes: 1 << 20, ..Limits::default() };
        let tight = Config { limits, ..config() };
        check("a bomb", &registry, tight, ErrorKind::Invalid, &["over the limit layer_bytes of 1048576"]).await;
    }
    let registry = Registry::start().await;
    registry.push("app", "1", &Packed::of(&["x"], Packing::Gzip));
    let limits = Limits { manifest_bytes: 100, ..Limits::default() };
    let tight = Config { limits, ..config() };
    check("a long manifest", &registry, tight, ErrorKind::Invalid, &["longer than 100 bytes"]).await;
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let registry = Registry::start().await;
    check("no image", &registry, config(), ErrorKind::NotFound, &["get manifest 1", "404", "MANIFEST_UNKNOWN"]).await;
    let packed = Packed::of(&["x"], Packing::Gzip);
    for blob in packed.blobs() {
        registry.push("app", "1", &packed);
        let digest = Digest::of(blob).to_string();
        registry.forget(&digest);
        check("no blob", &registry, config(), ErrorKind::NotFound, &["get blob", &digest, "404"]).await;
    }
}

#[tokio::test]
async fn wrong_or_missing_credentials_are_told_as_such() {
    let bad = Credentials::Basic { username: "user".into(), password: "wrong".into() };
    for login in [Login::Basic("user", "secret"), Login::Bearer(Some(("user", "secret")))] {
        for credentials in [bad.clone(), Credentials::Anonymous, Credentials::Bearer("old".into())] {
            let case = format!("{login:?} {credentials:?}");
            let registry = Registry::start().await;
            registry.login(login.clone());
            registry.push("app", "1", &Packed::of(&["x"], Packing::Gzip));
            let place = Place::new();
            let reference = Reference::parse(&registry.name("app:1")).unwrap();
            let error = place.store.pull(&reference, &credentials, None).await.expect_err(&case);
            assert_eq!(error.kind(), ErrorKind::Unauthorized, "{case}: {error}");
            assert!(error.to_string().contains("401"), "{case}: {error}");
            assert!(!error.to_string().contains("wrong"), "{case}: a secret is shown: {error}");
            assert!(registry.seen("").len() <= 3, "{case}: a refusal is not asked for again and again");
            place.check_nothing_stays(&case).await;
        }
    }
    let registry = Registry::start().await;
    registry.push("app", "1", &Packed::of(&["x"], Packing::Gzip));
    registry.fault("/manifests/", 9, Wrong::Status(403));
    check("forbidden", &registry, config(), ErrorKind::Unauthorized, &["403"]).await;
}

#[tokio::test]
async fn a_registry_that_stays_ill_is_unavailable_after_all_attempts() {
    for (wrong, reason) in [
        (Wrong::Busy(1), "429 Too Many Requests (TOOMANYREQUESTS: slow down)"),
        (Wrong::Status(502), "502"),
        (Wrong::Cut(0), "the connection broke"),
        (Wrong::Redirect("http://127.0.0.1:1/".into()), "cannot connect"),
    ] {
        let registry = Registry::start().await;
        registry.push("app", "1", &Packed::of(&["x"], Packing::Gzip));
        registry.fault("/manifests/", usize::MAX, wrong.clone());
        check(&format!("{wrong:?}"), &registry, config(), ErrorKind::Unavailable, &[reason]).await;
        assert_eq!(registry.seen("/manifests/").len(), 4, "{wrong:?}");
    }
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let registry = Registry::start().await;
    let packed = Packed::of(&["x"], Packing::Gzip);
    registry.push("app", "1", &packed);
    registry.fault("/manifests/", usize::MAX, Wrong::Redirect("/v2/app/manifests/1".into()));
    check("a circle", &registry, config(), ErrorKind::Unavailable, &["redirect"]).await;
    assert!(registry.seen("").len() < 20);
}

#[tokio::test]
async fn nobody_listening_is_unavailable_and_says_so() {
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let place = Place::new();
    let error = place.pull(&format!("{address}/app:1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("cannot connect"), "{text}");
    assert!(text.contains("is it running?"), "{text}");
    place.check_nothing_stays("nobody").await;
}

#[tokio::test]
async fn a_registry_that_falls_silent_is_given_up() {
    let packed = Packed::new(&[tar_of(&[("noise", &noise(100_000))])], Packing::Gzip);
    let layer = Digest::of(&packed.layers[0]).to_string();
    let impatient = Config { stall_timeout: Duration::from_millis(200), attempts: 2, ..config() };
    for (path, sent) in [("/manifests/1", 0), (layer.as_str(), 0), (layer.as_str(), 50_000)] {
        let registry = Registry::start().await;
        registry.push("app", "1", &packed);
        registry.fault(path, usize::MAX, Wrong::Stall(0));
        if sent > 0 {
            registry.heal();
            registry.fault(path, 1, Wrong::Stall(sent));
            registry.fault(path, usize::MAX, Wrong::Stall(0));
        }
        let start = Instant::now();
        check(path, &registry, impatient.clone(), ErrorKind::Unavailable, &["silent for too long"]).await;
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_pull_that_is_dropped_leaves_a_store_that_opens_and_goes_on() {
    let registry = Registry::start().await;
    let layers = [tar(&[("low", "low")]), tar_of(&[("noise", &noise(500_000))])];
    let packed = Packed::new(&layers, Packing::Gzip);
    registry.push("app", "1", &packed);
    let digests = packed.layers.iter().map(|layer| Digest::of(layer)).collect::<Vec<_>>();
    registry.fault(digests[1], 1, Wrong::Stall(100_000));
    let place = Place::new();
    let name = registry.name("app:1");
    {
        let pull = place.pull(&name);
        let low = eventually("the lower layer and a stalled upper one", || {
            let whole = place.names("blobs/sha256").contains(&digests[0].hex());
            let stalled = !registry.seen(&digests[1].to_string()).is_empty();
            (whole && stalled && !place.names("layers").is_empty()).then_some(())
        });
        tokio::select! {
            outcome = pull => panic!("the pull ended: {outcome:?}"),
            () = low => {}
        }
    }
    eventually("an empty tmp", || place.names("tmp").is_empty().then_some(())).await;
    assert!(place.store.list().is_empty());
    let place = place.reopen(config()).await;
    let image = place.pull(&name).await.unwrap();
    assert_eq!(content(&image, "low").as_deref(), Some("low"));
    assert_eq!(registry.seen(&digests[0].to_string()).len(), 1, "the whole layer was not fetched again");
}

#[tokio::test]
async fn a_pull_goes_on_for_those_who_still_wait_for_it() {
    let registry = Registry::start().await;
    let packed = Packed::new(&[tar_of(&[("noise", &noise(100_000))])], Packing::Gzip);
    let layer = Digest::of(&packed.layers[0]).to_string();
    registry.push("app", "1", &packed);
    registry.fault(&layer, 1, Wrong::Stall(1000));
    let place = Place::with(Config { stall_timeout: Duration::from_millis(300), ..config() });
    let name = registry.name("app:1");
    let waits = place.pull(&name);
    {
        let leaves = place.pull(&name);
        let started = eventually("the layer is asked for", || (!registry.seen(&layer).is_empty()).then_some(()));
        tokio::select! {
            _ = leaves => panic!("it ended"),
            () = started => {}
        }
    }
    waits.await.unwrap();
}

#[tokio::test]
async fn a_damaged_blob_of_the_store_is_fetched_again() {
    let registry = Registry::start().await;
    let packed = Packed::of(&["x"], Packing::Gzip);
    registry.push("app", "1", &packed);
    let layer = Digest::of(&packed.layers[0]);
    let place = Place::new();
    let directory = place.path().join("blobs/sha256");
    let mut damaged = packed.layers[0].clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(directory.join(layer.hex()), &damaged).unwrap();
    let place = place.reopen(config()).await;
    place.pull(&registry.name("app:1")).await.unwrap();
    assert_eq!(std::fs::read(directory.join(layer.hex())).unwrap(), packed.layers[0]);
    assert_eq!(descriptor("x", &packed.layers[0])["digest"], json!(layer));
}
