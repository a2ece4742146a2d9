//! The agent as a whole: what it owns, how it starts and how it stops.
//!
//! ```text
//!  API, manifests ── Change ──► loop: Desired ── Command ──► dispatcher ──► workers ──► runtime, API
//!                                 └── mirrors, clean-up of what gone pods have left
//! ```

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use podd_cgroup::Hierarchy;
use podd_core::{
    admission::{Allocatable, Rules},
    collection::Shelf,
    eviction::{Pressure, Signal},
    pod::NodeFacts,
    swap::{Behavior, NodeSwap},
};
use podd_cri::{ImageService, RuntimeService, v1};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    Config,
    claims::{self, Claims},
    config::default_node_ip,
    downward::DefaultLimits,
    events::Recorder,
    eviction::Evictor,
    housekeeping::{Keeper, Leftovers},
    images::Collector,
    kubelet::{self, Kubelet},
    machine, names, node,
    objects::ApiObjects,
    pod_cgroups::PodCgroups,
    refresh::{Refresher, Stale},
    resources::NodeResources,
    shutdown::Shutdown,
    source::{self, Source},
    strangers,
    worker::{Clock, Dispatcher, Services, Settings},
};

/// Changes of the sources that may wait for the loop.
const CHANGES: usize = 256;
/// The longest that the agent's own tasks may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a worker looks at its pod when nothing has told it to. Events and the dispatcher's slow relist tell of all
/// that happens; this is the kubelet's resync.
const RESYNC: Duration = Duration::from_secs(60);
/// The longest that a call of the runtime may take.
const CALL_DEADLINE: Duration = Duration::from_secs(120);

/// What an agent works with.
pub struct Parts {
    /// Names, directories, limits.
    pub config: Config,
    /// The API, in this process or elsewhere.
    pub client: kube::Client,
    /// Sandboxes and containers.
    pub runtime: Arc<dyn RuntimeService>,
    /// Images.
    pub images: Arc<dyn ImageService>,
}

/// What becomes of the pods when the agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopPods {
    /// They go on; the next agent takes them over.
    Leave,
    /// They are stopped and taken off the node; their objects stay, so that the next agent runs them again.
    Stop {
        /// For all of them, instead of each one's own.
        grace: Option<Duration>,
    },
}

/// Why an agent did not start, or not stop in order.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime does not answer.
    #[error("ask the runtime for its version")]
    Runtime(#[source] tonic::Status),
    /// The control groups are not as they must be.
    #[error("set up the pods' control groups")]
    Cgroup(#[from] podd_cgroup::Error),
    /// The node's own description cannot be read.
    #[error("read what this machine is")]
    Machine(#[source] io::Error),
    /// The hard threshold of memory, and what is reserved, are more than there is.
    #[error(
        "eviction.hard.memory.available and the reserved memory leave nothing of the machine's {memory} bytes to pods"
    )]
    NoMemory {
        /// Of the machine.
        memory: i64,
    },
    /// Something of the pods could not be taken away.
    #[error("take away what pods have left: {0}")]
    Leftovers(String),
}

/// A running agent. Dropped, it takes its tasks with it; pods go on.
pub struct Agent {
    dispatcher: Dispatcher,
    runtime: Arc<dyn RuntimeService>,
    resources: NodeResources,
    router: Router,
    /// The node's own name server, where it has one.
    names: Option<names::Running>,
    tasks: JoinSet<()>,
    shutdown: CancellationToken,
}

