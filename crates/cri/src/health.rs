//! The health check of gRPC servers (`grpc.health.v1`), as a caller. It is no part of CRI; it stands here because gRPC's
//! messages are made in this crate only.

#[cfg(any(test, feature = "fake"))]
pub mod fake;

use tonic::{Request, Status, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

/// What is asked: the health of one service, or of the server if it is empty.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "Serving", tag = "1")]
    status: i32,
}

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Serving {
    /// It does not know.
    Unknown = 0,
    /// It serves.
    Serving = 1,
    /// It does not.
    NotServing = 2,
    /// It does not know the service. Only in answers to a watch.
    ServiceUnknown = 3,
}

/// Asks for the health of a service.
///
/// # Errors
/// What the server answered instead.
pub async fn check(channel: Channel, service: &str) -> Result<Serving, Status> {
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let request = Request::new(HealthCheckRequest { service: service.to_owned() });
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    Ok(client.unary(request, path, codec).await?.into_inner().status())
}

impl Serving {
    /// The protocol's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Serving => "SERVING",
            Self::NotServing => "NOT_SERVING",
            Self::ServiceUnknown => "SERVICE_UNKNOWN",
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Code, transport};

    use super::*;

    #[tokio::test]
    async fn a_server_tells_its_health_by_service() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let services = [("", Serving::Serving), ("sick", Serving::NotServing)];
        let server = transport::Server::builder().add_service(fake::Server::new(&services));
        let serving = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let endpoint = transport::Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let channel = endpoint.connect().await.expect("a connection");
        assert_eq!(check(channel.clone(), "").await.expect("an answer"), Serving::Serving);
        assert_eq!(check(channel.clone(), "sick").await.expect("an answer"), Serving::NotServing);
        assert_eq!(check(channel, "none").await.expect_err("no such service").code(), Code::NotFound);
        serving.abort();
    }
}
