//! Malformed and hostile requests, over the socket: each gets the right code and a message that names the field, and
//! leaves nothing behind.

mod world;

use std::collections::BTreeMap;

use podd_cri::client::Client;
use podd_cri::v1::*;
use podd_cri::{ImageService, RuntimeService};
use tonic::{Code, Request, Response, Status};
use world::{container, create, exec, on_a_node, remove_sandbox, run_sandbox, start};

/// The code, and a message that is short and says what is wrong.
#[track_caller]
fn refused<T>(answer: Result<Response<T>, Status>, code: Code, what: &str) {
    let Err(status) = answer else { panic!("not refused: {what}") };
    assert_eq!(status.code(), code, "{what}: {status:?}");
    assert!(status.message().contains(what), "{what}: {status:?}");
    assert!(status.message().len() < 5000, "{what}: {} bytes", status.message().len());
}

async fn run(cri: &Client, pod: PodSandboxConfig) -> Result<Response<RunPodSandboxResponse>, Status> {
    cri.run_pod_sandbox(Request::new(RunPodSandboxRequest { config: Some(pod), ..Default::default() })).await
}

#[test]
fn a_sandbox_that_cannot_be_is_refused_by_its_field() {
    on_a_node("a_sandbox_that_cannot_be_is_refused_by_its_field", |bench| async move {
        let (runtime, cri) = bench.serve().await;
        let with = |change: &dyn Fn(&mut PodSandboxConfig)| {
            let mut pod = bench.sandbox("a");
            change(&mut pod);
            pod
        };
        let long = "x".repeat(100_000);
        let metadata = |change: &dyn Fn(&mut PodSandboxMetadata)| with(&|pod| change(pod.metadata.as_mut().unwrap()));
        let linux = |change: &dyn Fn(&mut LinuxPodSandboxConfig)| with(&|pod| change(pod.linux.as_mut().unwrap()));
        let options = |change: &dyn Fn(&mut NamespaceOption)| {
            linux(&|linux| {
                change(linux.security_context.as_mut().unwrap().namespace_options.as_mut().unwrap());
            })
        };
        let port = |mapping: PortMapping| with(&|pod| pod.port_mappings = vec![mapping.clone()]);
        let table = [
            (with(&|pod| pod.metadata = None), "metadata"),
            (metadata(&|metadata| metadata.name = "a/../b".into()), "metadata.name"),
            (metadata(&|metadata| metadata.name = long.clone()), "metadata.name"),
            (metadata(&|metadata| metadata.uid = "a\0b".into()), "metadata.uid"),
            (with(&|pod| pod.hostname = "a b".into()), "hostname"),
            (with(&|pod| pod.hostname = long.clone()), "hostname"),
            (with(&|pod| pod.log_directory = "relative".into()), "log_directory"),
            (with(&|pod| pod.log_directory = "/a/../../etc".into()), "log_directory"),
            (with(&|pod| pod.log_directory = format!("/{long}")), "log_directory"),
            (linux(&|linux| linux.cgroup_parent = "/../x".into()), "cgroup_parent"),
            (linux(&|linux| linux.cgroup_parent = "/".into()), "cgroup_parent"),
            (linux(&|linux| drop(linux.sysctls.insert("kernel.panic".into(), "1".into()))), "kernel.panic"),
            (linux(&|linux| drop(linux.sysctls.insert("net/../kernel/panic".into(), "1".into()))), "sysctl"),
            (options(&|options| options.network = 77), "network"),
            (options(&|options| options.ipc = -1), "ipc"),
            (port(PortMapping { host_port: 70_000, container_port: 1, ..Default::default() }), "host_port"),
            (port(PortMapping { host_port: 1, container_port: -1, ..Default::default() }), "container_port"),
            (port(PortMapping { host_port: 1, container_port: 1, protocol: 9, ..Default::default() }), "protocol"),
        ];
        for (pod, field) in table {
            refused(run(&cri, pod).await, Code::InvalidArgument, field);
        }
        let request = RunPodSandboxRequest { config: Some(bench.sandbox("a")), runtime_handler: "kata".into() };
        refused(cri.run_pod_sandbox(Request::new(request)).await, Code::InvalidArgument, "kata");
        refused(cri.run_pod_sandbox(Request::new(Default::default())).await, Code::InvalidArgument, "config");
        assert!(cri.list_pod_sandbox(Request::new(Default::default())).await.unwrap().into_inner().items.is_empty());
        assert_eq!(std::fs::read_dir(bench.path("root/sandboxes")).unwrap().count(), 0, "a record was left");
        runtime.close().await;
    });
}

