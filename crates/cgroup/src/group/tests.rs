//! Groups on the machine's own hierarchies, and on a directory tree that stands in for v2.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::{DeviceKind, ErrorKind, HugepageLimit};

const PATIENCE: Duration = Duration::from_secs(5);

/// A directory tree that stands in for a v2 mount: cgroupfs makes the files of a new group by
/// itself, so the tests put those that are written to there beforehand.
fn fake_v2(groups: &[(&str, &str)]) -> (tempfile::TempDir, Hierarchy) {
    let tree = tempfile::tempdir().unwrap();
    for (group, available) in groups {
        let dir = tree.path().join(group);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("cgroup.controllers"), available).unwrap();
        for file in [
            "cgroup.subtree_control",
            "cpu.weight",
            "cpu.max",
            "memory.max",
            "memory.oom.group",
            "pids.max",
            "cgroup.kill",
            "cgroup.procs",
        ] {
            fs::write(dir.join(file), "").unwrap();
        }
    }
    let hierarchy = Hierarchy::new(Layout::V2(tree.path().into()), "/top").unwrap();
    (tree, hierarchy)
}

fn content(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap().trim().to_owned()
}

#[test]
fn v2_controllers_are_enabled_in_every_ancestor_and_not_in_the_group_itself() {
    let all = "cpuset cpu io memory hugetlb pids rdma";
    let (tree, hierarchy) =
        fake_v2(&[("", all), ("top", all), ("top/pod", "cpu memory pids"), ("top/pod/c", "cpu memory pids")]);
    hierarchy.group("pod/c").unwrap().create(&Limits::default()).unwrap();
    let on = |group: &str| content(&tree.path().join(group), "cgroup.subtree_control");
    assert_eq!(on(""), "+cpu +cpuset +memory +pids +hugetlb +io");
    assert_eq!(on("top/pod"), "+cpu +memory +pids");
    assert_eq!(on("top/pod/c"), "");
}

#[test]
fn what_is_enabled_is_not_enabled_again() {
    assert_eq!(missing_controllers("cpu memory pids misc", "memory"), "+cpu +pids");
    assert_eq!(missing_controllers("cpu", "cpu memory"), "");
}

#[test]
fn v2_limits_are_written_to_the_group() {
    let (tree, hierarchy) = fake_v2(&[("", ""), ("top", ""), ("top/c", "")]);
    let limits = Limits {
        cpu_shares: Some(1024),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        memory: Some(1 << 20),
        memory_swap: Some(1 << 20), // no memory.swap.max here: nothing to forbid
        memory_oom_group: Some(true),
        pids: Some(64),
        hugepages: vec![HugepageLimit { page_size: "2MB".into(), limit: 0 }],
        ..Limits::default()
    };
    let group = hierarchy.group("/c").unwrap();
    group.create(&limits).unwrap();
    let dir = tree.path().join("top/c");
    for (file, value) in [
        ("cpu.weight", "100"),
        ("cpu.max", "50000 100000"),
        ("memory.max", "1048576"),
        ("memory.oom.group", "1"),
        ("pids.max", "64"),
    ] {
        assert_eq!(content(&dir, file), value, "{file}");
    }
    assert_eq!(group.join_files(), [dir.join("cgroup.procs")]);
    assert_eq!(group.v2_dir(), Some(dir.clone()));
    group.kill().unwrap();
    assert_eq!(content(&dir, "cgroup.kill"), "1");
}

#[test]
fn a_limit_without_its_controller_is_an_error_that_names_it() {
    let (_tree, hierarchy) = fake_v2(&[("", ""), ("top", ""), ("top/c", "")]);
    let limits = Limits { cpuset_cpus: Some("0".into()), ..Limits::default() };
    let error = hierarchy.group("c").unwrap().create(&limits).unwrap_err();
    assert!(matches!(error, Error::NoController { controller: "cpuset", .. }), "{error}");
}

#[test]
fn joint_mounts_are_one_directory() {
    let mounts = BTreeMap::from([
        (Controller::Cpu, PathBuf::from("/c/cpu,cpuacct")),
        (Controller::Cpuacct, PathBuf::from("/c/cpu,cpuacct")),
        (Controller::Memory, PathBuf::from("/c/memory")),
    ]);
    let group = Hierarchy::new(Layout::V1(mounts), "").unwrap().group("a/b").unwrap();
    assert_eq!(group.join_files(), [PathBuf::from("/c/cpu,cpuacct/a/b/tasks"), PathBuf::from("/c/memory/a/b/tasks")]);
    assert_eq!(group.oom_counter(), Path::new("/c/memory/a/b/memory.oom_control"));
}

