//! The embedded runtime through CRI in process: sandboxes and containers on the real kernel.

mod world;

use std::time::Duration;

use podd_cri::RuntimeService;
use podd_cri::v1::*;
use tonic::Request;
use world::{container, create, exec, exited, on_a_node, remove_sandbox, run_sandbox, start};

#[test]
fn a_container_runs_logs_and_ends_with_its_exit_code() {
    on_a_node("a_container_runs_logs_and_ends_with_its_exit_code", |bench| async move {
        let runtime = bench.open().await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(runtime.as_ref(), &pod).await;
        let script = "echo out; echo err >&2; hostname; exit 7";
        let id = create(runtime.as_ref(), &sandbox, &pod, container("c", script)).await;
        start(runtime.as_ref(), &id).await;
        let status = exited(runtime.as_ref(), &id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
        assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at);
        let log = std::fs::read_to_string(bench.path("logs/c.log")).unwrap();
        let mut lines: Vec<&str> = log.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        lines.sort_unstable();
        assert_eq!(lines, ["stderr F err", "stdout F a", "stdout F out"]);
        remove_sandbox(runtime.as_ref(), &sandbox).await;
        let list = runtime.list_containers(Request::new(ListContainersRequest::default())).await.unwrap();
        assert!(list.into_inner().containers.is_empty());
        runtime.close().await;
    });
}

#[test]
fn containers_of_a_pod_share_network_and_memory_and_nothing_else() {
    on_a_node("containers_of_a_pod_share_network_and_memory_and_nothing_else", |bench| async move {
        let runtime = bench.open().await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(runtime.as_ref(), &pod).await;
        let first = create(runtime.as_ref(), &sandbox, &pod, container("one", "httpd -f -p 8080 -h /www")).await;
        let second = create(runtime.as_ref(), &sandbox, &pod, container("two", "echo x >/dev/shm/x; sleep 1000")).await;
        start(runtime.as_ref(), &first).await;
        start(runtime.as_ref(), &second).await;
        let page =
            exec(runtime.as_ref(), &second, "for i in $(seq 100); do wget -qO- http://127.0.0.1:8080/ && break; done")
                .await;
        assert_eq!(String::from_utf8_lossy(&page.stdout), "hello from busybox\n");
        let shared =
            exec(runtime.as_ref(), &first, "cat /dev/shm/x; readlink /proc/self/ns/net /proc/self/ns/uts").await;
        let same =
            exec(runtime.as_ref(), &second, "cat /dev/shm/x; readlink /proc/self/ns/net /proc/self/ns/uts").await;
        assert_eq!(shared.stdout, same.stdout, "{}", String::from_utf8_lossy(&shared.stderr));
        let apart = exec(runtime.as_ref(), &first, "readlink /proc/self/ns/pid; ls /proc | grep -c '^[0-9]'").await;
        let other = exec(runtime.as_ref(), &second, "readlink /proc/self/ns/pid; ls /proc | grep -c '^[0-9]'").await;
        assert_ne!(apart.stdout, other.stdout);
        remove_sandbox(runtime.as_ref(), &sandbox).await;
        runtime.close().await;
    });
}

#[test]
fn what_runs_is_taken_over_and_what_ended_meanwhile_is_told() {
    on_a_node("what_runs_is_taken_over_and_what_ended_meanwhile_is_told", |bench| async move {
        let runtime = bench.open().await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(runtime.as_ref(), &pod).await;
        let stays = create(runtime.as_ref(), &sandbox, &pod, container("stays", "sleep 1000")).await;
        let ends = create(
            runtime.as_ref(),
            &sandbox,
            &pod,
            container("ends", "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 3"),
        )
        .await;
        start(runtime.as_ref(), &stays).await;
        start(runtime.as_ref(), &ends).await;
        exec(runtime.as_ref(), &ends, "(sleep 0.3; touch /tmp/go) >/dev/null 2>&1 &").await;
        runtime.close().await;
        drop(runtime);
        tokio::time::sleep(Duration::from_millis(800)).await;
        let runtime = bench.open().await;
        let status = exited(runtime.as_ref(), &ends).await;
        assert_eq!(status.exit_code, 3);
        assert_eq!(world::status(runtime.as_ref(), &stays).await.state, ContainerState::ContainerRunning as i32);
        assert_eq!(exec(runtime.as_ref(), &stays, "echo again").await.stdout, b"again\n");
        remove_sandbox(runtime.as_ref(), &sandbox).await;
        runtime.close().await;
    });
}
