//! podd-net.
