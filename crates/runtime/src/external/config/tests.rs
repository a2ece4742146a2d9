//! Tables over what a container's specification becomes.

use podd_shim::wire::{CapabilitySets, Namespaces, UserSpec, WindowSize};

use super::*;

/// The configuration of a specification, with what the shim has found out about it.
fn told(change: impl FnOnce(&mut ContainerSpec, &mut Limits, &mut Mounted)) -> Value {
    let mut spec = ContainerSpec {
        id: "c".into(),
        process: Process { args: vec!["sh".into()], user: UserSpec::default(), ..Process::default() },
        ..ContainerSpec::default()
    };
    let mut limits = Limits { devices: Some(vec![DeviceRule::everything(false)]), ..Limits::default() };
    let mut mounted = Mounted { home: "/home".into(), ..Mounted::default() };
    change(&mut spec, &mut limits, &mut mounted);
    config(&Container {
        spec: &spec,
        mounted: &mounted,
        root: Path::new("/b/rootfs"),
        mounts: Path::new("/b/mounts"),
        readonly: true,
        hooks: &Hooks { poststop: vec![Hook { path: "/h".into(), ..Hook::default() }], ..Hooks::default() },
        annotations: &BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        cgroup: Path::new("podd/pod1/c"),
        limits: &limits,
        seccomp: Some(json!({ "defaultAction": "SCMP_ACT_ALLOW" })),
    })
}

fn at<'a>(told: &'a Value, pointer: &str) -> &'a Value {
    told.pointer(pointer).unwrap_or(&Value::Null)
}

fn mount<'a>(told: &'a Value, destination: &str) -> &'a Value {
    let mounts = told["mounts"].as_array().expect("a list");
    mounts.iter().find(|mount| mount["destination"] == destination).unwrap_or(&Value::Null)
}

#[test]
fn what_every_container_has_is_told() {
    let told = told(|_, _, _| {});
    for (pointer, expected) in [
        ("/ociVersion", json!("1.2.0")),
        ("/root", json!({ "path": "/b/rootfs", "readonly": true })),
        ("/process/terminal", json!(false)),
        ("/process/args", json!(["sh"])),
        ("/process/cwd", json!("/")),
        ("/process/env", json!(["HOME=/home"])),
        ("/process/oomScoreAdj", Value::Null),
        ("/hooks", json!({ "poststop": [{ "path": "/h", "env": [] }] })),
        ("/annotations", json!({ "a": "b" })),
        ("/linux/cgroupsPath", json!("/podd/pod1/c")),
        ("/linux/namespaces", json!([{ "type": "mount" }, { "type": "cgroup" }, { "type": "pid" }])),
        ("/linux/resources", json!({ "devices": [{ "allow": false, "type": "a", "access": "rwm" }] })),
        ("/linux/rootfsPropagation", Value::Null),
        ("/linux/seccomp/defaultAction", json!("SCMP_ACT_ALLOW")),
    ] {
        assert_eq!(*at(&told, pointer), expected, "{pointer}");
    }
    let order: Vec<&str> =
        told["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect();
    assert_eq!(order, ["/proc", "/dev", "/sys", "/dev/pts", "/dev/shm", "/dev/mqueue"]);
    assert_eq!(mount(&told, "/sys")["options"], json!(["nosuid", "noexec", "nodev", "ro"]));
}

#[test]
fn a_process_is_told_with_all_that_it_may() {
    let told = told(|spec, _, mounted| {
        spec.tty = true;
        spec.window = Some(WindowSize { rows: 24, cols: 80 });
        spec.process = Process {
            args: vec!["a".into(), "b".into()],
            env: vec!["HOME=/own".into()],
            cwd: "/w".into(),
            capabilities: CapabilitySets { bounding: 0b11, effective: 1, permitted: 1, ..Default::default() },
            no_new_privileges: true,
            apparmor: Some("mine".into()),
            rlimits: vec![Rlimit { resource: "nofile".into(), soft: 1, hard: u64::MAX }],
            oom_score_adj: Some(1000),
            umask: Some(0o27),
            ..Process::default()
        };
        mounted.user = ResolvedUser { uid: 7, gid: 8, groups: vec![8, 9] };
    });
    let expected = json!({
        "terminal": true,
        "consoleSize": { "height": 24, "width": 80 },
        "user": { "uid": 7, "gid": 8, "additionalGids": [8, 9], "umask": 0o27 },
        "args": ["a", "b"],
        "env": ["HOME=/own"],
        "cwd": "/w",
        "capabilities": {
            "bounding": ["CAP_CHOWN", "CAP_DAC_OVERRIDE"],
            "effective": ["CAP_CHOWN"],
            "permitted": ["CAP_CHOWN"],
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 1, "hard": u64::MAX }],
        "noNewPrivileges": true,
        "apparmorProfile": "mine",
    });
    assert_eq!(told["process"], expected);
}

#[test]
fn namespaces_are_the_pods_by_the_shims_files_or_the_hosts_by_silence() {
    let files = |kinds: &[NamespaceKind]| -> Vec<(NamespaceKind, PathBuf)> {
        kinds.iter().map(|kind| (*kind, "/proc/1/fd/9".into())).collect()
    };
    use NamespaceKind::{Ipc, Net, Pid, Uts};
    for (pid, host_cgroup, joined, expected) in [
        (PidNamespace::Private, false, files(&[Net, Ipc, Uts]), "mount cgroup pid network=9 ipc=9 uts=9"),
        (PidNamespace::Pod, false, files(&[Net, Pid]), "mount cgroup network=9 pid=9"),
        (PidNamespace::Target("t".into()), false, files(&[Pid]), "mount cgroup pid=9"),
        (PidNamespace::Host, true, files(&[]), "mount"),
    ] {
        let told = told(|spec, _, mounted| {
            spec.namespaces = Namespaces { pid: pid.clone(), host_cgroup, ..Namespaces::default() };
            mounted.namespaces = joined;
        });
        let list = told["linux"]["namespaces"].as_array().unwrap().iter();
        let list = list.map(|namespace| {
            let path = namespace["path"].as_str().map(|_| "=9").unwrap_or_default();
            format!("{}{path}", namespace["type"].as_str().unwrap())
        });
        assert_eq!(list.collect::<Vec<_>>().join(" "), expected, "{pid:?}");
    }
}

