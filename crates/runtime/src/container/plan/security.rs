//! What the first process may do: capabilities and profiles.

use std::fmt::Write as _;

use podd_cri::v1::{ContainerConfig, LinuxContainerSecurityContext, SecurityProfile, security_profile::ProfileType};
use podd_shim::wire::{CapabilitySets, Seccomp};
use podd_sys::capability::{ALL, DEFAULT, parse};

use crate::error::{CriError, Result};
use crate::seccomp::{Conditions, Profile};

/// The five sets. `bounding` is what this machine lets podd hand on: "all" means that much.
pub(super) fn capabilities(security: &LinuxContainerSecurityContext, bounding: u64) -> Result<CapabilitySets> {
    let wanted = security.capabilities.clone().unwrap_or_default();
    let ambient = mask(&wanted.add_ambient_capabilities)?;
    let caps = if security.privileged {
        ALL
    } else {
        let all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("all"));
        let (add, drop) = (singles(&wanted.add_capabilities)?, singles(&wanted.drop_capabilities)?);
        // "drop ALL, add X" leaves X, and "add ALL, drop X" everything but X; a name in both is dropped.
        let base = match (all(&wanted.add_capabilities), all(&wanted.drop_capabilities)) {
            (_, true) => 0,
            (true, false) => ALL,
            (false, false) => DEFAULT,
        };
        (base | add | ambient) & !drop
    } & bounding;
    let ambient = ambient & caps;
    Ok(CapabilitySets { bounding: caps, effective: caps, permitted: caps, inheritable: ambient, ambient })
}

fn singles(names: &[String]) -> Result<u64> {
    let singles: Vec<String> = names.iter().filter(|name| !name.eq_ignore_ascii_case("all")).cloned().collect();
    mask(&singles)
}

fn mask(names: &[String]) -> Result<u64> {
    names.iter().try_fold(0, |mask, name| {
        let bits = parse(name).ok_or_else(|| CriError::invalid(format!("unknown capability {name:?}")))?;
        Ok(mask | bits)
    })
}

/// The seccomp profile; SELinux is refused where it is asked for.
/// `profile` is what [`seccomp_file`] names.
pub(super) fn profiles(
    security: &LinuxContainerSecurityContext,
    profile: Option<&Profile>,
    conditions: &Conditions,
    has_selinux: bool,
) -> Result<Seccomp> {
    if let Some(options) = &security.selinux_options {
        if !is_level(&options.level) {
            return Err(CriError::invalid(format!("selinux_options.level {:?} is no level", options.level)));
        }
        let parts = [&options.user, &options.role, &options.r#type, &options.level];
        // Without SELinux labels mean nothing, and callers set them for all their nodes alike.
        if has_selinux && parts.iter().any(|part| !part.is_empty()) {
            return Err(CriError::Unsupported("selinux_options: SELinux is not implemented".into()));
        }
    }
    if security.privileged {
        return Ok(Seccomp::Unconfined);
    }
    let old = security_profile_of_path("seccomp_profile_path", old_seccomp(security))?;
    match either(security.seccomp.as_ref(), old) {
        (ProfileType::RuntimeDefault, _) => Ok(Seccomp::RuntimeDefault),
        (ProfileType::Unconfined, _) => Ok(Seccomp::Unconfined),
        (ProfileType::Localhost, path) => {
            let profile = profile.ok_or_else(|| CriError::invalid(format!("seccomp profile {path:?} was not read")))?;
            let refuse = |why| CriError::invalid(format!("seccomp profile {path:?}: {why}"));
            let program = profile.compile(conditions).map_err(refuse)?;
            let program = program.iter().flat_map(|instruction| instruction.to_bytes());
            let program = program.fold(String::new(), |mut text, byte| {
                let _infallible = write!(text, "{byte:02x}");
                text
            });
            Ok(Seccomp::Filter { program, flags: profile.flags().map_err(refuse)? })
        }
    }
}

/// The file of the container's system call profile, if it wants one.
pub(crate) fn seccomp_file(config: &ContainerConfig) -> Result<Option<String>> {
    let Some(security) = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref()) else {
        return Ok(None);
    };
    let old = security_profile_of_path("seccomp_profile_path", old_seccomp(security))?;
    match either(security.seccomp.as_ref(), old) {
        (ProfileType::Localhost, path) if !security.privileged => Ok(Some(path)),
        _ => Ok(None),
    }
}

/// The AppArmor profile that the container is to be confined by; a privileged one too, if its maker names one. The names come
/// as the kubelet writes them, with and without `localhost/`.
pub(crate) fn apparmor_profile(config: &ContainerConfig) -> Result<Option<String>> {
    let Some(security) = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref()) else {
        return Ok(None);
    };
    let old = security_profile_of_path("apparmor_profile", old_apparmor(security))?;
    let (ProfileType::Localhost, name) = either(security.apparmor.as_ref(), old) else { return Ok(None) };
    let name = name.strip_prefix("localhost/").unwrap_or(&name);
    if name.is_empty() || name.contains(['\0', '\n']) {
        return Err(CriError::invalid(format!("apparmor profile {name:?} is no name")));
    }
    Ok(Some(name.to_owned()))
}

