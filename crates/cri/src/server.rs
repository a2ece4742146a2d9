//! Any runtime, served on a unix socket. Forwards and nothing else; the socket's mode is the only
//! protection there is, and it is set before the path exists.

mod codes;
mod deadline;

use std::fs::{File, Permissions};
use std::future::Future;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::net::{UnixListener, UnixSocket};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use crate::calls::with_calls;
use crate::v1::image_service_server::ImageServiceServer;
use crate::v1::runtime_service_server::RuntimeServiceServer;
use crate::v1::*;
use crate::{ImageService, MAX_MESSAGE, RuntimeService};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 128;

/// How long calls may go on after the server was told to end.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// A listener at `path`, for its owner alone (mode 0600). A socket that nobody listens on any more is
/// replaced.
///
/// # Errors
/// `AddrInUse` when somebody listens there, `AlreadyExists` when the path is no socket, and what the
/// system calls answer. Whoever may be started twice at once holds a lock around this.
pub async fn bind(path: &Path) -> Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            let text = format!("{} exists and is no socket", path.display());
            return Err(Error::new(ErrorKind::AlreadyExists, text));
        }
        Ok(_) => match tokio::net::UnixStream::connect(path).await {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
            }
            Err(error) => return Err(error),
            Ok(_) => {
                let text = format!("{} is served by another process", path.display());
                return Err(Error::new(ErrorKind::AddrInUse, text));
            }
        },
    }
    let socket = UnixSocket::new_stream()?;
    // bind(2) gives the path the socket's own mode less the umask, so there is no moment at which
    // others could connect. `File` is the safe way to fchmod(2).
    File::from(socket.as_fd().try_clone_to_owned()?).set_permissions(Permissions::from_mode(0o600))?;
    socket.bind(path)?;
    socket.listen(BACKLOG)
}

/// Serves both services on `listener` until `shutdown` is done; then streams end, calls have
/// [`SHUTDOWN_GRACE`] left, and the socket's path goes, if it is still ours.
///
/// # Errors
/// What the transport answers; a failed connection is not an error.
pub async fn serve(
    listener: UnixListener,
    runtime: Arc<dyn RuntimeService>,
    images: Arc<dyn ImageService>,
    shutdown: impl Future<Output = ()>,
) -> std::result::Result<(), tonic::transport::Error> {
    let path = OwnPath::of(&listener);
    let ending = CancellationToken::new();
    let running = TaskTracker::new();
    let shared = Shared { runtime, images, ending: ending.clone(), running: running.clone() };
    let serving = tonic::transport::Server::builder()
        .layer(tower::layer::layer_fn(deadline::InTime))
        .layer(tower::util::MapResponseLayer::new(codes::corrected))
        .add_service(
            RuntimeServiceServer::new(shared.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        )
        .add_service(
            ImageServiceServer::new(shared)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        )
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), ending.clone().cancelled_owned());
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        // Neither arm is resumed after the other has won; `serving` itself is pinned and goes on below.
        served = &mut serving => served,
        () = shutdown => {
            ending.cancel();
            running.close();
            let rest = async { let served = serving.await; running.wait().await; served };
            // A call that takes longer is dropped with its connection: its record says how far it got.
            tokio::time::timeout(SHUTDOWN_GRACE, rest).await.unwrap_or(Ok(()))
        }
    };
    path.remove();
    served
}

/// The socket's place in the file system, to be removed only while it is the same socket.
struct OwnPath(Option<(PathBuf, u64, u64)>);

impl OwnPath {
    fn of(listener: &UnixListener) -> Self {
        let path = listener.local_addr().ok().and_then(|a| a.as_pathname().map(Path::to_owned));
        Self(path.and_then(|path| {
            let found = std::fs::symlink_metadata(&path).ok()?;
            Some((path, found.dev(), found.ino()))
        }))
    }

    fn remove(&self) {
        let Some((path, dev, ino)) = &self.0 else {
            return;
        };
        let same = |found: std::fs::Metadata| found.dev() == *dev && found.ino() == *ino;
        if std::fs::symlink_metadata(path).is_ok_and(same)
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::debug!(path = %path.display(), %error, "socket not removed");
        }
    }
}

/// The generated servers want a concrete type; this is it.
#[derive(Clone)]
struct Shared {
    runtime: Arc<dyn RuntimeService>,
    images: Arc<dyn ImageService>,
    ending: CancellationToken,
    running: TaskTracker,
}

impl Shared {
    fn runtime(&self) -> Arc<dyn RuntimeService> {
        Arc::clone(&self.runtime)
    }

    fn image(&self) -> Arc<dyn ImageService> {
        Arc::clone(&self.images)
    }

    /// A stream that ends with the server: an open one would keep it from ending.
    fn until_the_end<T: Send + 'static>(&self, items: BoxStream<T>) -> BoxStream<T> {
        let ending = self.ending.clone().cancelled_owned();
        let last = stream::iter([Err(Status::unavailable("the server is ending"))]);
        let ended = self.ending.clone();
        Box::pin(items.take_until(ending).chain(
            // Only a stream that was cut says so.
            last.take_while(move |_| std::future::ready(ended.is_cancelled())),
        ))
    }
}

/// How a call is run: `act` in a task of its own, so that a caller who hangs up leaves no half-done
/// work; `ask` in the connection's, so that nobody works for a caller who is gone.
macro_rules! run {
    (ask, $self:ident, $name:ident, $call:expr) => {
        $call.await
    };
    (act, $self:ident, $name:ident, $call:expr) => {
        match $self.running.spawn(async move { $call.await }).await {
            Ok(answer) => answer,
            Err(error) if error.is_panic() => Err(Status::internal(concat!(stringify!($name), " panicked"))),
            Err(_) => Err(Status::unavailable("the server is ending")),
        }
    };
}

macro_rules! forward {
    (
        $service:ident, $of:ident, $client:ty;
        unary { $($kind:ident $name:ident $call:ident $request:ident $response:ident;)* }
        stream { $($sname:ident $scall:ident $srequest:ident $sresponse:ident;)* }
    ) => {
        #[tonic::async_trait]
        impl $service for Shared {
            $(
                async fn $call(
                    &self,
                    request: Request<$request>,
                ) -> std::result::Result<Response<$response>, Status> {
                    let service = self.$of();
                    run!($kind, self, $name, service.$call(request))
                }
            )*
            $(
                async fn $scall(
                    &self,
                    request: Request<$srequest>,
                ) -> std::result::Result<Response<BoxStream<$sresponse>>, Status> {
                    let answer = self.$of().$scall(request).await?;
                    Ok(answer.map(|items| self.until_the_end(items)))
                }
            )*
        }
    };
}

with_calls!(forward);

#[cfg(test)]
mod tests;
