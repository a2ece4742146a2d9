//! Manifests with positions: YAML as kubectl reads it.
//!
//! [`parse`] turns the bytes of a file into [`Document`]s: the value as JSON, and beside it a
//! tree of [`Positions`] by which any later objection (an unknown field, a bad quantity, what the
//! API server answers) can be shown at its line. [`Report`] draws that.
//!
//! Scalars follow YAML 1.1 as Kubernetes' own tools resolve it: `0440` is octal, `yes` and `no`
//! are booleans. What those tools let pass and the API server then refuses (duplicate keys,
//! invalid UTF-8) is refused here, where line and column are known.
//!
//! Not here: what the fields mean. This crate knows nothing of Kubernetes beyond the shape of a
//! field path (`spec.containers[0].image`).

mod position;
mod report;
mod scalar;
mod tree;

pub use position::{Position, Positions};
pub use report::Report;
pub use tree::{Document, parse};

/// The largest manifest read, in bytes. Kubernetes refuses objects over 1.5 MiB; a file may hold
/// many of them.
pub const MAX_BYTES: usize = 16 << 20;

/// How deep collections may nest. The deepest path of the Pod API has about 15 levels.
pub const MAX_DEPTH: usize = 200;

/// How many nodes aliases may add to one file before it is taken for an alias bomb.
pub const MAX_ALIASED_NODES: usize = 100_000;

/// What is wrong with the text of a manifest, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {}{message}", path_prefix(path))]
pub struct Problem {
    /// Where it was seen.
    pub at: Position,
    /// The field path (`spec.containers[0].image`); empty at the top of a document.
    pub path: String,
    /// What was found and what would be right: lower case, one sentence.
    pub message: String,
}

fn path_prefix(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}
