//! The fake keeps CRI's rules, and fails as it is told.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tonic::{Code, Request, Status};

use super::*;
use crate::v1::*;

const UID: &str = "io.kubernetes.pod.uid";

/// A fake with its clock, and short ways to call it.
struct Rig {
    fake: FakeRuntime,
    clock: ManualClock,
    runtime: Arc<dyn RuntimeService>,
    images: Arc<dyn ImageService>,
}

impl Rig {
    fn new() -> Self {
        let clock = ManualClock::new(1_000);
        let fake = FakeRuntime::new(clock.clone());
        fake.add_image("web");
        let (runtime, images) = fake.services();
        Self { fake, clock, runtime, images }
    }

    async fn sandbox(&self, name: &str) -> Result<String, Status> {
        let metadata =
            PodSandboxMetadata { name: name.into(), uid: name.into(), namespace: "default".into(), attempt: 0 };
        let labels = [(UID.to_owned(), name.to_owned())].into();
        let config = PodSandboxConfig { metadata: Some(metadata), labels, ..Default::default() };
        let request = RunPodSandboxRequest { config: Some(config), ..Default::default() };
        Ok(self.runtime.run_pod_sandbox(Request::new(request)).await?.into_inner().pod_sandbox_id)
    }

    async fn create(&self, sandbox: &str, name: &str, attempt: u32) -> Result<String, Status> {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.into(), attempt }),
            image: Some(ImageSpec { image: "web".into(), ..Default::default() }),
            ..Default::default()
        };
        let request =
            CreateContainerRequest { pod_sandbox_id: sandbox.into(), config: Some(config), sandbox_config: None };
        Ok(self.runtime.create_container(Request::new(request)).await?.into_inner().container_id)
    }

    async fn start(&self, id: &str) -> Result<(), Status> {
        let request = StartContainerRequest { container_id: id.into() };
        self.runtime.start_container(Request::new(request)).await.map(|_| ())
    }

    /// A container that runs, in a sandbox of its own.
    async fn running(&self, name: &str) -> (String, String) {
        let sandbox = self.sandbox(name).await.unwrap();
        let id = self.create(&sandbox, name, 0).await.unwrap();
        self.start(&id).await.unwrap();
        (sandbox, id)
    }

    async fn status(&self, id: &str) -> Result<ContainerStatus, Status> {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
        Ok(self.runtime.container_status(Request::new(request)).await?.into_inner().status.unwrap())
    }

    fn stop(&self, id: &str, timeout: i64) -> tokio::task::JoinHandle<Result<(), Status>> {
        let (runtime, container_id) = (Arc::clone(&self.runtime), id.to_owned());
        tokio::spawn(async move {
            runtime.stop_container(Request::new(StopContainerRequest { container_id, timeout })).await.map(|_| ())
        })
    }
}

#[tokio::test]
async fn a_container_is_created_runs_and_ends_when_its_time_has_come() {
    let rig = Rig::new();
    rig.fake.behave("web", [Behaviour::exit_after(Duration::from_secs(3), 7)]);
    let sandbox = rig.sandbox("web").await.unwrap();
    let id = rig.create(&sandbox, "web", 0).await.unwrap();
    assert_eq!(rig.status(&id).await.unwrap().state(), ContainerState::ContainerCreated);
    rig.start(&id).await.unwrap();
    rig.clock.advance(Duration::from_millis(2_999));
    assert_eq!(rig.status(&id).await.unwrap().state(), ContainerState::ContainerRunning);
    rig.clock.advance(Duration::from_millis(1));
    let ended = rig.status(&id).await.unwrap();
    assert_eq!((ended.state(), ended.exit_code, &*ended.reason), (ContainerState::ContainerExited, 7, "Error"));
    assert_eq!(ended.finished_at - ended.started_at, 3_000_000_000);
    assert_eq!(rig.start(&id).await.unwrap_err().code(), Code::FailedPrecondition, "nothing is started twice");
}

