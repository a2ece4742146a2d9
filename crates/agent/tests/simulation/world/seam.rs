//! All that one agent acts through, with a witness at the door: it knows what is under way for each pod and what of it
//! the rules forbid, and shares no code with what it watches. What it finds is told by the world's next check.
//!
//! - *One batch at a time*: nothing short is begun for a pod while something short that began earlier is under way.
//! - *Nothing rises from the dead*: nothing is made for a pod that has ended, that is being deleted, or that has no object.
//! - *Nothing twice*: no sandbox beside one that is ready, no container beside one that runs.
//! - *In order*: nothing is made before its volumes are there, no volume goes under what runs, no object before all else,
//!   and none before its last status.
//! - *Promises*: whoever is told to stop gets the grace that was promised, no less and no more.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use podd_agent::volumes::SubPath;
use podd_agent::worker::{PodObjects, PodResources, Prepared, PublishError};
use podd_core::pod::{ContainerState, Failure, Observation, SandboxState};
use podd_cri::{RuntimeService, fake::FakeRuntime, v1};
use tonic::{Request, Response, Status, codegen::BoxStream};

use super::{
    outside::{Outside, is_final, uid},
    truth::{observation, pod_of_container, pod_of_sandbox},
};

/// The command of the hooks before a stop.
pub(crate) const PRE_STOP: &str = "pre-stop";
/// The least grace, in the kubelet's numbers.
const LEAST_GRACE: i64 = 2;
/// Whole seconds of the API's times, and of CRI's: what an honest grace may be longer than what was asked for.
const ROUNDED: SignedDuration = SignedDuration::from_secs(2);

/// What one agent acts through.
pub(super) struct Seam {
    fake: FakeRuntime,
    outside: Arc<Outside>,
    under_way: Arc<Mutex<Vec<Deed>>>,
    /// When each container that was told to end was to be killed, by id.
    told: Mutex<BTreeMap<String, Timestamp>>,
}

/// Something short that is under way.
struct Deed {
    number: u64,
    pod: String,
    what: &'static str,
    began: Timestamp,
}

/// It is over when this goes, be it done, failed or dropped with its agent.
struct UnderWay {
    all: Arc<Mutex<Vec<Deed>>>,
    number: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|deed| deed.number != self.number);
    }
}

impl Seam {
    pub(super) fn new(fake: FakeRuntime, outside: Arc<Outside>) -> Seam {
        Seam { fake, outside, under_way: Arc::default(), told: Mutex::default() }
    }

    fn now(&self) -> Timestamp {
        self.outside.clock.now()
    }

    fn blame(&self, pod: &str, what: impl std::fmt::Display) {
        self.outside.blame(pod, what);
    }

    /// The first call of a short action.
    fn begin(&self, pod: &str, what: &'static str) -> UnderWay {
        let now = self.now();
        let earlier = {
            let all = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter()
                .find(|deed| !pod.is_empty() && deed.pod == pod && deed.began < now)
                .map(|deed| (deed.what, deed.began))
        };
        if let Some((other, began)) = earlier {
            self.blame(pod, format_args!("{what} while {other}, begun at {began}, is under way"));
        }
        self.go_on(pod, what)
    }

    /// A further call of an action.
    fn go_on(&self, pod: &str, what: &'static str) -> UnderWay {
        let mut all = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let number = all.last().map_or(0, |deed| deed.number + 1);
        all.push(Deed { number, pod: pod.to_owned(), what, began: self.now() });
        UnderWay { all: self.under_way.clone(), number }
    }

    fn truth(&self, pod: &str) -> Observation {
        observation(&self.fake, pod)
    }

    /// Something that will run is made for a pod.
    fn may_make(&self, pod: &str, what: &str) {
        let now = self.now();
        let state = self.outside.state();
        let object = state.objects.get(pod);
        let Some(life) = state.lives.get(pod) else { return };
        let wrong = [
            (!state.prepared.contains(pod), "before its volumes"),
            (life.ended_at.is_some_and(|at| at < now), "after the pod had ended"),
            (life.promise.is_some_and(|(_, asked)| asked < now), "for a pod that shall go"),
            (object.is_none() && life.promise.is_none(), "for a pod without an object"),
            (state.refused.contains(pod), "for a pod that was refused"),
        ];
        drop(state);
        for (_, why) in wrong.iter().filter(|(is_so, _)| *is_so) {
            self.blame(pod, format_args!("{what} {why}"));
        }
    }

