//! ListPodSandbox.

use std::collections::BTreeMap;

use podd_cri::v1::{PodSandbox, PodSandboxFilter};

use super::{Sandbox, metadata};
use crate::engine::Engine;

impl Engine {
    /// The sandboxes that pass the filter, oldest first.
    pub(crate) fn list_sandboxes(&self, filter: &PodSandboxFilter) -> Vec<PodSandbox> {
        let mut found: Vec<PodSandbox> = self
            .registry
            .sandboxes()
            .iter()
            .filter(|sandbox| sandbox.is_listed())
            .map(|sandbox| item(sandbox))
            .filter(|item| passes(item, filter))
            .collect();
        found.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        found
    }
}

fn item(sandbox: &Sandbox) -> PodSandbox {
    let meta = &sandbox.meta;
    PodSandbox {
        id: meta.id.clone(),
        metadata: Some(metadata(&meta.owner)),
        state: sandbox.state() as i32,
        created_at: meta.created_at,
        labels: meta.labels.clone(),
        annotations: meta.annotations.clone(),
        runtime_handler: meta.runtime_handler.clone(),
    }
}

fn passes(item: &PodSandbox, filter: &PodSandboxFilter) -> bool {
    item.id.starts_with(&filter.id)
        && filter.state.as_ref().is_none_or(|state| state.state == item.state)
        && selects(&filter.label_selector, &item.labels)
}

/// Whether every wanted label is there with its value.
pub(crate) fn selects(wanted: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use podd_cri::v1::{PodSandboxState, PodSandboxStateValue};

    use super::*;

    #[test]
    fn everything_that_a_filter_names_must_match() {
        let labels = |text: &str| -> BTreeMap<String, String> {
            text.split_whitespace().filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
        };
        let item = PodSandbox { id: "abc123".into(), labels: labels("app=web tier=1"), ..Default::default() };
        let state = |state: PodSandboxState| Some(PodSandboxStateValue { state: state as i32 });
        let table = [
            ("", None, "", true),
            ("abc123", None, "", true),
            ("abc", None, "", true),
            ("bc", None, "", false),
            ("", state(PodSandboxState::SandboxReady), "", true),
            ("", state(PodSandboxState::SandboxNotready), "", false),
            ("", None, "app=web", true),
            ("", None, "app=web tier=1", true),
            ("", None, "app=web tier=2", false),
            ("", None, "other=1", false),
            ("abc", state(PodSandboxState::SandboxReady), "tier=1", true),
        ];
        for (id, state, selector, expected) in table {
            let filter = PodSandboxFilter { id: id.into(), state, label_selector: labels(selector) };
            assert_eq!(passes(&item, &filter), expected, "{filter:?}");
        }
    }
}