#[test]
fn a_container_that_cannot_be_is_refused_by_its_field() {
    on_a_node("a_container_that_cannot_be_is_refused_by_its_field", |bench| async move {
        let (runtime, cri) = bench.serve().await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(&cri, &pod).await;
        let with = |change: &dyn Fn(&mut ContainerConfig)| {
            let mut config = container("c", "sleep 1000");
            change(&mut config);
            config
        };
        let long = "x".repeat(200_000);
        let resources = |resources: LinuxContainerResources| {
            with(&|config| config.linux.as_mut().unwrap().resources = Some(resources.clone()))
        };
        let security = |change: &dyn Fn(&mut LinuxContainerSecurityContext)| {
            with(&|config| change(config.linux.as_mut().unwrap().security_context.as_mut().unwrap()))
        };
        let mount = |mount: Mount| with(&|config| config.mounts = vec![mount.clone()]);
        let table = [
            (with(&|config| config.metadata = None), "metadata"),
            (with(&|config| config.metadata.as_mut().unwrap().name = "../x".into()), "metadata.name"),
            (with(&|config| config.log_path = "../../etc/passwd".into()), "log_path"),
            (with(&|config| config.log_path = "/etc/passwd".into()), "log_path"),
            (with(&|config| config.log_path = "a\0".into()), "log_path"),
            (with(&|config| config.log_path = "y".repeat(300)), "log_path"),
            (with(&|config| config.working_dir = "relative".into()), "working_dir"),
            (with(&|config| config.args = vec!["a\0".into()]), "args"),
            (with(&|config| config.command = vec![long.clone()]), "command"),
            (with(&|config| config.envs = vec![KeyValue { key: "A=B".into(), value: Vec::new() }]), "environment"),
            (with(&|config| config.stop_signal = 1000), "stop_signal"),
            (
                mount(Mount {
                    container_path: "/x".into(),
                    host_path: "/tmp".into(),
                    propagation: 9,
                    ..Default::default()
                }),
                "propagation",
            ),
            (mount(Mount { container_path: String::new(), host_path: "/tmp".into(), ..Default::default() }), "mount"),
            (mount(Mount { container_path: "/x".into(), host_path: "tmp".into(), ..Default::default() }), "/x"),
            (resources(LinuxContainerResources { oom_score_adj: 1_000_000, ..Default::default() }), "oom_score_adj"),
            (resources(LinuxContainerResources { cpuset_cpus: "900-1000".into(), ..Default::default() }), "cpuset"),
            (resources(LinuxContainerResources { cpu_quota: 1, cpu_period: i64::MAX, ..Default::default() }), "cpu"),
            (resources(LinuxContainerResources { memory_limit_in_bytes: -7, ..Default::default() }), "memory"),
            (security(&|security| security.run_as_user = Some(Int64Value { value: -1 })), "run_as_user"),
            (security(&|security| security.run_as_user = Some(Int64Value { value: i64::MAX })), "run_as_user"),
            (security(&|security| security.supplemental_groups = vec![-1]), "supplemental group"),
            (security(&|security| security.supplemental_groups_policy = 9), "supplemental_groups_policy"),
            (
                security(&|security| {
                    security.capabilities =
                        Some(Capability { add_capabilities: vec!["MAGIC".into()], ..Default::default() })
                }),
                "MAGIC",
            ),
            (
                security(&|security| {
                    security.namespace_options = Some(NamespaceOption { pid: 55, ..Default::default() })
                }),
                "pid",
            ),
        ];
        for (config, field) in table {
            let request = CreateContainerRequest {
                pod_sandbox_id: sandbox.clone(),
                config: Some(config),
                sandbox_config: Some(pod.clone()),
            };
            refused(cri.create_container(Request::new(request)).await, Code::InvalidArgument, field);
        }
        let request = |image: &str| CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(ContainerConfig {
                image: Some(ImageSpec { image: image.into(), ..Default::default() }),
                ..container("c", "true")
            }),
            sandbox_config: None,
        };
        refused(cri.create_container(Request::new(request("nowhere:1"))).await, Code::NotFound, "nowhere:1");
        refused(cri.create_container(Request::new(request(""))).await, Code::InvalidArgument, "image");
        refused(cri.create_container(Request::new(request("A B\n"))).await, Code::InvalidArgument, "A B");
        refused(cri.create_container(Request::new(request(&long))).await, Code::InvalidArgument, "image");
        let listed = cri.list_containers(Request::new(Default::default())).await.unwrap().into_inner().containers;
        assert!(listed.is_empty());
        assert_eq!(std::fs::read_dir(bench.path("root/containers")).unwrap().count(), 0, "something was left");
        remove_sandbox(&cri, &sandbox).await;
        runtime.close().await;
    });
}

