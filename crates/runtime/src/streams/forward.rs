//! Port forwarding: a connection to a port of a sandbox, made from inside its network.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use podd_cri::streaming::Connection;
use podd_cri::v1::PodSandboxState;
use podd_shim::wire::{NamespaceKind, Request, Response};
use podd_sys::namespace::{Kind, enter};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::oneshot;

use crate::engine::Engine;
use crate::error::{Context, CriError, Result};
use crate::sandbox::Sandbox;
use crate::shim::unexpected;

/// How long a connection inside a pod may take.
const CONNECT: Duration = Duration::from_secs(10);

impl Engine {
    /// Whether there is something to connect to.
    pub(crate) fn may_forward(&self, sandbox: &Sandbox) -> Result<()> {
        if sandbox.state() == PodSandboxState::SandboxReady {
            return Ok(());
        }
        Err(CriError::Precondition(format!("sandbox {} is not ready; it has no ports", sandbox.id())))
    }

    /// Joins a client's connection with a port that a process of the sandbox listens on, on loopback, until the pod
    /// has said all, or nothing more comes of either.
    pub(crate) async fn port_forward(self: &Arc<Self>, id: &str, port: u16, connection: Connection) -> Result<()> {
        let what = || format!("connect to port {port} of sandbox {id}");
        let sandbox = self.registry.sandbox(id)?;
        self.may_forward(&sandbox)?;
        let network = network_of(&sandbox).await?;
        let stream = connect(network, port).await.context(what)?;
        let (mut from_pod, mut to_pod) = stream.into_split();
        let Connection { mut input, mut output } = connection;
        let mut up = pin!(copy(&mut input, &mut to_pod));
        let mut down = pin!(copy(&mut from_pod, &mut output));
        let outcome = tokio::select! {
            // The pod has said its last; nobody there reads what the client would still say.
            outcome = &mut down => outcome,
            // The client has; the answer may still come.
            outcome = &mut up => match outcome {
                Ok(()) => down.await,
                failed => failed,
            },
        };
        // A client that has gone is no failure, a pod that breaks off is.
        outcome.or_else(|error| if is_gone(&error) { Ok(()) } else { Err(error) }).context(what)
    }
}

/// The sandbox's own network namespace; `None` when it is the node's.
pub(crate) async fn network_of(sandbox: &Sandbox) -> Result<Option<OwnedFd>> {
    let shim = sandbox.shim()?;
    let (kinds, fds) = match shim.client.call_with_fds(Request::Namespaces, &[]).await? {
        (Response::Namespaces { kinds }, fds) => (kinds, fds),
        (other, _) => return Err(unexpected(&other)),
    };
    Ok(kinds.into_iter().zip(fds).find(|(kind, _)| *kind == NamespaceKind::Net).map(|(_, fd)| fd))
}

/// A socket belongs to the namespace that its thread was in when it was made, so a thread of its own makes it.
async fn connect(network: Option<OwnedFd>, port: u16) -> io::Result<tokio::net::TcpStream> {
    let (tell, told) = oneshot::channel();
    let dial = move || {
        if let Some(network) = network {
            enter(network.as_fd(), Kind::Net)?;
        }
        let to = |address| TcpStream::connect_timeout(&address, CONNECT);
        // Who listens on IPv6 alone is found too; the first answer says more than the second.
        to(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .or_else(|error| to(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).map_err(|_| error))
    };
    thread::Builder::new().name("port-forward".into()).spawn(move || tell.send(dial()))?;
    let stream = told.await.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(stream)
}

/// Copies one way, and passes the end on.
async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    tokio::io::copy(from, to).await?;
    to.shutdown().await
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected)
}
