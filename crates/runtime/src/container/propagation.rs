//! Whether a host path can give what a mount's propagation asks of it.

use std::fs;
use std::path::Path;

use podd_shim::wire::Propagation;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::error::{Context, CriError, Result};

/// Refuses propagation that the mount under `path` does not take part in: nothing would ever travel.
pub(super) fn check(path: &Path, propagation: Propagation) -> Result<()> {
    if propagation == Propagation::Private {
        return Ok(());
    }
    let what = || format!("look up the mount of {}", path.display());
    let id = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).context(what)?.stx_mnt_id;
    let table = fs::read_to_string("/proc/self/mountinfo").context(what)?;
    let Some((point, peers)) = find(&table, id) else {
        return Err(CriError::internal(what(), format!("mount {id} is not in /proc/self/mountinfo")));
    };
    let missing = match propagation {
        Propagation::Shared if !peers.shared => "a shared mount",
        Propagation::Slave if !peers.shared && !peers.slave => "a shared or slave mount",
        _ => return Ok(()),
    };
    Err(CriError::Precondition(format!(
        "path {:?} is mounted on {point:?} but it is not {missing}; `mount --make-rshared {point}` makes it one",
        path.display()
    )))
}

/// What a mount takes part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Peers {
    shared: bool,
    slave: bool,
}

/// The mount point of a mount, and its peers (proc_pid_mountinfo(5): the optional fields end with a dash).
fn find(table: &str, id: u64) -> Option<(&str, Peers)> {
    table.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.next()?.parse() == Ok(id)).then_some(())?;
        let point = fields.nth(3)?;
        let optional: Vec<&str> = fields.skip(1).take_while(|field| *field != "-").collect();
        let has = |tag: &str| optional.iter().any(|field| field.starts_with(tag));
        Some((point, Peers { shared: has("shared:"), slave: has("master:") }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_shared_or_slave_or_both_as_the_kernel_says() {
        let table = "\
            21 1 0:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
            22 21 0:5 / /proc rw - proc proc rw\n\
            23 21 0:6 / /mnt rw shared:4 master:1 - tmpfs shared:9 rw\n\
            24 21 0:7 / /own rw master:1 - tmpfs none rw\n";
        let peers = |shared, slave| Peers { shared, slave };
        assert_eq!(find(table, 21), Some(("/", peers(true, false))));
        assert_eq!(find(table, 22), Some(("/proc", peers(false, false))));
        assert_eq!(find(table, 23), Some(("/mnt", peers(true, true))));
        assert_eq!(find(table, 24), Some(("/own", peers(false, true))));
        assert_eq!(find(table, 2), None);
        assert_eq!(find("", 2), None);
    }

    #[test]
    fn private_mounts_ask_for_nothing() {
        check(Path::new("/no/such/path"), Propagation::Private).expect("not looked up");
        let error = check(Path::new("/no/such/path"), Propagation::Shared).expect_err("not there").chain();
        assert!(error.contains("/no/such/path"), "{error}");
    }
}
