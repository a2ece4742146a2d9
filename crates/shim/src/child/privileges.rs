//! From root with everything to the container's user with its capabilities.

use std::io;

use podd_shim::wire::{CapabilitySets, Process, ResolvedUser};
use podd_sys::capability;
use podd_sys::rlimit::{self, Outcome as Limit};
use rustix::process::{Gid, Uid};

use crate::fault::{Outcome, Stage};

/// The highest `oom_score_adj`, as the kernel has it; nobody is forbidden to take it.
const OOM_SCORE_ADJ_MAX: i32 = 1000;

/// The capabilities a process will have, cut to what this machine has at all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Privileges {
    sets: CapabilitySets,
}

impl Privileges {
    /// Cuts the wanted sets to this machine's bounding set and to what the kernel's rules allow: inheritable and
    /// effective within permitted, ambient within both.
    pub(super) fn plan(wanted: &CapabilitySets, available: u64) -> Self {
        let bounding = wanted.bounding & available;
        let permitted = wanted.permitted & bounding;
        let inheritable = wanted.inheritable & bounding;
        let sets = CapabilitySets {
            bounding,
            permitted,
            effective: wanted.effective & permitted,
            inheritable,
            ambient: wanted.ambient & permitted & inheritable,
        };
        Self { sets }
    }

    pub(super) fn bounding(&self) -> u64 {
        self.sets.bounding
    }

    /// Becomes the user and gives up what can never come back; what is permitted stays until [`Privileges::settle`],
    /// since the filter may need it.
    pub(super) fn drop_to(&self, user: &ResolvedUser) -> Outcome<()> {
        let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        rustix::thread::set_thread_groups(&groups).stage("set supplementary groups")?;
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        rustix::thread::set_thread_res_gid(gid, gid, gid).stage("set group")?;
        capability::limit_bounding(self.sets.bounding).stage("limit capabilities")?;
        let all = capability::permitted().stage("read capabilities")?;
        rustix::thread::set_keep_capabilities(true).stage("keep capabilities")?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).stage("set user")?;
        // Leaving uid 0 clears the effective set.
        capability::set(all, all, 0).stage("keep capabilities")?;
        // Changing ids made the process dumpable by the rules of fs.suid_dumpable; until exec it holds the shim's memory.
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
            .stage("become non-dumpable")
    }

    /// Leaves the process with exactly its sets.
    pub(super) fn settle(&self) -> Outcome<()> {
        let CapabilitySets { effective, permitted, inheritable, ambient, .. } = self.sets;
        capability::set(effective, permitted, inheritable).stage("set capabilities")?;
        capability::set_ambient(ambient).stage("set ambient capabilities")
    }
}

/// Resource limits; what may not be raised here is reported and clamped.
pub(super) fn apply_limits(process: &Process, warnings: &mut Vec<String>) -> Outcome<()> {
    for limit in &process.rlimits {
        match rlimit::set(&limit.resource, limit.soft, limit.hard) {
            Ok(Limit::Exact) => {}
            Ok(Limit::Clamped) => {
                warnings.push(format!("rlimit {}: the hard limit may not be raised here, clamped", limit.resource));
            }
            Err(error) => return Err(error).stage(&format!("set rlimit {}", limit.resource)),
        }
    }
    Ok(())
}

/// `oom_score_adj` of this process. Who has no `CAP_SYS_RESOURCE` cannot go below the lowest value that somebody with it
/// has set before in this line of processes; nothing tells what that is.
pub(crate) fn adjust_oom_score(value: i32, warnings: &mut Vec<String>) -> Outcome<()> {
    let write = |value: i32| podd_sys::procfs::write("self/oom_score_adj", &value.to_string());
    if clamp_oom_score(value, write).stage("set oom_score_adj")? {
        // Without the value, so that all who meet it say the same.
        warnings.push("oom_score_adj: it may not be lowered here as far as wanted, clamped".to_owned());
    }
    Ok(())
}

/// Writes the value, or else the lowest above it that is taken. True if it had to be another one.
fn clamp_oom_score(value: i32, mut write: impl FnMut(i32) -> io::Result<()>) -> io::Result<bool> {
    let mut is_taken = |value| match write(value) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        Err(error) => Err(error),
    };
    if is_taken(value)? {
        return Ok(false);
    }
    let (mut refused, mut lowest) = (value, OOM_SCORE_ADJ_MAX);
    while lowest - refused > 1 {
        let middle = refused + (lowest - refused) / 2;
        if is_taken(middle)? {
            lowest = middle;
        } else {
            refused = middle;
        }
    }
    // What was written last may have been refused, but what was taken last is the lowest: it is in force.
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is in force after `wanted` was asked for where nothing below `floor` is taken, and whether that is told.
    fn clamped(wanted: i32, floor: i32, mut present: i32) -> (i32, bool) {
        let write = |value| match value {
            value if value < floor => Err(io::ErrorKind::PermissionDenied.into()),
            value => {
                present = value;
                Ok(())
            }
        };
        let told = clamp_oom_score(wanted, write).unwrap();
        (present, told)
    }

    #[test]
    fn an_oom_score_is_as_low_as_the_machine_lets_it_be() {
        for (wanted, floor, present, want) in [
            (-998, -1000, 0, (-998, false)),
            (-997, 0, 0, (0, true)),
            (-997, 0, 500, (0, true)),
            (-997, -998, 0, (-997, false)),
            (-997, -996, 0, (-996, true)),
            (-1000, -999, 0, (-999, true)),
            (300, 500, 700, (500, true)),
            (300, 999, 1000, (999, true)),
            (1000, 1000, 1000, (1000, false)),
        ] {
            assert_eq!(clamped(wanted, floor, present), want, "{wanted} with {floor}");
        }
    }

    #[test]
    fn an_oom_score_that_fails_otherwise_is_an_error() {
        let error = clamp_oom_score(0, |_| Err(io::ErrorKind::InvalidInput.into())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn sets_are_cut_to_what_the_kernel_will_take() {
        let all = CapabilitySets { bounding: 0xff, effective: 0xf, permitted: 0x3, inheritable: 0x6, ambient: 0xf };
        let Privileges { sets } = Privileges::plan(&all, 0x7);
        let want = CapabilitySets { bounding: 0x7, effective: 0x3, permitted: 0x3, inheritable: 0x6, ambient: 0x2 };
        assert_eq!(sets, want);
    }
}
