//! CRI's two services over the engine: requests taken apart, errors turned into codes, and nothing else. Whatever
//! changes something runs as a whole, so that a caller who hangs up tears nothing.

use std::sync::Arc;

use podd_cri::RuntimeService;
use podd_cri::lists::chunks;
use podd_cri::v1::*;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use crate::engine::Runtime;
use crate::error::{CriError, status};

type Answer<T> = Result<Response<T>, Status>;

/// A call that changes something: run as a whole on a copy of the engine.
macro_rules! whole {
    ($self:ident, $engine:ident => $work:expr) => {{
        let $engine = Arc::clone(&$self.engine);
        $self.engine.whole(async move { $work }).await.map_err(status)?
    }};
}

mod images;

fn required<T>(value: Option<T>, what: &str) -> Result<T, Status> {
    value.ok_or_else(|| status(CriError::invalid(format!("the request has no {what}"))))
}

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(self.engine.version()))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        let features = self.engine.features().await;
        Ok(Response::new(self.engine.runtime_status(request.into_inner().verbose, features)))
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        Ok(Response::new(self.engine.runtime_config()))
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let RunPodSandboxRequest { config, runtime_handler } = request.into_inner();
        let config = required(config, "config")?;
        let pod_sandbox_id = whole!(self, engine => engine.run_sandbox(config, &runtime_handler).await);
        Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Answer<StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        whole!(self, engine => engine.stop_sandbox(&id).await);
        Ok(Response::new(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(&self, request: Request<RemovePodSandboxRequest>) -> Answer<RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        whole!(self, engine => engine.remove_sandbox(&id).await);
        Ok(Response::new(RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(&self, request: Request<PodSandboxStatusRequest>) -> Answer<PodSandboxStatusResponse> {
        let PodSandboxStatusRequest { pod_sandbox_id, verbose } = request.into_inner();
        self.engine.sandbox_status(&pod_sandbox_id, verbose).map(Response::new).map_err(status)
    }

    async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Answer<ListPodSandboxResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        Ok(Response::new(ListPodSandboxResponse { items: self.engine.list_sandboxes(&filter) }))
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Answer<CreateContainerResponse> {
        let CreateContainerRequest { pod_sandbox_id, config, .. } = request.into_inner();
        let config = required(config, "config")?;
        let container_id = whole!(self, engine => engine.create_container(&pod_sandbox_id, config).await);
        Ok(Response::new(CreateContainerResponse { container_id }))
    }

    async fn start_container(&self, request: Request<StartContainerRequest>) -> Answer<StartContainerResponse> {
        let id = request.into_inner().container_id;
        whole!(self, engine => engine.start_container(&id).await);
        Ok(Response::new(StartContainerResponse {}))
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let StopContainerRequest { container_id, timeout } = request.into_inner();
        whole!(self, engine => engine.stop_container(&container_id, timeout).await);
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Answer<RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        whole!(self, engine => engine.remove_container(&id).await);
        Ok(Response::new(RemoveContainerResponse {}))
    }

    async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Answer<ContainerStatusResponse> {
        let ContainerStatusRequest { container_id, verbose } = request.into_inner();
        self.engine.container_status(&container_id, verbose).map(Response::new).map_err(status)
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        Ok(Response::new(ListContainersResponse { containers: self.engine.list_containers(&filter) }))
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let UpdateContainerResourcesRequest { container_id, linux, .. } = request.into_inner();
        let linux = required(linux, "linux resources")?;
        whole!(self, engine => engine.update_container(&container_id, linux).await);
        Ok(Response::new(UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        let id = request.into_inner().container_id;
        whole!(self, engine => engine.reopen_log(&id).await);
        Ok(Response::new(ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let ExecSyncRequest { container_id, cmd, timeout } = request.into_inner();
        let response = whole!(self, engine => engine.exec_sync(&container_id, cmd, timeout).await);
        Ok(Response::new(response))
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let mut request = request.into_inner();
        let container = self.engine.registry.container(&request.container_id).map_err(status)?;
        self.engine.may_exec(&container, &request.cmd).map_err(status)?;
        container.id().clone_into(&mut request.container_id);
        Ok(Response::new(ExecResponse { url: self.streaming.register_exec(request)? }))
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        let mut request = request.into_inner();
        let container = self.engine.registry.container(&request.container_id).map_err(status)?;
        self.engine.may_attach(&container).map_err(status)?;
        container.id().clone_into(&mut request.container_id);
        Ok(Response::new(AttachResponse { url: self.streaming.register_attach(request)? }))
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        let mut request = request.into_inner();
        let sandbox = self.engine.registry.sandbox(&request.pod_sandbox_id).map_err(status)?;
        self.engine.may_forward(&sandbox).map_err(status)?;
        sandbox.id().clone_into(&mut request.pod_sandbox_id);
        Ok(Response::new(PortForwardResponse { url: self.streaming.register_port_forward(request)? }))
    }

    async fn container_stats(&self, request: Request<ContainerStatsRequest>) -> Answer<ContainerStatsResponse> {
        let id = request.into_inner().container_id;
        let stats = Arc::clone(&self.engine).container_stats(&id).await.map_err(status)?;
        Ok(Response::new(ContainerStatsResponse { stats: Some(stats) }))
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let stats = Arc::clone(&self.engine).list_container_stats(filter).await;
        Ok(Response::new(ListContainerStatsResponse { stats }))
    }

    async fn pod_sandbox_stats(&self, request: Request<PodSandboxStatsRequest>) -> Answer<PodSandboxStatsResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let stats = Arc::clone(&self.engine).sandbox_stats(&id).await.map_err(status)?;
        Ok(Response::new(PodSandboxStatsResponse { stats: Some(stats) }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let stats = Arc::clone(&self.engine).list_sandbox_stats(filter).await.map_err(status)?;
        Ok(Response::new(ListPodSandboxStatsResponse { stats }))
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        let config = request.into_inner().runtime_config.unwrap_or_default();
        self.engine.update_config(config).map_err(status)?;
        Ok(Response::new(UpdateRuntimeConfigResponse {}))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        let update = request.into_inner();
        whole!(self, engine => engine.update_sandbox(update).await);
        Ok(Response::new(UpdatePodSandboxResourcesResponse {}))
    }

    async fn checkpoint_container(
        &self,
        request: Request<CheckpointContainerRequest>,
    ) -> Answer<CheckpointContainerResponse> {
        let CheckpointContainerRequest { container_id, location, timeout } = request.into_inner();
        whole!(self, engine => engine.checkpoint_container(&container_id, &location, timeout).await);
        Ok(Response::new(CheckpointContainerResponse {}))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        Ok(Response::new(self.engine.metric_descriptors()))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        let pod_metrics = Arc::clone(&self.engine).sandbox_metrics().await.map_err(status)?;
        Ok(Response::new(ListPodSandboxMetricsResponse { pod_metrics }))
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Answer<BoxStream<StreamPodSandboxesResponse>> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let items = self.engine.list_sandboxes(&filter);
        Ok(Response::new(chunks(items, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes })))
    }

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Answer<BoxStream<StreamContainersResponse>> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let items = self.engine.list_containers(&filter);
        Ok(Response::new(chunks(items, |containers| StreamContainersResponse { containers })))
    }

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Answer<BoxStream<StreamContainerStatsResponse>> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let stats = Arc::clone(&self.engine).list_container_stats(filter).await;
        Ok(Response::new(chunks(stats, |container_stats| StreamContainerStatsResponse { container_stats })))
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Answer<BoxStream<StreamPodSandboxStatsResponse>> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let stats = Arc::clone(&self.engine).list_sandbox_stats(filter).await.map_err(status)?;
        Ok(Response::new(chunks(stats, |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats })))
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Answer<BoxStream<StreamPodSandboxMetricsResponse>> {
        let metrics = Arc::clone(&self.engine).sandbox_metrics().await.map_err(status)?;
        let wrap = |pod_sandbox_metrics| StreamPodSandboxMetricsResponse { pod_sandbox_metrics };
        Ok(Response::new(chunks(metrics, wrap)))
    }

    async fn get_container_events(&self, _: Request<GetEventsRequest>) -> Answer<BoxStream<ContainerEventResponse>> {
        Ok(Response::new(Box::pin(self.engine.listen())))
    }
}