    fn nothing_runs(&self, pod: &str, what: &str) {
        let truth = self.truth(pod);
        if truth.containers.iter().any(is_running) {
            self.blame(pod, format_args!("{what} while a container runs"));
        }
        if truth.sandboxes.iter().any(|sandbox| sandbox.state == SandboxState::Ready) {
            self.blame(pod, format_args!("{what} while a sandbox is ready"));
        }
    }

    /// A container that is told to end gets what it was promised: the end of its pod's deletion if that was asked for,
    /// its pod's own grace otherwise, or that of a probe of its own.
    fn keeps_promise(&self, pod: &str, id: &str, timeout: i64) {
        let now = self.now();
        let name = self.truth(pod).containers.iter().find(|c| c.id == id).map(|c| c.name.clone());
        let state = self.outside.state();
        let Some(life) = state.lives.get(pod) else { return };
        let spec = life.pod.spec.as_ref();
        let mut containers = spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
        let of_a_probe = containers.any(|container| {
            let probes = [&container.liveness_probe, &container.startup_probe];
            let mut graces = probes.into_iter().flatten().filter_map(|probe| probe.termination_grace_period_seconds);
            name.as_ref() == Some(&container.name) && graces.any(|grace| grace.max(LEAST_GRACE) == timeout)
        });
        let own = life.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        let (promise, is_there, resting) = (life.promise, state.objects.contains_key(pod), state.resting);
        drop(state);
        let own = own.max(LEAST_GRACE);
        let end = now + SignedDuration::from_secs(timeout);
        let least = now + SignedDuration::from_secs(LEAST_GRACE);
        // Whoever is told again has what is left.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let left = told.get(id).is_some_and(|first| end <= least.max(*first) + ROUNDED);
        told.entry(id.to_owned()).or_insert(end);
        drop(told);
        match promise {
            None if (resting && timeout <= own) || of_a_probe || left => {}
            None if timeout != own => self.blame(pod, format_args!("a grace of {timeout} s, its own is {own} s")),
            // Of what is asked for at this moment it need not have heard.
            Some((at, asked)) if asked < now => {
                if end < at {
                    self.blame(pod, format_args!("a grace of {timeout} s that ends before {at}"));
                }
                // Who was away when the object went has the pod's own grace to go by.
                if is_there && end > at.max(least) + ROUNDED {
                    self.blame(pod, format_args!("a grace of {timeout} s that ends long after {at}"));
                }
                if timeout > own && !is_there {
                    self.blame(pod, format_args!("a grace of {timeout} s for an orphan whose own is {own} s"));
                }
            }
            _ => {}
        }
    }

    /// The hook before the stop is paid from the grace, which begins with it.
    fn begins_to_end(&self, pod: &str, id: &str) {
        let state = self.outside.state();
        let Some(spec) = state.lives.get(pod).and_then(|life| life.pod.spec.as_ref()) else { return };
        let own = spec.termination_grace_period_seconds.unwrap_or(30).max(LEAST_GRACE);
        let end = self.now() + SignedDuration::from_secs(own);
        drop(state);
        self.told.lock().unwrap_or_else(PoisonError::into_inner).entry(id.to_owned()).or_insert(end);
    }

    /// Nothing is told of a pod once its object has gone: by then all was told.
    fn last_word(&self, pod: &str) {
        let state = self.outside.state();
        let (Some(object), Some(life)) = (state.objects.get(pod), state.lives.get(pod)) else { return };
        let status = object.status.clone().unwrap_or_default();
        let told = life.history.tells_all(&status);
        drop(state);
        if !is_final(&status) {
            self.blame(pod, "the object goes before its pod has ended");
        }
        if let Err(violation) = told {
            self.blame(pod, violation);
        }
    }

