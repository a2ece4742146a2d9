//! A plugin of NRI beside a runtime: what it is told, what it changes, and what its refusals undo.

mod world;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use podd_cri::RuntimeService as _;
use podd_cri::v1::{
    CreateContainerRequest, LinuxContainerResources, ListContainersRequest, ListPodSandboxRequest,
    RemoveContainerRequest, RunPodSandboxRequest, StopContainerRequest, UpdateContainerResourcesRequest,
};
use podd_nri::message::*;
use podd_nri::{Connection, Service, Side, Status};
use podd_runtime::Runtime;
use prost::Message;
use tonic::{Code, Request};
use world::{Bench, container, on_a_node};

const SOON: Duration = Duration::from_secs(10);

/// Notes what it is told; adjusts, and refuses what is called `refused`.
#[derive(Default)]
struct Plugin {
    told: Mutex<Vec<String>>,
    adjust: Mutex<ContainerAdjustment>,
    /// The memory limit that it wants for a container whenever it is asked about one.
    update: Mutex<Option<i64>>,
}

#[async_trait::async_trait]
impl Service for Plugin {
    async fn call(&self, _: &str, method: &str, payload: &[u8]) -> Result<Vec<u8>, Status> {
        let request = ContainerRequest::decode(payload).unwrap_or_default();
        let name = match (&request.container, &request.pod) {
            (Some(container), _) => container.name.clone(),
            (None, Some(pod)) => pod.name.clone(),
            (None, None) => String::new(),
        };
        match method {
            "Configure" => return Ok(ConfigureResponse::default().encode_to_vec()),
            "Synchronize" => {
                let told = SynchronizeRequest::decode(payload).expect("a message");
                let all = format!("Synchronize {} {}", told.pods.len(), told.containers.len());
                self.told.lock().expect("whole").push(all);
                return Ok(SynchronizeResponse::default().encode_to_vec());
            }
            _ => self.told.lock().expect("whole").push(format!("{method} {name}")),
        }
        if name == "refused" && matches!(method, "CreateContainer" | "RunPodSandbox") {
            return Err(Status::new(2, "the plugin does not want it"));
        }
        let adjust = Some(self.adjust.lock().expect("whole").clone());
        Ok(match method {
            "CreateContainer" => CreateContainerResponse { adjust, ..Default::default() }.encode_to_vec(),
            "UpdateContainer" | "StopContainer" => {
                let limit = *self.update.lock().expect("whole");
                let id = request.container.unwrap_or_default().id;
                // Both answers have updates in the same place.
                let update = limit.map(|limit| update(&id, limit)).into_iter().collect();
                StopContainerResponse { update }.encode_to_vec()
            }
            _ => Vec::new(),
        })
    }
}

fn update(id: &str, limit: i64) -> ContainerUpdate {
    let memory = Some(LinuxMemory { limit: OptionalInt64::some(limit), ..Default::default() });
    let resources = Some(LinuxResources { memory, ..Default::default() });
    ContainerUpdate { container_id: id.into(), linux: Some(LinuxContainerUpdate { resources }), ignore_failure: false }
}

impl Plugin {
    async fn connect(self: &Arc<Self>, bench: &Bench) -> Connection {
        let socket = tokio::net::UnixStream::connect(bench.path("nri.sock")).await.expect("it connects");
        let connection = Connection::start(socket, Side::Plugin, self.clone());
        let request =
            RegisterPluginRequest { plugin_name: "test".into(), plugin_idx: "10".into(), ..Default::default() };
        let _empty: Empty =
            connection.call(RUNTIME_SERVICE, "RegisterPlugin", &request, SOON).await.expect("it registers");
        self.until("Synchronize").await;
        connection
    }

    async fn until(&self, what: &str) {
        let wait = async {
            while !self.told.lock().expect("whole").iter().any(|told| told.starts_with(what)) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(SOON, wait).await.unwrap_or_else(|_| panic!("{what} is not told"));
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.told.lock().expect("whole"))
    }
}

async fn open(bench: &Bench) -> Arc<Runtime> {
    bench.open_with(|config| config.nri_socket = Some(bench.path("nri.sock"))).await
}

