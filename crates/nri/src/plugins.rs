//! All plugins: who is connected, in what order they are called, and when a new one comes in.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;

use futures::future::join_all;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex as Turn, OwnedRwLockReadGuard, RwLock as GateLock, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::connection::{CallError, Connection, Side};
use crate::merge::{Conflict, Creation, Updates};
use crate::message::{
    Container, ContainerAdjustment, ContainerEviction, ContainerRequest, ContainerUpdate, CreateContainerResponse,
    Empty, Event, LinuxResources, PLUGIN_SERVICE, PluginInstance, PodSandbox, StopContainerResponse,
    UpdateContainerRequest, UpdateContainerResponse, UpdatePodSandboxRequest, ValidateContainerAdjustmentRequest,
    ValidateContainerAdjustmentResponse,
};
use crate::plugin::{Plugin, RuntimeService};

/// How many plugins may be connected, registered or not.
const MOST: usize = 64;

/// How plugins are met.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where plugins connect.
    pub socket: PathBuf,
    /// What the runtime calls itself.
    pub runtime_name: String,
    /// And its version.
    pub runtime_version: String,
    /// How long a plugin may take to register, to be configured, and to be told what there is.
    pub registration_timeout: Duration,
    /// How long a plugin may take over any other call.
    pub request_timeout: Duration,
}

impl Config {
    /// The protocol's usual times.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            runtime_name: "podd".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            registration_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(2),
        }
    }
}

/// What the runtime gives its plugins.
#[async_trait::async_trait]
pub trait Host: Send + Sync + 'static {
    /// All pods and containers that callers can see. Called while nothing changes them.
    async fn inventory(&self) -> (Vec<PodSandbox>, Vec<Container>);
    /// Updates and stops containers; answers the updates that failed and should not have.
    async fn update(
        self: Arc<Self>,
        updates: Vec<ContainerUpdate>,
        evict: Vec<ContainerEviction>,
    ) -> Vec<ContainerUpdate>;
}

