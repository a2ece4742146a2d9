//! The systemd cgroup driver, where systemd is the first process: in the guest (`tests/guest`).

mod world;

use std::path::Path;
use std::process::Command;

use podd_cri::RuntimeService;
use podd_cri::v1::*;
use podd_runtime::CgroupDriver;
use tonic::Request;
use world::{container, create, exec, exited, on_a_node, remove_sandbox, run_sandbox, start};

const PARENT: &str = "kubepods-burstable-pod12_34.slice";
const GROUP: &str = "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12_34.slice";

fn systemctl(arguments: &[&str]) -> String {
    let output = Command::new("systemctl").args(arguments).output().expect("systemctl runs");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", unit, "--value", "-p", name]).trim().to_owned()
}

fn file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
}

fn resources(quota: i64, memory: i64) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: quota,
        cpu_shares: 1024,
        memory_limit_in_bytes: memory,
        ..Default::default()
    }
}

fn limited(name: &str, script: &str) -> ContainerConfig {
    let mut config = container(name, script);
    config.linux.as_mut().expect("it is set").resources = Some(resources(12_345, 32 << 20));
    config
}

#[test]
#[ignore = "needs systemd as the first process; tests/guest has it"]
fn a_container_is_a_scope_whose_limits_systemd_knows() {
    on_a_node("a_container_is_a_scope_whose_limits_systemd_knows", |bench| async move {
        let runtime = bench.open_with(|config| config.cgroup_driver = CgroupDriver::Systemd).await;
        let answer = runtime.runtime_config(Request::new(RuntimeConfigRequest {})).await.unwrap().into_inner();
        assert_eq!(answer.linux.unwrap().cgroup_driver, podd_cri::v1::CgroupDriver::Systemd as i32);
        let mut pod = bench.sandbox("a");
        pod.linux.as_mut().unwrap().cgroup_parent = PARENT.to_owned();
        let sandbox = run_sandbox(runtime.as_ref(), &pod).await;
        let id = create(runtime.as_ref(), &sandbox, &pod, limited("c", "sleep 1000")).await;
        let (unit, group) = (format!("podd-{id}.scope"), format!("{GROUP}/podd-{id}.scope"));
        let held = file(&format!("{group}/cgroup.procs"));
        assert_eq!(held.lines().count(), 1, "its own process and no holder");
        start(runtime.as_ref(), &id).await;
        assert_eq!(exec(runtime.as_ref(), &id, "echo in").await.stdout, b"in\n");
        for (name, value) in [
            ("ActiveState", "active"),
            ("Slice", PARENT),
            ("Delegate", "yes"),
            ("MemoryMax", "33554432"),
            ("CPUQuotaPerSecUSec", "130ms"),
            ("CPUWeight", "100"),
        ] {
            assert_eq!(property(&unit, name), value, "{name}");
        }
        let limits = || (file(&format!("{group}/cpu.max")), file(&format!("{group}/memory.max")));
        assert_eq!(limits(), ("12345 100000".to_owned(), "33554432".to_owned()));

        let update = UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(resources(50_000, 64 << 20)),
            ..Default::default()
        };
        runtime.update_container_resources(Request::new(update)).await.unwrap();
        assert_eq!(limits(), ("50000 100000".to_owned(), "67108864".to_owned()));
        assert_eq!(property(&unit, "MemoryMax"), "67108864");
        systemctl(&["daemon-reload"]);
        assert_eq!(limits(), ("50000 100000".to_owned(), "67108864".to_owned()), "after a reload");
        assert_eq!(exec(runtime.as_ref(), &id, "echo in").await.stdout, b"in\n");

        let ends = create(runtime.as_ref(), &sandbox, &pod, limited("ends", "exit 7")).await;
        start(runtime.as_ref(), &ends).await;
        assert_eq!(exited(runtime.as_ref(), &ends).await.exit_code, 7);
        remove_sandbox(runtime.as_ref(), &sandbox).await;
        assert!(!Path::new(&group).exists());
        assert_ne!(property(&unit, "ActiveState"), "active");
        assert_eq!(property(PARENT, "ActiveState"), "active", "the slice is the kubelet's");
        systemctl(&["stop", PARENT]);
        runtime.close().await;
    });
}

#[test]
#[ignore = "needs systemd as the first process; tests/guest has it"]
fn a_pod_of_its_own_slice_and_pid_namespace_leaves_nothing() {
    on_a_node("a_pod_of_its_own_slice_and_pid_namespace_leaves_nothing", |bench| async move {
        let runtime = bench.open_with(|config| config.cgroup_driver = CgroupDriver::Systemd).await;
        let mut pod = bench.sandbox("b");
        let linux = pod.linux.as_mut().unwrap();
        linux.cgroup_parent = String::new();
        let shared = NamespaceOption { pid: NamespaceMode::Pod as i32, ..Default::default() };
        linux.security_context.as_mut().unwrap().namespace_options = Some(shared.clone());
        let sandbox = run_sandbox(runtime.as_ref(), &pod).await;
        let mut config = container("c", "sleep 1000");
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.namespace_options = Some(shared.clone());
        let id = create(runtime.as_ref(), &sandbox, &pod, config).await;
        start(runtime.as_ref(), &id).await;
        let units = || systemctl(&["list-units", "--all", "--plain", "--no-legend"]);
        for part in [format!("podd-{id}.scope"), format!("podd-init-{sandbox}.scope"), format!("pod{sandbox}.slice")] {
            assert!(units().contains(&part), "{part} in\n{}", units());
        }
        remove_sandbox(runtime.as_ref(), &sandbox).await;
        let left = units();
        assert!(!left.contains(&id) && !left.contains(&sandbox), "{left}");
        runtime.close().await;
    });
}

/// systemd removes the group of a scope as soon as its last process has ended, and with it the kernel's count.
#[test]
#[ignore = "needs systemd as the first process; tests/guest has it"]
fn a_scope_over_its_memory_limit_is_told_as_oomkilled() {
    on_a_node("a_scope_over_its_memory_limit_is_told_as_oomkilled", |bench| async move {
        let runtime = bench.open_with(|config| config.cgroup_driver = CgroupDriver::Systemd).await;
        let mut pod = bench.sandbox("c");
        pod.linux.as_mut().unwrap().cgroup_parent = PARENT.to_owned();
        let sandbox = run_sandbox(runtime.as_ref(), &pod).await;
        for round in 0..6 {
            let mut greedy = container(&format!("greedy-{round}"), "exec tail /dev/zero");
            // The whole processor: an emulated one is slow enough.
            greedy.linux.as_mut().expect("it is set").resources = Some(resources(0, 16 << 20));
            let id = create(runtime.as_ref(), &sandbox, &pod, greedy).await;
            start(runtime.as_ref(), &id).await;
            let status = exited(runtime.as_ref(), &id).await;
            assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "round {round}");
        }
        let killed = create(runtime.as_ref(), &sandbox, &pod, limited("killed", "sleep 1000")).await;
        start(runtime.as_ref(), &killed).await;
        let kill = StopContainerRequest { container_id: killed.clone(), timeout: 0 };
        runtime.stop_container(Request::new(kill)).await.unwrap();
        let status = exited(runtime.as_ref(), &killed).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"), "nobody lacked memory");
        remove_sandbox(runtime.as_ref(), &sandbox).await;
        systemctl(&["stop", PARENT]);
        runtime.close().await;
    });
}