#[test]
fn a_plugin_is_told_of_a_pod_from_its_beginning_to_its_end() {
    on_a_node("a_plugin_is_told_of_a_pod_from_its_beginning_to_its_end", |bench| async move {
        let runtime = open(&bench).await;
        let before = bench.sandbox("before");
        let earlier = world::run_sandbox(&*runtime, &before).await;
        let plugin = Arc::new(Plugin::default());
        let connection = plugin.connect(&bench).await;
        assert_eq!(plugin.take(), ["Synchronize 1 0"]);
        let pod = bench.sandbox("pod");
        let sandbox = world::run_sandbox(&*runtime, &pod).await;
        let id = world::create(&*runtime, &sandbox, &pod, container("c", "exec sleep 100000")).await;
        world::start(&*runtime, &id).await;
        let stop = StopContainerRequest { container_id: id, timeout: 0 };
        runtime.stop_container(Request::new(stop)).await.unwrap();
        world::remove_sandbox(&*runtime, &sandbox).await;
        assert_eq!(
            plugin.take(),
            [
                "RunPodSandbox pod",
                "CreateContainer c",
                "ValidateContainerAdjustment c",
                "PostCreateContainer c",
                "StartContainer c",
                "PostStartContainer c",
                "StopContainer c",
                "StopPodSandbox pod",
                "RemoveContainer c",
                "RemovePodSandbox pod",
            ]
        );
        connection.close();
        world::remove_sandbox(&*runtime, &earlier).await;
        runtime.shut_down().await.unwrap();
    });
}

