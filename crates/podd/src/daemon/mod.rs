//! The composition root: which planes run in this process, what joins them, and in which order they end.
//!
//! ```text
//! podd agent   API ◄─client─ agent ─CRI in process─► runtime       sockets: podd.sock, cri.sock
//! podd agent --api-socket … --runtime-endpoint …     agent alone   sockets: kubelet.sock, cri.sock (passed on)
//! podd api                                           API alone     socket:  podd.sock
//! podd cri                                           runtime alone sockets: cri.sock, cri.images.sock
//! ```
//!
//! The command line needs to know of none of this: the node's runtime is always at the agent's `cri.sock`, and podd's own
//! routes are always the agent's.

mod dns;
mod lock;
mod planes;
mod routes;
mod socket;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use podd_agent::{Parts, StopPods};
use podd_api::KubeletTransport;
use podd_cri::streaming::Target;
use podd_runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::{Agent, Api, Cri};
use crate::client;
use crate::config::Settings;
pub(crate) use dns::run as dns;
pub(crate) use lock::Lock;
use planes::RuntimePlane;
use socket::Served;

/// Threads that serve. The kernel's work is done on others, so that two keep up with any machine's pods.
const WORKERS: usize = 2;

/// Why the process ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ending {
    /// It does not.
    #[default]
    NotYet,
    /// Pods go on.
    Leave,
    /// Pods end too.
    StopPods,
}

/// Runs the agent until it is told to end.
pub(crate) fn agent(args: Agent, settings: Settings) -> anyhow::Result<()> {
    if args.background {
        // Not the leader of its group, or no session of its own is wanted: then it is detached enough already.
        let _leader = rustix::process::setsid();
    }
    start_tracing();
    runtime()?.block_on(run_agent(args, settings))
}

/// Runs the container runtime alone.
pub(crate) fn cri(args: Cri, settings: Settings) -> anyhow::Result<()> {
    start_tracing();
    runtime()?.block_on(async {
        let settings = planes::of_cri(settings);
        let _lock = Lock::take(&settings.root)?;
        make(&settings.run)?;
        let ending = ending_by_signal()?;
        let runtime = planes::runtime(&settings).await?;
        let path = args.listen.unwrap_or_else(|| settings.cri_socket());
        let served = serve_cri(&runtime, &path, ending).await;
        runtime.close().await;
        planes::shut_down(&runtime, &settings).await;
        served
    })
}

async fn serve_cri(runtime: &Arc<Runtime>, path: &Path, ending: watch::Receiver<Ending>) -> anyhow::Result<()> {
    let images = Served::http(&routes::images_socket(path), routes::images(runtime.clone())).await?;
    let served = Served::cri(path, runtime.clone(), runtime.clone()).await;
    if served.is_ok() {
        told(ending).await;
    }
    images.end().await;
    served?.end().await;
    Ok(())
}

/// Runs the API alone.
pub(crate) fn api(args: Api, settings: Settings) -> anyhow::Result<()> {
    start_tracing();
    runtime()?.block_on(async {
        make(&settings.root)?;
        make(&settings.run)?;
        let ending = ending_by_signal()?;
        let api = planes::api(&settings).await?;
        let kubelet = args.kubelet_socket.unwrap_or_else(|| settings.kubelet_socket());
        api.connect_kubelet(KubeletTransport::Remote(Target::Unix(kubelet)));
        let path = args.listen.unwrap_or_else(|| settings.api_socket());
        let served = Served::http(&path, api.router()).await?;
        told(ending).await;
        // Watches end with the API; only then do their connections.
        api.shutdown().await.context("close the API")?;
        served.end().await;
        Ok(())
    })
}

