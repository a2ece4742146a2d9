//! Pods wired by CNI's own plugins (bridge, host-local, portmap), in namespaces of each test's own.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use podd_cri::RuntimeService;
use podd_cri::v1::*;
use podd_runtime::{NetworkChoice, Runtime};
use tonic::{Request, Status};
use world::{Bench, container, on_a_node};

/// A plugin behind the others: it notes what it is asked, fails at a command when there is a file `fail-<command>`, and
/// hangs when there is `hang-<command>`.
const PROBE: &str = r#"#!/usr/bin/python3
import json, os, sys, time
command, config = os.environ["CNI_COMMAND"], json.load(sys.stdin)
with open("DIR/asked", "a") as asked:
    note = {"command": command, "args": os.environ["CNI_ARGS"], "netns": os.environ["CNI_NETNS"], "config": config}
    print(json.dumps(note), file=asked)
while os.path.exists("DIR/hang-" + command):
    time.sleep(0.05)
if os.path.exists("DIR/fail-" + command):
    print(json.dumps({"cniVersion": "1.0.0", "code": 11, "msg": "not now"}))
    sys.exit(1)
if command == "ADD":
    print(json.dumps(config["prevResult"]))
"#;

fn probe(bench: &Bench) {
    let program = bench.path("bin/probe");
    fs::create_dir_all(bench.path("bin")).unwrap();
    fs::write(&program, PROBE.replace("DIR", &bench.directory.path().display().to_string())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
}

/// What the probe was asked with a command.
fn asked(bench: &Bench, command: &str) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(bench.path("asked")).unwrap_or_default();
    let notes = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    notes.filter(|note| note["command"] == command).collect()
}

/// [`list`] with the probe behind it, which wants all that a runtime may know.
fn list_with_probe(bench: &Bench) -> String {
    let mut list: serde_json::Value = serde_json::from_str(&list(bench)).unwrap();
    let probe = serde_json::json!({"type": "probe", "capabilities": {
        "portMappings": true, "bandwidth": true, "ipRanges": true, "io.kubernetes.cri.pod-annotations": true, "mac": true
    }});
    list["plugins"].as_array_mut().unwrap().push(probe);
    list.to_string()
}

/// A list of the real plugins, whose leases lie with the test.
fn list(bench: &Bench) -> String {
    serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "test",
        "plugins": [
            {
                "type": "bridge", "bridge": "cnitest0", "isGateway": true, "ipMasq": false,
                "ipam": {
                    "type": "host-local", "dataDir": bench.path("leases"), "routes": [{"dst": "0.0.0.0/0"}],
                    "ranges": [[{"subnet": "10.99.0.0/24"}], [{"subnet": "fd99::/64"}]]
                }
            },
            {"type": "portmap", "capabilities": {"portMappings": true}}
        ]
    })
    .to_string()
}

async fn open(bench: &Bench, network: NetworkChoice) -> Arc<Runtime> {
    let directory = bench.path("net.d");
    fs::create_dir_all(&directory).unwrap();
    bench
        .open_with(|config| {
            config.cni.config_dir = directory;
            config.cni.bin_dirs = vec![bench.path("bin"), "/opt/cni/bin".into(), "/usr/lib/cni".into()];
            config.cni.network = network;
        })
        .await
}

async fn run(runtime: &Runtime, config: &PodSandboxConfig) -> Result<String, Status> {
    let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    Ok(runtime.run_pod_sandbox(Request::new(request)).await?.into_inner().pod_sandbox_id)
}

async fn stop(runtime: &Runtime, id: &str) {
    let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
    runtime.stop_pod_sandbox(Request::new(request)).await.unwrap();
}

/// The first address of a pod, and the others.
async fn addresses(runtime: &Runtime, id: &str) -> (String, Vec<String>) {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
    let status = runtime.pod_sandbox_status(Request::new(request)).await.unwrap().into_inner().status.unwrap();
    let network = status.network.unwrap();
    (network.ip, network.additional_ips.into_iter().map(|more| more.ip).collect())
}

