//! Pods with a user namespace of their own, through CRI in process.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod world;

use std::os::unix::fs::MetadataExt;

use podd_cri::RuntimeService;
use podd_cri::v1::*;
use tonic::{Code, Request};
use world::{Bench, container, create, exec, on_a_node, remove_sandbox, run_sandbox, start};

/// Who is root in the pods of these tests: an id that no signed number holds, as kubelets hand them out.
const ROOT: u32 = 2_500_000_000;

fn ids(container_id: u32, host_id: u32, length: u32) -> IdMapping {
    IdMapping { host_id, container_id, length }
}

fn users() -> UserNamespace {
    let all = vec![ids(0, ROOT, 65536)];
    UserNamespace { mode: NamespaceMode::Pod as i32, uids: all.clone(), gids: all }
}

/// The sandbox `name` with users of its own.
fn sandbox(bench: &Bench, name: &str) -> PodSandboxConfig {
    let mut pod = bench.sandbox(name);
    let security = pod.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().userns_options = Some(users());
    pod
}

fn inside(name: &str, script: &str) -> ContainerConfig {
    let mut config = container(name, script);
    security(&mut config).namespace_options.as_mut().unwrap().userns_options = Some(users());
    config
}

fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

/// What a script says in a container, which must succeed.
async fn said(runtime: &dyn RuntimeService, id: &str, script: &str) -> String {
    let response = exec(runtime, id, script).await;
    let (out, err) = (String::from_utf8_lossy(&response.stdout), String::from_utf8_lossy(&response.stderr));
    assert_eq!(response.exit_code, 0, "{script}: {out}{err}");
    out.into_owned()
}

#[test]
fn root_in_the_pod_is_nobody_outside_and_has_its_files() {
    on_a_node("root_in_the_pod_is_nobody_outside_and_has_its_files", |bench| async move {
        let runtime = bench.open().await;
        let pod = sandbox(&bench, "a");
        let id = run_sandbox(runtime.as_ref(), &pod).await;
        let first = create(runtime.as_ref(), &id, &pod, inside("c", "echo out; id -u; exec sleep 1000")).await;
        start(runtime.as_ref(), &first).await;
        assert_eq!(
            said(runtime.as_ref(), &first, "cat /proc/self/uid_map /proc/1/gid_map")
                .await
                .split_whitespace()
                .collect::<Vec<_>>(),
            ["0", "2500000000", "65536", "0", "2500000000", "65536"]
        );
        // The pod's own process is the mapped user to the machine.
        let seen = world::processes(&bench.group).into_iter().find(|(_, line)| line.starts_with("sleep")).unwrap().0;
        assert_eq!(std::fs::metadata(format!("/proc/{seen}")).unwrap().uid(), ROOT);
        let owners = "stat -c '%u:%g %n' / /bin /etc/hosts /etc/hostname /etc/resolv.conf /dev /dev/null /dev/shm /dev/mqueue /proc/1";
        for line in said(runtime.as_ref(), &first, owners).await.lines() {
            assert!(line.starts_with("0:0 "), "{line}");
        }
        // What it writes is its own, here and in the layer on the disk; what it made itself shows who it is.
        let script = "echo x >/new; mkdir -p /www/deep; echo y >/www/index.html; echo z >>/etc/hosts; chown 33:34 /new; stat -c %u:%g /new";
        assert_eq!(said(runtime.as_ref(), &first, script).await, "33:34\n");
        let devices = "echo x >/dev/null; head -c 4 /dev/urandom | wc -c; echo s >/dev/shm/s; cat /dev/shm/s; echo err >/dev/stderr; touch /dev/mqueue/q";
        assert_eq!(said(runtime.as_ref(), &first, devices).await, "4\ns\n");
        let log = std::fs::read_to_string(bench.path("logs/c.log")).unwrap();
        let lines: Vec<&str> = log.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
        assert_eq!(lines, ["out", "0"]);
        remove_sandbox(runtime.as_ref(), &id).await;
        runtime.close().await;
    });
}