impl Agent {
    /// Starts the agent of a node: it takes over what runs and stops what nobody wants, as soon as its sources have told
    /// what they have.
    ///
    /// # Errors
    /// When the runtime does not answer, or the control groups cannot be made.
    pub async fn start(parts: Parts) -> Result<Self, Error> {
        let Parts { config, client, runtime, images } = parts;
        let config = Arc::new(config);
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let version = runtime.version(tonic::Request::new(v1::VersionRequest::default())).await;
        let version = version.map_err(Error::Runtime)?.into_inner();
        let machine = machine::read(&config.root).map_err(Error::Machine)?;
        let allocatable = allocatable(&config, &machine)?;
        let rules = Rules { sysctls: config.sysctls.clone(), apparmor: machine::has_apparmor() };
        let cgroups =
            PodCgroups::new(Hierarchy::detect(config.cgroup_root.trim_start_matches('/'))?, config.pod_pids_limit);
        let (names, addresses) = names::start(&config, &runtime).await?;
        let tiers = cgroups.clone();
        blocking(move || tiers.ensure_tiers(&allocatable)).await?;
        let swap = node_swap(config.swap, &machine, &cgroups)?;
        let (recorder, writing) = Recorder::new(client.clone(), &config.node_name, shutdown.clone());
        tasks.spawn(writing);
        let objects = ApiObjects::new(client.clone(), config.node_name.clone());
        let default_limits = DefaultLimits {
            milli_cpu: allocatable.milli_cpu,
            memory: allocatable.memory,
            ephemeral_storage: machine.storage,
        };
        let stale = Stale::default();
        let resources = NodeResources::new(
            &config,
            cgroups,
            addresses,
            Arc::new(objects.clone()),
            default_limits,
            stale.clone(),
            Claims::new(client.clone()),
        );
        let controller = claims::Controller {
            client: client.clone(),
            recorder: recorder.clone(),
            node: config.node_name.clone(),
            directory: config.root.join("claims"),
        };
        tasks.spawn(controller.run(shutdown.clone()));
        let sources: Vec<Source> =
            [Some(Source::Api), config.manifests.as_ref().map(|_| Source::File)].into_iter().flatten().collect();
        let services = Services {
            runtime: runtime.clone(),
            images: images.clone(),
            resources: Arc::new(resources.clone()),
            objects: Arc::new(objects.clone()),
            recorder: recorder.clone(),
            node: NodeFacts {
                name: config.node_name.clone(),
                host_ips: vec![config.node_ip.unwrap_or_else(default_node_ip)],
                runtime: version.runtime_name.clone(),
                max_restart_period: Duration::from_secs(300),
                recursive_read_only: recursive_read_only(runtime.as_ref()).await,
            },
            settings: Settings {
                log_root: config.log_root.clone(),
                pods_dir: config.pods_dir(),
                seccomp_default: config.seccomp_default,
                seccomp_profiles: config.seccomp_profiles(),
                memory_capacity: machine.memory,
                swap,
                default_limits,
                resync: RESYNC,
                call_deadline: CALL_DEADLINE,
            },
            clock: Clock::system(),
        };
        let dispatcher = Dispatcher::start(Arc::new(services), sources.clone());
        let kubelet = Kubelet { pods: dispatcher.lookup(), runtime: runtime.clone() };
        let (changes, incoming) = mpsc::channel(CHANGES);
        tasks.spawn(source::api::run(client.clone(), config.node_name.clone(), changes.clone(), shutdown.clone()));
        if let Some(directory) = config.manifests.clone() {
            let (node, period) = (config.node_name.clone(), config.manifest_period);
            tasks.spawn(source::file::run(directory, node, period, recorder.clone(), changes, shutdown.clone()));
        }
        let refresher = Refresher {
            client: client.clone(),
            resources: resources.clone(),
            pods: dispatcher.lookup(),
            recorder: recorder.clone(),
            stale,
        };
        tasks.spawn(refresher.run(shutdown.clone()));
        let (going, shutting_down) = watch::channel(false);
        let ending = Shutdown {
            periods: config.shutdown,
            pods: dispatcher.lookup(),
            ender: dispatcher.ender(),
            objects: kube::Api::all(client.clone()),
            going,
        };
        tasks.spawn(ending.run(shutdown.clone()));
        let collector = Arc::new(Collector {
            images: images.clone(),
            runtime: runtime.clone(),
            pods: dispatcher.lookup(),
            recorder: recorder.clone(),
            node_name: config.node_name.clone(),
            settings: config.images,
            period: config.image_period,
            shelf: tokio::sync::Mutex::new(Shelf::new(jiff::Timestamp::now())),
        });
        tasks.spawn(collector.clone().run(shutdown.clone()));
        let (told, conditions) = watch::channel(Vec::new());
        let evictor = Evictor {
            pods: dispatcher.lookup(),
            ender: dispatcher.ender(),
            runtime: runtime.clone(),
            collector,
            resources: resources.clone(),
            recorder: recorder.clone(),
            log_root: config.log_root.clone(),
            root: config.root.clone(),
            node_name: config.node_name.clone(),
            pressure: Pressure::new(config.eviction.clone()),
            conditions: told,
        };
        tasks.spawn(evictor.run(shutdown.clone()));
        let leftovers =
            Leftovers { resources: resources.clone(), runtime: runtime.clone(), log_root: config.log_root.clone() };
        let keeper = Keeper {
            desired: crate::desired::Desired::new(allocatable, rules),
            sources,
            updates: dispatcher.sender(),
            pods: dispatcher.lookup(),
            objects,
            leftovers,
            names: names::Keeper::new(&config),
            conditions: conditions.clone(),
            shutting_down: shutting_down.clone(),
            period: config.housekeeping_period,
        };
        tasks.spawn(keeper.run(incoming, shutdown.clone()));
        let node = node::Keeper {
            nodes: kube::Api::all(client),
            recorder,
            runtime: runtime.clone(),
            conditions,
            shutting_down,
            facts: node::Facts { config: config.clone(), machine, allocatable, version },
        };
        tasks.spawn(node.run(shutdown.clone()));
        info!(node = config.node_name, "agent started");
        Ok(Self { dispatcher, runtime, resources, router: kubelet::router(kubelet), names, tasks, shutdown })
    }

