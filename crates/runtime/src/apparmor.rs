//! AppArmor: whether a container can be confined by a profile. Who runs the machine loads profiles (`apparmor_parser`);
//! podd loads none, and has none of its own.

use std::fs;
use std::io;
use std::path::Path;

use crate::error::{CriError, Result};

/// Whether the kernel confines by AppArmor: `Y` or `N`.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// A line for each profile that is loaded: its name, and its mode in parentheses.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
/// The first version of the shims' protocol that carries a profile.
const SINCE: u32 = 2;

/// Refuses a profile that the kernel does not know.
pub(crate) fn verify(profile: &str) -> Result<()> {
    if !fs::read_to_string(ENABLED).is_ok_and(|text| text.starts_with('Y')) {
        return Err(CriError::Unsupported(format!("apparmor profile {profile:?}: AppArmor is not enabled here")));
    }
    let loaded = fs::read_to_string(Path::new(PROFILES)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => CriError::Unsupported(format!(
            "apparmor profile {profile:?}: {PROFILES} is not there to say what is loaded (is securityfs mounted?)"
        )),
        _ => CriError::Internal { what: format!("read {PROFILES}"), source: error.into() },
    })?;
    match is_loaded(profile, &loaded) {
        true => Ok(()),
        false => Err(CriError::Precondition(format!("apparmor profile {profile:?} is not loaded"))),
    }
}

/// Refuses to hand a profile to a shim that would pass over it: one that an older podd has started.
pub(crate) fn verify_shim(profile: Option<&str>, version: u32) -> Result<()> {
    match profile {
        Some(profile) if version < SINCE => Err(CriError::Precondition(format!(
            "apparmor profile {profile:?}: the sandbox was made by an older podd that applies none; make it anew"
        ))),
        _ => Ok(()),
    }
}

fn is_loaded(profile: &str, profiles: &str) -> bool {
    profiles.lines().filter_map(|line| line.rsplit_once(" (")).any(|(name, _mode)| name == profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_loaded_by_its_whole_name_in_any_mode() {
        let profiles = "/usr/sbin/a (enforce)\nwith (a) space (complain)\nlast (unconfined)\n";
        for name in ["/usr/sbin/a", "with (a) space", "last"] {
            assert!(is_loaded(name, profiles), "{name}");
        }
        for name in ["", "a", "with", "with (a) space (complain)", "/usr/sbin"] {
            assert!(!is_loaded(name, profiles), "{name}");
        }
    }

    #[test]
    fn a_shim_that_would_pass_over_a_profile_gets_none() {
        assert!(verify_shim(None, 1).is_ok());
        assert!(verify_shim(Some("mine"), 1).is_err());
        assert!(verify_shim(Some("mine"), podd_shim::wire::VERSION).is_ok());
    }
}
