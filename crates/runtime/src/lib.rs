//! podd-runtime.
