//! podd-sys.
