//! ListContainers.

use podd_cri::v1::{Container as Item, ContainerFilter, ContainerMetadata, ImageSpec};

use super::Container;
use crate::engine::Engine;
use crate::records::ImageNames;
use crate::sandbox::list::selects;

impl Engine {
    /// The containers that pass the filter, oldest first.
    pub(crate) fn list_containers(&self, filter: &ContainerFilter) -> Vec<Item> {
        let mut found: Vec<Item> = self
            .registry
            .containers()
            .iter()
            .filter(|container| container.is_listed())
            .map(|container| container.item())
            .filter(|item| passes(item, filter))
            .collect();
        found.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        found
    }
}

impl Container {
    fn item(&self) -> Item {
        let meta = &self.meta;
        Item {
            id: meta.id.clone(),
            pod_sandbox_id: meta.sandbox_id.clone(),
            metadata: Some(self.metadata()),
            image: Some(meta.image.to_cri()),
            image_ref: meta.image.reference.clone(),
            state: self.state() as i32,
            created_at: meta.created_at,
            labels: meta.labels.clone(),
            annotations: meta.annotations.clone(),
            image_id: meta.image.id.clone(),
        }
    }

    pub(crate) fn metadata(&self) -> ContainerMetadata {
        ContainerMetadata { name: self.meta.owner.name.clone(), attempt: self.meta.owner.attempt }
    }
}

impl ImageNames {
    pub(crate) fn to_cri(&self) -> ImageSpec {
        ImageSpec {
            image: self.requested.clone(),
            user_specified_image: self.user_specified.clone(),
            ..ImageSpec::default()
        }
    }
}

fn passes(item: &Item, filter: &ContainerFilter) -> bool {
    item.id.starts_with(&filter.id)
        && item.pod_sandbox_id.starts_with(&filter.pod_sandbox_id)
        && filter.state.as_ref().is_none_or(|state| state.state == item.state)
        && selects(&filter.label_selector, &item.labels)
}

#[cfg(test)]
mod tests {
    use podd_cri::v1::{ContainerState, ContainerStateValue};

    use super::*;

    #[test]
    fn everything_that_a_filter_names_must_match() {
        let item = Item {
            id: "abc".into(),
            pod_sandbox_id: "pod1".into(),
            state: ContainerState::ContainerExited as i32,
            labels: [("a".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        };
        let state = |state: ContainerState| Some(ContainerStateValue { state: state as i32 });
        let table = [
            ("", "", None, None, true),
            ("ab", "pod", None, None, true),
            ("abd", "", None, None, false),
            ("", "pod2", None, None, false),
            ("", "", state(ContainerState::ContainerExited), None, true),
            ("", "", state(ContainerState::ContainerRunning), None, false),
            ("", "", None, Some(("a", "1")), true),
            ("", "", None, Some(("a", "2")), false),
            ("abc", "pod1", state(ContainerState::ContainerExited), Some(("a", "1")), true),
        ];
        for (id, sandbox, state, label, expected) in table {
            let filter = ContainerFilter {
                id: id.into(),
                state,
                pod_sandbox_id: sandbox.into(),
                label_selector: label.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            };
            assert_eq!(passes(&item, &filter), expected, "{filter:?}");
        }
    }
}
