//! The device allow-list as a value: rules, what they come to, and their v1 spelling.
//!
//! The rules fold into a default and a set of exceptions exactly as the v1 kernel folds them, so
//! that the eBPF program made from the same value (`bpf`) decides as `devices.allow` would.

use std::collections::BTreeMap;
use std::fmt;

/// Kind of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKind {
    /// Both kinds; with no numbers: everything.
    All,
    /// Character device.
    Char,
    /// Block device.
    Block,
}

/// One line of an allow-list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRule {
    /// Allow or deny.
    pub allow: bool,
    /// Kind of device.
    pub kind: DeviceKind,
    /// Major number; `None` is any.
    pub major: Option<u32>,
    /// Minor number; `None` is any.
    pub minor: Option<u32>,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be made with mknod.
    pub mknod: bool,
}

impl DeviceRule {
    /// Allows everything of one device: "rwm".
    pub fn allow(kind: DeviceKind, major: u32, minor: Option<u32>) -> Self {
        Self { allow: true, kind, major: Some(major), minor, read: true, write: true, mknod: true }
    }

    /// Allows or denies every access to every device.
    pub fn everything(allow: bool) -> Self {
        Self { allow, kind: DeviceKind::All, major: None, minor: None, read: true, write: true, mknod: true }
    }

    pub(crate) fn access(&self) -> Access {
        Access(
            if self.mknod { Access::MKNOD } else { 0 }
                | if self.read { Access::READ } else { 0 }
                | if self.write { Access::WRITE } else { 0 },
        )
    }
}

/// v1's spelling: "c 1:3 rwm", "b *:* m", "a".
impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let kind = match self.kind {
            DeviceKind::All => return f.write_str("a"),
            DeviceKind::Char => 'c',
            DeviceKind::Block => 'b',
        };
        write!(f, "{kind} {}:{} ", number(self.major), number(self.minor))?;
        for (set, letter) in [(self.read, "r"), (self.write, "w"), (self.mknod, "m")] {
            f.write_str(if set { letter } else { "" })?;
        }
        Ok(())
    }
}

/// A set of accesses, with the bits of `BPF_DEVCG_ACC_*` in linux/bpf.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Access(pub(crate) u32);

impl Access {
    pub(crate) const MKNOD: u32 = 1;
    pub(crate) const READ: u32 = 2;
    pub(crate) const WRITE: u32 = 4;
    pub(crate) const ALL: u32 = 7;
}

/// Which devices an exception is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Match {
    pub(crate) kind: DeviceKind,
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
}

/// What a list of rules comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AllowList {
    /// What happens to a device that no exception is about.
    pub(crate) default_allow: bool,
    /// Accesses that fare the other way.
    pub(crate) exceptions: BTreeMap<Match, Access>,
}

impl AllowList {
    /// Folds rules, starting from "nothing is allowed".
    pub(crate) fn of(rules: &[DeviceRule]) -> Self {
        let mut list = Self { default_allow: false, exceptions: BTreeMap::new() };
        for rule in rules {
            if rule.kind == DeviceKind::All {
                // v1 has no finer "a" than everything, and neither has OCI.
                list = Self { default_allow: rule.allow, exceptions: BTreeMap::new() };
                continue;
            }
            let key = Match { kind: rule.kind, major: rule.major, minor: rule.minor };
            let bits = rule.access().0;
            if rule.allow == list.default_allow {
                if let Some(access) = list.exceptions.get_mut(&key) {
                    access.0 &= !bits;
                }
            } else if bits != 0 {
                list.exceptions.entry(key).or_default().0 |= bits;
            }
        }
        list.exceptions.retain(|_, access| access.0 != 0);
        list
    }
}

/// The lines for `devices.deny` (`true`) and `devices.allow` (`false`), in order.
pub(crate) fn v1_lines(rules: &[DeviceRule]) -> Vec<(bool, String)> {
    std::iter::once((true, "a".to_owned()))
        .chain(rules.iter().filter(|r| r.access().0 != 0).map(|r| (!r.allow, r.to_string())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_spelled_as_v1_wants_it() {
        let mut rule = DeviceRule::allow(DeviceKind::Char, 1, Some(3));
        assert_eq!(rule.to_string(), "c 1:3 rwm");
        rule.minor = None;
        rule.write = false;
        assert_eq!(rule.to_string(), "c 1:* rm");
        assert_eq!(DeviceRule::everything(false).to_string(), "a");
    }

    #[test]
    fn a_list_starts_by_denying_everything() {
        let lines = v1_lines(&[DeviceRule::allow(DeviceKind::Block, 8, None)]);
        assert_eq!(lines, [(true, "a".to_owned()), (false, "b 8:* rwm".to_owned())]);
    }

    #[test]
    fn separate_rules_for_reading_and_writing_add_up() {
        let rule =
            |read, write| DeviceRule { read, write, mknod: false, ..DeviceRule::allow(DeviceKind::Char, 1, Some(3)) };
        let list = AllowList::of(&[rule(true, false), rule(false, true)]);
        let access: Vec<_> = list.exceptions.values().map(|a| a.0).collect();
        assert_eq!(access, [Access::READ | Access::WRITE]);
    }

    #[test]
    fn a_later_rule_for_everything_forgets_the_earlier_ones() {
        let list = AllowList::of(&[DeviceRule::allow(DeviceKind::Char, 1, Some(3)), DeviceRule::everything(true)]);
        assert_eq!(list, AllowList { default_allow: true, exceptions: BTreeMap::new() });
    }
}
