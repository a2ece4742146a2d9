//! podd-core.
