//! The store from outside: pulls from registries that behave and that do not, archives, removal, full disks.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod archives;
mod disk;
mod distribution;
mod keeping;
mod packed;
mod pulling;
mod registry;
mod secure;
mod trouble;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use podd_image::{Config, Credentials, Digest, Error, Image, Reference, Store};
use tempfile::TempDir;

/// Patience with retries is for real registries.
fn config() -> Config {
    Config { backoff: Duration::from_millis(1), backoff_max: Duration::from_millis(5), ..Config::default() }
}

/// A store of its own directory.
struct Place {
    directory: TempDir,
    store: Store,
}

impl Place {
    fn new() -> Place {
        Place::with(config())
    }

    fn with(config: Config) -> Place {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), config).unwrap();
        Place { directory, store }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    async fn pull(&self, name: &str) -> Result<std::sync::Arc<Image>, Error> {
        self.store.pull(&Reference::parse(name).unwrap(), &Credentials::Anonymous, None).await
    }

    /// Opens the store anew, as the next process would.
    async fn reopen(self, config: Config) -> Place {
        let Place { directory, store } = self;
        drop(store);
        // A pull that was dropped gives the store up when its thread notices.
        let store = eventually("the store is free", || Store::open(directory.path(), config.clone()).ok()).await;
        Place { directory, store }
    }

    /// No image, nothing half-made, nothing that is not what its name says, and nothing that a collection leaves.
    async fn check_nothing_stays(&self, case: &str) {
        assert!(self.store.list().is_empty(), "{case}: an image");
        eventually(&format!("{case}: an empty tmp"), || self.names("tmp").is_empty().then_some(())).await;
        for name in self.names("blobs/sha256") {
            let bytes = fs::read(self.path().join("blobs/sha256").join(&name)).unwrap();
            assert_eq!(Digest::of(&bytes).hex(), name, "{case}: a blob that is not what its name says");
        }
        self.store.collect().await.unwrap();
        assert_eq!(self.names("blobs/sha256"), [""; 0], "{case}");
        assert_eq!(self.names("layers"), [""; 0], "{case}");
        assert_eq!(self.store.usage(), podd_image::Usage::default(), "{case}");
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path().join(directory)).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The content of a file of an image, from the topmost layer that has it.
fn content(image: &Image, path: &str) -> Option<String> {
    image.layers.iter().find_map(|layer| fs::read_to_string(layer.join(path)).ok())
}

/// Waits for a condition, for no longer than ten seconds.
async fn eventually<T>(what: &str, condition: impl Fn() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
