//! The embedded runtime through CRI in process: sandboxes and containers on the real kernel.

mod world;

use std::time::Duration;

use podd_cri::v1::*;
use podd_cri::{ImageService, RuntimeService};
use tonic::Request;
use world::{container, create, exec, exited, kill, on_a_node, processes, remove_sandbox, run_sandbox, start};

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

#[test]
fn a_killed_shim_is_told_within_seconds_and_leaves_nothing() {
    on_a_node("a_killed_shim_is_told_within_seconds_and_leaves_nothing", |bench| async move {
        let runtime = bench.open().await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(runtime.as_ref(), &pod).await;
        let id = create(runtime.as_ref(), &sandbox, &pod, container("c", "sleep 1000 & sleep 1000")).await;
        start(runtime.as_ref(), &id).await;
        let waits = create(runtime.as_ref(), &sandbox, &pod, container("waits", "sleep 1000")).await;
        let shims = processes(&format!("{}/shims", bench.group));
        assert_eq!(shims.len(), 1);
        kill(shims[0].0);
        let status = exited(runtime.as_ref(), &id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "ContainerStatusUnknown"));
        exited(runtime.as_ref(), &waits).await;
        let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false };
        let seen = runtime.pod_sandbox_status(Request::new(request)).await.unwrap().into_inner().status.unwrap();
        assert_eq!(seen.state, PodSandboxState::SandboxNotready as i32);
        podd_tests::wait_for(podd_tests::SOON, "every process of the pod has ended", || {
            let left = processes(&bench.group);
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        remove_sandbox(runtime.as_ref(), &sandbox).await;
        runtime.close().await;
    });
}

#[test]
fn after_a_reboot_what_ended_stays_ended_and_nothing_runs() {
    on_a_node("after_a_reboot_what_ended_stays_ended_and_nothing_runs", |mut bench| async move {
        let runtime = bench.open().await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(runtime.as_ref(), &pod).await;
        let done = create(runtime.as_ref(), &sandbox, &pod, container("done", "exit 4")).await;
        let ran = create(runtime.as_ref(), &sandbox, &pod, container("ran", "sleep 1000")).await;
        start(runtime.as_ref(), &done).await;
        start(runtime.as_ref(), &ran).await;
        exited(runtime.as_ref(), &done).await;
        runtime.close().await;
        drop(runtime);
        // What a boot takes: every process, and the directory of the boot.
        for (pid, _) in processes(&bench.group) {
            kill(pid);
        }
        podd_tests::wait_for(podd_tests::SOON, "everything has ended", || {
            if processes(&bench.group).is_empty() { Ok(()) } else { Err("not yet".into()) }
        });
        let shm = bench.path("run/shm").join(&sandbox);
        std::process::Command::new("umount").arg(&shm).status().unwrap();
        std::fs::remove_dir_all(bench.path("run")).unwrap();
        bench.boot = "second".to_owned();
        let runtime = bench.open().await;
        let status = world::status(runtime.as_ref(), &done).await;
        assert_eq!((status.state, status.exit_code), (ContainerState::ContainerExited as i32, 4));
        let status = world::status(runtime.as_ref(), &ran).await;
        assert_eq!(status.state, ContainerState::ContainerExited as i32);
        assert_eq!(status.reason, "ContainerStatusUnknown");
        remove_sandbox(runtime.as_ref(), &sandbox).await;
        runtime.close().await;
    });
}

