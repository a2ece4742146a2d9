//! The way from the command line to the API: a `kube::Client` over the agent's unix socket. podd's own routes on the same
//! socket are [`own`]'s.

pub(crate) mod own;

use std::future::Future;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Stdio};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::Body;
use kube::client::middleware::BaseUriLayer;
use tokio::net::UnixStream;
use tower::Layer as _;

use crate::config::Settings;
use crate::daemon::Lock;

/// How long an agent may take until it answers.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How often the socket of a starting agent is tried.
const START_POLL: Duration = Duration::from_millis(3);

/// A client of the API at `socket`.
pub(crate) fn over_unix(socket: &Path) -> kube::Client {
    let connector = UnixConnector { socket: socket.into() };
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let base = BaseUriLayer::new(Uri::from_static("http://localhost"));
    kube::Client::new(base.layer(client), "default")
}

/// A client of the node's API; starts an agent in the background when none runs.
pub(crate) async fn connect(settings: &Settings) -> anyhow::Result<kube::Client> {
    let socket = settings.api_socket();
    if UnixStream::connect(&socket).await.is_err() {
        start_agent(settings, &socket).await?;
    }
    Ok(over_unix(&socket))
}

/// A client of the node's API, if an agent runs.
pub(crate) async fn connect_running(settings: &Settings) -> anyhow::Result<kube::Client> {
    let socket = settings.api_socket();
    UnixStream::connect(&socket)
        .await
        .with_context(|| format!("no agent answers at {}; `podd agent` starts one", socket.display()))?;
    Ok(over_unix(&socket))
}

async fn start_agent(settings: &Settings, socket: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(&settings.run).with_context(|| format!("create {}", settings.run.display()))?;
    let mut agent = spawn_agent(settings)?;
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        if UnixStream::connect(socket).await.is_ok() {
            eprintln!("podd: started the agent in the background (log: {})", settings.agent_log().display());
            return Ok(());
        }
        // Where the lock is held, another command has started an agent at the same moment, which is as good.
        if let Some(status) = agent.try_wait().context("wait for the agent")?
            && !Lock::is_held(&settings.root)
        {
            bail!("the agent did not start ({status}):\n{}", log_tail(&settings.agent_log()));
        }
        if Instant::now() > deadline {
            bail!(
                "the agent did not answer within {} s; see {}",
                START_DEADLINE.as_secs(),
                settings.agent_log().display()
            );
        }
        tokio::time::sleep(START_POLL).await;
    }
}

fn spawn_agent(settings: &Settings) -> anyhow::Result<Child> {
    let path = settings.agent_log();
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    let program = std::env::current_exe().context("find this program")?;
    // The same node: the file is read again, and what flags or the environment said is said again.
    let mut command = std::process::Command::new(program);
    command.args(["agent", "--background"]);
    if let Some(file) = &settings.config {
        command.arg("--config").arg(file);
    }
    for (flag, value) in [
        ("--root", settings.root.as_os_str()),
        ("--run", settings.run.as_os_str()),
        ("--logs", settings.logs.as_os_str()),
        ("--manifests", settings.manifests.as_os_str()),
        ("--instance", settings.instance.as_ref()),
        ("--cgroup-root", settings.cgroup_root.as_ref()),
    ] {
        command.arg(flag).arg(value);
    }
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("duplicate the log's descriptor")?)
        .stderr(log)
        .spawn()
        .context("start the agent")
}

/// The last lines of the agent's log, for an error.
fn log_tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

/// Connects to one unix socket, whatever the URI says.
#[derive(Clone)]
struct UnixConnector {
    socket: PathBuf,
}

impl tower::Service<Uri> for UnixConnector {
    type Response = UnixIo;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<UnixIo, std::io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let socket = self.socket.clone();
        Box::pin(async move { Ok(UnixIo(TokioIo::new(UnixStream::connect(socket).await?))) })
    }
}

/// A unix stream as hyper's client wants it.
struct UnixIo(TokioIo<UnixStream>);

impl Connection for UnixIo {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for UnixIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for UnixIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