#[test]
fn devices_of_the_machine_stay_its_own_and_image_volumes_show_the_pods_ids() {
    on_a_node("devices_of_the_machine_stay_its_own_and_image_volumes_show_the_pods_ids", |bench| async move {
        let runtime = bench.open().await;
        let mut pod = sandbox(&bench, "a");
        pod.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
        let id = run_sandbox(runtime.as_ref(), &pod).await;
        for privileged in [false, true] {
            let mut config = inside(&format!("c-{privileged}"), "exec sleep 1000");
            security(&mut config).privileged = privileged;
            if !privileged {
                let (host_path, container_path) = ("/dev/kmsg".to_owned(), "/dev/kmsg".to_owned());
                config.devices = vec![Device { host_path, container_path, permissions: "rwm".into() }];
            }
            config.mounts = vec![Mount {
                container_path: "/volume".into(),
                readonly: true,
                image: Some(ImageSpec { image: podd_tests::image::BUSYBOX.into(), ..Default::default() }),
                ..Default::default()
            }];
            let container = create(runtime.as_ref(), &id, &pod, config).await;
            start(runtime.as_ref(), &container).await;
            let seen = said(runtime.as_ref(), &container, "stat -c %u /dev/kmsg /dev/null /volume/bin /bin").await;
            assert_eq!(seen, "65534\n0\n0\n0\n", "privileged: {privileged}");
        }
        remove_sandbox(runtime.as_ref(), &id).await;
        runtime.close().await;
    });
}

