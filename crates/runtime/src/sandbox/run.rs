//! RunPodSandbox: plan, record, then make. The two halves, namespaces with their network and the shim, are made side
//! by side; they meet when the shim gets the namespaces.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use podd_cri::v1::{ContainerEventType, PodSandboxConfig};
use podd_nri::message::Event;
use podd_shim::wire::{NamespaceKind, Request, Response, SandboxSpec, UserNamespace};
use podd_sys::namespace::{PodNamespaces, PodNamespacesSpec, create_pod_namespaces};
use tokio::sync::oneshot;

use super::plan::{self, resolv_conf};
use super::{Sandbox, Shim, files};
use crate::clock::now;
use crate::engine::{Engine, blocking, new_id};
use crate::error::{Context, CriError, Result};
use crate::external;
use crate::network;
use crate::records::{NamespaceMode, PodResources, Resources, SandboxMeta, SandboxStage, SandboxStatus};
use crate::shim::{Client, Launched, unexpected};
use crate::systemd::leaf;

/// `oom_score_adj` of a shim: it goes after the containers and before the agent.
const SHIM_OOM_SCORE_ADJ: i32 = -998;

impl Engine {
    /// Makes a sandbox; it is ready when this returns its id.
    pub(crate) async fn run_sandbox(self: Arc<Self>, config: PodSandboxConfig, handler: &str) -> Result<String> {
        let _gate = self.enter_nri().await;
        let sandbox = self.record_sandbox(&config, handler)?;
        let _turn = sandbox.turn.write().await;
        let made = match self.make_sandbox(&sandbox, &config).await {
            Ok(ips) => match self.tell_of_sandbox(Event::RunPodSandbox, &sandbox, &ips).await {
                Ok(()) => Ok(ips),
                Err(error) => {
                    // For those plugins that had agreed.
                    self.announce_sandbox(Event::RemovePodSandbox, &sandbox).await;
                    Err(error)
                }
            },
            Err(error) => Err(error),
        };
        match made {
            Ok(ips) => {
                sandbox.change(|status| {
                    status.stage = SandboxStage::Ready;
                    status.ips = ips;
                })?;
                tracing::info!(sandbox = sandbox.id(), "sandbox ready");
                self.announce(sandbox.id(), &sandbox, ContainerEventType::ContainerCreatedEvent);
                self.announce(sandbox.id(), &sandbox, ContainerEventType::ContainerStartedEvent);
                Ok(sandbox.id().to_owned())
            }
            Err(error) => {
                self.give_up_sandbox(&sandbox).await;
                Err(error)
            }
        }
    }

    /// Plans the sandbox, takes its name and writes its record; nothing else has happened then.
    fn record_sandbox(&self, config: &PodSandboxConfig, handler: &str) -> Result<Arc<Sandbox>> {
        let id = new_id();
        let context = plan::Context {
            id: &id,
            now: now(),
            cgroup_root: &self.config.cgroup_root,
            cgroup_driver: self.config.cgroup_driver,
            handlers: &self.config.handlers,
        };
        let meta = plan::plan(&context, config, handler)?;
        // It is asked for again with each container; a pod that could have none is refused here.
        external::find(&self.config.handlers, handler)?;
        let name = self.registry.reserve_sandbox(&meta.owner, &id)?;
        let linux = config.linux.as_ref();
        let status = SandboxStatus {
            stage: SandboxStage::Creating,
            removing: false,
            ips: Vec::new(),
            resources: PodResources {
                overhead: linux.and_then(|linux| linux.overhead.as_ref()).map(Resources::from),
                resources: linux.and_then(|linux| linux.resources.as_ref()).map(Resources::from),
            },
        };
        let record = self.sandbox_records.create(&id, &meta, &status).context(|| format!("record sandbox {id}"))?;
        let sandbox = Arc::new(Sandbox::new(meta, status, record));
        self.registry.add_sandbox(Arc::clone(&sandbox));
        name.keep();
        Ok(sandbox)
    }