async fn run_agent(args: Agent, settings: Settings) -> anyhow::Result<()> {
    make(&settings.run)?;
    let _lock = Lock::take(&settings.root)?;
    let (ending, told_to) = watch::channel(Ending::NotYet);
    let ending = Arc::new(ending);
    listen_to_signals(ending.clone())?;
    let runtime = match &args.runtime_endpoint {
        Some(endpoint) => RuntimePlane::remote(endpoint, &settings).await?,
        None => RuntimePlane::embedded(&settings).await?,
    };
    let ended = serve_agent(&args, &settings, &runtime, (ending, told_to)).await;
    // Whether it served or could not: a runtime without pods leaves nothing.
    if let Some(runtime) = runtime.embedded {
        runtime.close().await;
        planes::shut_down(&runtime, &settings).await;
    }
    ended
}

async fn serve_agent(
    args: &Agent,
    settings: &Settings,
    runtime: &RuntimePlane,
    (ending, told_to): (Arc<watch::Sender<Ending>>, watch::Receiver<Ending>),
) -> anyhow::Result<()> {
    let api = match args.api_socket {
        Some(_) => None,
        None => Some(planes::api(settings).await?),
    };
    let client = match (&api, &args.api_socket) {
        (Some(api), _) => kube::Client::new(api.router(), "default"),
        (None, socket) => client::over_unix(socket.as_deref().unwrap_or(Path::new(""))),
    };
    let parts = Parts {
        config: planes::agent_config(settings),
        client,
        runtime: runtime.runtime.clone(),
        images: runtime.images.clone(),
    };
    let agent = podd_agent::Agent::start(parts).await.context("start the agent")?;
    let own = routes::agent(ending).merge(runtime.routes.clone());
    let mut served = Vec::new();
    let listening = listen(settings, runtime, api.as_ref(), &agent, own, &mut served).await;
    let pods = match &listening {
        Ok(()) => match told(told_to).await {
            Ending::StopPods => StopPods::Stop { grace: None },
            Ending::Leave | Ending::NotYet => StopPods::Leave,
        },
        Err(_) => StopPods::Leave,
    };
    tracing::info!(?pods, "podd ends");
    let stopped = agent.stop(pods).await;
    if let Some(api) = api {
        api.shutdown().await.context("close the API")?;
    }
    for served in served {
        served.end().await;
    }
    listening?;
    stopped.context("stop the pods")
}

/// Opens the sockets, those of the planes that run here.
async fn listen(
    settings: &Settings,
    runtime: &RuntimePlane,
    api: Option<&podd_api::Api>,
    agent: &podd_agent::Agent,
    own: Router,
    served: &mut Vec<Served>,
) -> anyhow::Result<()> {
    if runtime.serve_cri {
        served.push(Served::cri(&settings.cri_socket(), runtime.runtime.clone(), runtime.images.clone()).await?);
    }
    match api {
        Some(api) => {
            api.connect_kubelet(KubeletTransport::InProcess(agent.router()));
            served.push(Served::http(&settings.api_socket(), own.merge(api.router())).await?);
        }
        None => served.push(Served::http(&settings.kubelet_socket(), own.merge(agent.router())).await?),
    }
    tracing::info!(instance = settings.instance, root = %settings.root.display(), "podd is up");
    Ok(())
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    runtime.context("start the async runtime")
}

fn start_tracing() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
}

fn make(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))
}

fn ending_by_signal() -> anyhow::Result<watch::Receiver<Ending>> {
    let (sender, receiver) = watch::channel(Ending::NotYet);
    listen_to_signals(Arc::new(sender))?;
    Ok(receiver)
}

/// SIGTERM, SIGINT and SIGHUP end the process; pods go on.
fn listen_to_signals(ending: Arc<watch::Sender<Ending>>) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        // Any one will do; the others are not waited for any more.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hang_up.recv() => {}
        }
        ending.send_replace(Ending::Leave);
    });
    Ok(())
}

/// Waits until the process shall end.
async fn told(mut ending: watch::Receiver<Ending>) -> Ending {
    match ending.wait_for(|ending| *ending != Ending::NotYet).await {
        Ok(ending) => *ending,
        Err(_) => Ending::Leave,
    }
}