#[test]
fn what_shows_the_host_or_an_image_is_bound_from_where_the_shim_has_it() {
    let bind = || MountKind::Bind { source: "/secret".into(), recursive: false };
    let asked =
        |destination: &str, kind: MountKind| Mount { destination: destination.into(), kind, ..Mount::default() };
    let told = told(|spec, _, _| {
        spec.sysfs_writable = true;
        spec.mounts = vec![
            Mount { readonly: true, nosuid: true, ..asked("/a/b", bind()) },
            Mount { propagation: Propagation::Slave, ..asked("/a", bind()) },
            asked("/image", MountKind::Image { lower: vec!["/l".into()], sub_path: None }),
            asked("/dev/shm", bind()),
            asked("/tmp", MountKind::Tmpfs { size: Some(4096), mode: None }),
            Mount { readonly: true, ..asked("/sys/fs/cgroup", MountKind::Cgroup) },
        ];
    });
    for (destination, kind, source, options) in [
        ("/a/b", "bind", "/b/mounts/0", "ro nosuid rbind rprivate"),
        ("/a", "bind", "/b/mounts/1", "rbind rslave"),
        ("/image", "bind", "/b/mounts/2", "ro rbind rprivate"),
        ("/dev/shm", "bind", "/b/mounts/3", "rbind rprivate"),
        ("/tmp", "tmpfs", "tmpfs", "mode=1777 size=4096"),
        ("/sys/fs/cgroup", "cgroup", "cgroup", "ro nosuid noexec nodev"),
        ("/sys", "sysfs", "sysfs", "nosuid noexec nodev rw"),
    ] {
        let options: Vec<&str> = options.split(' ').collect();
        let expected = json!({ "destination": destination, "type": kind, "source": source, "options": options });
        assert_eq!(*mount(&told, destination), expected);
    }
    assert!(!told.to_string().contains("/secret"));
    assert_eq!(told["linux"]["rootfsPropagation"], "rslave");
    let order = told["mounts"].as_array().unwrap();
    let place = |path: &str| order.iter().position(|mount| mount["destination"] == path);
    assert!(place("/a") < place("/a/b"));
}

#[test]
fn a_root_is_shared_where_a_mount_is() {
    let with = |propagation| {
        let kind = MountKind::Bind { source: "/s".into(), recursive: true };
        told(|spec, _, _| spec.mounts = vec![Mount { destination: "/d".into(), kind, propagation, ..Mount::default() }])
    };
    assert_eq!(with(Propagation::Shared)["linux"]["rootfsPropagation"], "rshared");
    assert_eq!(mount(&with(Propagation::Shared), "/d")["options"], json!(["rbind", "rshared"]));
    assert_eq!(with(Propagation::Private)["linux"]["rootfsPropagation"], Value::Null);
}

#[test]
fn limits_and_devices_are_told_as_they_are_set() {
    let told = told(|spec, limits, _| {
        spec.masked_paths = vec!["/proc/kcore".into()];
        spec.readonly_paths = vec!["/proc/sys".into()];
        spec.devices = vec![Device {
            path: "/dev/x".into(),
            kind: DeviceKind::Block,
            major: 8,
            minor: 1,
            mode: 0o600,
            uid: 0,
            gid: 6,
        }];
        *limits = Limits {
            cpu_shares: Some(512),
            cpu_quota: Some(-1),
            memory: Some(64 << 20),
            memory_swap: Some(64 << 20),
            cpuset_cpus: Some("0".into()),
            pids: Some(10),
            hugepages: vec![podd_cgroup::HugepageLimit { page_size: "2MB".into(), limit: 0 }],
            unified: BTreeMap::from([("memory.high".into(), "1".into())]),
            devices: Some(vec![DeviceRule { mknod: false, ..DeviceRule::allow(RuleKind::Block, 8, Some(1)) }]),
            ..Limits::default()
        };
    });
    let expected = json!({
        "devices": [{ "allow": true, "type": "b", "major": 8, "minor": 1, "access": "rw" }],
        "cpu": { "shares": 512, "quota": -1, "cpus": "0" },
        "memory": { "limit": 64 << 20, "swap": 64 << 20 },
        "pids": { "limit": 10 },
        "hugepageLimits": [{ "pageSize": "2MB", "limit": 0 }],
        "unified": { "memory.high": "1" },
    });
    assert_eq!(told["linux"]["resources"], expected);
    let device =
        json!({ "path": "/dev/x", "type": "b", "major": 8, "minor": 1, "fileMode": 0o600, "uid": 0, "gid": 6 });
    assert_eq!(told["linux"]["devices"], json!([device]));
    assert_eq!(told["linux"]["maskedPaths"], json!(["/proc/kcore"]));
    assert_eq!(told["linux"]["readonlyPaths"], json!(["/proc/sys"]));
    let privileged = self::told(|_, limits, _| limits.devices = None);
    assert_eq!(privileged["linux"]["resources"]["devices"], json!([{ "allow": true, "type": "a", "access": "rwm" }]));
}
