//! podd-cri.