/// `s0`, `s0-s1`, `s0:c1.c3,c7`; nothing is a level too.
fn is_level(level: &str) -> bool {
    let (range, categories) = match level.split_once(':') {
        Some((range, categories)) => (range, Some(categories)),
        None => (level, None),
    };
    let number = |text: &str, prefix: char, longest: usize| {
        let digits = text.strip_prefix(prefix).unwrap_or_default();
        (1..=longest).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let sensitivities = range.split('-').count() <= 2 && range.split('-').all(|part| number(part, 's', 1));
    let category = |part: &str| part.split('.').count() <= 2 && part.split('.').all(|part| number(part, 'c', 4));
    level.is_empty() || (sensitivities && categories.is_none_or(|all| all.split(',').all(category)))
}

/// The profile in the new field, else in the old one, else none.
fn either(new: Option<&SecurityProfile>, old: Option<SecurityProfile>) -> (ProfileType, String) {
    match new.cloned().or(old) {
        Some(profile) => {
            let kind = ProfileType::try_from(profile.profile_type).unwrap_or(ProfileType::Localhost);
            (kind, profile.localhost_ref)
        }
        None => (ProfileType::Unconfined, String::new()),
    }
}

#[allow(deprecated, reason = "old callers still set it, and ignoring a confinement is no option")]
fn old_seccomp(security: &LinuxContainerSecurityContext) -> &str {
    &security.seccomp_profile_path
}

#[allow(deprecated, reason = "old callers still set it, and ignoring a confinement is no option")]
fn old_apparmor(security: &LinuxContainerSecurityContext) -> &str {
    &security.apparmor_profile
}

fn security_profile_of_path(field: &str, text: &str) -> Result<Option<SecurityProfile>> {
    let (kind, name) = match text {
        "" => return Ok(None),
        "unconfined" => (ProfileType::Unconfined, ""),
        "runtime/default" | "docker/default" => (ProfileType::RuntimeDefault, ""),
        _ => match text.strip_prefix("localhost/") {
            Some(name) => (ProfileType::Localhost, name),
            None => return Err(CriError::invalid(format!("{field} {text:?} is not known"))),
        },
    };
    Ok(Some(SecurityProfile { profile_type: kind as i32, localhost_ref: name.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_told_from_what_is_none() {
        for level in ["", "s0", "s0-s9", "s0:c0", "s0:c1.c3,c1023", "s0-s1:c5,c6.c7"] {
            assert!(is_level(level), "{level}");
        }
        for level in ["s", "s10", "s0-s1-s2", "c1", "s0:", "s0:c", "s0:c1,", "s0:c1.c2.c3", "s0:c12345", "s0:c1:c2"] {
            assert!(!is_level(level), "{level}");
        }
    }

    #[test]
    fn the_new_field_names_the_apparmor_profile_before_the_old_one() {
        let named = |new: Option<(ProfileType, &str)>, old: &str| {
            #[allow(deprecated, reason = "old callers still set it")]
            let security = LinuxContainerSecurityContext {
                apparmor: new
                    .map(|(kind, name)| SecurityProfile { profile_type: kind as i32, localhost_ref: name.into() }),
                apparmor_profile: old.into(),
                ..Default::default()
            };
            let linux = podd_cri::v1::LinuxContainerConfig { security_context: Some(security), ..Default::default() };
            apparmor_profile(&ContainerConfig { linux: Some(linux), ..Default::default() })
        };
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(named(None, "").unwrap(), None);
        assert_eq!(named(None, "localhost/a").unwrap(), name("a"));
        assert_eq!(named(None, "unconfined").unwrap(), None);
        assert_eq!(named(Some((ProfileType::Localhost, "b")), "localhost/a").unwrap(), name("b"));
        assert_eq!(named(Some((ProfileType::Localhost, "localhost/b")), "").unwrap(), name("b"));
        assert_eq!(named(Some((ProfileType::Unconfined, "")), "localhost/a").unwrap(), None);
        assert_eq!(named(Some((ProfileType::RuntimeDefault, "")), "").unwrap(), None);
        for wrong in [named(Some((ProfileType::Localhost, "")), ""), named(None, "b"), named(None, "localhost/a\nb")] {
            assert!(wrong.is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn labels_are_passed_over_without_selinux_and_refused_with_it() {
        let options = podd_cri::v1::SeLinuxOption { r#type: "t".into(), ..Default::default() };
        let security = LinuxContainerSecurityContext { selinux_options: Some(options), ..Default::default() };
        let conditions = Conditions { capabilities: 0, kernel: (6, 1) };
        assert_eq!(profiles(&security, None, &conditions, false).unwrap(), Seccomp::Unconfined);
        let error = profiles(&security, None, &conditions, true).unwrap_err();
        assert!(matches!(error, CriError::Unsupported(_)), "{error}");
    }
}
