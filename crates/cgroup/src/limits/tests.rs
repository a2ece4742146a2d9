//! Every row of the table of limits, for both interfaces.

use super::*;

/// What a set of limits writes, as "file=value" lines.
fn written(limits: &Limits, version: Version) -> Vec<String> {
    let plan = plan(limits, version).expect("a valid set of limits");
    plan.into_iter().map(|w| format!("{}={}", w.file, w.value)).collect()
}

#[test]
fn every_row_of_the_table_writes_its_files() {
    let set = |f: fn(&mut Limits)| {
        let mut limits = Limits::default();
        f(&mut limits);
        limits
    };
    // One entry per row, in the table's order: the limit, then what v1 and v2 write.
    let rows: &[(&str, Limits, &[&str], &[&str])] = &[
        ("cpu_shares", set(|l| l.cpu_shares = Some(1024)), &["cpu.shares=1024"], &["cpu.weight=100"]),
        ("cpu_period", set(|l| l.cpu_period = Some(50_000)), &["cpu.cfs_period_us=50000"], &["cpu.max=max 50000"]),
        ("cpu_quota", set(|l| l.cpu_quota = Some(20_000)), &["cpu.cfs_quota_us=20000"], &["cpu.max=20000"]),
        ("memory", set(|l| l.memory = Some(4096)), &["memory.limit_in_bytes=4096"], &["memory.max=4096"]),
        (
            "memory_swap",
            set(|l| (l.memory, l.memory_swap) = (Some(4096), Some(12288))),
            &["memory.limit_in_bytes=4096", "memory.memsw.limit_in_bytes=12288"],
            &["memory.max=4096", "memory.swap.max=8192"],
        ),
        ("memory_oom_group", set(|l| l.memory_oom_group = Some(true)), &[], &["memory.oom.group=1"]),
        ("pids", set(|l| l.pids = Some(7)), &["pids.max=7"], &["pids.max=7"]),
        ("cpuset_cpus", set(|l| l.cpuset_cpus = Some("0-1".into())), &["cpuset.cpus=0-1"], &["cpuset.cpus=0-1"]),
        ("cpuset_mems", set(|l| l.cpuset_mems = Some("0".into())), &["cpuset.mems=0"], &["cpuset.mems=0"]),
    ];
    let named: Vec<_> = rows.iter().map(|r| r.0).collect();
    let table: Vec<_> = TABLE.iter().map(|r| r.limit).collect();
    assert_eq!(named, table, "each row of the table needs a row here");
    for (limit, limits, v1, v2) in rows {
        assert_eq!(written(limits, Version::V1), *v1, "{limit} in v1");
        assert_eq!(written(limits, Version::V2), *v2, "{limit} in v2");
    }
}

#[test]
fn unlimited_is_minus_one_in_v1_and_max_in_v2() {
    let limits = Limits {
        cpu_quota: Some(-1),
        cpu_period: Some(100_000),
        memory: Some(-1),
        memory_swap: Some(-1),
        pids: Some(0),
        ..Limits::default()
    };
    assert_eq!(
        written(&limits, Version::V1),
        [
            "cpu.cfs_period_us=100000",
            "cpu.cfs_quota_us=-1",
            "memory.limit_in_bytes=-1",
            "memory.memsw.limit_in_bytes=-1",
            "pids.max=max"
        ]
    );
    assert_eq!(
        written(&limits, Version::V2),
        ["cpu.max=max 100000", "memory.max=max", "memory.swap.max=max", "pids.max=max"]
    );
}

#[test]
fn shares_keep_their_default_and_their_ends_as_weights() {
    for (shares, weight) in [
        (0, 1),
        (2, 1),
        (3, 2),
        (10, 4),
        (100, 17),
        (1023, 100),
        (1024, 100),
        (2000, 170),
        (4096, 303),
        (262_144, 10_000),
        (1 << 40, 10_000),
    ] {
        assert_eq!(weight_of_shares(shares), weight, "{shares} shares");
    }
}

#[test]
fn weights_never_fall_as_shares_rise() {
    let mut last = 0;
    for shares in (2..=262_144).step_by(7) {
        let weight = weight_of_shares(shares);
        assert!(weight >= last && (1..=10_000).contains(&weight), "{shares} shares");
        last = weight;
    }
}

#[test]
fn memory_and_swap_are_ordered_by_the_direction_of_the_change() {
    let order = |memory: i64, present: Option<u64>| {
        let limits = Limits { memory: Some(memory), memory_swap: Some(memory), ..Limits::default() };
        let mut plan = plan(&limits, Version::V1).unwrap();
        order_memory(&mut plan, present);
        plan.into_iter().map(|w| w.file).collect::<Vec<_>>()
    };
    let memory_first = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"];
    let swap_first = ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes"];
    assert_eq!(order(4096, Some(8192)), memory_first, "shrinks");
    assert_eq!(order(8192, Some(4096)), swap_first, "grows");
    assert_eq!(order(4096, None), memory_first, "no memory+swap accounting");
}

#[test]
fn hugepages_go_by_size_and_a_zero_limit_needs_no_controller() {
    let limits = Limits {
        hugepages: vec![
            HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 },
            HugepageLimit { page_size: "1GB".into(), limit: 0 },
        ],
        ..Limits::default()
    };
    assert_eq!(written(&limits, Version::V1), ["hugetlb.2MB.limit_in_bytes=4194304", "hugetlb.1GB.limit_in_bytes=0"]);
    assert_eq!(written(&limits, Version::V2), ["hugetlb.2MB.max=4194304", "hugetlb.1GB.max=0"]);
    let plan = plan(&limits, Version::V2).unwrap();
    assert_eq!([plan[0].missing, plan[1].missing], [Missing::Fail, Missing::Skip]);
}

#[test]
fn unified_files_are_v2_only_and_cannot_leave_the_group() {
    let unified =
        |file: &str| Limits { unified: BTreeMap::from([(file.to_owned(), "1".to_owned())]), ..Limits::default() };
    assert_eq!(written(&unified("memory.high"), Version::V2), ["memory.high=1"]);
    assert!(plan(&unified("memory.high"), Version::V1).is_err());
    for file in ["../memory.high", "memory.high/../x", "cgroup.procs", "memory", ""] {
        assert!(plan(&unified(file), Version::V2).is_err(), "{file}");
    }
}

#[test]
fn impossible_limits_are_refused_before_anything_is_written() {
    let cases = [
        Limits { memory_swap: Some(1), ..Limits::default() },
        Limits { memory: Some(2), memory_swap: Some(1), ..Limits::default() },
        Limits { cpuset_cpus: Some("0\n1".into()), ..Limits::default() },
        Limits { hugepages: vec![HugepageLimit { page_size: "../2MB".into(), limit: 1 }], ..Limits::default() },
    ];
    for limits in cases {
        for version in [Version::V1, Version::V2] {
            assert!(plan(&limits, version).is_err(), "{limits:?}");
        }
    }
}