    async fn make_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>, config: &PodSandboxConfig) -> Result<Vec<IpAddr>> {
        let (sender, namespaces) = oneshot::channel();
        let resolv_conf = resolv_conf(config.dns_config.as_ref(), &files::of_the_host("/etc/resolv.conf"));
        if sandbox.meta.namespaces.user.is_some() {
            return self.make_with_users(sandbox, resolv_conf).await;
        }
        let (network, shim) = tokio::join!(
            {
                let (engine, sandbox) = (Arc::clone(self), Arc::clone(sandbox));
                blocking(move || engine.make_network(&sandbox, sender))
            },
            self.make_shim(sandbox, resolv_conf, namespaces),
        );
        let ips = network?;
        shim?;
        Ok(ips)
    }

    /// Namespaces, which go to the shim's half as soon as they are there; then addresses, and the files that name them.
    fn make_network(
        &self,
        sandbox: &Sandbox,
        namespaces: oneshot::Sender<Vec<(NamespaceKind, OwnedFd)>>,
    ) -> Result<Vec<IpAddr>> {
        let meta = &sandbox.meta;
        let what = || format!("make the namespaces of sandbox {}", sandbox.id());
        let made = create_pod_namespaces(&wanted(meta)).context(what)?;
        let net = made.net.as_ref().map(|net| net.try_clone()).transpose().context(what)?;
        // The other half may have failed meanwhile and want them no more.
        let _unwanted = namespaces.send(listed(made));
        self.join_network(sandbox, net.as_ref())
    }

    /// Addresses, and the files that name them.
    fn join_network(&self, sandbox: &Sandbox, net: Option<&OwnedFd>) -> Result<Vec<IpAddr>> {
        let meta = &sandbox.meta;
        let ips = match net {
            Some(net) => {
                let pod_cidr = self.pod_cidr.lock().unwrap_or_else(PoisonError::into_inner).clone();
                network::attach(&self.network, &self.cni, meta, &pod_cidr, net.as_fd())?
            }
            None => Vec::new(),
        };
        files::write_names(&self.paths.sandbox(sandbox.id()), meta, &ips)?;
        Ok(ips)
    }

    /// A sandbox with a user namespace: this process has threads and cannot enter one, so the shim makes it with all
    /// that belongs to it, and the network comes afterwards.
    async fn make_with_users(self: &Arc<Self>, sandbox: &Arc<Sandbox>, resolv_conf: String) -> Result<Vec<IpAddr>> {
        let (sender, none_of_ours) = oneshot::channel();
        let _received_below = sender.send(Vec::new());
        self.make_shim(sandbox, resolv_conf, none_of_ours).await?;
        let shim = sandbox.shim()?;
        let (response, fds) = shim.client.call_with_fds(Request::Namespaces, &[]).await?;
        let Response::Namespaces { kinds } = response else { return Err(unexpected(&response)) };
        let net = kinds.into_iter().zip(fds).find(|(kind, _)| *kind == NamespaceKind::Net).map(|(_, fd)| fd);
        let (engine, sandbox) = (Arc::clone(self), Arc::clone(sandbox));
        blocking(move || engine.join_network(&sandbox, net.as_ref())).await
    }

    async fn make_shim(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        resolv_conf: String,
        namespaces: oneshot::Receiver<Vec<(NamespaceKind, OwnedFd)>>,
    ) -> Result<()> {
        self.ensure_slice(&sandbox.meta.cgroup_parent).await?;
        if sandbox.meta.namespaces.pid != NamespaceMode::Pod {
            return self.set_up_shim(sandbox, resolv_conf, namespaces).await;
        }
        let held = self.hold_scope(&init_path(&sandbox.meta), &Default::default()).await?;
        let outcome = self.set_up_shim(sandbox, resolv_conf, namespaces).await;
        held.release().await;
        outcome
    }

    async fn set_up_shim(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        resolv_conf: String,
        namespaces: oneshot::Receiver<Vec<(NamespaceKind, OwnedFd)>>,
    ) -> Result<()> {
        let (engine, planned) = (Arc::clone(self), Arc::clone(sandbox));
        let (launched, init_cgroup_join) = blocking(move || engine.launch(&planned, &resolv_conf)).await?;
        let shim = self.connect(sandbox, launched).await?;
        let namespaces = namespaces
            .await
            .map_err(|_| CriError::Precondition("the sandbox's namespaces could not be made".to_owned()))?;
        let (kinds, fds): (Vec<NamespaceKind>, Vec<OwnedFd>) = namespaces.into_iter().unzip();
        let spec = SandboxSpec {
            id: sandbox.id().to_owned(),
            namespaces: kinds,
            cgroup_join: self.shim_group.join_files(),
            oom_score_adj: Some(SHIM_OOM_SCORE_ADJ),
            pid_namespace: sandbox.meta.namespaces.pid == NamespaceMode::Pod,
            init_cgroup_join,
            user: user_namespace(&sandbox.meta),
        };
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        match shim.client.call_with_fds(Request::Setup(spec), &fds).await?.0 {
            Response::Done => Ok(()),
            Response::SetUp { warnings } => {
                self.warnings.tell(sandbox.id(), &warnings);
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// What the shim's half does before there is a shim, and its start.
    fn launch(&self, sandbox: &Sandbox, resolv_conf: &str) -> Result<(Launched, Vec<PathBuf>)> {
        let launched = self.launcher.launch(sandbox.id())?;
        let paths = self.paths.sandbox(sandbox.id());
        files::prepare(&paths, resolv_conf, sandbox.meta.namespaces.root())?;
        if sandbox.meta.namespaces.ipc == NamespaceMode::Pod {
            files::mount_shm(&paths.shm(), sandbox.meta.namespaces.root())?;
        }
        let group = self.cgroups.group(&sandbox.meta.cgroup_parent).context(|| "name the sandbox's cgroup")?;
        if !group.exists() {
            group.create(&Default::default()).context(|| "make the sandbox's cgroup")?;
        }
        let mut join = Vec::new();
        if sandbox.meta.namespaces.pid == NamespaceMode::Pod {
            // A leaf of its own: in cgroup v2 a group with children holds no processes.
            let group = self.init_group(&sandbox.meta)?;
            group.create(&Default::default()).context(|| "make the cgroup of the sandbox's init")?;
            join = group.join_files();
        }
        Ok((launched, join))
    }

    /// The group of the init of a shared pid namespace.
    pub(super) fn init_group(&self, meta: &SandboxMeta) -> Result<podd_cgroup::Group> {
        self.cgroups.group(init_path(meta)).context(|| "name the cgroup of the sandbox's init")
    }

    /// Says hello and follows the shim from now on.
    pub(crate) async fn connect(self: &Arc<Self>, sandbox: &Arc<Sandbox>, launched: Launched) -> Result<Arc<Shim>> {
        let Launched { socket, process } = launched;
        let (client, _welcome, events) = match Client::open(socket).await {
            Ok(opened) => opened,
            Err(error) => {
                process.kill();
                return Err(error);
            }
        };
        let shim = Arc::new(Shim::new(client, process));
        sandbox.set_shim(Some(Arc::clone(&shim)));
        self.follow(sandbox, Arc::clone(&shim), events);
        Ok(shim)
    }
}

fn wanted(meta: &SandboxMeta) -> PodNamespacesSpec {
    let own_net = meta.namespaces.network == NamespaceMode::Pod;
    PodNamespacesSpec {
        net: own_net,
        ipc: meta.namespaces.ipc == NamespaceMode::Pod,
        // The host's name goes with the host's network.
        uts: own_net,
        hostname: (!meta.hostname.is_empty()).then(|| meta.hostname.clone()),
        sysctls: meta.sysctls.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
    }
}

/// The same namespaces, made inside the pod's user namespace.
fn user_namespace(meta: &SandboxMeta) -> Option<UserNamespace> {
    let ids = meta.namespaces.user.clone()?;
    let PodNamespacesSpec { net, ipc, uts, hostname, sysctls } = wanted(meta);
    let kinds = [(net, NamespaceKind::Net), (ipc, NamespaceKind::Ipc), (uts, NamespaceKind::Uts)];
    let inside = kinds.into_iter().filter(|(own, _)| *own).map(|(_, kind)| kind).collect();
    Some(UserNamespace { ids, inside, hostname, sysctls })
}

fn listed(made: PodNamespaces) -> Vec<(NamespaceKind, OwnedFd)> {
    [(NamespaceKind::Net, made.net), (NamespaceKind::Ipc, made.ipc), (NamespaceKind::Uts, made.uts)]
        .into_iter()
        .filter_map(|(kind, fd)| Some((kind, fd?)))
        .collect()
}

/// Where the init of a shared pid namespace is put.
pub(super) fn init_path(meta: &SandboxMeta) -> PathBuf {
    leaf(&meta.cgroup_parent, &format!("init-{}", meta.id))
}