#[test]
fn the_pods_namespaces_belong_to_its_users() {
    on_a_node("the_pods_namespaces_belong_to_its_users", |bench| async move {
        let runtime = bench.open().await;
        let mut pod = sandbox(&bench, "a");
        let linux = pod.linux.as_mut().unwrap();
        linux.sysctls = [
            ("net.ipv4.ip_unprivileged_port_start", "0"),
            ("kernel.shm_rmid_forced", "1"),
            ("fs.mqueue.msg_max", "20"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let id = run_sandbox(runtime.as_ref(), &pod).await;
        let mut config = inside("c", "exec sleep 1000");
        security(&mut config).capabilities =
            Some(Capability { add_capabilities: vec!["SYS_ADMIN".into(), "NET_ADMIN".into()], ..Default::default() });
        let first = create(runtime.as_ref(), &id, &pod, config).await;
        let second = create(runtime.as_ref(), &id, &pod, inside("d", "exec sleep 1000")).await;
        start(runtime.as_ref(), &first).await;
        start(runtime.as_ref(), &second).await;
        let kinds = "cd /proc/1/ns; for kind in user net ipc uts; do readlink $kind; done";
        assert_eq!(said(runtime.as_ref(), &first, kinds).await, said(runtime.as_ref(), &second, kinds).await);
        let values =
            "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/shm_rmid_forced fs/mqueue/msg_max; hostname";
        assert_eq!(said(runtime.as_ref(), &second, values).await, "0\n1\n20\na\n");
        // Rights over these, and none over the machine's.
        let script = "ip addr add 10.9.9.9/32 dev lo && hostname other && mkdir -p /mnt && mount -t tmpfs none /mnt && umount /mnt && echo can";
        assert_eq!(said(runtime.as_ref(), &first, script).await, "can\n");
        let script = "umount /sys 2>/dev/null || umount /proc 2>/dev/null || mount -o remount,rw /sys 2>/dev/null || dmesg -n 3 2>/dev/null || mknod /x c 1 3 2>/dev/null || echo can not";
        assert_eq!(said(runtime.as_ref(), &first, script).await, "can not\n");
        remove_sandbox(runtime.as_ref(), &id).await;
        runtime.close().await;
    });
}

#[test]
fn users_of_a_container_and_its_execs_are_those_of_the_pod() {
    on_a_node("users_of_a_container_and_its_execs_are_those_of_the_pod", |bench| async move {
        let runtime = bench.open().await;
        let pod = sandbox(&bench, "a");
        let id = run_sandbox(runtime.as_ref(), &pod).await;
        let mut config = inside("c", "id -u >/proc/self/fd/1; sleep 1000");
        let context = security(&mut config);
        (context.run_as_user, context.run_as_group) =
            (Some(Int64Value { value: 1234 }), Some(Int64Value { value: 4321 }));
        context.supplemental_groups = vec![7];
        let first = create(runtime.as_ref(), &id, &pod, config).await;
        start(runtime.as_ref(), &first).await;
        assert_eq!(said(runtime.as_ref(), &first, "id -u; id -G").await, "1234\n4321 7\n");
        let caps = said(runtime.as_ref(), &first, "grep CapEff /proc/self/status").await;
        assert_eq!(caps, "CapEff:\t0000000000000000\n");
        podd_tests::wait_for(podd_tests::SOON, "the first process has written", || {
            let log = std::fs::read_to_string(bench.path("logs/c.log")).unwrap_or_default();
            if log.ends_with("F 1234\n") { Ok(()) } else { Err(log) }
        });
        // Who is not in the pod's ids can't run.
        let mut config = inside("d", "exec sleep 1000");
        security(&mut config).run_as_user = Some(Int64Value { value: 70_000 });
        let request = CreateContainerRequest {
            pod_sandbox_id: id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.clone()),
        };
        let refused = runtime.create_container(Request::new(request)).await.unwrap_err();
        assert!(refused.message().contains("user 70000"), "{refused}");
        remove_sandbox(runtime.as_ref(), &id).await;
        runtime.close().await;
    });
}

#[test]
fn volumes_show_the_ids_that_their_mounts_map() {
    on_a_node("volumes_show_the_ids_that_their_mounts_map", |bench| async move {
        let runtime = bench.open().await;
        let pod = sandbox(&bench, "a");
        let volume = bench.path("volume");
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(volume.join("old"), "old\n").unwrap();
        let id = run_sandbox(runtime.as_ref(), &pod).await;
        let mount = |path: &str, mapping: Option<IdMapping>| Mount {
            container_path: path.into(),
            host_path: volume.display().to_string(),
            uid_mappings: mapping.into_iter().collect(),
            gid_mappings: mapping.into_iter().collect(),
            ..Default::default()
        };
        let mut config = inside("c", "exec sleep 1000");
        config.mounts = vec![
            mount("/mapped", Some(ids(0, ROOT, 65536))),
            mount("/shifted", Some(ids(0, ROOT + 5, 100))),
            mount("/plain", None),
        ];
        let first = create(runtime.as_ref(), &id, &pod, config).await;
        start(runtime.as_ref(), &first).await;
        let script = "stat -c %u:%g /mapped/old /shifted/old /plain/old; echo new >/mapped/new; chown 3:4 /mapped/new; stat -c %u:%g /mapped/new";
        assert_eq!(said(runtime.as_ref(), &first, script).await, "0:0\n5:5\n65534:65534\n3:4\n");
        let written = std::fs::metadata(volume.join("new")).unwrap();
        assert_eq!((written.uid(), written.gid()), (3, 4));
        assert_ne!(exec(runtime.as_ref(), &first, "echo x >/plain/no").await.exit_code, 0);
        remove_sandbox(runtime.as_ref(), &id).await;
        // Mounts map ids in a pod of the machine's users as well.
        let pod = bench.sandbox("b");
        let id = run_sandbox(runtime.as_ref(), &pod).await;
        let mut config = container("c", "sleep 1000");
        config.mounts = vec![mount("/shifted", Some(ids(0, 1000, 100)))];
        let first = create(runtime.as_ref(), &id, &pod, config).await;
        start(runtime.as_ref(), &first).await;
        assert_eq!(said(runtime.as_ref(), &first, "stat -c %u:%g /shifted/old").await, "1000:1000\n");
        remove_sandbox(runtime.as_ref(), &id).await;
        runtime.close().await;
    });
}

#[test]
fn a_pod_with_users_of_its_own_is_told_survives_its_runtime_and_shares_processes() {
    on_a_node("a_pod_with_users_of_its_own_is_told_survives_its_runtime_and_shares_processes", |bench| async move {
        let runtime = bench.open().await;
        let mut pod = sandbox(&bench, "a");
        let shared = NamespaceOption { userns_options: Some(users()), ..Default::default() };
        pod.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(shared.clone());
        let id = run_sandbox(runtime.as_ref(), &pod).await;
        let mut config = inside("c", "exec sleep 1000");
        security(&mut config).namespace_options = Some(shared.clone());
        let first = create(runtime.as_ref(), &id, &pod, config).await;
        start(runtime.as_ref(), &first).await;
        runtime.close().await;
        drop(runtime);
        let runtime = bench.open().await;
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
        let status = runtime.pod_sandbox_status(Request::new(request)).await.unwrap().into_inner().status.unwrap();
        assert_eq!(status.linux.unwrap().namespaces.unwrap().options, Some(shared.clone()));
        assert_eq!(said(runtime.as_ref(), &first, "id -u").await, "0\n");
        let mut config = inside("d", "exec sleep 1000");
        security(&mut config).namespace_options = Some(shared);
        security(&mut config).readonly_rootfs = true;
        let second = create(runtime.as_ref(), &id, &pod, config).await;
        start(runtime.as_ref(), &second).await;
        assert_eq!(
            said(runtime.as_ref(), &second, "ps | grep -c '[s]leep 1000'; stat -c %u / /bin").await,
            "2\n0\n0\n"
        );
        assert_ne!(exec(runtime.as_ref(), &second, "touch /x").await.exit_code, 0);
        let stats = ContainerStatsRequest { container_id: first.clone() };
        let stats = runtime.container_stats(Request::new(stats)).await.unwrap().into_inner().stats.unwrap();
        assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);
        remove_sandbox(runtime.as_ref(), &id).await;
        runtime.close().await;
    });
}

