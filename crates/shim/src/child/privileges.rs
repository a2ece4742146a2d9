//! From root with everything to the container's user with its capabilities.

use podd_shim::wire::{CapabilitySets, Process, ResolvedUser};
use podd_sys::capability;
use podd_sys::rlimit::{self, Outcome as Limit};
use rustix::process::{Gid, Uid};

use crate::fault::{Outcome, Stage};

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

/// `oom_score_adj` of this process: lowering it below what it inherited needs `CAP_SYS_RESOURCE`.
pub(crate) fn adjust_oom_score(value: i32, warnings: &mut Vec<String>) -> Outcome<()> {
    match podd_sys::procfs::write("self/oom_score_adj", &value.to_string()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            warnings.push(format!("oom_score_adj {value}: lowering is not allowed here, left as it was"));
            Ok(())
        }
        Err(error) => Err(error).stage("set oom_score_adj"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_cut_to_what_the_kernel_will_take() {
        let all = CapabilitySets { bounding: 0xff, effective: 0xf, permitted: 0x3, inheritable: 0x6, ambient: 0xf };
        let Privileges { sets } = Privileges::plan(&all, 0x7);
        let want = CapabilitySets { bounding: 0x7, effective: 0x3, permitted: 0x3, inheritable: 0x6, ambient: 0x2 };
        assert_eq!(sets, want);
    }
}