#[test]
fn wrong_ids_times_and_names_are_told_from_each_other() {
    on_a_node("wrong_ids_times_and_names_are_told_from_each_other", |bench| async move {
        let (runtime, cri) = bench.serve().await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(&cri, &pod).await;
        let id = create(&cri, &sandbox, &pod, container("c", "sleep 1000")).await;
        start(&cri, &id).await;

        let status = |id: &str| Request::new(ContainerStatusRequest { container_id: id.into(), verbose: false });
        refused(cri.container_status(status("")).await, Code::InvalidArgument, "container_id");
        refused(cri.container_status(status("../../etc")).await, Code::NotFound, "../../etc");
        refused(cri.container_status(status(&"f".repeat(100_000))).await, Code::NotFound, "not found");
        let seen = |id: &str| Request::new(PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false });
        refused(cri.pod_sandbox_status(seen("")).await, Code::InvalidArgument, "pod_sandbox_id");
        refused(cri.pod_sandbox_status(seen(&id)).await, Code::NotFound, &id);
        for remove in ["", "never-was"] {
            let stop =
                cri.stop_container(Request::new(StopContainerRequest { container_id: remove.into(), timeout: 0 }));
            assert_eq!(stop.await.is_ok(), !remove.is_empty());
            let stop = cri.stop_pod_sandbox(Request::new(StopPodSandboxRequest { pod_sandbox_id: remove.into() }));
            assert_eq!(stop.await.is_ok(), !remove.is_empty());
            let gone = cri.remove_container(Request::new(RemoveContainerRequest { container_id: remove.into() }));
            assert_eq!(gone.await.is_ok(), !remove.is_empty());
            let gone = cri.remove_pod_sandbox(Request::new(RemovePodSandboxRequest { pod_sandbox_id: remove.into() }));
            assert_eq!(gone.await.is_ok(), !remove.is_empty());
        }
        let stop = StopContainerRequest { container_id: id.clone(), timeout: -1 };
        refused(cri.stop_container(Request::new(stop)).await, Code::InvalidArgument, "timeout");
        let run = |cmd: &[&str], timeout| {
            let cmd = cmd.iter().map(|word| (*word).to_owned()).collect();
            Request::new(ExecSyncRequest { container_id: id.clone(), cmd, timeout })
        };
        refused(cri.exec_sync(run(&["true"], -1)).await, Code::InvalidArgument, "timeout");
        refused(cri.exec_sync(run(&[], 1)).await, Code::InvalidArgument, "cmd");
        refused(cri.exec_sync(run(&["a\0"], 1)).await, Code::InvalidArgument, "cmd");
        let location = |location: &str| {
            let location = location.to_owned();
            Request::new(CheckpointContainerRequest { container_id: id.clone(), location, timeout: 0 })
        };
        refused(cri.checkpoint_container(location("../x.tar")).await, Code::InvalidArgument, "location");
        let pull = |name: &str| {
            let image = Some(ImageSpec { image: name.into(), ..Default::default() });
            Request::new(PullImageRequest { image, ..Default::default() })
        };
        refused(cri.pull_image(pull("")).await, Code::InvalidArgument, "image");
        refused(cri.pull_image(pull(&"a".repeat(100_000))).await, Code::InvalidArgument, "image");
        let cidr = NetworkConfig { pod_cidr: "10.0.0.0/99".into() };
        let request = UpdateRuntimeConfigRequest { runtime_config: Some(RuntimeConfig { network_config: Some(cidr) }) };
        refused(cri.update_runtime_config(Request::new(request)).await, Code::InvalidArgument, "pod_cidr");
        // Filters with numbers that mean nothing match nothing.
        let filter = ContainerFilter { state: Some(ContainerStateValue { state: 99 }), ..Default::default() };
        let request = Request::new(ListContainersRequest { filter: Some(filter) });
        assert!(cri.list_containers(request).await.unwrap().into_inner().containers.is_empty());
        // All this was asked of a container that goes on as if nothing had been.
        assert_eq!(exec(&cri, &id, "echo on").await.stdout, b"on\n");
        remove_sandbox(&cri, &sandbox).await;
        runtime.close().await;
    });
}

