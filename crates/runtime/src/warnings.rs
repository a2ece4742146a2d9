//! What the machine does not allow is told once, not with every container that meets it.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The warnings that were told by this process. They are the shim's fixed texts: as many as there are limits.
#[derive(Debug, Default)]
pub(crate) struct Warnings(Mutex<BTreeSet<String>>);

impl Warnings {
    /// Tells what is new of the warnings of a container, or of a sandbox and its shim.
    pub(crate) fn tell(&self, id: &str, warnings: &[String]) {
        for warning in warnings {
            if self.is_new(warning) {
                tracing::warn!(id, warning, "made without what this machine forbids (said once)");
            } else {
                tracing::debug!(id, warning, "made without what this machine forbids");
            }
        }
    }

    fn is_new(&self, warning: &str) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !told.contains(warning) && told.insert(warning.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_told_once_and_another_one_too() {
        let warnings = Warnings::default();
        assert!(warnings.is_new("oom_score_adj"));
        assert!(!warnings.is_new("oom_score_adj"));
        assert!(warnings.is_new("rlimit RLIMIT_NOFILE"));
        assert!(!warnings.is_new("oom_score_adj"));
    }
}
