//! CRI's resources as the cgroup's limits.

use podd_cgroup::{DeviceKind, DeviceRule, HugepageLimit, Limits};

use crate::records::Resources;

/// What every container may use: the devices that the shim puts into `/dev`, terminals, and making (not opening) any.
fn default_devices() -> Vec<DeviceRule> {
    const CHARACTER: [(u32, Option<u32>); 9] = [
        (1, Some(3)), // null
        (1, Some(5)), // zero
        (1, Some(7)), // full
        (1, Some(8)), // random
        (1, Some(9)), // urandom
        (5, Some(0)), // tty
        (5, Some(1)), // console
        (5, Some(2)), // ptmx
        (136, None),  // pts/*
    ];
    let make =
        |kind| DeviceRule { allow: true, kind, major: None, minor: None, read: false, write: false, mknod: true };
    let mut rules = vec![DeviceRule::everything(false), make(DeviceKind::Char), make(DeviceKind::Block)];
    rules.extend(CHARACTER.map(|(major, minor)| DeviceRule::allow(DeviceKind::Char, major, minor)));
    rules
}

/// The limits of a new container. A privileged one may use every device.
pub(super) fn at_creation(resources: &Resources, devices: Vec<DeviceRule>, privileged: bool) -> Limits {
    let rules = [default_devices(), devices].concat();
    Limits { devices: (!privileged).then_some(rules), ..limits(resources) }
}

/// The limits that resources ask for; what they leave open stays as it is.
pub(crate) fn limits(resources: &Resources) -> Limits {
    let some = |number: i64| (number != 0).then_some(number);
    let positive = |number: i64| u64::try_from(number).ok().filter(|number| *number != 0);
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Limits {
        cpu_shares: positive(resources.cpu_shares),
        cpu_quota: some(resources.cpu_quota),
        cpu_period: positive(resources.cpu_period),
        memory: some(resources.memory_limit),
        memory_swap: some(resources.memory_swap_limit),
        cpuset_cpus: text(&resources.cpuset_cpus),
        cpuset_mems: text(&resources.cpuset_mems),
        hugepages: resources
            .hugepage_limits
            .iter()
            .map(|(page_size, limit)| HugepageLimit { page_size: page_size.clone(), limit: *limit })
            .collect(),
        unified: resources.unified.clone(),
        pids: some(resources.pids_limit),
        ..Limits::default()
    }
}

/// What status shows after an update: each field that the update sets, else the present one.
pub(crate) fn merged(present: &Resources, update: Resources) -> Resources {
    let number = |new: i64, old: i64| if new == 0 { old } else { new };
    let text = |new: String, old: &str| if new.is_empty() { old.to_owned() } else { new };
    let mut unified = present.unified.clone();
    unified.extend(update.unified);
    let mut hugepage_limits = present.hugepage_limits.clone();
    for (size, limit) in update.hugepage_limits {
        match hugepage_limits.iter_mut().find(|row| row.0 == size) {
            Some(row) => row.1 = limit,
            None => hugepage_limits.push((size, limit)),
        }
    }
    Resources {
        cpu_period: number(update.cpu_period, present.cpu_period),
        cpu_quota: number(update.cpu_quota, present.cpu_quota),
        cpu_shares: number(update.cpu_shares, present.cpu_shares),
        memory_limit: number(update.memory_limit, present.memory_limit),
        oom_score_adj: number(update.oom_score_adj, present.oom_score_adj),
        cpuset_cpus: text(update.cpuset_cpus, &present.cpuset_cpus),
        cpuset_mems: text(update.cpuset_mems, &present.cpuset_mems),
        hugepage_limits,
        unified,
        memory_swap_limit: number(update.memory_swap_limit, present.memory_swap_limit),
        pids_limit: number(update.pids_limit, present.pids_limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_is_left_as_it_is() {
        assert_eq!(limits(&Resources::default()), Limits::default());
        let resources = Resources {
            cpu_shares: 512,
            cpu_quota: -1,
            cpu_period: 100_000,
            memory_limit: 64 << 20,
            memory_swap_limit: 64 << 20,
            cpuset_cpus: "0-1".into(),
            hugepage_limits: vec![("2MB".into(), 0)],
            ..Resources::default()
        };
        let expected = Limits {
            cpu_shares: Some(512),
            cpu_quota: Some(-1),
            cpu_period: Some(100_000),
            memory: Some(64 << 20),
            memory_swap: Some(64 << 20),
            cpuset_cpus: Some("0-1".into()),
            hugepages: vec![HugepageLimit { page_size: "2MB".into(), limit: 0 }],
            ..Limits::default()
        };
        assert_eq!(limits(&resources), expected);
    }

    #[test]
    fn only_a_privileged_container_may_use_every_device() {
        let plain = at_creation(&Resources::default(), Vec::new(), false).devices.expect("rules");
        assert_eq!(plain.first(), Some(&DeviceRule::everything(false)));
        assert!(plain.contains(&DeviceRule::allow(DeviceKind::Char, 1, Some(3))));
        assert_eq!(at_creation(&Resources::default(), Vec::new(), true).devices, None);
    }

    #[test]
    fn an_update_changes_what_it_names() {
        let present = Resources { cpu_shares: 2, memory_limit: 100, cpuset_cpus: "0".into(), ..Resources::default() };
        let update = Resources { memory_limit: 200, cpu_quota: 5, ..Resources::default() };
        let expected = Resources { memory_limit: 200, cpu_quota: 5, ..present.clone() };
        assert_eq!(merged(&present, update), expected);
    }
}