#[test]
fn the_root_of_the_machine_cannot_be_removed() {
    let hierarchy = Hierarchy::new(Layout::V2("/nonexistent".into()), "/").unwrap();
    let error = hierarchy.group("").unwrap().remove(PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

// From here on: the machine's own v1 hierarchies, in a group that goes away with the test.

struct Own(Group);

impl Own {
    fn new(name: &str) -> Self {
        let root = format!("/podd-test-{}-{name}", std::process::id());
        let group = Hierarchy::detect(root).expect("cgroups are mounted").group("").unwrap();
        group.create(&Limits::default()).expect("root may make groups");
        Own(group)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.0.kill().expect("kill what the test left");
        self.0.remove(PATIENCE).expect("remove what the test made");
    }
}

/// A shell that joins `group` by itself and then becomes `script`.
fn run(group: &Group, script: &str) -> Child {
    let join: String = group.join_files().iter().map(|f| format!("echo 0 > {} && ", f.display())).collect();
    Command::new("sh")
        .args(["-c", &format!("{join} exec {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        std::thread::yield_now();
    }
}

#[test]
fn a_pod_tree_with_limits_is_made_and_removed() {
    let own = Own::new("tree");
    let pod = own.0.child("burstable/pod1").unwrap();
    pod.create(&Limits { cpu_shares: Some(512), ..Limits::default() }).unwrap();
    let container = pod.child("c1").unwrap();
    let limits = Limits {
        cpu_shares: Some(256),
        cpu_quota: Some(20_000),
        cpu_period: Some(100_000),
        memory: Some(64 << 20),
        memory_swap: Some(64 << 20),
        pids: Some(32),
        cpuset_cpus: Some("0".into()),
        devices: Some(vec![DeviceRule::allow(DeviceKind::Char, 1, Some(3))]),
        ..Limits::default()
    };
    container.create(&limits).unwrap();
    let read = |controller, file: &str| content(&container.dir(controller).unwrap(), file);
    assert_eq!(read(Controller::Cpu, "cpu.shares"), "256");
    assert_eq!(read(Controller::Cpu, "cpu.cfs_quota_us"), "20000");
    assert_eq!(read(Controller::Memory, "memory.limit_in_bytes"), (64u64 << 20).to_string());
    assert_eq!(read(Controller::Pids, "pids.max"), "32");
    assert_eq!(read(Controller::Cpuset, "cpuset.cpus"), "0");
    assert_ne!(read(Controller::Cpuset, "cpuset.mems"), "", "inherited");
    assert_eq!(read(Controller::Devices, "devices.list"), "c 1:3 rwm");

    let more = Limits {
        memory: Some(128 << 20),
        memory_swap: Some(128 << 20),
        cpu_period: Some(10_000),
        cpu_quota: Some(5_000),
        ..Limits::default()
    };
    container.update(&more).unwrap();
    assert_eq!(read(Controller::Memory, "memory.limit_in_bytes"), (128u64 << 20).to_string());
    assert_eq!(read(Controller::Cpu, "cpu.cfs_quota_us"), "5000");
    container.update(&limits).unwrap();
    assert_eq!(read(Controller::Memory, "memory.memsw.limit_in_bytes"), (64u64 << 20).to_string());

    pod.remove(PATIENCE).unwrap();
    assert!(!pod.exists() && !container.exists());
    pod.remove(PATIENCE).expect("removal may be repeated");
}

#[test]
fn a_device_outside_the_list_cannot_be_opened() {
    let own = Own::new("devices");
    let group = own.0.child("c").unwrap();
    group
        .create(&Limits { devices: Some(vec![DeviceRule::allow(DeviceKind::Char, 1, Some(3))]), ..Limits::default() })
        .unwrap();
    let output = run(&group, "sh -c 'cat /dev/null && echo null; head -c1 /dev/zero || echo denied'")
        .wait_with_output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "null\ndenied\n");
}

#[test]
fn a_child_that_joins_is_counted_and_killed_with_its_descendants() {
    let own = Own::new("kill");
    let group = own.0.child("c").unwrap();
    group.create(&Limits::default()).unwrap();
    // A group made inside, as a privileged container may.
    let inner = group.child("inner").unwrap();
    inner.create(&Limits::default()).unwrap();
    let mut outer = run(&group, "sh -c 'sleep 1000 & sleep 1000 & wait'");
    let mut nested = run(&inner, "sleep 1000");
    until("four processes", || group.pids().unwrap().len() == 4);
    assert_eq!(group.stats().unwrap().pids, Some(4));

    let error = group.remove(Duration::ZERO).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    group.kill().unwrap();
    for child in [&mut outer, &mut nested] {
        assert!(!child.wait().unwrap().success());
    }
    group.remove(PATIENCE).unwrap();
    assert_eq!(group.pids().unwrap(), Vec::<u32>::new());
}

#[test]
fn a_process_over_its_memory_limit_is_killed_and_counted() {
    let own = Own::new("oom");
    let group = own.0.child("c").unwrap();
    group.create(&Limits { memory: Some(8 << 20), memory_swap: Some(8 << 20), ..Limits::default() }).unwrap();
    assert_eq!(group.oom_kills().unwrap(), 0);
    let status = run(&group, "dd if=/dev/zero of=/dev/null bs=64M count=1").wait().unwrap();
    assert!(!status.success());
    assert_eq!(group.oom_kills().unwrap(), 1);
}

#[test]
fn statistics_show_what_was_used() {
    let own = Own::new("stats");
    let group = own.0.child("c").unwrap();
    group.create(&Limits { memory: Some(256 << 20), ..Limits::default() }).unwrap();
    run(&group, "sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done'").wait().unwrap();
    let mut sleeper = run(&group, "sleep 1000");
    until("the sleeper", || group.pids().unwrap().len() == 1);
    let stats = group.stats().unwrap();
    let memory = stats.memory.unwrap();
    assert!(stats.cpu.unwrap().usage_ns > 1_000_000, "{stats:?}");
    assert!(memory.usage >= memory.working_set && memory.working_set > 0, "{stats:?}");
    assert_eq!(memory.limit, Some(256 << 20));
    assert_eq!(stats.pids, Some(1));
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    group.remove(PATIENCE).unwrap();
    assert_eq!(group.stats().unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn creation_and_limits_stay_near_the_kernels_own_cost() {
    let own = Own::new("cost");
    let limits = Limits {
        cpu_shares: Some(256),
        cpu_quota: Some(20_000),
        cpu_period: Some(100_000),
        memory: Some(64 << 20),
        pids: Some(32),
        devices: Some((0..10).map(|minor| DeviceRule::allow(DeviceKind::Char, 1, Some(minor))).collect()),
        ..Limits::default()
    };
    let mut times: Vec<_> = (0..40)
        .map(|i| {
            let group = own.0.child(format!("c{i}")).unwrap();
            let started = Instant::now();
            group.create(&limits).unwrap();
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("create with limits: p10 {:?}, median {:?}", times[4], times[20]);
    // The measured floor is 0.36 ms; the bound only catches a grace period or a sleep.
    assert!(times[4] < Duration::from_millis(5), "{times:?}");
}

#[test]
fn the_kernel_takes_the_device_program_and_cgroup_kill_on_v2() {
    // Device programs and cgroup.kill need no controller, so the v2 side of a hybrid machine will
    // do; nothing is enabled in its root.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let Some(mount) = mounts.lines().find(|l| l.contains(" - cgroup2 ")) else {
        println!("skipped: no cgroup2 mount");
        return;
    };
    let mount = PathBuf::from(mount.split(' ').nth(4).unwrap());
    let hierarchy = Hierarchy::new(Layout::V2(mount), "").unwrap();
    let own = Own(hierarchy.group(format!("podd-test-{}-bpf", std::process::id())).unwrap());
    make_dir(&own.0.v2_dir().unwrap()).unwrap();
    let null = DeviceRule::allow(DeviceKind::Char, 1, Some(3));
    let random = DeviceRule { write: false, ..DeviceRule::allow(DeviceKind::Char, 1, Some(9)) };
    own.0.restrict_devices(&[null, random]).unwrap();
    let script = "sh -c 'for d in null zero urandom; do head -c1 /dev/$d >/dev/null && echo $d; done; (: >/dev/urandom) || echo readonly'";
    let output = run(&own.0, script).wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "null\nurandom\nreadonly\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let mut sleeper = run(&own.0, "sleep 1000");
    until("the sleeper", || own.0.pids().unwrap().len() == 1);
    own.0.kill().unwrap();
    assert!(!sleeper.wait().unwrap().success());
}
