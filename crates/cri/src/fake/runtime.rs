//! The fake's runtime service: each call enters, changes the world, leaves.

use futures::stream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::clock::nanos;
use super::state::Life;
use super::{BEHIND, FakeRuntime, seconds};
use crate::RuntimeService;
use crate::lists::chunks;
use crate::v1::*;

type Answer<T> = Result<Response<T>, Status>;

impl FakeRuntime {
    fn streaming_url(&self) -> Result<String, Status> {
        let url = self.script(|script| script.streaming_url.clone());
        url.ok_or_else(|| Status::unimplemented("the fake streams nothing"))
    }

    fn must_run(&self, id: &str) -> Result<String, Status> {
        self.world(|world| {
            let container = world.container(id)?;
            match container.life {
                Life::Running { .. } => Ok(container.config.metadata.clone().unwrap_or_default().name),
                _ => Err(Status::failed_precondition(format!("{id} does not run"))),
            }
        })
    }
}

#[tonic::async_trait]
impl RuntimeService for FakeRuntime {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        self.enter("Version", "").await?.leave(VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "fake".into(),
            runtime_version: "1".into(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusResponse> {
        let pass = self.enter("Status", "").await?;
        let (runtime, network) = {
            let inside = self.inside();
            (inside.runtime_ready, inside.network_ready)
        };
        let condition =
            |kind: &str, status| RuntimeCondition { r#type: kind.into(), status, ..RuntimeCondition::default() };
        let conditions = vec![condition("RuntimeReady", runtime), condition("NetworkReady", network)];
        pass.leave(StatusResponse {
            status: Some(RuntimeStatus { conditions }),
            runtime_handlers: vec![RuntimeHandler::default()],
            features: Some(RuntimeFeatures::default()),
            ..StatusResponse::default()
        })
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        let cgroup_driver = CgroupDriver::Cgroupfs as i32;
        let linux = Some(LinuxRuntimeConfiguration { cgroup_driver });
        self.enter("RuntimeConfig", "").await?.leave(RuntimeConfigResponse { linux })
    }

    async fn update_runtime_config(
        &self,
        _: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        self.enter("UpdateRuntimeConfig", "").await?.leave(UpdateRuntimeConfigResponse {})
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let request = request.into_inner();
        let metadata = request.config.as_ref().and_then(|config| config.metadata.clone());
        let pass = self.enter("RunPodSandbox", &metadata.unwrap_or_default().name).await?;
        let now = self.now();
        let pod_sandbox_id = self.world(|world| world.run_sandbox(now, request))?;
        pass.leave(RunPodSandboxResponse { pod_sandbox_id })
    }

    async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Answer<StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let pass = self.enter("StopPodSandbox", &id).await?;
        let now = self.now();
        self.world(|world| world.stop_sandbox(now, &id));
        pass.leave(StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(&self, request: Request<RemovePodSandboxRequest>) -> Answer<RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let pass = self.enter("RemovePodSandbox", &id).await?;
        let now = self.now();
        self.world(|world| world.remove_sandbox(now, &id));
        pass.leave(RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(&self, request: Request<PodSandboxStatusRequest>) -> Answer<PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let pass = self.enter("PodSandboxStatus", &id).await?;
        let (status, containers_statuses) =
            self.world(|world| Ok::<_, Status>((world.sandbox(&id)?.status(), world.statuses_of(&id))))?;
        pass.leave(PodSandboxStatusResponse {
            status: Some(status),
            containers_statuses,
            timestamp: self.now(),
            ..PodSandboxStatusResponse::default()
        })
    }

    async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Answer<ListPodSandboxResponse> {
        let pass = self.enter("ListPodSandbox", "").await?;
        let filter = request.into_inner().filter;
        let items = self.world(|world| world.list_sandboxes(filter));
        pass.leave(ListPodSandboxResponse { items })
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Answer<BoxStream<StreamPodSandboxesResponse>> {
        let pass = self.enter("StreamPodSandboxes", "").await?;
        let filter = request.into_inner().filter;
        let pod_sandboxes = self.world(|world| world.list_sandboxes(filter));
        pass.leave(chunks(pod_sandboxes, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes }))
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Answer<CreateContainerResponse> {
        let request = request.into_inner();
        let metadata = request.config.as_ref().and_then(|config| config.metadata.clone());
        let pass = self.enter("CreateContainer", &metadata.unwrap_or_default().name).await?;
        let now = self.now();
        let container_id = self.world_and_script(|world, script| {
            world.create_container(now, request, |pod, name| script.next_behaviour(pod, name))
        })?;
        pass.leave(CreateContainerResponse { container_id })
    }

    async fn start_container(&self, request: Request<StartContainerRequest>) -> Answer<StartContainerResponse> {
        let id = request.into_inner().container_id;
        let pass = self.enter("StartContainer", &id).await?;
        let now = self.now();
        self.world(|world| world.start_container(now, &id))?;
        pass.leave(StartContainerResponse {})
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let StopContainerRequest { container_id: id, timeout } = request.into_inner();
        let mut pass = self.enter("StopContainer", &id).await?;
        let now = self.now();
        let mut end = self.world(|world| world.stop_container(now, &id, seconds(timeout)));
        // Somebody else may stop it with less grace meanwhile: its end then comes earlier.
        while let Some(at) = end {
            let mut changes = self.0.changes.subscribe();
            changes.mark_unchanged();
            tokio::select! {
                biased;
                waited = pass.wait_until(at) => waited?,
                // The sender lives as long as the fake, which is being called.
                _ = changes.changed() => {}
            }
            end = self.world(|world| {
                let container = world.containers.get(&id)?;
                match &container.life {
                    Life::Running { end, .. } => end.as_ref().map(|end| end.at),
                    _ => None,
                }
            });
        }
        pass.leave(StopContainerResponse {})
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Answer<RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        let pass = self.enter("RemoveContainer", &id).await?;
        let now = self.now();
        self.world(|world| world.remove_container(now, &id));
        pass.leave(RemoveContainerResponse {})
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
        let pass = self.enter("ListContainers", "").await?;
        let filter = request.into_inner().filter;
        let containers = self.world(|world| world.list_containers(filter));
        pass.leave(ListContainersResponse { containers })
    }

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Answer<BoxStream<StreamContainersResponse>> {
        let pass = self.enter("StreamContainers", "").await?;
        let filter = request.into_inner().filter;
        let containers = self.world(|world| world.list_containers(filter));
        pass.leave(chunks(containers, |containers| StreamContainersResponse { containers }))
    }

    async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Answer<ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        let pass = self.enter("ContainerStatus", &id).await?;
        let status = self.world(|world| Ok::<_, Status>(world.status_of(world.container(&id)?)))?;
        let status = Some(status);
        pass.leave(ContainerStatusResponse { status, ..ContainerStatusResponse::default() })
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let pass = self.enter("UpdateContainerResources", &request.container_id).await?;
        self.world(|world| world.update_resources(request))?;
        pass.leave(UpdateContainerResourcesResponse {})
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let pass = self.enter("UpdatePodSandboxResources", &id).await?;
        self.world(|world| world.sandbox(&id).map(|_| ()))?;
        pass.leave(UpdatePodSandboxResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        let id = request.into_inner().container_id;
        let pass = self.enter("ReopenContainerLog", &id).await?;
        self.must_run(&id)?;
        pass.leave(ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let request = request.into_inner();
        let mut pass = self.enter("ExecSync", &request.container_id).await?;
        let name = self.must_run(&request.container_id)?;
        let reply =
            self.script(|script| script.exec.as_mut().map(|exec| exec(&name, &request.cmd)).unwrap_or_default());
        let (now, limit) = (self.now(), seconds(request.timeout));
        if limit > 0 && nanos(reply.after) > limit {
            pass.wait_until(now.saturating_add(limit)).await?;
            let text = format!("command did not end within {} s", request.timeout);
            return Err(Status::deadline_exceeded(text));
        }
        pass.wait_until(now.saturating_add(nanos(reply.after))).await?;
        pass.leave(ExecSyncResponse { stdout: reply.stdout, stderr: reply.stderr, exit_code: reply.exit_code })
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let id = request.into_inner().container_id;
        let pass = self.enter("Exec", &id).await?;
        self.must_run(&id)?;
        pass.leave(ExecResponse { url: self.streaming_url()? })
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        let id = request.into_inner().container_id;
        let pass = self.enter("Attach", &id).await?;
        self.must_run(&id)?;
        pass.leave(AttachResponse { url: self.streaming_url()? })
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let pass = self.enter("PortForward", &id).await?;
        self.world(|world| world.sandbox(&id).map(|_| ()))?;
        pass.leave(PortForwardResponse { url: self.streaming_url()? })
    }

    async fn container_stats(&self, request: Request<ContainerStatsRequest>) -> Answer<ContainerStatsResponse> {
        let id = request.into_inner().container_id;
        let pass = self.enter("ContainerStats", &id).await?;
        let now = self.now();
        let stats = self.world(|world| world.container(&id).map(|found| found.stats(now)))?;
        pass.leave(ContainerStatsResponse { stats: Some(stats) })
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        let pass = self.enter("ListContainerStats", "").await?;
        let (now, filter) = (self.now(), request.into_inner().filter);
        let stats = self.world(|world| world.container_stats(now, filter));
        pass.leave(ListContainerStatsResponse { stats })
    }

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Answer<BoxStream<StreamContainerStatsResponse>> {
        let pass = self.enter("StreamContainerStats", "").await?;
        let (now, filter) = (self.now(), request.into_inner().filter);
        let stats = self.world(|world| world.container_stats(now, filter));
        pass.leave(chunks(stats, |container_stats| StreamContainerStatsResponse { container_stats }))
    }

    async fn pod_sandbox_stats(&self, request: Request<PodSandboxStatsRequest>) -> Answer<PodSandboxStatsResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let pass = self.enter("PodSandboxStats", &id).await?;
        let now = self.now();
        let filter = PodSandboxStatsFilter { id: id.clone(), ..PodSandboxStatsFilter::default() };
        let stats = self.world(|world| {
            world.sandbox(&id)?;
            Ok::<_, Status>(world.sandbox_stats(now, Some(filter)).pop())
        })?;
        pass.leave(PodSandboxStatsResponse { stats })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        let pass = self.enter("ListPodSandboxStats", "").await?;
        let (now, filter) = (self.now(), request.into_inner().filter);
        let stats = self.world(|world| world.sandbox_stats(now, filter));
        pass.leave(ListPodSandboxStatsResponse { stats })
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Answer<BoxStream<StreamPodSandboxStatsResponse>> {
        let pass = self.enter("StreamPodSandboxStats", "").await?;
        let (now, filter) = (self.now(), request.into_inner().filter);
        let stats = self.world(|world| world.sandbox_stats(now, filter));
        pass.leave(chunks(stats, |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats }))
    }

    /// Ends in a crash, or when the watcher is too far behind.
    async fn get_container_events(&self, _: Request<GetEventsRequest>) -> Answer<BoxStream<ContainerEventResponse>> {
        let pass = self.enter("GetContainerEvents", "").await?;
        let (watcher, events) = tokio::sync::mpsc::channel(BEHIND);
        self.inside().watchers.push(watcher);
        let changes = self.0.changes.subscribe();
        let watched = stream::unfold((self.clone(), events, changes), |state| async {
            let (fake, mut events, mut changes) = state;
            loop {
                changes.mark_unchanged();
                let next = fake.next_change();
                let due = async {
                    match next {
                        Some(at) => fake.0.clock.sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    // Nothing is taken unless it is returned.
                    event = events.recv() => {
                        return event.map(|event| (event, (fake, events, changes)));
                    }
                    // Both only say: look again.
                    _ = changes.changed() => {}
                    () = due => {}
                }
            }
        });
        pass.leave(Box::pin(watched))
    }

    async fn checkpoint_container(
        &self,
        request: Request<CheckpointContainerRequest>,
    ) -> Answer<CheckpointContainerResponse> {
        let id = request.into_inner().container_id;
        let pass = self.enter("CheckpointContainer", &id).await?;
        self.must_run(&id)?;
        pass.leave(CheckpointContainerResponse {})
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        let pass = self.enter("ListMetricDescriptors", "").await?;
        pass.leave(ListMetricDescriptorsResponse { descriptors: vec![super::view::descriptor()] })
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        let pass = self.enter("ListPodSandboxMetrics", "").await?;
        let now = self.now();
        let pod_metrics = self.world(|world| world.metrics(now));
        pass.leave(ListPodSandboxMetricsResponse { pod_metrics })
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Answer<BoxStream<StreamPodSandboxMetricsResponse>> {
        let pass = self.enter("StreamPodSandboxMetrics", "").await?;
        let now = self.now();
        let metrics = self.world(|world| world.metrics(now));
        pass.leave(chunks(metrics, |pod_sandbox_metrics| StreamPodSandboxMetricsResponse { pod_sandbox_metrics }))
    }
}
