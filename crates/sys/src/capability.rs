//! Capabilities as masks (capabilities(7)); bit = capability number.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets};

/// Names without `CAP_`; the index is the number.
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Every capability this build knows.
pub const ALL: u64 = (1 << NAMES.len()) - 1;

/// The fourteen that containers have by default.
pub const DEFAULT: u64 = mask("CHOWN")
    | mask("DAC_OVERRIDE")
    | mask("FSETID")
    | mask("FOWNER")
    | mask("MKNOD")
    | mask("NET_RAW")
    | mask("SETGID")
    | mask("SETUID")
    | mask("SETFCAP")
    | mask("SETPCAP")
    | mask("NET_BIND_SERVICE")
    | mask("SYS_CHROOT")
    | mask("KILL")
    | mask("AUDIT_WRITE");

/// The mask of a name in [`NAMES`], at build time.
pub(crate) const fn mask(name: &str) -> u64 {
    let mut number = 0;
    while number < NAMES.len() {
        if equal(NAMES[number].as_bytes(), name.as_bytes()) {
            return 1 << number;
        }
        number += 1;
    }
    panic!("not a capability")
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// The mask of a capability's name, with or without `CAP_`, in any case; `ALL` means all. `None` for an unknown name.
pub fn parse(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    if upper == "ALL" {
        return Some(ALL);
    }
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == short).map(|number| 1 << number)
}

/// The names in a mask, with `CAP_`, in the order of their numbers.
pub fn names(mask: u64) -> Vec<String> {
    let numbers = (0..NAMES.len()).filter(|number| mask & (1 << number) != 0);
    numbers.map(|number| format!("CAP_{}", NAMES[number])).collect()
}

/// This thread's bounding set: nothing beyond it can be had, not even by a privileged container.
pub fn bounding() -> io::Result<u64> {
    let mut set = 0;
    for number in 0..u64::BITS {
        match rustix::thread::capability_is_in_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(true) => set |= 1 << number,
            Ok(false) => {}
            // Past the last capability of this kernel.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(set)
}

/// Takes everything but `keep` out of the bounding set, those capabilities too that this build has no name for.
pub fn limit_bounding(keep: u64) -> io::Result<()> {
    for number in 0..u64::BITS {
        if keep & (1 << number) != 0 {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// This thread's permitted set.
pub fn permitted() -> io::Result<u64> {
    Ok(rustix::thread::capabilities(None)?.permitted.bits())
}

/// Sets this thread's effective, permitted and inheritable sets.
pub fn set(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(effective),
        permitted: CapabilitySet::from_bits_retain(permitted),
        inheritable: CapabilitySet::from_bits_retain(inheritable),
    };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Makes `mask` this thread's ambient set. Each capability in it must be permitted and inheritable.
pub fn set_ambient(mask: u64) -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    for number in 0..u64::BITS {
        if mask & (1 << number) != 0 {
            let one = CapabilitySet::from_bits_retain(1 << number);
            rustix::thread::configure_capability_in_ambient_set(one, true)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_means_its_number() {
        for (number, name) in NAMES.iter().enumerate() {
            assert_eq!(parse(name), Some(1 << number));
            assert_eq!(parse(&format!("cap_{}", name.to_lowercase())), Some(1 << number));
            assert_eq!(names(1 << number), [format!("CAP_{name}")]);
        }
        assert_eq!(parse("CAP_NOTHING"), None);
        assert_eq!(names(DEFAULT).len(), 14);
        assert_eq!(mask("SYS_ADMIN"), 1 << 21);
    }

    #[test]
    fn the_bounding_set_is_read_whole() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
        assert_eq!(bounding().unwrap(), u64::from_str_radix(line.trim(), 16).unwrap());
    }

    #[test]
    fn what_is_given_up_stays_so_and_ambient_ones_survive() {
        // Capabilities are a thread's own.
        let thread = std::thread::spawn(|| {
            let (kill, chown) = (mask("KILL"), mask("CHOWN"));
            limit_bounding(kill | chown).unwrap();
            set(kill, kill | chown, kill).unwrap();
            set_ambient(kill).unwrap();
            assert!(set_ambient(chown).is_err(), "it is not inheritable");
            set_ambient(kill).unwrap();
            assert!(set(kill, ALL, 0).is_err(), "permitted never grows");
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"].map(|name| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                u64::from_str_radix(line.trim(), 16).unwrap()
            })
        });
        let (kill, chown) = (mask("KILL"), mask("CHOWN"));
        assert_eq!(thread.join().unwrap(), [kill, kill | chown, kill, kill | chown, kill]);
    }
}
