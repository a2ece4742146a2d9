//! AppArmor, where the kernel has it: in the guest (`tests/guest`).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod world;

use std::io::Write as _;
use std::process::{Command, Stdio};

use podd_cri::RuntimeService;
use podd_cri::v1::security_profile::ProfileType;
use podd_cri::v1::*;
use tonic::{Code, Request, Status};
use world::{container, create, exec, exited, on_a_node, remove_sandbox, run_sandbox, start};

const PROFILE: &str = "podd-test-writes-nothing";

fn load_profile() {
    let policy = format!("profile {PROFILE} flags=(attach_disconnected) {{\n  file,\n  signal,\n  deny /** w,\n}}\n");
    let mut parser =
        Command::new("apparmor_parser").args(["-r", "-K"]).stdin(Stdio::piped()).spawn().expect("it starts");
    parser.stdin.take().expect("a pipe").write_all(policy.as_bytes()).expect("it reads");
    assert!(parser.wait().expect("it ends").success());
}

fn confined(
    name: &str,
    script: &str,
    profile: &str,
    change: impl FnOnce(&mut LinuxContainerSecurityContext),
) -> ContainerConfig {
    let mut config = container(name, script);
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.apparmor =
        Some(SecurityProfile { profile_type: ProfileType::Localhost as i32, localhost_ref: profile.to_owned() });
    change(security);
    config
}

async fn refused(runtime: &dyn RuntimeService, id: &str, pod: &PodSandboxConfig, config: ContainerConfig) -> Status {
    let request =
        CreateContainerRequest { pod_sandbox_id: id.into(), config: Some(config), sandbox_config: Some(pod.clone()) };
    runtime.create_container(Request::new(request)).await.unwrap_err()
}

#[test]
#[ignore = "needs a kernel with AppArmor; tests/guest has it"]
fn a_container_and_what_is_executed_in_it_are_confined_by_a_loaded_profile() {
    on_a_node("a_container_and_what_is_executed_in_it_are_confined_by_a_loaded_profile", |bench| async move {
        let runtime = bench.open().await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(runtime.as_ref(), &pod).await;
        let early = confined("early", "exit 0", PROFILE, |_| {});
        let status = refused(runtime.as_ref(), &sandbox, &pod, early).await;
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains(PROFILE), "{status}");
        load_profile();
        let free = create(runtime.as_ref(), &sandbox, &pod, container("free", "touch /made")).await;
        start(runtime.as_ref(), &free).await;
        assert_eq!(exited(runtime.as_ref(), &free).await.exit_code, 0);
        // With the prefix that the kubelet writes, as somebody else, and where privileges cannot grow.
        let plain = confined("plain", "touch /made", &format!("localhost/{PROFILE}"), |_| {});
        let user = confined("user", "touch /tmp/made", PROFILE, |security| {
            security.run_as_user = Some(Int64Value { value: 1000 });
            security.no_new_privs = true;
        });
        for config in [plain, user] {
            let id = create(runtime.as_ref(), &sandbox, &pod, config).await;
            start(runtime.as_ref(), &id).await;
            assert_eq!(exited(runtime.as_ref(), &id).await.exit_code, 1);
        }
        let stays = confined("stays", "sleep 1000", PROFILE, |_| {});
        let id = create(runtime.as_ref(), &sandbox, &pod, stays).await;
        start(runtime.as_ref(), &id).await;
        for process in ["1", "self"] {
            let label = exec(runtime.as_ref(), &id, &format!("cat /proc/{process}/attr/current")).await.stdout;
            assert_eq!(String::from_utf8_lossy(&label), format!("{PROFILE} (enforce)\n"), "{process}");
        }
        assert_eq!(exec(runtime.as_ref(), &id, "touch /made").await.exit_code, 1);
        let stop = StopContainerRequest { container_id: id, timeout: 0 };
        runtime.stop_container(Request::new(stop)).await.unwrap();
        remove_sandbox(runtime.as_ref(), &sandbox).await;
        runtime.close().await;
    });
}
