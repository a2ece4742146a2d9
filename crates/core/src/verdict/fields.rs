//! Every field of a Pod as Kubernetes has it, with its type and the verdict on it. The list is kept in `fields.txt`, which
//! `tests/schema` writes from the schema and holds against it.

use super::{Verdict, of};

const FIELDS: &str = include_str!("fields.txt");

/// A field of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Where it is: `spec.containers[].args`.
    pub path: &'static str,
    /// The name of its type: `[]string`, `Quantity`, `SecurityContext`.
    pub kind: &'static str,
    /// What podd does with it.
    pub verdict: Verdict,
}

impl Field {
    /// Its own name, without the path.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }

    /// Whether it lies directly beneath `path`, itself a field of the schema or empty for the Pod.
    #[must_use]
    pub fn is_in(&self, path: &str) -> bool {
        let parent = self.path.rsplit_once('.').map_or("", |(parent, _)| parent);
        parent.trim_end_matches("[]") == path
    }
}

/// All fields, sorted by path.
pub fn fields() -> impl Iterator<Item = Field> {
    FIELDS.lines().filter_map(|line| {
        let (path, kind) = line.split_once(' ')?;
        Some(Field { path, kind, verdict: of(path)? })
    })
}

/// The field that a person calls `path`: `spec.containers.args`, with or without `[]`.
#[must_use]
pub fn field(path: &str) -> Option<Field> {
    let plain = |path: &str| path.replace("[]", "");
    let wanted = plain(path);
    fields().find(|field| plain(field.path) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_with_and_without_brackets() {
        for path in ["spec.containers[].env[].name", "spec.containers.env.name"] {
            let found = field(path).expect("a field");
            assert_eq!((found.path, found.kind, found.name()), ("spec.containers[].env[].name", "string", "name"));
        }
        assert_eq!(field("spec.containers.none"), None);
    }

    #[test]
    fn fields_are_listed_level_by_level() {
        let names = |path: &str| fields().filter(|f| f.is_in(path)).map(|f| f.name()).collect::<Vec<_>>();
        assert_eq!(names(""), ["apiVersion", "kind", "metadata", "spec", "status"]);
        assert!(names("spec.containers").contains(&"livenessProbe"));
        assert!(!names("spec.containers").contains(&"exec"));
    }

    #[test]
    fn every_line_of_the_list_is_a_field_with_a_verdict() {
        assert_eq!(fields().count(), FIELDS.lines().count());
    }
}