async fn network_ready(runtime: &Runtime) -> RuntimeCondition {
    let status = runtime.status(Request::new(StatusRequest { verbose: false })).await.unwrap().into_inner();
    status.status.unwrap().conditions.into_iter().find(|condition| condition.r#type == "NetworkReady").unwrap()
}

/// What a command in a pod prints.
async fn shell(runtime: &Runtime, pod: &PodSandboxConfig, id: &str, script: &str) -> String {
    let create = CreateContainerRequest {
        pod_sandbox_id: id.to_owned(),
        config: Some(container("c", "while true; do sleep 0.05; done")),
        sandbox_config: Some(pod.clone()),
    };
    let container_id = runtime.create_container(Request::new(create)).await.unwrap().into_inner().container_id;
    runtime.start_container(Request::new(StartContainerRequest { container_id: container_id.clone() })).await.unwrap();
    let cmd = ["sh", "-c", script].map(str::to_owned).to_vec();
    let request = ExecSyncRequest { container_id, cmd, timeout: 20 };
    let answer = runtime.exec_sync(Request::new(request)).await.unwrap().into_inner();
    assert_eq!(answer.exit_code, 0, "{}", String::from_utf8_lossy(&answer.stderr));
    String::from_utf8(answer.stdout).unwrap()
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The leases of addresses that are held.
fn leases(bench: &Bench) -> Vec<String> {
    let names = fs::read_dir(bench.path("leases/test")).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    names.filter(|name| name.starts_with("10.") || name.starts_with("fd")).collect()
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn plugins_wire_pods_and_take_all_away_after_a_restart_and_a_changed_file() {
    on_a_node("plugins_wire_pods_and_take_all_away_after_a_restart_and_a_changed_file", |bench| async move {
        let runtime = open(&bench, NetworkChoice::Auto).await;
        let file = bench.path("net.d/10-test.conflist");
        fs::write(&file, list(&bench)).unwrap();
        assert!(network_ready(&runtime).await.status);
        let mut first = bench.sandbox("a");
        first.port_mappings = vec![PortMapping { container_port: 8080, host_port: 8099, ..Default::default() }];
        let a = run(&runtime, &first).await.unwrap();
        let second = bench.sandbox("b");
        let b = run(&runtime, &second).await.unwrap();
        let (ip, more) = addresses(&runtime, &a).await;
        assert!(ip.starts_with("10.99.0.") && more.len() == 1 && more[0].starts_with("fd99::"), "{ip} {more:?}");
        let seen = shell(&runtime, &second, &b, &format!("ping -c 1 -W 5 {ip} && ip addr show lo")).await;
        assert!(seen.contains("1 packets received") && seen.contains("127.0.0.1"), "{seen}");
        let rules = output("iptables", &["-t", "nat", "-S"]);
        assert!(rules.contains("8099") && rules.contains(&format!("{ip}:8080")), "{rules}");
        assert_eq!(leases(&bench).len(), 4);

        runtime.close().await;
        drop(runtime);
        fs::write(&file, "{").unwrap();
        let runtime = open(&bench, NetworkChoice::Auto).await;
        assert_eq!(addresses(&runtime, &a).await, (ip, more));
        for id in [&a, &b, &a] {
            stop(&runtime, id).await;
        }
        assert_eq!(leases(&bench), Vec::<String>::new());
        let links = output("ip", &["-o", "link"]);
        assert!(!links.contains("veth"), "{links}");
        let rules = output("iptables", &["-t", "nat", "-S"]);
        assert!(!rules.contains("8099"), "{rules}");
        assert!(is_empty(&bench.path("root/cni")) && is_empty(&bench.path("run/netns")));
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&*bench.path("run/netns").to_string_lossy()), "{mounts}");
        runtime.close().await;
    });
}

#[test]
fn a_configuration_that_is_broken_or_missing_is_told_and_refuses_pods() {
    on_a_node("a_configuration_that_is_broken_or_missing_is_told_and_refuses_pods", |bench| async move {
        let runtime = open(&bench, NetworkChoice::Cni).await;
        let not_ready = network_ready(&runtime).await;
        let directory = bench.path("net.d").display().to_string();
        assert_eq!((not_ready.status, not_ready.reason.as_str()), (false, "NetworkPluginNotReady"));
        assert!(not_ready.message.contains(&directory), "{}", not_ready.message);
        let refused = run(&runtime, &bench.sandbox("a")).await.unwrap_err();
        assert!(refused.message().contains(&directory), "{refused:?}");
        fs::write(bench.path("net.d/10-broken.conflist"), "{").unwrap();
        fs::write(bench.path("net.d/20-good.conflist"), list(&bench)).unwrap();
        let not_ready = network_ready(&runtime).await;
        assert!(!not_ready.status && not_ready.message.contains("10-broken.conflist: EOF"), "{}", not_ready.message);
        let refused = run(&runtime, &bench.sandbox("a")).await.unwrap_err();
        assert!(refused.message().contains("10-broken.conflist"), "{refused:?}");
        fs::write(bench.path("net.d/10-broken.conflist"), list(&bench).replace("portmap", "nosuch")).unwrap();
        let not_ready = network_ready(&runtime).await;
        let bin = bench.path("bin").display().to_string();
        let wrong = format!("CNI network test: CNI plugin nosuch not found in {bin}:/opt/cni/bin:/usr/lib/cni");
        assert!(!not_ready.status && not_ready.message == wrong, "{}", not_ready.message);
        let refused = run(&runtime, &bench.sandbox("a")).await.unwrap_err();
        assert!(refused.message().contains(&wrong), "{refused:?}");
        assert!(!bench.path("root/cni").exists() && !bench.path("leases").exists(), "nothing was begun");
        runtime.close().await;
    });
}

#[test]
fn a_plugin_that_fails_leaves_nothing_of_those_before_it() {
    on_a_node("a_plugin_that_fails_leaves_nothing_of_those_before_it", |bench| async move {
        let runtime = open(&bench, NetworkChoice::Cni).await;
        probe(&bench);
        fs::write(bench.path("net.d/10-test.conflist"), list_with_probe(&bench)).unwrap();
        fs::write(bench.path("fail-ADD"), "").unwrap();
        let failed = run(&runtime, &bench.sandbox("a")).await.unwrap_err();
        assert!(failed.message().contains("CNI plugin probe ADD: not now (code 11)"), "{failed:?}");
        assert_eq!(leases(&bench), Vec::<String>::new());
        assert!(is_empty(&bench.path("root/cni")) && is_empty(&bench.path("run/netns")));
        // Debian's plugins do not speak the newest version; that is told as they tell it.
        fs::write(bench.path("net.d/10-test.conflist"), list(&bench).replace("1.0.0", "1.1.0")).unwrap();
        let outcome = run(&runtime, &bench.sandbox("a")).await;
        if let Err(refused) = outcome {
            assert!(refused.message().contains("incompatible CNI versions"), "{refused:?}");
        }
        runtime.close().await;
    });
}

#[test]
fn plugins_are_told_what_they_declare_and_no_name_can_forge_an_argument() {
    on_a_node("plugins_are_told_what_they_declare_and_no_name_can_forge_an_argument", |bench| async move {
        let runtime = open(&bench, NetworkChoice::Auto).await;
        probe(&bench);
        fs::write(bench.path("net.d/10-test.conflist"), list_with_probe(&bench)).unwrap();
        let network_config = Some(NetworkConfig { pod_cidr: "10.99.0.0/24,fd99::/64".into() });
        let request = UpdateRuntimeConfigRequest { runtime_config: Some(RuntimeConfig { network_config }) };
        runtime.update_runtime_config(Request::new(request)).await.unwrap();
        let mut pod = bench.sandbox("a");
        pod.annotations.insert("kubernetes.io/egress-bandwidth".into(), "10M".into());
        pod.port_mappings = vec![PortMapping { container_port: 80, host_port: 8099, ..Default::default() }];
        let id = run(&runtime, &pod).await.unwrap();
        let told = &asked(&bench, "ADD")[0];
        assert_eq!(
            told["config"]["runtimeConfig"],
            serde_json::json!({
                "portMappings": [{"hostPort": 8099, "containerPort": 80, "protocol": "tcp"}],
                "bandwidth": {"egressRate": 10_000_000, "egressBurst": u32::MAX},
                "ipRanges": [[{"subnet": "10.99.0.0/24"}], [{"subnet": "fd99::/64"}]],
                "io.kubernetes.cri.pod-annotations": {"kubernetes.io/egress-bandwidth": "10M"},
            })
        );
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=a;K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=uid-a"
        );
        assert_eq!(told["args"], args.as_str());
        stop(&runtime, &id).await;
        assert_eq!(asked(&bench, "DEL")[0]["config"]["runtimeConfig"], told["config"]["runtimeConfig"]);

        for forged in ["b;IgnoreUnknown=0", "b=c", "b\nc"] {
            let mut pod = bench.sandbox("b");
            pod.metadata.as_mut().unwrap().name = forged.to_owned();
            let refused = run(&runtime, &pod).await.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{forged:?}: {refused:?}");
        }
        let mut pod = bench.sandbox("b");
        pod.annotations.insert("kubernetes.io/ingress-bandwidth".into(), "1".into());
        let refused = run(&runtime, &pod).await.unwrap_err();
        assert!(refused.message().contains("ingress-bandwidth"), "{refused:?}");
        assert_eq!(asked(&bench, "ADD").len(), 1, "none of them was begun");

        let request = StatusRequest { verbose: true };
        let info = runtime.status(Request::new(request)).await.unwrap().into_inner().info;
        let config: serde_json::Value = serde_json::from_str(&info["cniconfig"]).unwrap();
        assert_eq!(config["Networks"][0]["Config"]["Name"], "test");
        assert_eq!(config["Networks"][0]["Config"]["Plugins"][2]["Network"]["type"], "probe");
        assert_eq!(
            (config["Networks"][0]["IFName"].as_str(), info["lastCNILoadStatus"].as_str()),
            (Some("eth0"), "OK")
        );
        runtime.close().await;
    });
}

