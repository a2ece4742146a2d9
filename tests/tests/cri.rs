//! Every call of CRI v1 once, over a socket and a client, against the embedded runtime: `docs/cri.md` says which ones
//! answer `Unimplemented`.

mod world;

use podd_cri::v1::*;
use podd_cri::{ImageService, RuntimeService};
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Response, Status};
use world::{container, on_a_node};

/// The answer of a call that has to go well.
#[track_caller]
fn good<T>(answer: Result<Response<T>, Status>) -> T {
    answer.unwrap_or_else(|status| panic!("{status:?}")).into_inner()
}

/// A call that is not there yet says so.
#[track_caller]
fn not_yet<T>(answer: Result<Response<T>, Status>) {
    match answer {
        Ok(_) => panic!("answered; docs/cri.md says that it does not"),
        Err(status) => assert_eq!(status.code(), Code::Unimplemented, "{status:?}"),
    }
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
        let status = good(cri.container_status(Request::new(request)).await).status.unwrap();
        assert!(status.started_at > 0);
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
        not_yet(cri.checkpoint_container(Request::new(CheckpointContainerRequest::default())).await);
        not_yet(cri.update_runtime_config(Request::new(UpdateRuntimeConfigRequest::default())).await);
        not_yet(cri.update_pod_sandbox_resources(Request::new(UpdatePodSandboxResourcesRequest::default())).await);
        not_yet(cri.list_metric_descriptors(Request::new(ListMetricDescriptorsRequest::default())).await);
        not_yet(cri.list_pod_sandbox_metrics(Request::new(ListPodSandboxMetricsRequest::default())).await);
        not_yet(cri.stream_pod_sandboxes(Request::new(StreamPodSandboxesRequest::default())).await);
        not_yet(cri.stream_containers(Request::new(StreamContainersRequest::default())).await);
        not_yet(cri.stream_container_stats(Request::new(StreamContainerStatsRequest::default())).await);
        not_yet(cri.stream_pod_sandbox_stats(Request::new(StreamPodSandboxStatsRequest::default())).await);
        not_yet(cri.stream_pod_sandbox_metrics(Request::new(StreamPodSandboxMetricsRequest::default())).await);
        not_yet(cri.stream_images(Request::new(StreamImagesRequest::default())).await);

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
