//! Client and server against a service that notes which call reached it.

use std::sync::{Arc, Mutex};

use futures::StreamExt;
use tonic::client::Grpc;
use tonic::codegen::{BoxStream, http::uri::PathAndQuery};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::calls::with_calls;
use crate::v1::*;
use crate::{ImageService, RuntimeService, client, server};

/// Answers everything with nothing, and remembers what was asked.
#[derive(Default)]
struct Recorder(Mutex<Vec<&'static str>>);

impl Recorder {
    fn note(&self, call: &'static str) {
        self.0.lock().expect("no call panics").push(call);
    }
}

macro_rules! record {
    (
        $service:ident, $of:ident, $client:ty;
        unary { $($kind:ident $name:ident $call:ident $request:ident $response:ident;)* }
        stream { $($sname:ident $scall:ident $srequest:ident $sresponse:ident;)* }
    ) => {
        #[tonic::async_trait]
        impl $service for Recorder {
            $(
                async fn $call(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                    self.note(stringify!($name));
                    Ok(Response::new($response::default()))
                }
            )*
            $(
                async fn $scall(
                    &self,
                    _: Request<$srequest>,
                ) -> Result<Response<BoxStream<$sresponse>>, Status> {
                    self.note(stringify!($sname));
                    let items = [Ok($sresponse::default()), Ok($sresponse::default())];
                    Ok(Response::new(Box::pin(futures::stream::iter(items))))
                }
            )*
        }
    };
}

with_calls!(record);

/// Makes every call of one service, and returns the names in order.
macro_rules! call_each {
    (
        $service:ident, $of:ident, $client:ty;
        unary { $($kind:ident $name:ident $call:ident $request:ident $response:ident;)* }
        stream { $($sname:ident $scall:ident $srequest:ident $sresponse:ident;)* }
    ) => {
        mod $of {
            use super::*;
            pub(super) async fn call_each(service: &dyn $service) -> Vec<&'static str> {
                $( service.$call(Request::new($request::default())).await.expect(stringify!($name)); )*
                $(
                    let items = service.$scall(Request::new($srequest::default())).await;
                    let items = items.expect(stringify!($sname)).into_inner().collect::<Vec<_>>().await;
                    assert_eq!(items.len(), 2, stringify!($sname));
                )*
                vec![$(stringify!($name),)* $(stringify!($sname),)*]
            }
        }
    };
}

with_calls!(call_each);

/// `(service, call)` of the table that was written down from the protocol.
fn table() -> Vec<(&'static str, &'static str)> {
    let rows = include_str!("v1/wire.txt").lines();
    rows.filter_map(|row| {
        let (service, rest) = row.split_once(" rpc ")?;
        Some((service, rest.split_once(' ')?.0))
    })
    .collect()
}

#[tokio::test]
async fn every_call_passes_client_socket_and_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cri.sock");
    let recorder = Arc::new(Recorder::default());
    let listener = server::bind(&path).await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server::serve(
        listener,
        Arc::<Recorder>::clone(&recorder),
        Arc::<Recorder>::clone(&recorder),
        async move { drop(stopped.await) },
    ));

    let client = client::connect(&path).await.unwrap();
    let mut called = runtime::call_each(&client).await;
    called.extend(image::call_each(&client).await);
    assert_eq!(*recorder.0.lock().unwrap(), called);
    let mut expected: Vec<_> = table().into_iter().map(|(_, call)| call).collect();
    expected.sort_unstable();
    called.sort_unstable();
    assert_eq!(called, expected, "the list of calls is not that of the protocol");

    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
    assert!(!path.exists(), "the socket stays behind");
}

/// Independent of the list of calls: by path, as any foreign client would.
#[tokio::test]
async fn no_call_of_the_protocol_is_unimplemented_on_the_wire() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cri.sock");
    let recorder = Arc::new(Recorder::default());
    let listener = server::bind(&path).await.unwrap();
    let images = Arc::<Recorder>::clone(&recorder);
    let serving = server::serve(listener, recorder, images, std::future::pending());
    let serving = tokio::spawn(serving);
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    let socket = path.clone();
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    for (service, call) in table() {
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path: PathAndQuery = format!("/runtime.v1.{service}/{call}").parse().unwrap();
        let codec = ProstCodec::<(), ()>::default();
        let answer = grpc.server_streaming(Request::new(()), path, codec).await;
        let code = match answer {
            Err(status) => status.code(),
            Ok(answer) => match answer.into_inner().next().await {
                Some(Err(status)) => status.code(),
                _ => Code::Ok,
            },
        };
        assert_eq!(code, Code::Ok, "{service}.{call}");
    }
    serving.abort();
}