#[test]
fn a_plugin_that_fails_at_the_end_is_asked_again_and_one_that_is_gone_is_not_waited_for() {
    on_a_node(
        "a_plugin_that_fails_at_the_end_is_asked_again_and_one_that_is_gone_is_not_waited_for",
        |bench| async move {
            let runtime = open(&bench, NetworkChoice::Cni).await;
            probe(&bench);
            fs::write(bench.path("net.d/10-test.conflist"), list_with_probe(&bench)).unwrap();
            let a = run(&runtime, &bench.sandbox("a")).await.unwrap();
            fs::write(bench.path("fail-DEL"), "").unwrap();
            let request = || Request::new(StopPodSandboxRequest { pod_sandbox_id: a.clone() });
            let failed = runtime.stop_pod_sandbox(request()).await.unwrap_err();
            assert!(failed.message().contains("CNI plugin probe DEL: not now"), "{failed:?}");
            assert_eq!(leases(&bench), Vec::<String>::new(), "the others have done their part");
            fs::remove_file(bench.path("fail-DEL")).unwrap();
            runtime.stop_pod_sandbox(request()).await.unwrap();
            assert_eq!(asked(&bench, "DEL").len(), 2);

            let b = run(&runtime, &bench.sandbox("b")).await.unwrap();
            fs::remove_file(bench.path("bin/probe")).unwrap();
            fs::remove_dir_all(bench.path("net.d")).unwrap();
            stop(&runtime, &b).await;
            assert_eq!(leases(&bench), Vec::<String>::new());
            assert!(is_empty(&bench.path("root/cni")) && is_empty(&bench.path("run/netns")));
            runtime.close().await;
        },
    );
}

