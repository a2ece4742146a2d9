//! Namespaces, users, paths and limits that a container may ask for, through CRI in process.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod world;

use podd_cri::RuntimeService;
use podd_cri::v1::security_profile::ProfileType;
use podd_cri::v1::*;
use tonic::{Code, Request, Status};
use world::{Bench, container, create, exec, on_a_node, remove_sandbox, run_sandbox, start};

fn sandbox(bench: &Bench, name: &str, options: NamespaceOption) -> PodSandboxConfig {
    let mut pod = bench.sandbox(name);
    pod.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(options);
    pod
}

fn sleeper(name: &str, change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> ContainerConfig {
    let mut config = container(name, "exec sleep 1000");
    change(config.linux.as_mut().unwrap().security_context.as_mut().unwrap());
    config
}

async fn refused(runtime: &dyn RuntimeService, id: &str, pod: &PodSandboxConfig, config: ContainerConfig) -> Status {
    let request =
        CreateContainerRequest { pod_sandbox_id: id.into(), config: Some(config), sandbox_config: Some(pod.clone()) };
    runtime.create_container(Request::new(request)).await.unwrap_err()
}

async fn said(runtime: &dyn RuntimeService, id: &str, script: &str) -> String {
    let response = exec(runtime, id, script).await;
    String::from_utf8_lossy(&response.stdout).into_owned() + &String::from_utf8_lossy(&response.stderr)
}

#[test]
fn every_mix_of_namespaces_is_what_it_says() {
    on_a_node("every_mix_of_namespaces_is_what_it_says", |bench| async move {
        let runtime = bench.open().await;
        let host = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
        let (pod_mode, own, node) = (NamespaceMode::Pod, NamespaceMode::Container, NamespaceMode::Node);
        // (network, ipc, pid) of the sandbox, and whose pid namespace its containers ask for.
        let rows = [
            (pod_mode, pod_mode, own, own),
            (pod_mode, pod_mode, pod_mode, pod_mode),
            (pod_mode, pod_mode, pod_mode, own),
            (pod_mode, node, node, node),
            (node, pod_mode, own, own),
            (node, node, pod_mode, pod_mode),
            (node, node, node, own),
        ];
        for (at, (network, ipc, pid, wanted)) in rows.into_iter().enumerate() {
            let options = |pid: NamespaceMode| NamespaceOption {
                network: network as i32,
                ipc: ipc as i32,
                pid: pid as i32,
                ..Default::default()
            };
            let pod = sandbox(&bench, &format!("p{at}"), options(pid));
            let id = run_sandbox(runtime.as_ref(), &pod).await;
            let mut seen = Vec::new();
            for name in ["a", "b"] {
                let config = sleeper(name, |security| security.namespace_options = Some(options(wanted)));
                let container = create(runtime.as_ref(), &id, &pod, config).await;
                start(runtime.as_ref(), &container).await;
                let script = "for kind in net uts ipc pid; do readlink /proc/self/ns/$kind; done";
                let text = said(runtime.as_ref(), &container, script).await;
                seen.push(text.lines().map(str::to_owned).collect::<Vec<_>>());
            }
            let of_host = [network == node, network == node, ipc == node, wanted == node];
            for (kind, name) in ["net", "uts", "ipc", "pid"].into_iter().enumerate() {
                let what = format!("{name} of row {at}: {seen:?}");
                assert_eq!(seen[0][kind] == host(name), of_host[kind], "{what}");
                assert_eq!(seen[0][kind] == seen[1][kind], kind != 3 || wanted != own, "{what}");
            }
            remove_sandbox(runtime.as_ref(), &id).await;
        }
        runtime.close().await;
    });
}

#[test]
fn a_container_joins_the_processes_of_another_one_of_its_sandbox_and_of_no_other() {
    on_a_node("a_container_joins_the_processes_of_another_one_of_its_sandbox_and_of_no_other", |bench| async move {
        let runtime = bench.open().await;
        let (pod, other) = (bench.sandbox("a"), bench.sandbox("b"));
        let id = run_sandbox(runtime.as_ref(), &pod).await;
        let elsewhere = run_sandbox(runtime.as_ref(), &other).await;
        let target = create(runtime.as_ref(), &id, &pod, sleeper("target", |_| {})).await;
        let stranger = create(runtime.as_ref(), &elsewhere, &other, sleeper("stranger", |_| {})).await;
        start(runtime.as_ref(), &stranger).await;
        let joins = |target: &str| {
            let target_id = target.to_owned();
            sleeper("debug", |security| {
                security.namespace_options =
                    Some(NamespaceOption { pid: NamespaceMode::Target as i32, target_id, ..Default::default() });
            })
        };
        for (target, code, word) in [
            ("", Code::InvalidArgument, "target_id"),
            ("0123456789abcdef", Code::NotFound, "0123456789abcdef"),
            (stranger.as_str(), Code::InvalidArgument, "another sandbox"),
            (target.as_str(), Code::FailedPrecondition, "not running"),
        ] {
            let status = refused(runtime.as_ref(), &id, &pod, joins(target)).await;
            assert_eq!(status.code(), code, "{status}");
            assert!(status.message().contains(word), "{status}");
        }
        start(runtime.as_ref(), &target).await;
        // A part of the id will do, as everywhere.
        let debug = create(runtime.as_ref(), &id, &pod, joins(&target[..20])).await;
        start(runtime.as_ref(), &debug).await;
        let seen =
            said(runtime.as_ref(), &debug, "cat /proc/1/cmdline | tr '\\0' ' '; ps | grep -c '[s]leep 1000'").await;
        assert_eq!(seen, "sleep 1000 2\n");
        for (mode, word) in [(NamespaceMode::Target, "network"), (NamespaceMode::Container, "network")] {
            let config = sleeper("odd", |security| {
                security.namespace_options =
                    Some(NamespaceOption { network: mode as i32, ..world::own_pid_namespace() });
            });
            let status = refused(runtime.as_ref(), &id, &pod, config).await;
            assert!(status.code() == Code::InvalidArgument && status.message().contains(word), "{status}");
        }
        remove_sandbox(runtime.as_ref(), &id).await;
        remove_sandbox(runtime.as_ref(), &elsewhere).await;
        runtime.close().await;
    });
}

#[test]
fn sysctls_hold_in_the_namespaces_of_the_sandbox_alone() {
    on_a_node("sysctls_hold_in_the_namespaces_of_the_sandbox_alone", |bench| async move {
        let runtime = bench.open().await;
        let file = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
        let before = std::fs::read_to_string(file).unwrap();
        let mut pod = bench.sandbox("a");
        pod.linux.as_mut().unwrap().sysctls = [
            ("net.ipv4.ip_unprivileged_port_start", "7"),
            ("kernel.shm_rmid_forced", "1"),
            ("net/ipv4/tcp_fin_timeout", "9"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let id = run_sandbox(runtime.as_ref(), &pod).await;
        let first = create(runtime.as_ref(), &id, &pod, sleeper("c", |_| {})).await;
        start(runtime.as_ref(), &first).await;
        let script =
            "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/shm_rmid_forced net/ipv4/tcp_fin_timeout";
        assert_eq!(said(runtime.as_ref(), &first, script).await, "7\n1\n9\n");
        assert_eq!(std::fs::read_to_string(file).unwrap(), before);
        remove_sandbox(runtime.as_ref(), &id).await;
        // On the machine's network they would be the machine's.
        let options = NamespaceOption { network: NamespaceMode::Node as i32, ..world::own_pid_namespace() };
        let mut pod = sandbox(&bench, "b", options);
        pod.linux.as_mut().unwrap().sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
        let request = RunPodSandboxRequest { config: Some(pod), ..Default::default() };
        let status = runtime.run_pod_sandbox(Request::new(request)).await.unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains("ip_forward"), "{status}");
        runtime.close().await;
    });
}

#[test]
fn groups_names_and_paths_are_what_the_container_asks_for() {
    on_a_node("groups_names_and_paths_are_what_the_container_asks_for", |bench| async move {
        let runtime = bench.open().await;
        let pod = bench.sandbox("a");
        let id = run_sandbox(runtime.as_ref(), &pod).await;
        // The image's own /etc/group says nothing of nobody, one that is mounted does.
        let group = bench.path("group");
        std::fs::write(&group, "root:x:0:\nnogroup:x:65534:\nimage:x:500:nobody\n").unwrap();
        for (policy, want) in
            [(SupplementalGroupsPolicy::Merge, "7 500 65534"), (SupplementalGroupsPolicy::Strict, "7 65534")]
        {
            let mut config = sleeper(&format!("{policy:?}").to_lowercase(), |security| {
                security.run_as_username = "nobody".into();
                security.supplemental_groups = vec![7];
                security.supplemental_groups_policy = policy as i32;
            });
            config.mounts = vec![Mount {
                container_path: "/etc/group".into(),
                host_path: group.display().to_string(),
                ..Default::default()
            }];
            let container = create(runtime.as_ref(), &id, &pod, config).await;
            start(runtime.as_ref(), &container).await;
            let seen = said(runtime.as_ref(), &container, "id -u; id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' '").await;
            assert_eq!(seen.trim_end(), format!("65534\n{want}"));
            let user = world::status(runtime.as_ref(), &container).await.user.unwrap().linux.unwrap();
            assert_eq!(
                (user.uid, user.supplemental_groups.contains(&500)),
                (65534, policy == SupplementalGroupsPolicy::Merge)
            );
        }
        let config = sleeper("paths", |security| {
            security.masked_paths = vec!["/etc/passwd".into(), "/www".into(), "/none".into()];
            security.readonly_paths = vec!["/tmp".into(), "/etc/group".into()];
        });
        let container = create(runtime.as_ref(), &id, &pod, config).await;
        start(runtime.as_ref(), &container).await;
        let script = "wc -c </etc/passwd; ls /www | wc -l; touch /tmp/x 2>&1 | grep -c Read-only; echo >>/etc/group; touch /root/x && echo free; cat /proc/interrupts | wc -l";
        let seen = said(runtime.as_ref(), &container, script).await;
        let lines: Vec<&str> = seen.lines().map(str::trim).collect();
        assert_eq!(lines[..3], ["0", "0", "1"], "{seen}");
        assert!(seen.contains("/etc/group: Read-only") && lines.contains(&"free"), "{seen}");
        // Only what is named is hidden.
        assert!(lines.iter().filter_map(|line| line.parse::<u32>().ok()).any(|count| count > 1), "{seen}");
        remove_sandbox(runtime.as_ref(), &id).await;
        runtime.close().await;
    });
}

#[test]
fn confinement_that_this_machine_lacks_is_refused_or_passed_over_as_containerd_does() {
    on_a_node("confinement_that_this_machine_lacks_is_refused_or_passed_over_as_containerd_does", |bench| async move {
        let runtime = bench.open().await;
        let pod = bench.sandbox("a");
        let id = run_sandbox(runtime.as_ref(), &pod).await;
        let apparmor = |kind: ProfileType, name: &str| {
            let profile = SecurityProfile { profile_type: kind as i32, localhost_ref: name.into() };
            sleeper("c", |security| security.apparmor = Some(profile))
        };
        let status = refused(runtime.as_ref(), &id, &pod, apparmor(ProfileType::Localhost, "mine")).await;
        assert!(status.message().contains("mine") && status.message().contains("AppArmor"), "{status}");
        for kind in [ProfileType::Unconfined, ProfileType::RuntimeDefault] {
            let container = create(runtime.as_ref(), &id, &pod, apparmor(kind, "")).await;
            start(runtime.as_ref(), &container).await;
            let remove = RemoveContainerRequest { container_id: container };
            runtime.remove_container(Request::new(remove)).await.unwrap();
        }
        let selinux = |level: &str| {
            let option = SeLinuxOption { user: "u".into(), role: "r".into(), r#type: "t".into(), level: level.into() };
            sleeper("c", |security| security.selinux_options = Some(option))
        };
        for level in ["s", "s0:c1,", "s0:c12345", "c1", "s0-s1:"] {
            let status = refused(runtime.as_ref(), &id, &pod, selinux(level)).await;
            assert!(status.code() == Code::InvalidArgument && status.message().contains(level), "{level}: {status}");
        }
        create(runtime.as_ref(), &id, &pod, selinux("s0-s1:c1.c3,c1023")).await;
        remove_sandbox(runtime.as_ref(), &id).await;
        runtime.close().await;
    });
}

#[test]
fn limits_reach_the_control_group_or_are_refused_by_name() {
    on_a_node("limits_reach_the_control_group_or_are_refused_by_name", |bench| async move {
        let runtime = bench.open().await;
        let pod = bench.sandbox("a");
        let id = run_sandbox(runtime.as_ref(), &pod).await;
        let limited = |resources: LinuxContainerResources| {
            let mut config = sleeper("c", |_| {});
            config.linux.as_mut().unwrap().resources = Some(resources);
            config
        };
        let v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let unified = |file: &str| LinuxContainerResources {
            unified: [(file.to_owned(), "1048576".to_owned())].into(),
            ..Default::default()
        };
        let mut wrong = vec![
            (unified("memory.high/../x"), "memory.high/../x"),
            (LinuxContainerResources { cpuset_cpus: "0-9999".into(), ..Default::default() }, "cpuset"),
            (LinuxContainerResources { memory_swap_limit_in_bytes: 1 << 20, ..Default::default() }, "memory"),
            (
                LinuxContainerResources {
                    hugepage_limits: vec![HugepageLimit { page_size: "huge".into(), limit: 1 }],
                    ..Default::default()
                },
                "huge",
            ),
        ];
        if !v2 {
            wrong.push((unified("memory.high"), "memory.high"));
        }
        for (resources, word) in wrong {
            let status = refused(runtime.as_ref(), &id, &pod, limited(resources)).await;
            assert!(status.message().contains(word), "{word}: {status}");
            assert_ne!(status.code(), Code::Internal, "{status}");
        }
        let resources = LinuxContainerResources {
            cpuset_cpus: "0".into(),
            cpuset_mems: "0".into(),
            memory_limit_in_bytes: 64 << 20,
            memory_swap_limit_in_bytes: 64 << 20,
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 0 }],
            ..Default::default()
        };
        let container = create(runtime.as_ref(), &id, &pod, limited(resources.clone())).await;
        start(runtime.as_ref(), &container).await;
        let memory = if v2 { "memory.max" } else { "memory/memory.limit_in_bytes" };
        let script = format!("grep Cpus_allowed_list /proc/self/status | cut -f2; cat /sys/fs/cgroup/{memory}");
        assert_eq!(said(runtime.as_ref(), &container, &script).await, format!("0\n{}\n", 64 << 20));
        let shown = world::status(runtime.as_ref(), &container).await.resources.unwrap().linux.unwrap();
        assert_eq!(shown, LinuxContainerResources { oom_score_adj: shown.oom_score_adj, ..resources });
        remove_sandbox(runtime.as_ref(), &id).await;
        runtime.close().await;
    });
}

#[test]
fn a_container_is_stopped_by_the_signal_that_it_was_made_with() {
    on_a_node("a_container_is_stopped_by_the_signal_that_it_was_made_with", |bench| async move {
        let runtime = bench.open().await;
        let pod = bench.sandbox("a");
        let id = run_sandbox(runtime.as_ref(), &pod).await;
        let mut config = container("c", "trap 'exit 5' USR1; echo up; while true; do sleep 0.05; done");
        config.stop_signal = Signal::Sigusr1 as i32;
        let container = create(runtime.as_ref(), &id, &pod, config).await;
        start(runtime.as_ref(), &container).await;
        podd_tests::wait_for(podd_tests::SOON, "the trap is set", || {
            let log = std::fs::read_to_string(bench.path("logs/c.log")).unwrap_or_default();
            if log.ends_with("up\n") { Ok(()) } else { Err(log) }
        });
        let stop = StopContainerRequest { container_id: container.clone(), timeout: 20 };
        runtime.stop_container(Request::new(stop)).await.unwrap();
        let status = world::status(runtime.as_ref(), &container).await;
        assert_eq!((status.exit_code, status.stop_signal), (5, Signal::Sigusr1 as i32));
        remove_sandbox(runtime.as_ref(), &id).await;
        runtime.close().await;
    });
}
