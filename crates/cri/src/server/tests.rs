//! The socket, and what happens to calls when a caller or the server goes.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use tokio::sync::Notify;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use super::*;
use crate::client;

/// Its streams never end, and stopping a container takes until the test allows it.
#[derive(Default)]
struct Slow {
    begun: Notify,
    go_on: Notify,
    done: Notify,
}

#[tonic::async_trait]
impl RuntimeService for Slow {
    async fn stop_container(
        &self,
        _: Request<StopContainerRequest>,
    ) -> std::result::Result<Response<StopContainerResponse>, Status> {
        self.begun.notify_one();
        self.go_on.notified().await;
        self.done.notify_one();
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> std::result::Result<Response<BoxStream<ContainerEventResponse>>, Status> {
        Ok(Response::new(Box::pin(stream::pending())))
    }
}

#[tonic::async_trait]
impl ImageService for Slow {}

struct Node {
    _dir: tempfile::TempDir,
    path: PathBuf,
    slow: Arc<Slow>,
    stop: tokio::sync::oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<std::result::Result<(), tonic::transport::Error>>,
}

async fn node() -> Node {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cri.sock");
    let slow = Arc::new(Slow::default());
    let listener = bind(&path).await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(serve(listener, Arc::<Slow>::clone(&slow), Arc::<Slow>::clone(&slow), async move {
        drop(stopped.await)
    }));
    Node { _dir: dir, path, slow, stop, serving }
}

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn the_socket_is_for_its_owner_alone() {
    let node = node().await;
    let mode = std::fs::metadata(&node.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_socket_that_nobody_serves_is_replaced_and_a_served_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cri.sock");
    drop(bind(&path).await.unwrap());
    assert!(path.exists(), "dropping a listener leaves its path");
    let _live = bind(&path).await.unwrap();
    assert_eq!(bind(&path).await.unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[tokio::test]
async fn a_file_in_the_socket_s_place_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cri.sock");
    std::fs::write(&path, "precious").unwrap();
    assert_eq!(bind(&path).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn a_call_that_changes_something_ends_though_its_caller_is_gone() {
    let node = node().await;
    let client = client::connect(&node.path).await.unwrap();
    let call = tokio::spawn(async move { client.stop_container(Request::new(StopContainerRequest::default())).await });
    node.slow.begun.notified().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    node.slow.go_on.notify_one();
    tokio::time::timeout(SOON, node.slow.done.notified()).await.expect("the call was dropped");
}

#[tokio::test]
async fn a_call_that_takes_longer_than_its_caller_waits_exceeds_its_deadline() {
    let node = node().await;
    let channel = tonic::transport::Endpoint::from_static("http://localhost");
    let path = node.path.clone();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
    });
    let channel = channel.connect_with_connector(connector).await.unwrap();
    let mut client = runtime_service_client::RuntimeServiceClient::new(channel);
    // The client itself would wait: only the server is told how long.
    let mut request = Request::new(StopContainerRequest::default());
    request.metadata_mut().insert("grpc-timeout", "100m".parse().unwrap());
    let status = client.stop_container(request).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (tonic::Code::DeadlineExceeded, "the call took longer than its caller waits")
    );
}

#[tokio::test]
async fn an_open_event_stream_does_not_keep_the_server_from_ending() {
    let node = node().await;
    let client = client::connect(&node.path).await.unwrap();
    let events = client.get_container_events(Request::new(GetEventsRequest {})).await.unwrap();
    node.stop.send(()).unwrap();
    let last = tokio::time::timeout(SOON, events.into_inner().next()).await.unwrap();
    assert_eq!(last.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
    tokio::time::timeout(SOON, node.serving).await.unwrap().unwrap().unwrap();
    assert!(!node.path.exists());
}

#[tokio::test]
async fn a_call_in_flight_is_answered_before_the_server_ends() {
    let node = node().await;
    let client = client::connect(&node.path).await.unwrap();
    let call = tokio::spawn(async move { client.stop_container(Request::new(StopContainerRequest::default())).await });
    node.slow.begun.notified().await;
    node.stop.send(()).unwrap();
    node.slow.go_on.notify_one();
    call.await.unwrap().expect("an answer");
    tokio::time::timeout(SOON, node.serving).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_call_that_the_runtime_lacks_says_so() {
    let node = node().await;
    let client = client::connect(&node.path).await.unwrap();
    let answer = client.list_images(Request::new(ListImagesRequest::default())).await;
    assert_eq!(answer.unwrap_err().code(), tonic::Code::Unimplemented);
}

/// A request of whatever bytes: `StopContainerRequest` with its id as bytes instead of text.
#[derive(Clone, PartialEq, prost::Message)]
struct Raw {
    #[prost(bytes = "vec", tag = "1")]
    container_id: Vec<u8>,
}

async fn stop_raw(path: &Path, container_id: Vec<u8>) -> Status {
    let socket = path.to_owned();
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    let mut grpc = Grpc::new(endpoint.connect_with_connector(connector).await.unwrap());
    grpc.ready().await.unwrap();
    let call = PathAndQuery::from_static("/runtime.v1.RuntimeService/StopContainer");
    let codec = ProstCodec::<Raw, StopContainerResponse>::default();
    grpc.unary(Request::new(Raw { container_id }), call, codec).await.expect_err("refused")
}

#[tokio::test]
async fn a_request_that_is_no_message_is_the_caller_s_mistake_and_names_the_field() {
    let node = node().await;
    let refused = stop_raw(&node.path, vec![b'a', 0xff]).await;
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("container_id") && refused.message().contains("UTF-8"), "{refused:?}");
}

#[tokio::test]
async fn a_request_that_is_too_long_exhausts_a_limit() {
    let node = node().await;
    let refused = stop_raw(&node.path, vec![b'a'; MAX_MESSAGE + 1]).await;
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("16 MiB"), "{refused:?}");
}
