//! podd-manifest.
