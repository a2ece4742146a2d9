//! Limits that bite on a machine with cgroup v2 alone. Most machines that build podd still have v1 controllers, so the
//! guest of `tests/guest` runs these; by hand: `cargo test -p podd-cgroup --test unified -- --ignored`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use podd_cgroup::{DeviceKind, DeviceRule, ErrorKind, Group, Hierarchy, HugepageLimit, Limits, Version};

const PATIENCE: Duration = Duration::from_secs(20);
const MIB: i64 = 1 << 20;

/// A group of the test's own, which goes with it.
struct Own(Group);

impl Own {
    fn new(name: &str) -> Own {
        let hierarchy = Hierarchy::detect(format!("/podd-test-{}-{name}", std::process::id())).unwrap();
        assert_eq!(hierarchy.version(), Version::V2, "these tests need a machine with cgroup v2 alone");
        let group = hierarchy.group("").unwrap();
        group.create(&Limits::default()).unwrap();
        Own(group)
    }

    fn child(&self, limits: &Limits) -> Group {
        let group = self.0.child("pod/c").unwrap();
        group.create(limits).unwrap();
        group
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.remove(PATIENCE).unwrap();
    }
}

fn file(group: &Group, name: &str) -> PathBuf {
    group.v2_dir().unwrap().join(name)
}

fn read(group: &Group, name: &str) -> String {
    fs::read_to_string(file(group, name)).unwrap().trim().to_owned()
}

