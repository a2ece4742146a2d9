//! podd-api.
