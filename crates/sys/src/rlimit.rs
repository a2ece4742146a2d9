//! Resource limits by name (getrlimit(2)).

use std::io;

/// Kernel names without their prefix, and numbers; x86_64 and arm64 agree.
const NAMES: [(&str, libc::__rlimit_resource_t); 16] = [
    ("CPU", libc::RLIMIT_CPU),
    ("FSIZE", libc::RLIMIT_FSIZE),
    ("DATA", libc::RLIMIT_DATA),
    ("STACK", libc::RLIMIT_STACK),
    ("CORE", libc::RLIMIT_CORE),
    ("RSS", libc::RLIMIT_RSS),
    ("NPROC", libc::RLIMIT_NPROC),
    ("NOFILE", libc::RLIMIT_NOFILE),
    ("MEMLOCK", libc::RLIMIT_MEMLOCK),
    ("AS", libc::RLIMIT_AS),
    ("LOCKS", libc::RLIMIT_LOCKS),
    ("SIGPENDING", libc::RLIMIT_SIGPENDING),
    ("MSGQUEUE", libc::RLIMIT_MSGQUEUE),
    ("NICE", libc::RLIMIT_NICE),
    ("RTPRIO", libc::RLIMIT_RTPRIO),
    ("RTTIME", libc::RLIMIT_RTTIME),
];

/// How a limit was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Exact,
    /// The hard limit may not be raised here: set as near as possible.
    Clamped,
}

/// Sets a limit of this process; `u64::MAX` is infinity. `InvalidInput` for an unknown name (case does not matter, the
/// prefix `RLIMIT_` is optional).
pub fn set(name: &str, soft: u64, hard: u64) -> io::Result<Outcome> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("RLIMIT_").unwrap_or(&upper);
    let (_, resource) = NAMES.iter().find(|(known, _)| *known == short).ok_or(io::ErrorKind::InvalidInput)?;
    let error = match apply(*resource, soft, hard) {
        Ok(()) => return Ok(Outcome::Exact),
        Err(error) => error,
    };
    if error.raw_os_error() != Some(libc::EPERM) {
        return Err(error);
    }
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is valid for the write of a rlimit.
    crate::check(unsafe { libc::getrlimit(*resource, &mut now) }.into())?;
    apply(*resource, soft.min(now.rlim_max), hard.min(now.rlim_max))?;
    Ok(Outcome::Clamped)
}

fn apply(resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the pointer is valid for the read of a rlimit.
    crate::check(unsafe { libc::setrlimit(resource, &limit) }.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_known_by_name_in_any_form() {
        let (soft, hard) = (0, u64::MAX);
        assert!(set("core", soft, hard).is_ok());
        assert!(set("RLIMIT_CORE", soft, hard).is_ok());
        assert_eq!(set("colour", soft, hard).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
