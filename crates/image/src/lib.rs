//! podd-image.
