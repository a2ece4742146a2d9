//! A disk that is full: a clear error, and a store that goes on when there is room again.

use std::path::PathBuf;
use std::process::Command;

use podd_image::{Config, ErrorKind, Store};

use crate::packed::{Packed, Packing, noise, tar_of};
use crate::registry::Registry;
use crate::{Place, config, content};

/// Where the small disk is mounted, for the inner half of the test.
const SMALL_DISK: &str = "PODD_IMAGE_SMALL_DISK";

/// The test runs itself again in a mount namespace of its own, so that no mount can be left behind.
#[tokio::test]
async fn a_full_disk_is_a_clear_error_and_the_store_stays_sound() {
    if let Some(disk) = std::env::var_os(SMALL_DISK) {
        return on_a_small_disk(PathBuf::from(disk)).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=6m tmpfs "$1" && exec "$2" --exact "$3" --nocapture"#;
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-euc", script, "sh"])
        .arg(directory.path())
        .arg(std::env::current_exe().unwrap())
        .arg("disk::a_full_disk_is_a_clear_error_and_the_store_stays_sound")
        .env(SMALL_DISK, directory.path())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&status.stdout);
    assert!(status.status.success(), "{output}{}", String::from_utf8_lossy(&status.stderr));
    assert!(output.contains("1 passed"), "{output}");
}

async fn on_a_small_disk(disk: PathBuf) {
    let registry = Registry::start().await;
    let small = Packed::of(&["small"], Packing::Gzip);
    registry.push("app", "small", &small);
    // The upper layer fits packed, and fits unpacked, but not both. The lower one fits before it.
    let big = Packed::new(&[tar_of(&[("x", b"x")]), tar_of(&[("noise", &noise(4 << 20))])], Packing::Gzip);
    registry.push("app", "big", &big);
    // Fits as it is, and unpacks to too much.
    let wide = Packed::new(&[tar_of(&[("text", &b"abcdefgh".repeat(2 << 20))])], Packing::Gzip);
    registry.push("app", "wide", &wide);
    let root = disk.join("store");
    let store = Store::open(&root, Config { parallel_layers: 1, ..config() }).unwrap();
    let place = Place { directory: tempfile::tempdir_in(&disk).unwrap(), store };
    place.pull(&registry.name("app:small")).await.unwrap();
    let usage = place.store.usage();
    for name in ["big", "wide", "big"] {
        let error = place.pull(&registry.name(&format!("app:{name}"))).await.expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{name}: {error}");
        let source = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(source.contains("No space left on device"), "{name}: {error}: {source}");
        assert_eq!(place.store.usage(), usage, "{name}: half an image is of no use to a full disk");
        assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0, "{name}");
    }
    let archive = tar_of(&[("noise", &noise(7 << 20))]);
    let error = place.store.load(std::io::Cursor::new(archive)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    let image = place.store.get(&registry.name("app:small")).unwrap();
    assert_eq!(content(&image, "0").as_deref(), Some("small"));
    place.store.remove(&registry.name("app:small")).await.unwrap();
    assert_eq!(place.store.usage(), podd_image::Usage::default());
}