#[test]
fn a_hundred_thousand_labels_are_kept_as_long_as_they_fit_a_message() {
    on_a_node("a_hundred_thousand_labels_are_kept_as_long_as_they_fit_a_message", |bench| async move {
        let (runtime, cri) = bench.serve().await;
        let labels: BTreeMap<String, String> =
            (0..100_000).map(|number| (format!("label-{number}"), "value".to_owned())).collect();
        let mut pod = bench.sandbox("a");
        pod.labels = labels.clone();
        let sandbox = run_sandbox(&cri, &pod).await;
        let selector = BTreeMap::from([("label-99999".to_owned(), "value".to_owned())]);
        let filter = PodSandboxFilter { label_selector: selector, ..Default::default() };
        let request = Request::new(ListPodSandboxRequest { filter: Some(filter) });
        assert_eq!(cri.list_pod_sandbox(request).await.unwrap().into_inner().items[0].labels, labels);
        remove_sandbox(&cri, &sandbox).await;
        runtime.close().await;
    });
}

#[test]
fn what_a_command_writes_is_cut_where_a_message_ends() {
    on_a_node("what_a_command_writes_is_cut_where_a_message_ends", |bench| async move {
        let (runtime, cri) = bench.serve().await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(&cri, &pod).await;
        let id = create(&cri, &sandbox, &pod, container("c", "sleep 1000")).await;
        start(&cri, &id).await;
        let most = podd_cri::MAX_MESSAGE;
        let alone = exec(&cri, &id, "head -c 20000000 /dev/zero; exit 7").await;
        assert!((most - 4096..most).contains(&alone.stdout.len()), "{}", alone.stdout.len());
        assert_eq!(alone.exit_code, 7, "the command was not cut, only what is told of it");
        let both = exec(&cri, &id, "head -c 20000000 /dev/zero >&2 & head -c 20000000 /dev/zero; wait").await;
        let sizes = (both.stdout.len(), both.stderr.len());
        assert!(sizes.0 == sizes.1 && sizes.0 + sizes.1 > most - 4096, "{sizes:?}");
        remove_sandbox(&cri, &sandbox).await;
        runtime.close().await;
    });
}