#[test]
fn a_start_waits_for_no_plugin_and_what_is_of_no_sandbox_goes() {
    on_a_node("a_start_waits_for_no_plugin_and_what_is_of_no_sandbox_goes", |bench| async move {
        let runtime = open(&bench, NetworkChoice::Cni).await;
        probe(&bench);
        fs::write(bench.path("net.d/10-test.conflist"), list_with_probe(&bench)).unwrap();
        let kept = run(&runtime, &bench.sandbox("a")).await.unwrap();
        let torn = run(&runtime, &bench.sandbox("b")).await.unwrap();
        runtime.close().await;
        drop(runtime);
        // As a power loss may leave it: the record of the sandbox did not reach the disk.
        fs::remove_file(bench.path(&format!("root/sandboxes/{torn}.jsonl"))).unwrap();
        fs::write(bench.path("hang-CHECK"), "").unwrap();
        let runtime = open(&bench, NetworkChoice::Cni).await;
        let reachable = addresses(&runtime, &kept).await;
        podd_tests::wait_for(podd_tests::SOON, "the orphan's network goes, the pod's is checked", || {
            let (leases, checks) = (leases(&bench).len(), asked(&bench, "CHECK").len());
            let gone = !bench.path(&format!("root/cni/{torn}.json")).exists();
            if leases == 2 && checks == 1 && gone { Ok(()) } else { Err(format!("{leases} leases, {checks} checks")) }
        });
        let deleted = asked(&bench, "DEL");
        assert!(deleted.len() == 1 && deleted[0]["args"].as_str().unwrap().contains(&torn), "{deleted:?}");
        assert!(reachable.0.starts_with("10.99.0."), "{reachable:?}");
        // The check hangs still; closing does not wait for it.
        tokio::time::timeout(std::time::Duration::from_secs(5), runtime.close()).await.expect("closed in time");
        drop(runtime);
        fs::remove_file(bench.path("hang-CHECK")).unwrap();
        let runtime = open(&bench, NetworkChoice::Cni).await;
        stop(&runtime, &kept).await;
        assert_eq!(leases(&bench), Vec::<String>::new());
        runtime.close().await;
    });
}