#[tokio::test]
async fn names_are_taken_until_their_holder_is_removed() {
    let rig = Rig::new();
    let (sandbox, id) = rig.running("web").await;
    assert_eq!(rig.sandbox("web").await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(rig.create(&sandbox, "web", 0).await.unwrap_err().code(), Code::AlreadyExists);
    rig.create(&sandbox, "web", 1).await.unwrap();
    for _ in 0..2 {
        let request = RemoveContainerRequest { container_id: id.clone() };
        rig.runtime.remove_container(Request::new(request)).await.expect("idempotent");
        let request = RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() };
        rig.runtime.remove_pod_sandbox(Request::new(request)).await.expect("idempotent");
    }
    assert_eq!(rig.status(&id).await.unwrap_err().code(), Code::NotFound);
    assert!(rig.fake.snapshot().containers.is_empty(), "a sandbox takes its containers with it");
    assert_ne!(rig.sandbox("web").await.unwrap(), sandbox, "an id is never used twice");
}

#[tokio::test]
async fn only_a_ready_sandbox_takes_containers_and_only_of_present_images() {
    let rig = Rig::new();
    let (sandbox, id) = rig.running("web").await;
    rig.images
        .remove_image(Request::new(RemoveImageRequest {
            image: Some(ImageSpec { image: "web".into(), ..Default::default() }),
        }))
        .await
        .unwrap();
    assert_eq!(rig.create(&sandbox, "other", 0).await.unwrap_err().code(), Code::NotFound);
    rig.fake.add_image("web");
    let request = StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    rig.runtime.stop_pod_sandbox(Request::new(request)).await.unwrap();
    assert_eq!(rig.status(&id).await.unwrap().exit_code, 137);
    assert_eq!(rig.create(&sandbox, "other", 0).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_stop_waits_for_the_end_and_less_grace_from_somebody_else_brings_it_nearer() {
    let rig = Rig::new();
    rig.fake.behave("web", [Behaviour::run_forever().on_stop(OnStop::Ignore)]);
    let (_, id) = rig.running("web").await;
    let patient = rig.stop(&id, 30);
    rig.clock.advance(Duration::from_secs(1));
    tokio::task::yield_now().await;
    let hasty = rig.stop(&id, 2);
    tokio::task::yield_now().await;
    rig.clock.advance(Duration::from_secs(2));
    hasty.await.unwrap().unwrap();
    patient.await.unwrap().unwrap();
    assert_eq!(rig.status(&id).await.unwrap().exit_code, 137);
}

#[tokio::test]
async fn a_fault_does_what_its_name_says() {
    let rig = Rig::new();
    let sandbox = rig.sandbox("web").await.unwrap();
    rig.fake.fail("CreateContainer", 1, Code::Internal);
    assert_eq!(rig.create(&sandbox, "web", 0).await.unwrap_err().code(), Code::Internal);
    assert!(rig.fake.snapshot().containers.is_empty(), "nothing happened");

    rig.fake.inject("CreateContainer", Fault::LoseAnswer, 1);
    assert_eq!(rig.create(&sandbox, "web", 0).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(rig.fake.snapshot().containers.len(), 1, "it happened");

    rig.fake.inject("Version", Fault::Hang, 1);
    let runtime = Arc::clone(&rig.runtime);
    let hanging = tokio::spawn(async move { runtime.version(Request::new(VersionRequest::default())).await });
    tokio::task::yield_now().await;
    assert!(!hanging.is_finished());
    rig.fake.crash();
    assert_eq!(hanging.await.unwrap().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_watcher_hears_of_each_step_but_of_what_is_lost() {
    let rig = Rig::new();
    let mut events = rig.runtime.get_container_events(Request::new(GetEventsRequest {})).await.unwrap().into_inner();
    let sandbox = rig.sandbox("web").await.unwrap();
    rig.fake.lose_events(1);
    let id = rig.create(&sandbox, "web", 0).await.unwrap();
    rig.start(&id).await.unwrap();
    rig.fake.end_container(&id, 0);
    let mut heard = Vec::new();
    for _ in 0..4 {
        let event = events.next().await.unwrap().unwrap();
        assert_eq!(event.pod_sandbox_status.as_ref().map(|s| &*s.labels[UID]), Some("web"));
        heard.push((event.container_id.clone(), event.container_event_type()));
    }
    use ContainerEventType::{ContainerCreatedEvent, ContainerStartedEvent, ContainerStoppedEvent};
    let wanted = [
        (sandbox.clone(), ContainerCreatedEvent),
        (sandbox, ContainerStartedEvent),
        (id.clone(), ContainerStartedEvent),
        (id, ContainerStoppedEvent),
    ];
    assert_eq!(heard, wanted);
    rig.fake.crash();
    assert!(events.next().await.is_none(), "the stream ends with the runtime");
}

#[tokio::test]
async fn a_crash_forgets_what_was_not_recorded_and_a_reboot_ends_what_ran() {
    let rig = Rig::new();
    let (sandbox, id) = rig.running("web").await;
    rig.fake.hold_records();
    rig.create(&sandbox, "late", 0).await.unwrap();
    rig.fake.crash();
    assert_eq!(rig.fake.snapshot().containers.len(), 1);
    assert_eq!(rig.status(&id).await.unwrap().state(), ContainerState::ContainerRunning);
    rig.fake.reboot();
    assert_eq!(rig.status(&id).await.unwrap().state(), ContainerState::ContainerExited);
    assert_eq!(rig.fake.snapshot().sandboxes[0].state(), PodSandboxState::SandboxNotready);
}

#[tokio::test]
async fn containers_behave_one_after_another_as_they_were_told() {
    let rig = Rig::new();
    let first = Behaviour::start_error("no such file");
    rig.fake.behave("web", [first, Behaviour::oom_after(Duration::from_secs(1))]);
    let sandbox = rig.sandbox("web").await.unwrap();
    let id = rig.create(&sandbox, "web", 0).await.unwrap();
    assert_eq!(rig.start(&id).await.unwrap_err().message(), "no such file");
    let failed = rig.status(&id).await.unwrap();
    assert_eq!((failed.exit_code, &*failed.reason, failed.started_at), (128, "StartError", 0));
    for attempt in 1..3 {
        let id = rig.create(&sandbox, "web", attempt).await.unwrap();
        rig.start(&id).await.unwrap();
        rig.clock.advance(Duration::from_secs(1));
        assert_eq!(rig.status(&id).await.unwrap().reason, "OOMKilled", "the last behaviour goes for all that follow");
    }
}

#[tokio::test]
async fn a_pull_brings_the_image_under_every_name_it_has() {
    let rig = Rig::new();
    let spec = |image: &str| Some(ImageSpec { image: image.into(), ..Default::default() });
    let pull =
        |image| rig.images.pull_image(Request::new(PullImageRequest { image: spec(image), ..Default::default() }));
    rig.fake.pull("db", Pull { after: Duration::ZERO, error: Some((Code::NotFound, "no db".into())) });
    assert_eq!(pull("db").await.unwrap_err().message(), "no db");
    rig.fake.pull("db", Pull::default());
    let id = pull("db").await.unwrap().into_inner().image_ref;
    for name in ["db", "db:latest", "docker.io/library/db:latest", &id] {
        let request = ImageStatusRequest { image: spec(name), verbose: false };
        let found = rig.images.image_status(Request::new(request)).await.unwrap().into_inner().image;
        assert_eq!(found.map(|image| image.id), Some(id.clone()), "{name}");
    }
}

#[tokio::test]
async fn the_lists_as_streams_are_the_lists() {
    let rig = Rig::new();
    rig.running("web").await;
    macro_rules! same {
        ($of:ident, $unary:ident -> $items:ident, $stream:ident -> $chunk:ident) => {{
            let listed = rig.$of.$unary(Request::new(Default::default())).await.unwrap().into_inner().$items;
            let chunks = rig.$of.$stream(Request::new(Default::default())).await.unwrap().into_inner();
            let chunks: Vec<_> = chunks.map(|chunk| chunk.unwrap().$chunk).collect().await;
            assert!(!listed.is_empty(), stringify!($unary));
            assert_eq!(chunks.concat(), listed, stringify!($stream));
        }};
    }
    same!(runtime, list_pod_sandbox -> items, stream_pod_sandboxes -> pod_sandboxes);
    same!(runtime, list_containers -> containers, stream_containers -> containers);
    same!(runtime, list_container_stats -> stats, stream_container_stats -> container_stats);
    same!(runtime, list_pod_sandbox_stats -> stats, stream_pod_sandbox_stats -> pod_sandbox_stats);
    same!(runtime, list_pod_sandbox_metrics -> pod_metrics, stream_pod_sandbox_metrics -> pod_sandbox_metrics);
    same!(images, list_images -> images, stream_images -> images);
}