    /// The kubelet's HTTP interface: logs and exec of this node's pods.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Ends the agent.
    ///
    /// # Errors
    /// When pods were to be stopped and something of them could not be taken away.
    pub async fn stop(mut self, pods: StopPods) -> Result<(), Error> {
        let mut left = Vec::new();
        if let Some(names) = &mut self.names {
            names.leave().await;
        }
        if let StopPods::Stop { grace } = pods {
            let ((), strangers) =
                tokio::join!(self.dispatcher.stop_pods(grace), strangers::remove(&self.runtime, grace));
            left.extend(strangers.err());
            if let Some(names) = self.names.take() {
                left.extend(names.end().await.err());
            }
        }
        // They stay where a pod is in them.
        left.extend(self.resources.remove_tiers().await.err().map(|failure| failure.message));
        self.shutdown.cancel();
        let ended = timeout(PATIENCE, async { while self.tasks.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            warn!("tasks of the agent did not end in time");
            self.tasks.shutdown().await;
        }
        self.dispatcher.close().await;
        if left.is_empty() { Ok(()) } else { Err(Error::Leftovers(left.join("; "))) }
    }
}

/// What of the machine is for pods.
fn allocatable(config: &Config, machine: &machine::Machine) -> Result<Allocatable, Error> {
    let (memory, storage) = (machine.memory, machine.storage);
    let allocatable = Allocatable {
        milli_cpu: machine.milli_cpu - config.reserved_milli_cpu,
        memory: memory - config.reserved_memory - config.eviction.reserved(Signal::MemoryAvailable, memory),
        ephemeral_storage: storage - config.eviction.reserved(Signal::NodefsAvailable, storage),
        pods: usize::try_from(config.max_pods).unwrap_or(usize::MAX),
    };
    if allocatable.memory <= 0 { Err(Error::NoMemory { memory }) } else { Ok(allocatable) }
}

/// The swap that pods get a part of, where the kernel can bound that.
fn node_swap(behavior: Behavior, machine: &machine::Machine, cgroups: &PodCgroups) -> Result<Option<NodeSwap>, Error> {
    if cgroups.bounds_swap()? {
        return Ok(Some(NodeSwap { behavior, memory: machine.memory, swap: machine.swap }));
    }
    if behavior == Behavior::LimitedSwap {
        warn!("LimitedSwap needs cgroup v2 with memory.swap.max; pods get no swap beyond their memory limit");
    }
    Ok(None)
}

/// Whether the runtime's own handler can make a mount read-only with all below it. One that does not answer cannot.
async fn recursive_read_only(runtime: &dyn RuntimeService) -> bool {
    let status = runtime.status(tonic::Request::new(v1::StatusRequest { verbose: false }));
    let answer = timeout(PATIENCE, status).await.ok().and_then(Result::ok);
    let handlers = answer.map(|answer| answer.into_inner().runtime_handlers).unwrap_or_default();
    let own = handlers.into_iter().find(|handler| handler.name.is_empty());
    own.and_then(|handler| handler.features).is_some_and(|features| features.recursive_read_only_mounts)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, podd_cgroup::Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => Ok(outcome?),
        Err(error) => Err(Error::Machine(io::Error::other(error))),
    }
}
