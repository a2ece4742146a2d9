//! The runtime as a whole: what it owns, how it opens and closes, and how work is run so that a caller who goes away
//! tears nothing.

use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use podd_cgroup::{Group, Hierarchy};
use podd_cri::streaming;
use podd_image::Store;
use podd_net::Network;
use podd_nri::Plugins;
use podd_shim::wire::Event;
use tokio::sync::{OnceCell, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{CgroupDriver, Config};
use crate::error::{Context, CriError, Result};
use crate::events::Events;
use crate::external;
use crate::features::Features;
use crate::network::{self, cni::Cni};
use crate::paths::Paths;
use crate::records::{ContainerMeta, ContainerStatus, Records, SandboxMeta, SandboxStatus, Syncer};
use crate::registry::Registry;
use crate::sandbox::{Sandbox, Shim};
use crate::shim::Launcher;
use crate::stats::layers::Layers;
use crate::stats::rates::Rates;
use crate::streams::Streamed;
use crate::systemd::Systemd;
use crate::warnings::Warnings;

/// A CRI runtime. Dropping it stops nothing: shims and containers go on, and the next one that is opened on the same
/// directories finds them.
pub struct Runtime {
    pub(crate) engine: Arc<Engine>,
    pub(crate) streaming: streaming::Server,
}

/// What all calls share.
pub(crate) struct Engine {
    pub(crate) config: Config,
    pub(crate) paths: Paths,
    pub(crate) registry: Registry,
    pub(crate) sandbox_records: Records<SandboxMeta, SandboxStatus>,
    pub(crate) container_records: Records<ContainerMeta, ContainerStatus>,
    pub(crate) images: Store,
    pub(crate) network: Network,
    pub(crate) cni: Cni,
    pub(crate) cgroups: Hierarchy,
    pub(crate) shim_group: Group,
    pub(crate) launcher: Launcher,
    pub(crate) systemd: Systemd,
    pub(crate) events: Events,
    pub(crate) layers: Layers,
    pub(crate) rates: Rates,
    pub(crate) pod_cidr: Mutex<String>,
    pub(crate) warnings: Warnings,
    /// Empty unless the configuration names a socket; see [`crate::nri`].
    pub(crate) nri: OnceLock<Arc<Plugins>>,
    /// Held while another runtime makes groups of its own, and for their removal: one would take away what the other
    /// is about to need.
    pub(crate) groups_beside: tokio::sync::RwLock<()>,
    /// What the kernel can do; see [`crate::features`].
    pub(crate) features: OnceCell<Features>,
    /// The capabilities that a container can have at most.
    pub(crate) bounding: u64,
    tasks: TaskTracker,
    closing: CancellationToken,
}

/// How long a shim that was ended may hold its cgroup.
const GROUP_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

impl Runtime {
    /// Opens the runtime of a configuration, and takes over what is there: containers that run are followed again, ends
    /// that came meanwhile are recorded, half-made and half-removed things are removed.
    ///
    /// # Errors
    /// When a directory, the image store, the cgroup hierarchy or the network cannot be had, or a record is of a newer
    /// version. A single sandbox that cannot be taken over is no error: it becomes "not ready".
    pub async fn open(config: Config) -> Result<Arc<Self>> {
        let engine = blocking(move || Engine::open(config)).await?;
        let engine = Arc::new(engine);
        for why in external::missing_programs(&engine.config.handlers) {
            tracing::warn!(why, "pods of a runtime handler will not start");
        }
        engine.recover().await?;
        engine.start_nri()?;
        let runtime = Arc::new(Streamed(Arc::downgrade(&engine) as Weak<Engine>));
        let options = streaming::Options::new(new_id);
        let streaming = streaming::Server::bind(runtime, options).await.context(|| "start the streaming server")?;
        tracing::info!(
            instance = engine.config.instance,
            sandboxes = engine.registry.sandboxes().len(),
            containers = engine.registry.containers().len(),
            streaming = %streaming.address(),
            "runtime open"
        );
        Ok(Arc::new(Self { engine, streaming }))
    }

    /// The images, for what CRI has no call for (loading an archive, pulling with progress).
    pub fn images(&self) -> &Store {
        &self.engine.images
    }

    /// Lets go of all shims and waits for calls that are under way. Containers go on. Afterwards the directories can be
    /// opened again, once this value is dropped.
    pub async fn close(&self) {
        if let Some(plugins) = self.engine.nri.get() {
            plugins.close().await;
        }
        self.engine.let_go();
        self.engine.tasks.close();
        self.engine.tasks.wait().await;
        let engine = Arc::clone(&self.engine);
        blocking(move || engine.flush()).await;
    }

    /// Takes away what the instance has made of the machine for its sandboxes, when none is left: bridge, rules, sysctls,
    /// control groups.
    ///
    /// # Errors
    /// When sandboxes are left, or the kernel refuses.
    pub async fn shut_down(&self) -> Result<()> {
        let engine = Arc::clone(&self.engine);
        blocking(move || {
            network::shutdown(&engine.network)?;
            let what = || "remove the shims' cgroup";
            let root = engine.cgroups.group(&engine.config.cgroup_root).context(what)?;
            // The last shim may still be on its way out.
            engine.shim_group.remove(GROUP_PATIENCE).context(what)?;
            root.remove_if_empty().context(what)
        })
        .await
    }

    /// Who holds which port of the host in this instance.
    pub fn port_holders(&self) -> Vec<podd_net::PortHolder> {
        self.engine.network.port_holders()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.engine.let_go();
    }
}

impl Engine {
    fn open(config: Config) -> Result<Self> {
        let paths = Paths::new(&config.root, &config.run);
        for directory in [config.root.clone(), config.run.clone(), paths.shms(), paths.io()] {
            make_private(&directory)?;
        }
        let syncer = Syncer::start().context(|| "start a thread")?;
        let sandboxes = Records::open(paths.sandboxes(), Arc::clone(&syncer)).context(|| "open the records")?;
        let containers = Records::open(paths.containers(), syncer).context(|| "open the records")?;
        let images = Store::open(paths.images(), config.images.clone()).context(|| "open the image store")?;
        let cgroups = Hierarchy::detect("/").context(|| "find the cgroup hierarchy")?;
        if config.cgroup_driver == CgroupDriver::Systemd && cgroups.version() != podd_cgroup::Version::V2 {
            return Err(CriError::Unsupported("the cgroup driver systemd needs cgroup v2 alone".to_owned()));
        }
        let shim_group = cgroups.group(config.cgroup_root.join("shims")).context(|| "name the shims' cgroup")?;
        shim_group.create(&Default::default()).context(|| "make the shims' cgroup")?;
        Ok(Self {
            registry: Registry::default(),
            sandbox_records: sandboxes,
            container_records: containers,
            images,
            network: network::open(config.network.clone())?,
            cni: Cni::open(config.cni.clone(), &config.root, &config.run),
            cgroups,
            shim_group,
            launcher: Launcher::open(paths.shims(), config.boot_id.clone())?,
            systemd: Systemd::default(),
            events: Events::default(),
            layers: Layers::default(),
            rates: Rates::default(),
            pod_cidr: Mutex::default(),
            warnings: Warnings::default(),
            nri: OnceLock::new(),
            groups_beside: tokio::sync::RwLock::default(),
            features: OnceCell::new(),
            bounding: podd_sys::capability::bounding().context(|| "read the bounding set")?,
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            paths,
            config,
        })
    }

    /// Runs work in a task of its own, so that it comes to its end whether its caller waits or not.
    pub(crate) async fn whole<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match self.tasks.spawn(work).await {
            Ok(outcome) => outcome,
            Err(error) => Err(CriError::internal("carry out a call", error)),
        }
    }

    /// Runs work that nobody waits for.
    pub(crate) fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(work);
    }

    /// Runs work that nobody waits for, and that is dropped where it stands when the runtime closes.
    pub(crate) fn until_closing(&self, work: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Follows a shim: its events, and its end.
    pub(crate) fn follow(self: &Arc<Self>, sandbox: &Arc<Sandbox>, shim: Arc<Shim>, mut events: mpsc::Receiver<Event>) {
        let (engine, sandbox) = (Arc::clone(self), Arc::clone(sandbox));
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    // Nothing is lost with a receive that is cancelled: the shim keeps exits until they are forgotten.
                    () = engine.closing.cancelled() => return,
                    event = events.recv() => match event {
                        Some(event) => engine.on_event(&shim, event),
                        None => break,
                    },
                }
            }
            shim.forget_execs();
            if !engine.closing.is_cancelled() {
                engine.on_shim_lost(&sandbox, &shim).await;
            }
        });
    }

    /// Never waits for the shim itself: its replies come behind its events.
    fn on_event(self: &Arc<Self>, shim: &Arc<Shim>, event: Event) {
        match event {
            Event::Exited { id, exit } => {
                let engine = Arc::clone(self);
                self.tasks.spawn(async move { engine.on_exit(&id, exit).await });
            }
            Event::ExecExited { exec, exit, .. } => shim.exec_ended(&exec, exit),
            Event::InitExited => {
                // The kernel kills what shares the namespace; each end is told by an event of its own.
                tracing::warn!(pid = shim.process.pid, "the init of a shared pid namespace ended");
            }
            Event::Unknown => tracing::debug!("an event of a newer shim was passed over"),
        }
    }

    fn let_go(&self) {
        self.closing.cancel();
        self.hang_up_nri();
        for sandbox in self.registry.sandboxes() {
            if let Some(shim) = sandbox.shim_if_alive() {
                shim.client.hang_up();
            }
        }
    }

    fn flush(&self) {
        self.sandbox_records.flush();
    }
}

/// Blocking work of the kernel or the disk, off the threads that serve sockets.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => unreachable!("blocking work is never aborted"),
        },
    }
}

/// A new id of a sandbox, a container or an exec: 64 hexadecimal digits, as CRI's clients expect.
pub(crate) fn new_id() -> String {
    let half = || uuid::Uuid::new_v4().simple().to_string();
    half() + &half()
}

fn make_private(directory: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(directory)
        .context(|| format!("make {}", directory.display()))
}
