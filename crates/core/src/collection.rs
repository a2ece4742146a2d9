//! Which images go when their disk is full, or nobody has used them for long: least recently used first, and none that is
//! used, spared or young.
//!
//! Source: `pkg/kubelet/images/image_gc_manager.go` of Kubernetes 1.36.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use crate::eviction::Observed;

/// When images go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Per cent of the disk that may be full; at 100 none goes for want of disk.
    pub high: u8,
    /// Images go until no more than this is full.
    pub low: u8,
    /// No image goes that is not known for as long as this.
    pub min_age: Duration,
    /// An image that was not used for longer than this goes in any case; none keeps it.
    pub max_age: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { high: 85, low: 80, min_age: Duration::from_secs(120), max_age: None }
    }
}

impl Settings {
    /// How many bytes must go from a disk; none while it is not too full.
    #[must_use]
    pub fn to_free(&self, disk: Observed) -> Option<i64> {
        if disk.capacity <= 0 || self.high >= 100 {
            return None;
        }
        let (available, capacity) = (i128::from(disk.available), i128::from(disk.capacity));
        let full = 100 - available * 100 / capacity;
        let goal = capacity * (100 - i128::from(self.low)) / 100;
        (full >= i128::from(self.high))
            .then(|| i64::try_from(goal - available).unwrap_or(i64::MAX))
            .filter(|bytes| *bytes > 0)
    }
}

/// An image that the runtime has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSeen {
    /// The runtime's id.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// It is pinned: it never goes.
    pub pinned: bool,
    /// A container or a pod has it.
    pub used: bool,
}

/// What is remembered of images between two looks.
#[derive(Clone, Debug)]
pub struct Shelf {
    began: Timestamp,
    looked: bool,
    known: BTreeMap<String, Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    found: Timestamp,
    used: Timestamp,
}

impl Shelf {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new(now: Timestamp) -> Shelf {
        Shelf { began: now, looked: false, known: BTreeMap::new() }
    }

    /// Takes in what the runtime has. What is there at the first look was there before us, nobody knows for how long.
    pub fn look(&mut self, images: &[ImageSeen], now: Timestamp) {
        let found = if self.looked { now } else { Timestamp::UNIX_EPOCH };
        self.looked = true;
        self.known.retain(|id, _| images.iter().any(|image| image.id == *id));
        for image in images {
            let known = self.known.entry(image.id.clone()).or_insert(Known { found, used: Timestamp::UNIX_EPOCH });
            if image.used {
                known.used = now;
            }
        }
    }

    /// The images that may go, in their order: least recently used first, then the one that is known for longest.
    #[must_use]
    pub fn unused<'a>(&self, images: &'a [ImageSeen], settings: &Settings, now: Timestamp) -> Vec<&'a ImageSeen> {
        let of = |image: &ImageSeen| self.known.get(&image.id).copied();
        let is_old = |image: &&ImageSeen| of(image).is_some_and(|known| passed(known.found, now) >= settings.min_age);
        let mut unused: Vec<_> = images.iter().filter(|image| !image.used && !image.pinned).filter(is_old).collect();
        unused.sort_by_key(|image| (of(image).map(|known| (known.used, known.found)), image.id.clone()));
        unused
    }

    /// The images that nobody has used for so long that they go in any case. None until we have looked for as long: what
    /// was before is not known.
    #[must_use]
    pub fn outdated<'a>(&self, images: &'a [ImageSeen], settings: &Settings, now: Timestamp) -> Vec<&'a ImageSeen> {
        let Some(max_age) = settings.max_age.filter(|max_age| passed(self.began, now) > *max_age) else {
            return Vec::new();
        };
        let mut unused = self.unused(images, settings, now);
        unused.retain(|image| {
            let known = self.known.get(&image.id);
            known.is_some_and(|known| passed(known.used.max(known.found), now) > max_age)
        });
        unused
    }
}

fn passed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).expect("a time")
    }

    fn images(used: &[&str]) -> Vec<ImageSeen> {
        let image = |id: &str| ImageSeen { id: id.into(), size: 10, pinned: id == "pinned", used: used.contains(&id) };
        ["a", "b", "c", "pinned"].map(image).into()
    }

    fn ids(images: Vec<&ImageSeen>) -> String {
        images.iter().map(|image| image.id.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_disk_is_freed_from_the_high_mark_down_to_the_low_one() {
        let settings = Settings::default();
        let full = |available| settings.to_free(Observed { available, capacity: 1000 });
        assert_eq!([full(160), full(150), full(50), full(0)], [None, Some(50), Some(150), Some(200)]);
        assert_eq!(settings.to_free(Observed { available: 0, capacity: 0 }), None);
        let never = Settings { high: 100, ..settings };
        assert_eq!(never.to_free(Observed { available: 0, capacity: 1000 }), None);
    }

    #[test]
    fn the_least_recently_used_image_goes_first_and_what_is_used_or_pinned_stays() {
        let mut shelf = Shelf::new(at(0));
        let settings = Settings::default();
        shelf.look(&images(&["a", "b"]), at(0));
        shelf.look(&images(&["b"]), at(300));
        assert_eq!(ids(shelf.unused(&images(&[]), &settings, at(600))), "c a b");
        assert_eq!(ids(shelf.unused(&images(&["c"]), &settings, at(600))), "a b");
    }

    #[test]
    fn a_young_image_stays_and_one_that_was_there_before_us_is_old() {
        let mut shelf = Shelf::new(at(0));
        let all = images(&[]);
        shelf.look(&all[..1], at(0));
        shelf.look(&all, at(300));
        let unused = |seconds| ids(shelf.unused(&all, &Settings::default(), at(seconds)));
        assert_eq!((unused(419), unused(420)), ("a".into(), "a b c".into()));
    }

    #[test]
    fn an_image_that_nobody_uses_for_too_long_goes_whatever_the_disk() {
        let mut shelf = Shelf::new(at(0));
        let settings = Settings { max_age: Some(Duration::from_secs(3600)), ..Settings::default() };
        shelf.look(&images(&["a"]), at(0));
        shelf.look(&images(&[]), at(3000));
        let outdated = |settings: &Settings, seconds| ids(shelf.outdated(&images(&[]), settings, at(seconds)));
        assert_eq!(outdated(&settings, 3600), "", "not known for so long");
        assert_eq!(outdated(&settings, 3601), "b c a");
        assert_eq!(outdated(&Settings::default(), 1 << 30), "");
    }
}
