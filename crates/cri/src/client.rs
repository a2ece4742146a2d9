//! A runtime in another process, reached over its unix socket: implements both service traits, so that
//! whoever works against them need not know.

use std::any::Any;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::TryStreamExt;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::codegen::BoxStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Response, Status};

use crate::calls::with_calls;
use crate::v1::*;
use crate::{ImageService, MAX_MESSAGE, RuntimeService};

/// How long a runtime may take to answer a call that has no time limit of its own.
pub const ANSWER: Duration = Duration::from_secs(120);
/// How long the connection may take.
pub const CONNECT: Duration = Duration::from_secs(10);

/// A runtime behind a socket. Cheap to clone; calls share one connection, which is made anew when it
/// breaks. Calls in flight at that moment answer `Unavailable`, late ones `DeadlineExceeded`.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint is not one of a unix socket.
    #[error("{0}: a runtime endpoint is unix:///path or an absolute path")]
    Endpoint(String),
    /// Nobody answers there.
    #[error("connect to {}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the transport says.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Connects to the runtime that listens on `path`.
///
/// # Errors
/// [`ConnectError::Unreachable`] when nobody listens there or no answer comes within [`CONNECT`].
pub async fn connect(path: impl AsRef<Path>) -> Result<Client, ConnectError> {
    let path = path.as_ref().to_owned();
    // The address is required and never looked at: the connector knows the path.
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(CONNECT);
    let socket = path.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError::Unreachable { path, source })?;
    Ok(Client { channel })
}

/// The socket of an endpoint as kubelet and crictl write it: `unix:///path`, or the path alone.
///
/// # Errors
/// [`ConnectError::Endpoint`] for anything else.
pub fn socket_path(endpoint: &str) -> Result<PathBuf, ConnectError> {
    let path = Path::new(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
    if path.is_absolute() { Ok(path.to_owned()) } else { Err(ConnectError::Endpoint(endpoint.to_owned())) }
}

/// How long the answer to `request` may take. Pulls and unlimited commands take what they take.
fn limit(request: &dyn Any) -> Option<Duration> {
    let seconds = |n: i64| Duration::from_secs(n.try_into().unwrap_or(0));
    if request.is::<PullImageRequest>() {
        None
    } else if request.is::<RunPodSandboxRequest>() {
        Some(ANSWER * 2)
    } else if let Some(stop) = request.downcast_ref::<StopContainerRequest>() {
        Some(ANSWER.saturating_add(seconds(stop.timeout)))
    } else if let Some(exec) = request.downcast_ref::<ExecSyncRequest>() {
        (exec.timeout > 0).then(|| ANSWER.saturating_add(seconds(exec.timeout)))
    } else if let Some(checkpoint) = request.downcast_ref::<CheckpointContainerRequest>() {
        Some(ANSWER.saturating_add(seconds(checkpoint.timeout)))
    } else {
        Some(ANSWER)
    }
}

async fn within<T>(
    limit: Option<Duration>,
    call: &'static str,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match limit {
        None => answer.await,
        Some(limit) => tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
            let text = format!("{call}: no answer within {} s", limit.as_secs());
            Err(Status::deadline_exceeded(text))
        }),
    }
}

macro_rules! forward {
    (
        $service:ident, $of:ident, $client:ty;
        unary { $($kind:ident $name:ident $call:ident $request:ident $response:ident;)* }
        stream { $($sname:ident $scall:ident $srequest:ident $sresponse:ident;)* }
    ) => {
        #[tonic::async_trait]
        impl $service for Client {
            $(
                async fn $call(
                    &self,
                    request: Request<$request>,
                ) -> Result<Response<$response>, Status> {
                    let limit = limit(request.get_ref());
                    let mut client = <$client>::new(self.channel.clone())
                        .max_decoding_message_size(MAX_MESSAGE)
                        .max_encoding_message_size(MAX_MESSAGE);
                    within(limit, stringify!($name), client.$call(request)).await
                }
            )*
            $(
                async fn $scall(
                    &self,
                    request: Request<$srequest>,
                ) -> Result<Response<BoxStream<$sresponse>>, Status> {
                    let mut client = <$client>::new(self.channel.clone())
                        .max_decoding_message_size(MAX_MESSAGE)
                        .max_encoding_message_size(MAX_MESSAGE);
                    let answer =
                        within(Some(ANSWER), stringify!($sname), client.$scall(request)).await?;
                    Ok(answer.map(|items| -> BoxStream<$sresponse> {
                        Box::pin(items.into_stream())
                    }))
                }
            )*
        }
    };
}

with_calls!(forward);
