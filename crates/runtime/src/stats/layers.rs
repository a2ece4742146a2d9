//! How big writable layers are. Walking one is the dear part of statistics, so that a size is kept for a while.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How old a size may be at least. Less than the ten seconds after which whoever evicts asks again.
const AGE: Duration = Duration::from_secs(8);
/// It may be this many times as old as the walk took, too: a big layer is walked for at most a hundredth of the time.
const REST: u32 = 100;
/// How many files of a writable layer are looked at; a bigger one is reported as far as it was seen.
const FILES: u64 = 1_000_000;

/// The sizes, and when they were measured.
#[derive(Default)]
pub(crate) struct Layers(Mutex<HashMap<String, Known>>);

struct Known {
    until: Instant,
    usage: Usage,
}

/// The size of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl Layers {
    /// The size of a container's layer that lies in `directory`, now or a little while ago.
    pub(super) fn usage(&self, container: &str, directory: &Path) -> Usage {
        let begun = Instant::now();
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known().get(container).filter(|known| begun < known.until) {
            return known.usage;
        }
        let usage = usage_of(directory);
        let now = Instant::now();
        let until = now + AGE.max((now - begun) * REST);
        let mut known = known();
        // Also those of containers that are gone.
        known.retain(|_, known| now < known.until);
        known.insert(container.to_owned(), Known { until, usage });
        usage
    }
}

/// Bytes on disk and inodes below a directory. What goes away while it is looked at is not counted.
fn usage_of(directory: &Path) -> Usage {
    let mut usage = Usage::default();
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            usage.inodes += 1;
            // st_blocks counts 512 bytes each, whatever the file system's block size (stat(2)).
            usage.bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                waiting.push(entry.path());
            }
            if usage.inodes >= FILES {
                return usage;
            }
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_counts_what_lies_below_and_follows_no_links() {
        let directory = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(directory.path().join("a")).expect("mkdir");
        std::fs::write(directory.path().join("a/b"), vec![1; 8192]).expect("write");
        std::os::unix::fs::symlink("/", directory.path().join("c")).expect("symlink");
        let usage = usage_of(directory.path());
        assert_eq!(usage.inodes, 3);
        assert!(usage.bytes >= 8192 && usage.bytes < 1 << 20, "{usage:?}");
        assert_eq!(usage_of(Path::new("/does/not/exist")), Usage::default());
    }

    #[test]
    fn a_layer_is_not_walked_for_every_question() {
        let directory = tempfile::tempdir().expect("tempdir");
        let layers = Layers::default();
        assert_eq!(layers.usage("a", directory.path()).inodes, 0);
        std::fs::write(directory.path().join("new"), b"x").expect("write");
        assert_eq!(layers.usage("a", directory.path()).inodes, 0, "as it was a moment ago");
        assert_eq!(layers.usage("b", directory.path()).inodes, 1, "another one is walked");
    }
}
