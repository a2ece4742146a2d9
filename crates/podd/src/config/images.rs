//! `[images]`: those that are never collected, and when others are.

use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use podd_core::collection::Settings;
use serde::Deserialize;

use crate::cli::duration;

/// How often it is asked whether images must go.
const PERIOD: Duration = Duration::from_secs(300);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct File {
    /// Names of images that are never collected.
    pub(super) pinned: Vec<String>,
    /// Per cent of the disk.
    gc_high_threshold: Option<u8>,
    gc_low_threshold: Option<u8>,
    gc_min_age: Option<String>,
    /// 0 keeps images however long nobody uses them.
    gc_max_age: Option<String>,
    gc_period: Option<String>,
}

impl File {
    /// When images go, and how often that is asked.
    pub(super) fn settings(&self) -> anyhow::Result<(Settings, Duration)> {
        let defaults = Settings::default();
        let time = |key: &str, text: &Option<String>, default: Duration| match text {
            Some(text) => duration(text).map_err(|why| anyhow!("{why}")).with_context(|| format!("images.{key}")),
            None => Ok(default),
        };
        let high = self.gc_high_threshold.unwrap_or(defaults.high);
        let low = self.gc_low_threshold.unwrap_or(defaults.low.min(high));
        ensure!(high <= 100, "images.gc-high-threshold {high}: a percentage is at most 100; 100 never collects");
        ensure!(low <= high, "images.gc-low-threshold {low}: it must not be above gc-high-threshold, {high}");
        let max_age = time("gc-max-age", &self.gc_max_age, Duration::ZERO)?;
        let settings = Settings {
            high,
            low,
            min_age: time("gc-min-age", &self.gc_min_age, defaults.min_age)?,
            max_age: (!max_age.is_zero()).then_some(max_age),
        };
        let period = time("gc-period", &self.gc_period, PERIOD)?;
        ensure!(!period.is_zero(), "images.gc-period: it must be more than 0s");
        Ok((settings, period))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<(Settings, Duration), String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        file.settings().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn what_is_not_written_is_the_kubelets_and_what_is_wrong_is_named() {
        assert_eq!(settings(""), Ok((Settings::default(), PERIOD)));
        let given = settings("gc-high-threshold = 60\ngc-low-threshold = 50\ngc-max-age = \"24h\"\n").expect("good");
        assert_eq!((given.0.high, given.0.low, given.0.max_age), (60, 50, Some(Duration::from_secs(86_400))));
        assert_eq!(
            settings("gc-high-threshold = 10").expect("good").0.low,
            10,
            "the default is no higher than the other"
        );
        let table = [
            ("gc-high-threshold = 101", "images.gc-high-threshold 101"),
            ("gc-low-threshold = 90", "images.gc-low-threshold 90: it must not be above gc-high-threshold, 85"),
            ("gc-min-age = \"x\"", "images.gc-min-age: \"x\" is no duration"),
            ("gc-period = \"0s\"", "images.gc-period"),
        ];
        for (text, expected) in table {
            let said = settings(text).expect_err(expected);
            assert!(said.contains(expected), "{said}");
        }
    }
}