    async fn slowly(&self) {
        let wait = self.outside.state().next_wait();
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// The runtime makes a log file for whatever it starts, and it stays when the records go.
    fn make_log(&self, request: &v1::CreateContainerRequest) {
        let directory = request.sandbox_config.as_ref().map(|config| config.log_directory.clone());
        let file = request.config.as_ref().map(|config| config.log_path.clone());
        if let (Some(directory), Some(file)) = (directory, file) {
            let path = PathBuf::from(directory).join(file);
            assert!(path.starts_with(&self.outside.log_root), "{path:?}");
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            std::fs::write(path, "").expect("written");
        }
    }
}

fn is_running(container: &podd_core::pod::ContainerSeen) -> bool {
    matches!(container.state, ContainerState::Running { .. })
}

type Answer<T> = Result<Response<T>, Status>;

/// What is not here nobody calls; it would answer `Unimplemented`.
#[async_trait]
impl RuntimeService for Seam {
    async fn list_pod_sandbox(&self, ask: Request<v1::ListPodSandboxRequest>) -> Answer<v1::ListPodSandboxResponse> {
        self.fake.list_pod_sandbox(ask).await
    }

    async fn pod_sandbox_status(
        &self,
        ask: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        self.fake.pod_sandbox_status(ask).await
    }

    async fn list_containers(&self, ask: Request<v1::ListContainersRequest>) -> Answer<v1::ListContainersResponse> {
        self.fake.list_containers(ask).await
    }

    async fn container_status(&self, ask: Request<v1::ContainerStatusRequest>) -> Answer<v1::ContainerStatusResponse> {
        self.fake.container_status(ask).await
    }

    async fn get_container_events(
        &self,
        ask: Request<v1::GetEventsRequest>,
    ) -> Answer<BoxStream<v1::ContainerEventResponse>> {
        self.fake.get_container_events(ask).await
    }

    async fn run_pod_sandbox(&self, ask: Request<v1::RunPodSandboxRequest>) -> Answer<v1::RunPodSandboxResponse> {
        let metadata = ask.get_ref().config.as_ref().and_then(|config| config.metadata.clone());
        let pod = metadata.expect("metadata").uid;
        let _under_way = self.begin(&pod, "RunPodSandbox");
        self.may_make(&pod, "RunPodSandbox");
        self.nothing_runs(&pod, "RunPodSandbox");
        self.fake.run_pod_sandbox(ask).await
    }

    async fn stop_pod_sandbox(&self, ask: Request<v1::StopPodSandboxRequest>) -> Answer<v1::StopPodSandboxResponse> {
        let id = &ask.get_ref().pod_sandbox_id;
        let pod = pod_of_sandbox(&self.fake, id).unwrap_or_default();
        let _under_way = self.begin(&pod, "StopPodSandbox");
        if self.truth(&pod).containers.iter().any(|c| c.sandbox_id == *id && is_running(c)) {
            self.blame(&pod, "StopPodSandbox over a container that runs");
        }
        self.fake.stop_pod_sandbox(ask).await
    }

    async fn remove_pod_sandbox(
        &self,
        ask: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        let id = &ask.get_ref().pod_sandbox_id;
        let pod = pod_of_sandbox(&self.fake, id).unwrap_or_default();
        let _under_way = self.begin(&pod, "RemovePodSandbox");
        if self.truth(&pod).sandboxes.iter().any(|s| s.id == *id && s.state == SandboxState::Ready) {
            self.blame(&pod, "RemovePodSandbox of one that is ready");
        }
        self.fake.remove_pod_sandbox(ask).await
    }

    async fn create_container(&self, ask: Request<v1::CreateContainerRequest>) -> Answer<v1::CreateContainerResponse> {
        let request = ask.get_ref();
        let metadata = request.sandbox_config.as_ref().and_then(|config| config.metadata.clone());
        let pod = metadata.expect("metadata").uid;
        let _under_way = self.begin(&pod, "CreateContainer");
        self.may_make(&pod, "CreateContainer");
        let name = request.config.as_ref().and_then(|config| config.metadata.clone()).expect("metadata").name;
        if self.truth(&pod).instances(&name).any(|c| is_running(c) || c.state == ContainerState::Created) {
            self.blame(&pod, format_args!("CreateContainer of {name} beside another one"));
        }
        self.make_log(request);
        self.fake.create_container(ask).await
    }

    async fn start_container(&self, ask: Request<v1::StartContainerRequest>) -> Answer<v1::StartContainerResponse> {
        let pod = pod_of_container(&self.fake, &ask.get_ref().container_id).unwrap_or_default();
        let _under_way = self.go_on(&pod, "StartContainer");
        self.fake.start_container(ask).await
    }

    async fn stop_container(&self, ask: Request<v1::StopContainerRequest>) -> Answer<v1::StopContainerResponse> {
        let v1::StopContainerRequest { container_id, timeout } = ask.get_ref();
        let pod = pod_of_container(&self.fake, container_id).unwrap_or_default();
        self.keeps_promise(&pod, container_id, *timeout);
        self.fake.stop_container(ask).await
    }