/// A shell that joins `group` and then runs `script`.
fn start(group: &Group, script: &str) -> Child {
    let join = group.join_files();
    assert_eq!(join, [file(group, "cgroup.procs")]);
    Command::new("sh")
        .arg("-c")
        .arg(format!("echo 0 > {} || exit 9\n{script}", join[0].display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn run(group: &Group, script: &str) -> Output {
    start(group, script).wait_with_output().unwrap()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::yield_now();
    }
}

#[test]
#[ignore = "needs cgroup v2 alone; tests/guest has it"]
fn the_kernel_takes_every_row_of_the_table() {
    let own = Own::new("table");
    let group = own.child(&Limits {
        cpu_shares: Some(512),
        cpu_quota: Some(20_000),
        cpu_period: Some(100_000),
        memory: Some(64 * MIB),
        memory_swap: Some(64 * MIB),
        memory_oom_group: Some(true),
        pids: Some(32),
        cpuset_cpus: Some("0".into()),
        hugepages: vec![HugepageLimit { page_size: "2MB".into(), limit: 0 }],
        unified: [("memory.low".to_owned(), "1048576".to_owned())].into(),
        ..Limits::default()
    });
    let table =
        |rows: &[(&str, &str)]| rows.iter().for_each(|(name, value)| assert_eq!(read(&group, name), *value, "{name}"));
    table(&[
        ("cpu.weight", &podd_cgroup::weight_of_shares(512).to_string()),
        ("cpu.max", "20000 100000"),
        ("memory.max", "67108864"),
        ("memory.swap.max", "0"),
        ("memory.oom.group", "1"),
        ("memory.low", "1048576"),
        ("pids.max", "32"),
        ("cpuset.cpus", "0"),
        ("cpuset.cpus.effective", "0"),
        ("hugetlb.2MB.max", "0"),
    ]);
    group
        .update(&Limits {
            cpu_quota: Some(-1),
            memory: Some(128 * MIB),
            memory_swap: Some(-1),
            pids: Some(-1),
            ..Limits::default()
        })
        .unwrap();
    table(&[("cpu.max", "max 100000"), ("memory.max", "134217728"), ("memory.swap.max", "max"), ("pids.max", "max")]);
    table(&[("cpuset.cpus", "0"), ("memory.oom.group", "1")]);
}

#[test]
#[ignore = "needs cgroup v2 alone; tests/guest has it"]
fn a_cpu_quota_bites() {
    let own = Own::new("quota");
    let busy = "end=$(($(date +%s)+3)); while [ $(date +%s) -lt $end ]; do i=0; while [ $i -lt 500 ]; do i=$((i+1)); done; done";
    let limits = Limits { cpu_quota: Some(20_000), cpu_period: Some(100_000), ..Limits::default() };
    let group = own.child(&limits);
    let started = Instant::now();
    assert!(run(&group, busy).status.success());
    let cpu = group.stats().unwrap().cpu.unwrap();
    let share = cpu.usage_ns as f64 / started.elapsed().as_nanos() as f64;
    assert!(share < 0.3, "a fifth of one processor was allowed, and {share} used: {cpu:?}");
    assert!(cpu.throttled_periods > 5 && cpu.throttled_ns > 0, "{cpu:?}");
}

#[test]
#[ignore = "needs cgroup v2 alone; tests/guest has it"]
fn a_group_that_must_die_as_one_dies_as_one_and_spares_its_sibling() {
    let own = Own::new("oom");
    let limits = |oom_group| Limits {
        memory: Some(16 * MIB),
        memory_swap: Some(16 * MIB),
        memory_oom_group: Some(oom_group),
        ..Limits::default()
    };
    let sibling = own.0.child("pod/sibling").unwrap();
    sibling.create(&Limits::default()).unwrap();
    let mut bystander = start(&sibling, "exec sleep 1000");
    let group = own.child(&limits(true));
    // The one that takes too much runs beside one that does nothing.
    let output = run(&group, "sleep 1000 & dd if=/dev/zero of=/dev/null bs=64M count=1; echo survived");
    assert!(!output.status.success());
    assert_eq!(output.stdout, b"", "the shell must die with them");
    until("all are dead", || group.pids().unwrap().is_empty());
    assert!(group.oom_kills().unwrap() >= 3, "{}", group.oom_kills().unwrap());
    assert!(bystander.try_wait().unwrap().is_none(), "the sibling lives");

    group.update(&limits(false)).unwrap();
    let before = group.oom_kills().unwrap();
    let output = run(&group, "dd if=/dev/zero of=/dev/null bs=64M count=1; echo survived $?");
    assert_eq!(output.stdout, b"survived 137\n");
    assert_eq!(group.oom_kills().unwrap(), before + 1);
    assert_eq!(sibling.oom_kills().unwrap(), 0);
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
#[ignore = "needs cgroup v2 alone; tests/guest has it"]
fn no_more_processes_than_allowed_are_made() {
    let own = Own::new("pids");
    let group = own.child(&Limits { pids: Some(5), ..Limits::default() });
    let output = run(&group, "for i in 1 2 3 4 5 6 7 8; do sleep 1000 > /dev/null 2>&1 & done; wait");
    assert!(!output.status.success());
    assert!(group.stats().unwrap().pids.unwrap() <= 5);
    let refused = read(&group, "pids.events");
    assert_ne!(refused, "max 0", "the kernel counts what it refused");
}

#[test]
#[ignore = "needs cgroup v2 alone; tests/guest has it"]
fn kill_reaches_groups_below_and_processes_that_fork_on() {
    let own = Own::new("kill");
    let pod = own.0.child("pod").unwrap();
    let (one, two) = (pod.child("one").unwrap(), pod.child("two").unwrap());
    for group in [&one, &two] {
        group.create(&Limits::default()).unwrap();
    }
    let mut children =
        [start(&one, "trap '' TERM; while :; do sleep 0.01 & done"), start(&two, "sleep 1000 & sleep 1000")];
    until("both groups have processes", || [&one, &two].iter().all(|group| group.pids().unwrap().len() >= 2));
    let error = pod.remove(Duration::ZERO).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    pod.kill().unwrap();
    for child in &mut children {
        assert!(!child.wait().unwrap().success());
    }
    pod.remove(PATIENCE).unwrap();
    assert!(!pod.exists() && !one.exists());
}

#[test]
#[ignore = "needs cgroup v2 alone; tests/guest has it"]
fn only_listed_devices_open_and_a_later_list_can_only_narrow_an_earlier_one() {
    let own = Own::new("devices");
    let null = || DeviceRule::allow(DeviceKind::Char, 1, Some(3));
    let zero = || DeviceRule::allow(DeviceKind::Char, 1, Some(5));
    let group = own.child(&Limits { devices: Some(vec![null()]), ..Limits::default() });
    let script = "for d in null zero full; do head -c1 /dev/$d > /dev/null 2>&1 && echo $d; done; \
                  mknod /tmp/made c 1 7 2> /dev/null && rm /tmp/made && echo made; true";
    let seen = |group: &Group| {
        // /dev/null is where the loop writes to, so it opens it even to try the others.
        let output = run(group, script);
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(seen(&group), "null\n");
    // All programs of a group must agree, so what came first cannot be widened by whoever comes later.
    group.create(&Limits { devices: Some(vec![null(), zero()]), ..Limits::default() }).unwrap();
    assert_eq!(seen(&group), "null\n");
    let below = group.child("below").unwrap();
    below.create(&Limits { devices: Some(vec![DeviceRule::everything(true)]), ..Limits::default() }).unwrap();
    assert_eq!(seen(&below), "null\n", "nor from below");

    let other = own.0.child("pod/other").unwrap();
    other.create(&Limits { devices: Some(vec![null(), zero()]), ..Limits::default() }).unwrap();
    assert_eq!(seen(&other), "null\nzero\n");
    let privileged = own.0.child("pod/privileged").unwrap();
    privileged.create(&Limits { devices: Some(vec![DeviceRule::everything(true)]), ..Limits::default() }).unwrap();
    assert_eq!(seen(&privileged), "null\nzero\nfull\nmade\n");
}

#[test]
#[ignore = "needs cgroup v2 alone; tests/guest has it"]
fn statistics_are_those_of_the_group() {
    let own = Own::new("stats");
    let group = own.child(&Limits { memory: Some(64 * MIB), ..Limits::default() });
    let child = start(&group, "dd if=/dev/zero of=/dev/null bs=8M count=20 2> /dev/null; exec sleep 1000");
    until("the group sleeps", || {
        let pids = group.pids().unwrap();
        pids.len() == 1 && fs::read_to_string(format!("/proc/{}/comm", pids[0])).is_ok_and(|name| name == "sleep\n")
    });
    let stats = group.stats().unwrap();
    let (cpu, memory) = (stats.cpu.unwrap(), stats.memory.unwrap());
    assert!(cpu.usage_ns > 0 && cpu.usage_ns >= cpu.user_ns.max(cpu.system_ns), "{cpu:?}");
    assert!(memory.usage > 0 && memory.usage < 64 << 20 && memory.working_set <= memory.usage, "{memory:?}");
    assert_eq!(memory.limit, Some(64 << 20));
    assert!(memory.page_faults > 100, "{memory:?}");
    assert_eq!(stats.pids, Some(1));
    assert!(stats.pressure.cpu.is_some(), "{stats:?}");
    // The pod's figures include its container's.
    let pod = own.0.child("pod").unwrap().stats().unwrap();
    assert!(pod.cpu.unwrap().usage_ns >= cpu.usage_ns);
    let mut child = child;
    group.kill().unwrap();
    child.wait().unwrap();
}