#[test]
fn a_plugin_changes_a_container_before_it_is_made() {
    on_a_node("a_plugin_changes_a_container_before_it_is_made", |bench| async move {
        let runtime = open(&bench).await;
        std::fs::write(bench.path("given"), "by the plugin\n").unwrap();
        let plugin = Arc::new(Plugin::default());
        *plugin.adjust.lock().expect("whole") = ContainerAdjustment {
            env: vec![KeyValue { key: "FROM".into(), value: "plugin".into() }],
            annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]).into_iter().collect(),
            mounts: vec![Mount {
                destination: "/given".into(),
                source: bench.path("given").display().to_string(),
                r#type: "bind".into(),
                options: vec!["ro".into()],
            }],
            linux: Some(LinuxContainerAdjustment {
                resources: Some(LinuxResources { pids: Some(LinuxPids { limit: 77 }), ..Default::default() }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let _connection = plugin.connect(&bench).await;
        let pod = bench.sandbox("pod");
        let sandbox = world::run_sandbox(&*runtime, &pod).await;
        let id = world::create(&*runtime, &sandbox, &pod, container("c", "exec sleep 100000")).await;
        world::start(&*runtime, &id).await;
        let ran = world::exec(&*runtime, &id, "echo $FROM; cat /given; touch /given || echo read-only").await;
        assert_eq!(String::from_utf8_lossy(&ran.stdout), "plugin\nby the plugin\nread-only\n");
        assert_eq!(world::status(&*runtime, &id).await.annotations["a"], "b");
        let groups = world::processes(&bench.group);
        let limit = world::exec(&*runtime, &id, "cat /sys/fs/cgroup/pids/pids.max").await;
        assert_eq!(String::from_utf8_lossy(&limit.stdout), "77\n", "{groups:?}");
        world::remove_sandbox(&*runtime, &sandbox).await;
        runtime.shut_down().await.unwrap();
    });
}

#[test]
fn what_a_plugin_refuses_or_podd_cannot_give_is_undone() {
    on_a_node("what_a_plugin_refuses_or_podd_cannot_give_is_undone", |bench| async move {
        let runtime = open(&bench).await;
        let plugin = Arc::new(Plugin::default());
        let _connection = plugin.connect(&bench).await;
        let config = Some(bench.sandbox("refused"));
        let request = RunPodSandboxRequest { config, ..Default::default() };
        let status = runtime.run_pod_sandbox(Request::new(request)).await.unwrap_err();
        assert!(status.message().contains("the plugin does not want it"), "{status}");
        let listed = runtime.list_pod_sandbox(Request::new(ListPodSandboxRequest::default())).await.unwrap();
        assert!(listed.into_inner().items.is_empty(), "the sandbox is left");
        assert_eq!(plugin.take()[1..], ["RunPodSandbox refused", "RemovePodSandbox refused"]);

        let pod = bench.sandbox("pod");
        let sandbox = world::run_sandbox(&*runtime, &pod).await;
        let create = async |name: &str| {
            let request = CreateContainerRequest {
                pod_sandbox_id: sandbox.clone(),
                config: Some(container(name, "true")),
                sandbox_config: Some(pod.clone()),
            };
            runtime.create_container(Request::new(request)).await.map(|answer| answer.into_inner().container_id)
        };
        let status = create("refused").await.unwrap_err();
        assert!(status.message().contains("the plugin does not want it"), "{status}");
        let linux = LinuxContainerAdjustment { cgroups_path: "/elsewhere".into(), ..Default::default() };
        *plugin.adjust.lock().expect("whole") = ContainerAdjustment { linux: Some(linux), ..Default::default() };
        let status = create("c").await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
        assert!(status.message().contains("another cgroup path"), "{status}");
        let undone = ["CreateContainer refused", "RemoveContainer refused", "CreateContainer c"];
        assert_eq!(plugin.take()[1..4], undone);
        let listed = runtime.list_containers(Request::new(ListContainersRequest::default())).await.unwrap();
        assert!(listed.into_inner().containers.is_empty(), "a container is left");
        *plugin.adjust.lock().expect("whole") = ContainerAdjustment::default();
        create("c").await.unwrap();
        world::remove_sandbox(&*runtime, &sandbox).await;
        runtime.shut_down().await.unwrap();
    });
}

#[test]
fn a_plugin_has_the_last_word_on_an_update_and_asks_for_its_own() {
    on_a_node("a_plugin_has_the_last_word_on_an_update_and_asks_for_its_own", |bench| async move {
        let runtime = open(&bench).await;
        let plugin = Arc::new(Plugin::default());
        let connection = plugin.connect(&bench).await;
        let pod = bench.sandbox("pod");
        let sandbox = world::run_sandbox(&*runtime, &pod).await;
        let script = "trap 'exit 5' TERM; while true; do sleep 0.05; done";
        let id = world::create(&*runtime, &sandbox, &pod, container("c", script)).await;
        world::start(&*runtime, &id).await;
        let limit = async || {
            let status = world::status(&*runtime, &id).await;
            status.resources.unwrap().linux.unwrap().memory_limit_in_bytes
        };
        *plugin.update.lock().expect("whole") = Some(80 << 20);
        let linux = LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() };
        let request = UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(linux),
            ..UpdateContainerResourcesRequest::default()
        };
        runtime.update_container_resources(Request::new(request)).await.unwrap();
        assert_eq!(limit().await, 80 << 20);
        plugin.until("PostUpdateContainer c").await;

        let evict = vec![ContainerEviction { container_id: id.clone(), reason: "a test".into() }];
        let request =
            UpdateContainersRequest { update: vec![update(&id, 96 << 20), update("nobody", 1)], evict: Vec::new() };
        let answer: UpdateContainersResponse =
            connection.call(RUNTIME_SERVICE, "UpdateContainers", &request, SOON).await.unwrap();
        assert_eq!(answer.failed, [update("nobody", 1)]);
        assert_eq!(limit().await, 96 << 20);
        let request = UpdateContainersRequest { update: Vec::new(), evict };
        let _none: UpdateContainersResponse =
            connection.call(RUNTIME_SERVICE, "UpdateContainers", &request, SOON).await.unwrap();
        assert_eq!(world::exited(&*runtime, &id).await.exit_code, 5);
        world::remove_sandbox(&*runtime, &sandbox).await;
        runtime.shut_down().await.unwrap();
    });
}

/// A plugin may answer the end of a container with an update of that very one; nobody waits for himself over it.
#[test]
fn a_container_whose_end_is_answered_with_an_update_of_it_can_be_removed() {
    on_a_node("a_container_whose_end_is_answered_with_an_update_of_it_can_be_removed", |bench| async move {
        let runtime = open(&bench).await;
        let plugin = Arc::new(Plugin::default());
        *plugin.update.lock().expect("whole") = Some(80 << 20);
        let _connection = plugin.connect(&bench).await;
        let pod = bench.sandbox("pod");
        let sandbox = world::run_sandbox(&*runtime, &pod).await;
        // Whether the removal or the end itself is first with the news is chance, so there are several.
        for round in 0..10 {
            let name = format!("c{round}");
            let id = world::create(&*runtime, &sandbox, &pod, container(&name, "exec sleep 100000")).await;
            world::start(&*runtime, &id).await;
            let remove = runtime.remove_container(Request::new(RemoveContainerRequest { container_id: id }));
            tokio::time::timeout(SOON, remove).await.expect("the removal hangs").unwrap();
        }
        world::remove_sandbox(&*runtime, &sandbox).await;
        runtime.shut_down().await.unwrap();
    });
}
