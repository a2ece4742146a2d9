//! The list of all calls, once. What must exist for each of them (the server's forward, the client's
//! forward, the names that tests use) is made from this list by a macro that is handed in, since a
//! forward that someone forgets would compile and answer `Unimplemented`.

/// Expands `$then!` once per service. `act` marks a call that changes something: once begun it runs to
/// its end, even when the caller hangs up. `ask` marks one that is dropped with its caller.
macro_rules! with_calls {
    ($then:ident) => {
        $then! {
            RuntimeService, runtime, runtime_service_client::RuntimeServiceClient<tonic::transport::Channel>;
            unary {
                ask Version version VersionRequest VersionResponse;
                act RunPodSandbox run_pod_sandbox RunPodSandboxRequest RunPodSandboxResponse;
                act StopPodSandbox stop_pod_sandbox StopPodSandboxRequest StopPodSandboxResponse;
                act RemovePodSandbox remove_pod_sandbox RemovePodSandboxRequest RemovePodSandboxResponse;
                ask PodSandboxStatus pod_sandbox_status PodSandboxStatusRequest PodSandboxStatusResponse;
                ask ListPodSandbox list_pod_sandbox ListPodSandboxRequest ListPodSandboxResponse;
                act CreateContainer create_container CreateContainerRequest CreateContainerResponse;
                act StartContainer start_container StartContainerRequest StartContainerResponse;
                act StopContainer stop_container StopContainerRequest StopContainerResponse;
                act RemoveContainer remove_container RemoveContainerRequest RemoveContainerResponse;
                ask ListContainers list_containers ListContainersRequest ListContainersResponse;
                ask ContainerStatus container_status ContainerStatusRequest ContainerStatusResponse;
                act UpdateContainerResources update_container_resources
                    UpdateContainerResourcesRequest UpdateContainerResourcesResponse;
                act ReopenContainerLog reopen_container_log
                    ReopenContainerLogRequest ReopenContainerLogResponse;
                ask ExecSync exec_sync ExecSyncRequest ExecSyncResponse;
                ask Exec exec ExecRequest ExecResponse;
                ask Attach attach AttachRequest AttachResponse;
                ask PortForward port_forward PortForwardRequest PortForwardResponse;
                ask ContainerStats container_stats ContainerStatsRequest ContainerStatsResponse;
                ask ListContainerStats list_container_stats
                    ListContainerStatsRequest ListContainerStatsResponse;
                ask PodSandboxStats pod_sandbox_stats PodSandboxStatsRequest PodSandboxStatsResponse;
                ask ListPodSandboxStats list_pod_sandbox_stats
                    ListPodSandboxStatsRequest ListPodSandboxStatsResponse;
                act UpdateRuntimeConfig update_runtime_config
                    UpdateRuntimeConfigRequest UpdateRuntimeConfigResponse;
                ask Status status StatusRequest StatusResponse;
                act CheckpointContainer checkpoint_container
                    CheckpointContainerRequest CheckpointContainerResponse;
                ask ListMetricDescriptors list_metric_descriptors
                    ListMetricDescriptorsRequest ListMetricDescriptorsResponse;
                ask ListPodSandboxMetrics list_pod_sandbox_metrics
                    ListPodSandboxMetricsRequest ListPodSandboxMetricsResponse;
                ask RuntimeConfig runtime_config RuntimeConfigRequest RuntimeConfigResponse;
                act UpdatePodSandboxResources update_pod_sandbox_resources
                    UpdatePodSandboxResourcesRequest UpdatePodSandboxResourcesResponse;
            }
            stream {
                StreamPodSandboxes stream_pod_sandboxes
                    StreamPodSandboxesRequest StreamPodSandboxesResponse;
                StreamContainers stream_containers StreamContainersRequest StreamContainersResponse;
                StreamContainerStats stream_container_stats
                    StreamContainerStatsRequest StreamContainerStatsResponse;
                StreamPodSandboxStats stream_pod_sandbox_stats
                    StreamPodSandboxStatsRequest StreamPodSandboxStatsResponse;
                GetContainerEvents get_container_events GetEventsRequest ContainerEventResponse;
                StreamPodSandboxMetrics stream_pod_sandbox_metrics
                    StreamPodSandboxMetricsRequest StreamPodSandboxMetricsResponse;
            }
        }
        $then! {
            ImageService, image, image_service_client::ImageServiceClient<tonic::transport::Channel>;
            unary {
                ask ListImages list_images ListImagesRequest ListImagesResponse;
                ask ImageStatus image_status ImageStatusRequest ImageStatusResponse;
                ask PullImage pull_image PullImageRequest PullImageResponse;
                act RemoveImage remove_image RemoveImageRequest RemoveImageResponse;
                ask ImageFsInfo image_fs_info ImageFsInfoRequest ImageFsInfoResponse;
            }
            stream {
                StreamImages stream_images StreamImagesRequest StreamImagesResponse;
            }
        }
    };
}

pub(crate) use with_calls;