    async fn exec_sync(&self, ask: Request<v1::ExecSyncRequest>) -> Answer<v1::ExecSyncResponse> {
        let v1::ExecSyncRequest { container_id, cmd, .. } = ask.get_ref();
        let pod = pod_of_container(&self.fake, container_id).unwrap_or_default();
        if cmd.first().is_some_and(|program| program == PRE_STOP) {
            self.begins_to_end(&pod, container_id);
        } else if self
            .outside
            .state()
            .lives
            .get(&pod)
            .is_some_and(|life| life.ended_at.is_some_and(|at| at < self.now()))
        {
            self.blame(&pod, "a probe in a pod that has ended");
        }
        self.fake.exec_sync(ask).await
    }

    async fn remove_container(&self, ask: Request<v1::RemoveContainerRequest>) -> Answer<v1::RemoveContainerResponse> {
        let id = &ask.get_ref().container_id;
        let pod = pod_of_container(&self.fake, id).unwrap_or_default();
        let _under_way = self.begin(&pod, "RemoveContainer");
        if self.truth(&pod).containers.iter().any(|c| c.id == *id && is_running(c)) {
            self.blame(&pod, "RemoveContainer of one that runs");
        }
        self.fake.remove_container(ask).await
    }
}

#[async_trait]
impl PodResources for Seam {
    async fn prepare(&self, pod: &Pod) -> Result<Prepared, Failure> {
        let _under_way = self.begin(uid(pod), "prepare");
        self.slowly().await;
        let mut state = self.outside.state();
        if state.is_broken() {
            return Err(Failure { reason: "FailedMount".into(), message: "told to fail".into() });
        }
        state.prepared.insert(uid(pod).to_owned());
        Ok(Prepared { cgroup_parent: format!("/pods/{}", uid(pod)), ..Prepared::default() })
    }

    async fn hosts_file(&self, pod: &Pod, _: &[IpAddr]) -> Result<PathBuf, Failure> {
        Ok(self.outside.pods_dir.join(uid(pod)).join("etc-hosts"))
    }

    async fn sub_path(&self, pod: &Pod, wanted: &SubPath) -> Result<PathBuf, Failure> {
        Ok(self.outside.pods_dir.join(uid(pod)).join(&wanted.container).join(wanted.index.to_string()))
    }

    async fn suspend(&self, pod: &Pod) -> Result<(), Failure> {
        let _under_way = self.begin(uid(pod), "suspend");
        self.nothing_runs(uid(pod), "suspend");
        self.outside.state().prepared.remove(uid(pod));
        Ok(())
    }

    async fn release(&self, pod: &Pod) -> Result<(), Failure> {
        let _under_way = self.begin(uid(pod), "release");
        self.nothing_runs(uid(pod), "release");
        self.slowly().await;
        if self.outside.state().is_broken() {
            return Err(Failure { reason: "FailedKillPod".into(), message: "told to fail".into() });
        }
        self.outside.clear(uid(pod));
        Ok(())
    }
}

fn unavailable() -> PublishError {
    PublishError::Unavailable("the API was told to fail".into())
}

#[async_trait]
impl PodObjects for Seam {
    async fn runtime_handler(&self, _: &Pod) -> Result<String, String> {
        Ok(String::new())
    }

    async fn publish(&self, pod: &Pod, status: &PodStatus) -> Result<(), PublishError> {
        tokio::time::sleep(Duration::from_millis(2)).await;
        self.slowly().await;
        let now = self.now();
        let mut state = self.outside.state();
        if state.is_broken() {
            return Err(unavailable());
        }
        state.publish(uid(pod), status, now)
    }

    async fn delete(&self, pod: &Pod) -> Result<(), PublishError> {
        let uid = uid(pod);
        let _under_way = self.begin(uid, "delete");
        let truth = self.truth(uid);
        if !truth.sandboxes.is_empty() || !truth.containers.is_empty() || self.outside.state().prepared.contains(uid) {
            self.blame(uid, "the object goes before all else has gone");
        }
        self.last_word(uid);
        self.slowly().await;
        let mut state = self.outside.state();
        if state.is_broken() {
            return Err(unavailable());
        }
        state.gone(uid);
        Ok(())
    }
}