#[test]
fn a_user_namespace_that_makes_no_sense_is_refused() {
    on_a_node("a_user_namespace_that_makes_no_sense_is_refused", |bench| async move {
        let runtime = bench.open().await;
        let two = vec![ids(0, ROOT, 10), ids(10, ROOT + 100, 10)];
        let off = vec![ids(1, ROOT, 10)];
        for user in [
            UserNamespace { uids: two.clone(), ..users() },
            UserNamespace { gids: off, ..users() },
            UserNamespace { mode: NamespaceMode::Container as i32, ..Default::default() },
            UserNamespace { mode: NamespaceMode::Target as i32, ..Default::default() },
        ] {
            let mut pod = bench.sandbox("a");
            let security = pod.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            security.namespace_options.as_mut().unwrap().userns_options = Some(user);
            let request = RunPodSandboxRequest { config: Some(pod), ..Default::default() };
            let refused = runtime.run_pod_sandbox(Request::new(request)).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
            assert!(refused.message().contains("userns_options"), "{refused}");
        }
        let pod = sandbox(&bench, "a");
        let id = run_sandbox(runtime.as_ref(), &pod).await;
        let mut config = inside("c", "exec sleep 1000");
        let other = vec![ids(0, ROOT + 1, 65536)];
        security(&mut config).namespace_options.as_mut().unwrap().userns_options =
            Some(UserNamespace { uids: other.clone(), gids: other, ..users() });
        let request = CreateContainerRequest {
            pod_sandbox_id: id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.clone()),
        };
        let refused = runtime.create_container(Request::new(request)).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains("sandbox"), "{refused}");
        remove_sandbox(runtime.as_ref(), &id).await;
        runtime.close().await;
    });
}

#[test]
fn a_pod_on_the_machines_network_can_have_users_of_its_own() {
    on_a_node("a_pod_on_the_machines_network_can_have_users_of_its_own", |bench| async move {
        let runtime = bench.open().await;
        let status = runtime.status(Request::new(StatusRequest::default())).await.unwrap().into_inner();
        for handler in &status.runtime_handlers {
            let features = handler.features.unwrap();
            assert!(features.user_namespaces && features.recursive_read_only_mounts, "{}", handler.name);
        }
        assert!(status.features.unwrap().user_namespaces_host_network);
        assert!(world::processes(&bench.group).is_empty(), "the shim that helped is gone");
        let options = NamespaceOption {
            network: NamespaceMode::Node as i32,
            pid: NamespaceMode::Container as i32,
            ipc: NamespaceMode::Node as i32,
            userns_options: Some(users()),
            ..Default::default()
        };
        let mut pod = bench.sandbox("a");
        pod.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(options.clone());
        let id = run_sandbox(runtime.as_ref(), &pod).await;
        let mut config = inside("c", "exec sleep 1000");
        security(&mut config).namespace_options = Some(options);
        let first = create(runtime.as_ref(), &id, &pod, config).await;
        start(runtime.as_ref(), &first).await;
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let seen =
            said(runtime.as_ref(), &first, "readlink /proc/1/ns/net; id -u; hostname other 2>/dev/null || echo no")
                .await;
        assert_eq!(seen, format!("{}\n0\nno\n", own.display()));
        remove_sandbox(runtime.as_ref(), &id).await;
        runtime.close().await;
    });
}
