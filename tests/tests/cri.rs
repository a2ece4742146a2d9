//! Every call of CRI v1 once, over a socket and a client, against the embedded runtime.

mod world;

use podd_cri::v1::*;
use podd_cri::{ImageService, RuntimeService};
use tokio_stream::StreamExt as _;
use tonic::codegen::BoxStream;
use tonic::{Code, Request, Response, Status};
use world::{container, on_a_node};

/// The answer of a call that has to go well.
#[track_caller]
fn good<T>(answer: Result<Response<T>, Status>) -> T {
    answer.unwrap_or_else(|status| panic!("{status:?}")).into_inner()
}

/// The items of a list that comes in chunks, to its end.
async fn whole<C, T>(answer: Result<Response<BoxStream<C>>, Status>, items: impl Fn(C) -> Vec<T>) -> Vec<T> {
    let chunks: Vec<C> = good(answer).map(|chunk| chunk.expect("a chunk")).collect().await;
    chunks.into_iter().flat_map(items).collect()
}

#[test]
fn every_call_answers_over_the_socket() {
    on_a_node("every_call_answers_over_the_socket", |bench| async move {
        let runtime = bench.open().await;
        let socket = bench.path("cri.sock");
        let listener = podd_cri::server::bind(&socket).await.unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let stop = tokio_util::sync::CancellationToken::new();
        let served = {
            let (runtime, stop) = (runtime.clone(), stop.clone());
            let images = runtime.clone();
            tokio::spawn(
                async move { podd_cri::server::serve(listener, runtime, images, stop.cancelled_owned()).await },
            )
        };
        let cri = podd_cri::client::connect(&socket).await.unwrap();

        let version = good(cri.version(Request::new(VersionRequest::default())).await);
        assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("podd", "v1"));
        let status = good(cri.status(Request::new(StatusRequest { verbose: true })).await).status.unwrap();
        assert!(status.conditions.iter().all(|condition| condition.status), "{:?}", status.conditions);
        good(cri.runtime_config(Request::new(RuntimeConfigRequest {})).await);
        let mut events = good(cri.get_container_events(Request::new(GetEventsRequest {})).await);

        let pod = bench.sandbox("a");
        let request = RunPodSandboxRequest { config: Some(pod.clone()), ..Default::default() };
        let sandbox = good(cri.run_pod_sandbox(Request::new(request)).await).pod_sandbox_id;
        let seen = PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: true };
        let seen = good(cri.pod_sandbox_status(Request::new(seen)).await).status.unwrap();
        assert_eq!(seen.state, PodSandboxState::SandboxReady as i32);
        assert!(!seen.network.unwrap().ip.is_empty());
        let filter = PodSandboxFilter { id: sandbox[..12].to_owned(), ..Default::default() };
        let listed = ListPodSandboxRequest { filter: Some(filter) };
        assert_eq!(good(cri.list_pod_sandbox(Request::new(listed)).await).items.len(), 1);

        // By the image's id, as a kubelet asks for it.
        let mut config = container("c", "trap 'exit 5' TERM; echo hi; while true; do sleep 0.05; done");
        let images = good(cri.list_images(Request::new(ListImagesRequest::default())).await).images;
        config.image = Some(ImageSpec { image: images[0].id.clone(), ..Default::default() });
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(config),
            sandbox_config: Some(pod.clone()),
        };
        let id = good(cri.create_container(Request::new(request)).await).container_id;
        good(cri.start_container(Request::new(StartContainerRequest { container_id: id.clone() })).await);
        let listed = good(cri.list_containers(Request::new(ListContainersRequest::default())).await).containers;
        assert_eq!((listed.len(), listed[0].state), (1, ContainerState::ContainerRunning as i32));
        let request = ContainerStatusRequest { container_id: id.clone(), verbose: true };
        let answer = good(cri.container_status(Request::new(request)).await);
        let told: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
        let status = answer.status.unwrap();
        assert!(status.started_at > 0);
        assert!(told["pid"].as_u64().unwrap() > 0);
        assert_eq!((told["sandboxID"].as_str(), told["snapshotter"].as_str()), (Some(&*sandbox), Some("overlayfs")));
        assert_eq!(told["runtimeSpec"]["linux"]["cgroupsPath"], format!("{}/pods/a/{id}", bench.group));
        assert!(!answer.info["info"].contains("PATH="), "no environment");
        assert_eq!(status.image.unwrap().image, podd_tests::image::BUSYBOX);
        let cmd = ["sh", "-c", "echo out; echo err >&2; exit 3"].map(str::to_owned).to_vec();
        let request = ExecSyncRequest { container_id: id.clone(), cmd: cmd.clone(), timeout: 10 };
        let ran = good(cri.exec_sync(Request::new(request)).await);
        assert_eq!((&ran.stdout[..], &ran.stderr[..], ran.exit_code), (&b"out\n"[..], &b"err\n"[..], 3));
        let request = ExecRequest { container_id: id.clone(), cmd, stdout: true, stderr: true, ..Default::default() };
        assert!(good(cri.exec(Request::new(request)).await).url.starts_with("http://127.0.0.1:"));
        let request = UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(LinuxContainerResources { cpu_shares: 512, ..Default::default() }),
            ..Default::default()
        };
        good(cri.update_container_resources(Request::new(request)).await);
        std::fs::rename(bench.path("logs/c.log"), bench.path("logs/c.log.1")).unwrap();
        good(cri.reopen_container_log(Request::new(ReopenContainerLogRequest { container_id: id.clone() })).await);
        assert!(bench.path("logs/c.log").exists());
        let request = ContainerStatsRequest { container_id: id.clone() };
        let stats = good(cri.container_stats(Request::new(request)).await).stats.unwrap();
        assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);
        let listed = good(cri.list_container_stats(Request::new(ListContainerStatsRequest::default())).await).stats;
        assert_eq!(listed.len(), 1);
        good(cri.pod_sandbox_stats(Request::new(PodSandboxStatsRequest { pod_sandbox_id: sandbox.clone() })).await);
        good(cri.list_pod_sandbox_stats(Request::new(ListPodSandboxStatsRequest::default())).await);

        let images = good(cri.list_images(Request::new(ListImagesRequest::default())).await).images;
        assert_eq!(images.len(), 1);
        let spec = Some(ImageSpec { image: podd_tests::image::BUSYBOX.into(), ..Default::default() });
        let request = ImageStatusRequest { image: spec.clone(), verbose: true };
        assert!(good(cri.image_status(Request::new(request)).await).image.is_some());
        let nowhere = ImageSpec { image: "127.0.0.1:1/none:1".into(), ..Default::default() };
        let request = PullImageRequest { image: Some(nowhere), ..Default::default() };
        let refused = cri.pull_image(Request::new(request)).await.unwrap_err();
        assert!(refused.message().contains("127.0.0.1:1"), "{refused:?}");
        assert!(!good(cri.image_fs_info(Request::new(ImageFsInfoRequest {})).await).image_filesystems.is_empty());

        let request = AttachRequest { container_id: id.clone(), stdout: true, ..Default::default() };
        assert!(good(cri.attach(Request::new(request)).await).url.contains("/attach/"));
        let request = PortForwardRequest { pod_sandbox_id: sandbox.clone(), port: vec![80] };
        assert!(good(cri.port_forward(Request::new(request)).await).url.contains("/portforward/"));
        let request =
            CheckpointContainerRequest { container_id: id.clone(), location: "/none/a.tar".into(), timeout: 1 };
        let refused = cri.checkpoint_container(Request::new(request)).await.unwrap_err();
        // With CRIU or without: there is no such directory. `checkpoint.rs` makes one.
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        let network_config = Some(NetworkConfig { pod_cidr: "10.85.0.0/16,fd00::/64".into() });
        let request = UpdateRuntimeConfigRequest { runtime_config: Some(RuntimeConfig { network_config }) };
        good(cri.update_runtime_config(Request::new(request)).await);
        let told = good(cri.status(Request::new(StatusRequest { verbose: true })).await).info;
        assert!(told["config"].contains(r#""podCIDR":"10.85.0.0/16,fd00::/64""#), "{told:?}");
        let request = UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: sandbox.clone(),
            overhead: Some(LinuxContainerResources { cpu_shares: 7, ..Default::default() }),
            resources: Some(LinuxContainerResources { memory_limit_in_bytes: 77 << 20, ..Default::default() }),
        };
        good(cri.update_pod_sandbox_resources(Request::new(request)).await);
        let seen = PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: true };
        let told = good(cri.pod_sandbox_status(Request::new(seen)).await).info;
        let told: serde_json::Value = serde_json::from_str(&told["info"]).unwrap();
        let linux = &told["config"]["linux"];
        assert_eq!(
            (&linux["overhead"]["cpu_shares"], &linux["resources"]["memory_limit_in_bytes"]),
            (&7.into(), &80_740_352.into())
        );
        assert!(
            told["pid"].as_u64().unwrap() > 0 && told["runtimeSpec"]["linux"]["namespaces"][0]["type"] == "network"
        );

        let descriptors =
            good(cri.list_metric_descriptors(Request::new(ListMetricDescriptorsRequest {})).await).descriptors;
        let metrics = good(cri.list_pod_sandbox_metrics(Request::new(ListPodSandboxMetricsRequest {})).await);
        let [pod_metrics] = &metrics.pod_metrics[..] else { panic!("{metrics:?}") };
        let own = pod_metrics.container_metrics.iter().flat_map(|container| &container.metrics);
        let all: Vec<&Metric> = pod_metrics.metrics.iter().chain(own).collect();
        for metric in &all {
            let described = descriptors.iter().find(|descriptor| descriptor.name == metric.name).expect("described");
            assert_eq!(metric.label_values.len(), described.label_keys.len(), "{}", metric.name);
        }
        let value = |name: &str| all.iter().find(|metric| metric.name == name).and_then(|metric| metric.value);
        assert_eq!(value("container_spec_cpu_shares").unwrap().value, 512);
        assert!(value("container_memory_working_set_bytes").unwrap().value > 0);
        assert!(value("container_threads").unwrap().value >= value("container_processes").unwrap().value);
        assert!(value("container_network_receive_bytes_total").is_some());

        let request = Request::new(StreamPodSandboxesRequest::default());
        let streamed = whole(cri.stream_pod_sandboxes(request).await, |chunk| chunk.pod_sandboxes).await;
        assert_eq!(streamed, good(cri.list_pod_sandbox(Request::new(Default::default())).await).items);
        let request = Request::new(StreamContainersRequest::default());
        let streamed = whole(cri.stream_containers(request).await, |chunk| chunk.containers).await;
        assert_eq!(streamed, good(cri.list_containers(Request::new(Default::default())).await).containers);
        let request = Request::new(StreamContainerStatsRequest::default());
        let streamed = whole(cri.stream_container_stats(request).await, |chunk| chunk.container_stats).await;
        assert_eq!(streamed[0].attributes.as_ref().unwrap().id, id);
        let request = Request::new(StreamPodSandboxStatsRequest::default());
        let streamed = whole(cri.stream_pod_sandbox_stats(request).await, |chunk| chunk.pod_sandbox_stats).await;
        let linux = streamed[0].linux.clone().unwrap();
        assert_eq!(linux.network.unwrap().default_interface.unwrap().name, "eth0");
        assert!(linux.process.unwrap().process_count.unwrap().value >= 1);
        let request = Request::new(StreamPodSandboxMetricsRequest::default());
        let streamed = whole(cri.stream_pod_sandbox_metrics(request).await, |chunk| chunk.pod_sandbox_metrics).await;
        assert_eq!(streamed[0].pod_sandbox_id, sandbox);
        let filter = ImageFilter { image: Some(ImageSpec { image: "nowhere:1".into(), ..Default::default() }) };
        let request = Request::new(StreamImagesRequest { filter: Some(filter) });
        assert!(whole(cri.stream_images(request).await, |chunk| chunk.images).await.is_empty());
        let request = Request::new(StreamImagesRequest::default());
        assert_eq!(whole(cri.stream_images(request).await, |chunk| chunk.images).await, images);

        let stop_request = || StopContainerRequest { container_id: id.clone(), timeout: 10 };
        good(cri.stop_container(Request::new(stop_request())).await);
        good(cri.stop_container(Request::new(stop_request())).await);
        assert_eq!(world::status(&cri, &id).await.exit_code, 5);
        let remove = || RemoveContainerRequest { container_id: id.clone() };
        good(cri.remove_container(Request::new(remove())).await);
        good(cri.remove_container(Request::new(remove())).await);
        world::remove_sandbox(&cri, &sandbox).await;
        world::remove_sandbox_again(&cri, &sandbox).await;
        good(cri.remove_image(Request::new(RemoveImageRequest { image: spec.clone() })).await);
        good(cri.remove_image(Request::new(RemoveImageRequest { image: spec })).await);

        let mut told = Vec::new();
        while told.last() != Some(&ContainerEventType::ContainerDeletedEvent) || told.len() < 8 {
            let event = tokio::time::timeout(podd_tests::SOON, events.next()).await.expect("in time").unwrap().unwrap();
            told.push(event.container_event_type());
        }
        let count = |kind| told.iter().filter(|found| **found == kind).count();
        for kind in [
            ContainerEventType::ContainerCreatedEvent,
            ContainerEventType::ContainerStartedEvent,
            ContainerEventType::ContainerStoppedEvent,
            ContainerEventType::ContainerDeletedEvent,
        ] {
            assert_eq!(count(kind), 2, "{kind:?} of sandbox and container: {told:?}");
        }
        stop.cancel();
        served.await.unwrap().unwrap();
        runtime.close().await;
    });
}