#[test]
fn a_start_does_not_wait_for_ever_until_a_pod_is_off_its_network() {
    on_a_node("a_start_does_not_wait_for_ever_until_a_pod_is_off_its_network", |bench| async move {
        let runtime = open(&bench, NetworkChoice::Cni).await;
        probe(&bench);
        fs::write(bench.path("net.d/10-test.conflist"), list_with_probe(&bench)).unwrap();
        let a = run(&runtime, &bench.sandbox("a")).await.unwrap();
        fs::write(bench.path("fail-DEL"), "").unwrap();
        let request = Request::new(StopPodSandboxRequest { pod_sandbox_id: a.clone() });
        runtime.stop_pod_sandbox(request).await.unwrap_err();
        runtime.close().await;
        drop(runtime);
        fs::rename(bench.path("fail-DEL"), bench.path("hang-DEL")).unwrap();

        let opening = open(&bench, NetworkChoice::Cni);
        let runtime = tokio::time::timeout(podd_tests::SOON, opening).await.expect("opened while a plugin hangs");
        assert!(bench.path(&format!("root/cni/{a}.json")).exists());
        let b = run(&runtime, &bench.sandbox("b")).await.expect("other pods are not held up");
        fs::remove_file(bench.path("hang-DEL")).unwrap();
        stop(&runtime, &a).await;
        stop(&runtime, &b).await;
        assert_eq!(leases(&bench), Vec::<String>::new());
        runtime.close().await;
    });
}

#[test]
fn without_a_configuration_podds_own_network_serves() {
    on_a_node("without_a_configuration_podds_own_network_serves", |bench| async move {
        let runtime = open(&bench, NetworkChoice::Auto).await;
        assert!(network_ready(&runtime).await.status);
        let id = run(&runtime, &bench.sandbox("a")).await.unwrap();
        let (ip, _) = addresses(&runtime, &id).await;
        assert!(!ip.is_empty() && !bench.path("root/cni").exists(), "{ip}");
        stop(&runtime, &id).await;
        runtime.close().await;
    });
}