/// Why the plugins did not let an operation pass.
#[derive(Debug, thiserror::Error)]
pub enum NriError {
    /// A plugin refused, or failed.
    #[error("NRI plugin {plugin:?} failed in {call}: {source}")]
    Call {
        /// Which.
        plugin: String,
        /// At what.
        call: &'static str,
        /// How.
        source: CallError,
    },
    /// Two plugins disagree.
    #[error("NRI: {0}")]
    Conflict(#[from] Conflict),
    /// A plugin that looks adjustments over rejects one.
    #[error("NRI plugin {plugin:?} rejected the container: {reason}")]
    Rejected {
        /// Which.
        plugin: String,
        /// Why.
        reason: String,
    },
}

impl NriError {
    pub(crate) fn call(plugin: &str, call: &'static str, source: CallError) -> Self {
        Self::Call { plugin: plugin.to_owned(), call, source }
    }
}

/// What the plugins want of a container that is being created.
#[derive(Debug, Clone, Default)]
pub struct Created {
    /// Of itself.
    pub adjust: ContainerAdjustment,
    /// Of others.
    pub updates: Vec<ContainerUpdate>,
    /// Containers to be stopped.
    pub evict: Vec<ContainerEviction>,
}

/// Held by an operation from its first word to the plugins until its outcome can be seen: meanwhile no plugin is told
/// what there is. Not to be asked for twice by one operation.
#[must_use]
pub struct Gate(#[expect(dead_code, reason = "it is held, not used")] OwnedRwLockReadGuard<()>);

/// The plugins of a runtime.
pub struct Plugins {
    config: Config,
    host: Weak<dyn Host>,
    gate: Arc<GateLock<()>>,
    /// One event after the other, as plugins are used to. It is the order of calls, and guards no data.
    turn: Turn<()>,
    list: RwLock<Vec<Arc<Plugin>>>,
    /// Length of the list, so that nobody there costs one load.
    connected: AtomicUsize,
    closing: CancellationToken,
}

impl Plugins {
    /// Lets plugins connect from now on.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(config: Config, host: Weak<dyn Host>) -> io::Result<Arc<Self>> {
        let listener = bind(&config.socket)?;
        tracing::info!(socket = %config.socket.display(), "NRI plugins may connect");
        let plugins = Arc::new(Self::new(config, host));
        tokio::spawn(Arc::clone(&plugins).accept(listener));
        Ok(plugins)
    }

    pub(crate) fn new(config: Config, host: Weak<dyn Host>) -> Self {
        Self {
            config,
            host,
            gate: Arc::default(),
            turn: Turn::default(),
            list: RwLock::default(),
            connected: AtomicUsize::new(0),
            closing: CancellationToken::new(),
        }
    }

    async fn accept(self: Arc<Self>, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(MOST));
        loop {
            let accepted = tokio::select! {
                () = self.closing.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let socket = match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "accept an NRI plugin");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                tracing::warn!("an NRI plugin is turned away: {MOST} are connected");
                continue;
            };
            let plugins = Arc::clone(&self);
            tokio::spawn(async move {
                let _place = place;
                plugins.attend(socket).await;
            });
        }
    }

    /// One plugin from its connection to its end.
    pub(crate) async fn attend(&self, socket: UnixStream) {
        let (service, registered) = RuntimeService::new(self.host.clone());
        let connection = Connection::start(socket, Side::Runtime, service);
        let plugin = tokio::select! {
            () = self.closing.cancelled() => return connection.close(),
            plugin = Plugin::register(connection.clone(), registered, &self.config, String::new()) => plugin,
        };
        let admitted = match plugin {
            Ok(plugin) => self.admit(Arc::new(plugin)).await,
            Err(error) => Err(error),
        };
        match admitted {
            Ok(plugin) => {
                tokio::select! {
                    () = connection.closed() => tracing::info!(plugin = plugin.name(), "NRI plugin disconnected"),
                    () = self.closing.cancelled() => {}
                }
                self.change(|list| list.retain(|known| !Arc::ptr_eq(known, &plugin)));
            }
            Err(error) => tracing::warn!(%error, "an NRI plugin is turned away"),
        }
        connection.close();
    }

    /// Tells a plugin what there is while nothing changes, and calls it from then on.
    async fn admit(&self, plugin: Arc<Plugin>) -> Result<Arc<Plugin>, NriError> {
        let closed = || NriError::call(&plugin.name(), "Synchronize", CallError::Closed);
        let gate = tokio::select! {
            gate = self.gate.write() => gate,
            () = plugin.connection.closed() => return Err(closed()),
        };
        let host = self.host.upgrade().ok_or_else(closed)?;
        let (pods, containers) = host.inventory().await;
        let wanted = plugin.synchronize(pods, containers, self.config.registration_timeout).await?;
        self.change(|list| {
            list.push(Arc::clone(&plugin));
            list.sort_by(|a, b| (&a.index, &a.base).cmp(&(&b.index, &b.base)));
        });
        drop(gate);
        tracing::info!(plugin = plugin.name(), "NRI plugin connected");
        if !wanted.update.is_empty() {
            host.update(wanted.update, Vec::new()).await;
        }
        Ok(plugin)
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Plugin>>)) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut list);
        self.connected.store(list.len(), Ordering::Release);
    }

    fn list(&self) -> Vec<Arc<Plugin>> {
        let list: RwLockReadGuard<'_, _> = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.clone()
    }

    /// Begins an operation; see [`Gate`].
    pub async fn enter(&self) -> Gate {
        Gate(Arc::clone(&self.gate).read_owned().await)
    }

    /// Whether there is nobody to call. Within a [`Gate`] that stays so.
    pub fn is_idle(&self) -> bool {
        self.connected.load(Ordering::Acquire) == 0
    }

    /// Tells about an event of a pod, or of a container in it.
    ///
    /// # Errors
    /// When a plugin refuses; those after it are not told.
    pub async fn tell(&self, event: Event, pod: &PodSandbox, container: Option<&Container>) -> Result<(), NriError> {
        let _turn = self.turn.lock().await;
        for plugin in self.list() {
            plugin.tell(event, pod, container).await?;
        }
        Ok(())
    }

    /// Asks what is to be changed of a container that is about to be created.
    ///
    /// # Errors
    /// When a plugin refuses, two disagree, or one rejects the outcome.
    pub async fn create(&self, pod: &PodSandbox, container: Container) -> Result<Created, NriError> {
        let _turn = self.turn.lock().await;
        let pristine = container.clone();
        let mut creation = Creation::new(container);
        let plugins = self.list();
        for plugin in &plugins {
            let request = ContainerRequest { pod: Some(pod.clone()), container: Some(creation.container.clone()) };
            let answer: Option<CreateContainerResponse> = plugin.ask(Event::CreateContainer, &request).await?;
            if let Some(answer) = answer {
                creation.add(&plugin.name(), answer)?;
            }
        }
        self.validate(&plugins, pod, pristine, &creation).await?;
        let Creation { adjust, updates, .. } = creation;
        Ok(Created { adjust, updates: updates.list, evict: updates.evict })
    }

    /// Has those plugins that want to look the outcome over.
    async fn validate(
        &self,
        plugins: &[Arc<Plugin>],
        pod: &PodSandbox,
        pristine: Container,
        creation: &Creation,
    ) -> Result<(), NriError> {
        let instance = |plugin: &Arc<Plugin>| PluginInstance { name: plugin.base.clone(), index: plugin.index.clone() };
        let request = ValidateContainerAdjustmentRequest {
            pod: Some(pod.clone()),
            container: Some(pristine),
            adjust: Some(creation.adjust.clone()),
            update: creation.updates.list.clone(),
            owners: Some(creation.owners()),
            plugins: plugins.iter().map(instance).collect(),
        };
        let event = Event::ValidateContainerAdjustment;
        let asked = plugins.iter().filter(|plugin| plugin.wants(event)).map(async |plugin| {
            let answer: Option<ValidateContainerAdjustmentResponse> = plugin.ask(event, &request).await?;
            match answer {
                Some(ValidateContainerAdjustmentResponse { reject: true, reason }) => {
                    Err(NriError::Rejected { plugin: plugin.name(), reason })
                }
                _ => Ok(()),
            }
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Asks what an update is to become; answers it, and the updates of others.
    ///
    /// # Errors
    /// When a plugin refuses, or two disagree.
    pub async fn update(
        &self,
        pod: &PodSandbox,
        container: &Container,
        asked: LinuxResources,
    ) -> Result<(LinuxResources, Updates), NriError> {
        let _turn = self.turn.lock().await;
        let mut updates = Updates::default();
        for plugin in self.list() {
            let request = UpdateContainerRequest {
                pod: Some(pod.clone()),
                container: Some(container.clone()),
                linux_resources: Some(updates.seen(&container.id, &asked)),
            };
            let answer: Option<UpdateContainerResponse> = plugin.ask(Event::UpdateContainer, &request).await?;
            if let Some(UpdateContainerResponse { update, evict }) = answer {
                updates.add(&plugin.name(), update)?;
                updates.evict.extend(evict);
            }
        }
        let whole = updates.take(&container.id, &asked);
        Ok((whole, updates))
    }

    /// Tells that a container has ended; answers updates of others.
    ///
    /// # Errors
    /// When a plugin refuses, or two disagree.
    pub async fn stopped(&self, pod: &PodSandbox, container: &Container) -> Result<Updates, NriError> {
        let _turn = self.turn.lock().await;
        let mut updates = Updates::default();
        for plugin in self.list() {
            let request = ContainerRequest { pod: Some(pod.clone()), container: Some(container.clone()) };
            let answer: Option<StopContainerResponse> = plugin.ask(Event::StopContainer, &request).await?;
            if let Some(StopContainerResponse { update }) = answer {
                updates.add(&plugin.name(), update)?;
            }
        }
        Ok(updates)
    }

    /// Tells that a pod as a whole is given other resources.
    ///
    /// # Errors
    /// When a plugin refuses.
    pub async fn update_pod(
        &self,
        pod: &PodSandbox,
        overhead: Option<LinuxResources>,
        resources: Option<LinuxResources>,
    ) -> Result<(), NriError> {
        let _turn = self.turn.lock().await;
        let request = UpdatePodSandboxRequest {
            pod: Some(pod.clone()),
            overhead_linux_resources: overhead,
            linux_resources: resources,
        };
        for plugin in self.list() {
            let _nothing: Option<Empty> = plugin.ask(Event::UpdatePodSandbox, &request).await?;
        }
        Ok(())
    }

    /// Takes leave of all plugins, and lets none connect any more.
    pub async fn close(&self) {
        let _turn = self.turn.lock().await;
        let farewells = self.list().into_iter().map(async |plugin| {
            let call = plugin.connection.call::<_, Empty>(PLUGIN_SERVICE, "Shutdown", &Empty {}, FAREWELL);
            if let Err(error) = call.await {
                tracing::debug!(plugin = plugin.name(), %error, "a plugin was not told of the end");
            }
        });
        join_all(farewells).await;
        self.hang_up();
    }

    /// Closes all connections without a word.
    pub fn hang_up(&self) {
        self.closing.cancel();
        for plugin in self.list() {
            plugin.connection.close();
        }
    }
}

/// How long a plugin may take over the news that the runtime ends.
const FAREWELL: Duration = Duration::from_millis(500);

/// The socket, for root alone: who connects can change every container.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
