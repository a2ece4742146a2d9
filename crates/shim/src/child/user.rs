//! Who runs the process: names and numbers resolved by the image's own `/etc/passwd` and `/etc/group`.
//!
//! Both files are hostile: they are opened inside the root, must be regular, and only so much of them is read.

use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::Path;

use podd_shim::wire::{Groups, ResolvedUser, ShimErrorKind, UserSpec};
use podd_sys::resolve::in_root;
use rustix::fs::{FileType, Mode, OFlags};

use crate::fault::{Outcome, refuse};

/// Most of a file that is looked at.
const LONGEST: u64 = 4 << 20;

/// A user and the home directory its process finds in `HOME`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) ids: ResolvedUser,
    pub(super) home: String,
}

/// Resolves a user under a root directory.
pub(super) fn resolve(root: BorrowedFd<'_>, spec: &UserSpec) -> Outcome<User> {
    resolve_in(spec, &read(root, "/etc/passwd"), &read(root, "/etc/group"))
}

/// A missing or odd file is an empty one: numbers still work.
fn read(root: BorrowedFd<'_>, path: &str) -> String {
    // Non-blocking, or a FIFO in its place would hold us.
    let Ok(fd) = in_root(root, Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) else {
        return String::new();
    };
    let regular = rustix::fs::fstat(&fd).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile);
    let mut bytes = Vec::new();
    if !regular || std::fs::File::from(fd).take(LONGEST).read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn passwd_entries(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(PasswdEntry { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

fn group_entries(text: &str) -> impl Iterator<Item = GroupEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(GroupEntry { name, gid, members: fields.next().unwrap_or_default() })
    })
}

fn resolve_in(spec: &UserSpec, passwd: &str, group: &str) -> Outcome<User> {
    let (user, named_group) = match spec.user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec.user.as_str(), None),
    };
    let number = spec.uid.or_else(|| if user.is_empty() { Some(0) } else { user.parse().ok() });
    let entry = passwd_entries(passwd).find(|entry| match (spec.uid, number) {
        (None, None) => entry.name == user,
        // A name of digits is a number, as in every container engine.
        (_, number) => number == Some(entry.uid),
    });
    let uid = number
        .or(entry.as_ref().map(|entry| entry.uid))
        .ok_or_else(|| refuse(ShimErrorKind::Invalid, "resolve user", format!("no user {user} in /etc/passwd")))?;
    let gid = match (spec.gid, named_group.filter(|group| !group.is_empty() && spec.uid.is_none())) {
        (Some(gid), _) => gid,
        (None, Some(name)) => group_number(name, group)?,
        (None, None) => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut groups: Vec<u32> = spec.additional_gids.clone();
    if let (Groups::Merge, Some(entry)) = (spec.groups, &entry) {
        let member = |group: &GroupEntry<'_>| group.members.split(',').any(|member| member == entry.name);
        groups.extend(group_entries(group).filter(member).map(|group| group.gid));
    }
    // The primary group too, or a set-group-id program could leave a group that is meant to be denied something
    // (CVE-2022-36109).
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    let home = entry.map(|entry| entry.home).filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
    Ok(User { ids: ResolvedUser { uid, gid, groups }, home })
}

fn group_number(name: &str, group: &str) -> Outcome<u32> {
    let by_name = || group_entries(group).find(|entry| entry.name == name).map(|entry| entry.gid);
    name.parse()
        .ok()
        .or_else(by_name)
        .ok_or_else(|| refuse(ShimErrorKind::Invalid, "resolve user", format!("no group {name} in /etc/group")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34:web:/var/www:/bin/false\nn:x:a:b::\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nssl:x:110:db,web\nadm:x:4:web\nx\n";

    fn ids(spec: &UserSpec) -> (u32, u32, Vec<u32>, String) {
        let user = resolve_in(spec, PASSWD, GROUP).unwrap();
        (user.ids.uid, user.ids.gid, user.ids.groups, user.home)
    }

    fn named(user: &str) -> UserSpec {
        UserSpec { user: user.into(), ..Default::default() }
    }

    #[test]
    fn a_user_is_what_the_images_files_say() {
        assert_eq!(ids(&named("")), (0, 0, vec![0], "/root".into()));
        assert_eq!(ids(&named("web")), (33, 34, vec![4, 34, 110], "/var/www".into()));
        assert_eq!(ids(&named("33")), (33, 34, vec![4, 34, 110], "/var/www".into()));
        assert_eq!(ids(&named("web:ssl")), (33, 110, vec![4, 110], "/var/www".into()));
        assert_eq!(ids(&named("web:7")), (33, 7, vec![4, 7, 110], "/var/www".into()));
        assert_eq!(ids(&named("4242")), (4242, 0, vec![0], "/".into()));
        assert_eq!(ids(&named("4242:4343")), (4242, 4343, vec![4343], "/".into()));
    }

    #[test]
    fn numbers_of_the_manifest_go_before_the_images() {
        let spec = UserSpec { uid: Some(33), gid: Some(5), additional_gids: vec![9, 4], ..named("root:ssl") };
        assert_eq!(ids(&spec), (33, 5, vec![4, 5, 9, 110], "/var/www".into()));
        let strict = UserSpec { groups: Groups::Strict, ..spec };
        assert_eq!(ids(&strict).2, [4, 5, 9]);
        let spec = UserSpec { uid: Some(33), ..named("root:ssl") };
        assert_eq!(ids(&spec).1, 34, "the image's group belongs to the image's user");
    }

    #[test]
    fn unknown_names_are_refused() {
        for user in ["nobody", "web:nogroup", "n"] {
            let error = resolve_in(&named(user), PASSWD, GROUP).unwrap_err();
            assert_eq!(error.kind, ShimErrorKind::Invalid, "{user}");
        }
    }
}
