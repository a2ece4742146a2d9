//! podd-shim.