#[test]
fn what_cannot_be_made_leaves_nothing() {
    on_a_node("what_cannot_be_made_leaves_nothing", |bench| async move {
        let runtime = bench.open().await;
        let mut pod = bench.sandbox("bad");
        pod.linux.as_mut().unwrap().sysctls.insert("net.no.such".into(), "1".into());
        let request = RunPodSandboxRequest { config: Some(pod), ..Default::default() };
        let refused = runtime.run_pod_sandbox(Request::new(request)).await.unwrap_err();
        assert!(refused.message().contains("no.such") || refused.message().contains("no/such"), "{refused:?}");
        let list = runtime.list_pod_sandbox(Request::new(ListPodSandboxRequest::default())).await.unwrap();
        assert!(list.into_inner().items.is_empty());

        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(runtime.as_ref(), &pod).await;
        let mut missing = container("c", "true");
        missing.image.as_mut().unwrap().image = "localhost/none:1".into();
        let mut nowhere = container("c", "true");
        nowhere.working_dir = "/bin/busybox/x".into();
        for (config, word) in [(missing, "none"), (nowhere, "working directory")] {
            let request = CreateContainerRequest {
                pod_sandbox_id: sandbox.clone(),
                config: Some(config),
                sandbox_config: Some(pod.clone()),
            };
            let refused = runtime.create_container(Request::new(request)).await.unwrap_err();
            assert!(refused.message().contains(word), "{refused:?}");
        }
        let list = runtime.list_containers(Request::new(ListContainersRequest::default())).await.unwrap();
        assert!(list.into_inner().containers.is_empty());
        assert_eq!(std::fs::read_dir(bench.path("root/containers")).unwrap().count(), 0);
        let mut absent = container("absent", "");
        absent.command = vec!["/no/such/program".into()];
        let id = create(runtime.as_ref(), &sandbox, &pod, absent).await;
        let refused = runtime.start_container(Request::new(StartContainerRequest { container_id: id.clone() })).await;
        assert!(refused.unwrap_err().message().contains("/no/such/program"));
        let status = exited(runtime.as_ref(), &id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
        remove_sandbox(runtime.as_ref(), &sandbox).await;
        for directory in ["root/containers", "root/sandboxes", "run/shims", "run/shm"] {
            assert_eq!(std::fs::read_dir(bench.path(directory)).unwrap().count(), 0, "{directory}");
        }
        assert!(processes(&bench.group).is_empty());
        runtime.close().await;
    });
}

#[test]
fn an_image_removed_under_a_container_keeps_its_layers_until_the_container_goes() {
    on_a_node("an_image_removed_under_a_container_keeps_its_layers_until_the_container_goes", |bench| async move {
        let runtime = bench.open().await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(runtime.as_ref(), &pod).await;
        let id = create(runtime.as_ref(), &sandbox, &pod, container("c", "sleep 1000")).await;
        start(runtime.as_ref(), &id).await;
        let image = ImageSpec { image: podd_tests::image::BUSYBOX.into(), ..Default::default() };
        runtime.remove_image(Request::new(RemoveImageRequest { image: Some(image.clone()) })).await.unwrap();
        let request = ImageStatusRequest { image: Some(image), verbose: false };
        assert!(runtime.image_status(Request::new(request)).await.unwrap().into_inner().image.is_none());
        assert_eq!(exec(runtime.as_ref(), &id, "cat /www/index.html").await.stdout, b"hello from busybox\n");
        let layers = || std::fs::read_dir(bench.path("root/images/layers")).unwrap().count();
        assert!(layers() > 0);
        remove_sandbox(runtime.as_ref(), &sandbox).await;
        assert_eq!(layers(), 0, "nobody uses them any more");
        runtime.close().await;
    });
}

#[test]
fn images_and_writable_layers_are_counted_where_they_lie() {
    /// A disk of its own for the images.
    struct Disk(std::path::PathBuf);
    impl Drop for Disk {
        fn drop(&mut self) {
            let _ends_with_the_namespace = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
    on_a_node("images_and_writable_layers_are_counted_where_they_lie", |bench| async move {
        let usage = |runtime: std::sync::Arc<podd_runtime::Runtime>| async move {
            let info = runtime.image_fs_info(Request::new(ImageFsInfoRequest {})).await.unwrap().into_inner();
            let (images, containers) = (info.image_filesystems[0].clone(), info.container_filesystems[0].clone());
            let mountpoint = |usage: &FilesystemUsage| usage.fs_id.clone().unwrap().mountpoint;
            let bytes = |usage: &FilesystemUsage| usage.used_bytes.unwrap().value;
            ((mountpoint(&images), bytes(&images)), (mountpoint(&containers), bytes(&containers)))
        };
        let runtime = bench.open().await;
        let ((place, _), (same, empty)) = usage(runtime.clone()).await;
        assert_eq!((&place, empty), (&same, 0), "one file system");
        runtime.close().await;
        drop(runtime);
        let disk = Disk(bench.path("root/images"));
        let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&disk.0).status().unwrap();
        assert!(mounted.success());
        let runtime = bench.open().await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(runtime.as_ref(), &pod).await;
        let id = create(runtime.as_ref(), &sandbox, &pod, container("c", "sleep 1000")).await;
        start(runtime.as_ref(), &id).await;
        exec(runtime.as_ref(), &id, "dd if=/dev/zero of=/big bs=1M count=3").await;
        let ((images, held), (containers, written)) = usage(runtime.clone()).await;
        assert_eq!(images, bench.path("root/images").display().to_string());
        assert_eq!(containers, bench.path("root/containers").display().to_string());
        assert!(held > 100_000 && (3 << 20..4 << 20).contains(&written), "{held} {written}");
        remove_sandbox(runtime.as_ref(), &sandbox).await;
        runtime.close().await;
        drop((runtime, disk));
    });
}
