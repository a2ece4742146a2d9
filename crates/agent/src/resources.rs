//! The node's side of a pod: directory, volumes, cgroup, hosts file and resolver configuration, made before its sandbox
//! and removed after it. The blocking work runs on tokio's blocking threads.

use std::{
    collections::BTreeMap,
    error::Error,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use podd_core::pod::Failure;
use podd_cri::v1;
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::{
    Config,
    claims::Claims,
    dns,
    downward::DefaultLimits,
    hosts,
    housekeeping::LOG_MARK,
    names::Addresses,
    pod_cgroups::PodCgroups,
    references::{Names, shows_metadata},
    refresh::Stale,
    source::uid,
    turns::Turns,
    users::Users,
    volumes::{
        Claimed, SubPath, Usage, VolumeError, Volumes,
        projection::{Projections, project},
    },
    worker::{PodObjects, PodResources, Prepared},
};

/// Name of the hosts file in a pod's directory.
const HOSTS: &str = "etc-hosts";
const HOSTS_NEW: &str = ".etc-hosts.new";

/// Volumes and cgroups of one node.
#[derive(Clone)]
pub(crate) struct NodeResources(Arc<Inner>);

struct Inner {
    /// What pods refer to.
    objects: Arc<dyn PodObjects>,
    limits: DefaultLimits,
    /// Whoever works on the files of a pod has its turn, by UID.
    turns: Turns,
    stale: Stale,
    volumes: Volumes,
    claims: Claims,
    cgroups: PodCgroups,
    users: Users,
    addresses: Addresses,
    domain: String,
    pods: PathBuf,
    resolv_conf: PathBuf,
    hosts_file: PathBuf,
    log_root: PathBuf,
}

impl NodeResources {
    pub(crate) fn new(
        config: &Config,
        cgroups: PodCgroups,
        addresses: Addresses,
        objects: Arc<dyn PodObjects>,
        limits: DefaultLimits,
        stale: Stale,
        claims: Claims,
    ) -> Self {
        Self(Arc::new(Inner {
            objects,
            limits,
            turns: Turns::default(),
            stale,
            volumes: Volumes::new(config.pods_dir()),
            claims,
            cgroups,
            users: Users::new(config.pods_dir(), config.max_pods),
            addresses,
            domain: config.cluster_domain.clone(),
            pods: config.pods_dir(),
            resolv_conf: config.resolv_conf.clone(),
            hosts_file: config.hosts_file.clone(),
            log_root: config.log_root.clone(),
        }))
    }

    /// UIDs of which something is left: a directory or a cgroup.
    pub(crate) async fn known_uids(&self) -> io::Result<Vec<String>> {
        let inner = self.0.clone();
        blocking(move || {
            let mut uids = inner.cgroups.known_uids();
            uids.extend(inner.volumes.known_uids()?);
            Ok(uids.into_iter().collect())
        })
        .await?
    }

    /// Give the Burstable tier the shares of these pods.
    pub(crate) async fn refresh_tiers(&self, pods: Vec<Arc<Pod>>) -> Result<(), Failure> {
        let inner = self.0.clone();
        blocking(move || inner.cgroups.refresh(pods.iter().map(Arc::as_ref)))
            .await
            .map_err(|error| failure("FailedCreatePodContainer", &error))?
            .map_err(|error| failure("FailedCreatePodContainer", &error))
    }

    /// Remove the cgroup tiers, if no pod is left.
    pub(crate) async fn remove_tiers(&self) -> Result<(), Failure> {
        let inner = self.0.clone();
        blocking(move || inner.cgroups.remove_tiers())
            .await
            .map_err(|error| failure("FailedKillPod", &error))?
            .map_err(|error| failure("FailedKillPod", &error))
    }

    /// Let the volumes of a pod show what the API has now. `newest` tells the pod, if it is still there.
    pub(crate) async fn refresh(&self, uid: &str, newest: impl Fn() -> Option<Arc<Pod>>) -> Result<(), Failure> {
        let inner = self.0.clone();
        let _turn = self.0.turns.take(uid).await;
        let Some(pod) = newest() else { return Ok(()) };
        let projections = inner.projections(&pod).await?;
        if projections.is_empty() {
            return Ok(());
        }
        blocking(move || inner.volumes.refresh(&pod, &projections, Timestamp::now()))
            .await
            .map_err(|error| failure("FailedMount", &error))?
            .map_err(|error| failure("FailedMount", &error))
    }

    /// What the emptyDir volumes of a pod hold.
    pub(crate) async fn usage(&self, pod: Arc<Pod>) -> io::Result<BTreeMap<String, Usage>> {
        let inner = self.0.clone();
        blocking(move || inner.volumes.usage(&pod)).await?
    }

    /// Remove cgroup, volumes and directory of a pod of which only the UID is known.
    pub(crate) async fn release_uid(&self, uid: String) -> Result<(), Failure> {
        let inner = self.0.clone();
        let _turn = self.0.turns.take(&uid).await;
        blocking(move || inner.release(&uid)).await.map_err(|error| failure("FailedKillPod", &error))?
    }
}

#[async_trait]
impl PodResources for NodeResources {
    async fn prepare(&self, pod: &Pod) -> Result<Prepared, Failure> {
        let claimed = self.0.claims.of(pod).await?;
        let (inner, pod) = (self.0.clone(), pod.clone());
        let servers = if dns::asks_cluster(&pod) { self.0.addresses.get().await } else { Vec::new() };
        let cluster = dns::Cluster { servers, domain: self.0.domain.clone() };
        let _turn = self.0.turns.take(uid(&pod)).await;
        let projections = inner.projections(&pod).await?;
        blocking(move || inner.prepare(&pod, &claimed, &cluster, &projections))
            .await
            .map_err(|error| failure("FailedMount", &error))?
    }

    async fn hosts_file(&self, pod: &Pod, ips: &[IpAddr]) -> Result<PathBuf, Failure> {
        let (inner, pod, ips) = (self.0.clone(), pod.clone(), ips.to_vec());
        blocking(move || inner.hosts_file(&pod, &ips))
            .await
            .map_err(|error| failure("CreateContainerConfigError", &error))?
    }

    async fn sub_path(&self, pod: &Pod, wanted: &SubPath) -> Result<PathBuf, Failure> {
        let (inner, uid, wanted) = (self.0.clone(), uid(pod).to_owned(), wanted.clone());
        // Not while the pod's directory is taken away.
        let _turn = self.0.turns.take(&uid).await;
        blocking(move || inner.volumes.bind_sub_path(&uid, &wanted))
            .await
            .map_err(|error| failure("CreateContainerConfigError", &error))?
            .map_err(|error| failure("CreateContainerConfigError", &error))
    }

    fn changed(&self, pod: &Pod) {
        if shows_metadata(pod) {
            self.0.stale.mark(uid(pod));
        }
    }

    fn taken_up(&self, pod: &Pod) {
        if shows_metadata(pod) || Names::of_volumes(pod) != Names::default() {
            self.0.stale.mark(uid(pod));
        }
    }

    async fn suspend(&self, pod: &Pod) -> Result<(), Failure> {
        let (inner, uid) = (self.0.clone(), uid(pod).to_owned());
        let _turn = self.0.turns.take(&uid).await;
        blocking(move || inner.suspend(&uid)).await.map_err(|error| failure("FailedKillPod", &error))?
    }

    async fn release(&self, pod: &Pod) -> Result<(), Failure> {
        self.release_uid(uid(pod).to_owned()).await
    }
}

impl Inner {
    /// What the pod's volumes show of the API now.
    async fn projections(&self, pod: &Pod) -> Result<Projections, Failure> {
        let set_up = |volume: &str, message: String| {
            failure("FailedMount", &VolumeError::SetUp { volume: volume.to_owned(), message })
        };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let objects = Names::of_volumes(pod).fetch(&*self.objects, namespace).await;
        let objects = objects.map_err(|error| failure("FailedMount", &error))?;
        project(pod, &objects, &self.limits).map_err(|(volume, message)| set_up(&volume, message))
    }

    fn prepare(
        &self,
        pod: &Pod,
        claimed: &Claimed,
        cluster: &dns::Cluster,
        projections: &Projections,
    ) -> Result<Prepared, Failure> {
        let cgroup_parent = self.cgroups.ensure(pod).map_err(|error| Failure {
            reason: "FailedCreatePodContainer".into(),
            message: format!("unable to ensure pod container exists: {}", chain(&error)),
        })?;
        let mut volumes = self.volumes.set_up(pod, claimed).map_err(|error| failure("FailedMount", &error))?;
        let projected = self.volumes.project(pod, projections, Timestamp::now());
        volumes.extend(projected.map_err(|error| failure("FailedMount", &error))?);
        self.mark_logs(pod).map_err(|error| failure("FailedMount", &error))?;
        // Without the node's file a pod has no resolver, which is no reason not to run it.
        let of_node = read_or_empty(&self.resolv_conf);
        let users = self.users(pod)?;
        let hostname = hosts::kernel_name(pod, &self.domain).map_err(|message| Failure {
            reason: "FailedCreatePodSandBox".into(),
            message: format!("Failed to create pod sandbox: {message}"),
        })?;
        Ok(Prepared { cgroup_parent, volumes, dns: Some(dns::config(pod, cluster, &of_node)), users, hostname })
    }

    fn hosts_file(&self, pod: &Pod, ips: &[IpAddr]) -> Result<PathBuf, Failure> {
        let text = hosts::render(pod, ips, &self.domain, &read_or_empty(&self.hosts_file));
        let path = self.pods.join(uid(pod)).join(HOSTS);
        self.write_hosts(uid(pod), &text).map_err(|error| failure("CreateContainerConfigError", &error))?;
        Ok(path)
    }

    /// The ids of a pod that does not share the node's users.
    fn users(&self, pod: &Pod) -> Result<Option<v1::UserNamespace>, Failure> {
        if pod.spec.as_ref().and_then(|spec| spec.host_users) != Some(false) {
            return Ok(None);
        }
        let refuse = |error: &dyn Error| Failure {
            reason: "FailedCreatePodSandBox".into(),
            message: format!("Failed to create pod sandbox: create user namespace: {}", chain(error)),
        };
        let directory = self.volumes.pod_directory(uid(pod)).map_err(|error| refuse(&error))?;
        self.users.ensure(uid(pod), &directory).map(Some).map_err(|error| refuse(&error))
    }

    /// Written aside and renamed: a container that has it mounted keeps a whole file.
    fn write_hosts(&self, uid: &str, text: &str) -> Result<(), VolumeError> {
        let directory = self.volumes.pod_directory(uid)?;
        let path = self.pods.join(uid).join(HOSTS);
        if std::fs::read_to_string(&path).is_ok_and(|found| found == text) {
            return Ok(());
        }
        let write = || -> io::Result<()> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(0o644);
            let file = rustix::fs::openat(&directory, HOSTS_NEW, flags, mode)?;
            rustix::fs::fchmod(&file, mode)?;
            io::Write::write_all(&mut std::fs::File::from(file), text.as_bytes())?;
            Ok(rustix::fs::renameat(&directory, HOSTS_NEW, &directory, HOSTS)?)
        };
        write().map_err(|error| {
            // The half-written file has no meaning; the error is what matters.
            let _ = rustix::fs::unlinkat(&directory, HOSTS_NEW, AtFlags::empty());
            VolumeError::io("write", path, error)
        })
    }

    fn suspend(&self, uid: &str) -> Result<(), Failure> {
        let cgroup = self.cgroups.remove(uid).map_err(|error| failure("FailedKillPod", &error));
        let volumes = self.volumes.unmount(uid).map_err(|error| failure("FailedUnMount", &error));
        cgroup.and(volumes)
    }

    /// Says that this log directory is ours, for the time when nobody else knows of the pod any more.
    fn mark_logs(&self, pod: &Pod) -> io::Result<()> {
        let name = |value: &Option<String>| value.clone().unwrap_or_default();
        let (namespace, name) = (name(&pod.metadata.namespace), name(&pod.metadata.name));
        let directory = self.log_root.join(format!("{namespace}_{name}_{}", uid(pod)));
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join(LOG_MARK), "")
    }

    /// The processes first: they hold the mounts.
    fn release(&self, uid: &str) -> Result<(), Failure> {
        let cgroup = self.cgroups.remove(uid).map_err(|error| failure("FailedKillPod", &error));
        let volumes = self.volumes.tear_down(uid).map_err(|error| failure("FailedUnMount", &error));
        cgroup.and(volumes)
    }
}

fn read_or_empty(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn failure(reason: &str, error: &dyn Error) -> Failure {
    Failure { reason: reason.into(), message: chain(error) }
}

/// An error with its sources, as one sentence.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}
