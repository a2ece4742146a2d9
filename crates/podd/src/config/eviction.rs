//! `[agent.eviction]`: when the node is short of something, in the kubelet's words.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use podd_core::eviction::{Settings, Written, default_hard};
use serde::Deserialize;

use crate::cli::duration;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct File {
    /// Signal → amount or percentage. One that is given stands for all of the defaults.
    hard: Option<BTreeMap<String, String>>,
    soft: BTreeMap<String, String>,
    /// Signal → how long its soft threshold may be crossed.
    soft_grace: BTreeMap<String, String>,
    minimum_reclaim: BTreeMap<String, String>,
    /// How long a condition stays.
    transition_period: Option<String>,
    /// The most that a pod gets to end when a soft threshold is met.
    max_pod_grace: Option<String>,
}

impl File {
    pub(super) fn settings(self) -> anyhow::Result<Settings> {
        let defaults = Settings::default();
        let given = |name: &str, text: Option<String>, default: Duration| match text {
            Some(text) => time(name, &text),
            None => Ok(default),
        };
        let transition = given("transition-period", self.transition_period, defaults.transition)?;
        let max_pod_grace = given("max-pod-grace", self.max_pod_grace, defaults.max_pod_grace)?;
        let graces = self.soft_grace.iter();
        let soft_grace = graces.map(|(name, text)| Ok((name.clone(), time(&format!("soft-grace.{name}"), text)?)));
        let written = Written {
            hard: self.hard.unwrap_or_else(default_hard),
            soft: self.soft,
            soft_grace: soft_grace.collect::<anyhow::Result<_>>()?,
            minimum_reclaim: self.minimum_reclaim,
        };
        let thresholds = written.read().map_err(|bad| anyhow!("agent.eviction.{bad}"))?;
        Ok(Settings { thresholds, transition, max_pod_grace })
    }
}

fn time(name: &str, text: &str) -> anyhow::Result<Duration> {
    duration(text).map_err(|why| anyhow!("{why}")).with_context(|| format!("agent.eviction.{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        file.settings().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn what_is_not_written_is_the_kubelets() {
        assert_eq!(settings(""), Ok(Settings::default()));
        let text = "soft-grace = {\"memory.available\" = \"90s\"}\nsoft = {\"memory.available\" = \"1Gi\"}\nmax-pod-grace = \"20s\"\n";
        let soft = settings(text).expect("good");
        assert_eq!(soft.thresholds.len(), Settings::default().thresholds.len() + 1, "hard ones stay beside soft ones");
        assert_eq!(soft.max_pod_grace.as_secs(), 20);
        let hard = settings("transition-period = \"1m\"\nhard = {}\n").expect("good");
        assert_eq!((hard.thresholds.len(), hard.transition.as_secs()), (0, 60));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_key() {
        let table = [
            ("hard = {\"memory.free\" = \"1\"}", "agent.eviction.hard.memory.free: no such signal"),
            ("soft = {\"pid.available\" = \"1\"}", "agent.eviction.soft.pid.available: a soft threshold needs"),
            ("transition-period = \"x\"", "agent.eviction.transition-period: \"x\" is no duration"),
            ("hards = {}", "hards"),
        ];
        for (text, expected) in table {
            let said = settings(text).expect_err(expected);
            assert!(said.contains(expected), "{said}");
        }
    }
}
