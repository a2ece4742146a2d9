//! Where each value of a document stands in its file.

use std::collections::BTreeMap;
use std::fmt;

/// A place in a file, both counted from 1; the column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The positions of a value and of everything inside it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Positions {
    /// Where the key of this value stands, when it is a value of a mapping.
    pub(crate) key: Option<Position>,
    /// Where the value itself starts.
    pub(crate) value: Position,
    pub(crate) children: Children,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Children {
    #[default]
    None,
    Fields(BTreeMap<String, Positions>),
    Items(Vec<Positions>),
}

impl Positions {
    /// Where this value starts.
    #[must_use]
    pub fn start(&self) -> Position {
        self.value
    }

    /// The position of a Kubernetes field path (`spec.containers[0].ports[1].hostPort`,
    /// `metadata.labels[app.kubernetes.io/name]`): that of its value, or, where the path leads to
    /// something the document does not have (a missing field), of the nearest part that it has.
    /// The flag tells whether the whole path was found.
    #[must_use]
    pub fn find(&self, path: &str) -> (Position, bool) {
        let mut here = self;
        for step in steps(path) {
            match here.child(step) {
                Some(child) => here = child,
                None => return (here.key.unwrap_or(here.value), false),
            }
        }
        (here.value, true)
    }

    /// The position of the key that names the field at `path`, or what [`Self::find`] says.
    #[must_use]
    pub fn find_key(&self, path: &str) -> (Position, bool) {
        let mut here = self;
        for step in steps(path) {
            match here.child(step) {
                Some(child) => here = child,
                None => return (here.key.unwrap_or(here.value), false),
            }
        }
        (here.key.unwrap_or(here.value), true)
    }

    fn child(&self, step: &str) -> Option<&Positions> {
        match &self.children {
            Children::None => None,
            Children::Fields(fields) => fields.get(step),
            Children::Items(items) => items.get(step.parse::<usize>().ok()?),
        }
    }
}

/// The steps of a field path: names, and what stands in brackets.
fn steps(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = path;
    std::iter::from_fn(move || {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if rest.is_empty() {
            return None;
        }
        if let Some(inside) = rest.strip_prefix('[') {
            let end = inside.find(']').unwrap_or(inside.len());
            let step = &inside[..end];
            rest = inside.get(end + 1..).unwrap_or("");
            return Some(step.trim_matches('"'));
        }
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let step = &rest[..end];
        rest = &rest[end..];
        Some(step)
    })
}

#[cfg(test)]
mod tests {
    use super::steps;

    #[test]
    fn a_field_path_is_cut_into_names_indices_and_keys() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("spec", &["spec"]),
            ("spec.containers[0].image", &["spec", "containers", "0", "image"]),
            ("metadata.labels[a.b/c]", &["metadata", "labels", "a.b/c"]),
            ("items[2]", &["items", "2"]),
            ("a[\"b\"].c", &["a", "b", "c"]),
            ("a[", &["a", ""]),
        ];
        for (path, want) in cases {
            assert_eq!(steps(path).collect::<Vec<_>>(), *want, "{path}");
        }
    }
}
