//! Resources field by field.

use std::convert::Infallible;

use crate::message::{Field, LinuxResources};

/// Asks whether a field (and the entry in it) may be set.
pub(super) type Claim<'a, E> = &'a mut dyn FnMut(Field, &str) -> Result<(), E>;

/// Takes over each field that is set, once it may be.
pub(super) fn merge<E>(into: &mut LinuxResources, from: &LinuxResources, claim: Claim<'_, E>) -> Result<(), E> {
    macro_rules! take {
        ($part:ident: $($field:ident $name:ident),*) => {
            if let Some(from) = &from.$part {
                let into = into.$part.get_or_insert_with(Default::default);
                $(if from.$field.is_some() {
                    claim(Field::$name, "")?;
                    into.$field = from.$field;
                })*
            }
        };
    }
    take!(memory: limit MemLimit, reservation MemReservation, swap MemSwapLimit, kernel MemKernelLimit,
        kernel_tcp MemTcpLimit, swappiness MemSwappiness, disable_oom_killer MemDisableOomKiller,
        use_hierarchy MemUseHierarchy);
    take!(cpu: shares CpuShares, quota CpuQuota, period CpuPeriod, realtime_runtime CpuRealtimeRuntime,
        realtime_period CpuRealtimePeriod);
    if let Some(from) = &from.cpu {
        let into = into.cpu.get_or_insert_with(Default::default);
        for (from, into, field) in
            [(&from.cpus, &mut into.cpus, Field::CpusetCpus), (&from.mems, &mut into.mems, Field::CpusetMems)]
        {
            if !from.is_empty() {
                claim(field, "")?;
                into.clone_from(from);
            }
        }
    }
    for limit in &from.hugepage_limits {
        claim(Field::HugepageLimits, &limit.page_size)?;
        into.hugepage_limits.retain(|known| known.page_size != limit.page_size);
        into.hugepage_limits.push(limit.clone());
    }
    if from.blockio_class.is_some() {
        claim(Field::BlockioClass, "")?;
        into.blockio_class.clone_from(&from.blockio_class);
    }
    if from.rdt_class.is_some() {
        claim(Field::RdtClass, "")?;
        into.rdt_class.clone_from(&from.rdt_class);
    }
    for (key, value) in &from.unified {
        claim(Field::CgroupsUnified, key)?;
        into.unified.insert(key.clone(), value.clone());
    }
    if from.pids.is_some() {
        claim(Field::PidsLimit, "")?;
        into.pids = from.pids;
    }
    // Device rules have no owner in the protocol: they are for showing.
    into.devices.extend(from.devices.iter().cloned());
    Ok(())
}

/// Takes over each field that is set.
pub(super) fn lay_over(into: &mut LinuxResources, from: &LinuxResources) {
    let Ok(()) = merge(into, from, &mut |_, _| Ok::<(), Infallible>(()));
}
