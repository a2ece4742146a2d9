//! A server that answers health checks as a test tells it to.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, UnaryService},
};
use tonic_prost::ProstCodec;
use tower::Service;

use super::{HealthCheckRequest, HealthCheckResponse, Serving};

/// Knows these services, the server itself among them if one has no name.
#[derive(Clone, Debug)]
pub struct Server(Arc<BTreeMap<String, Serving>>);

impl Server {
    /// A server of these services.
    #[must_use]
    pub fn new(services: &[(&str, Serving)]) -> Self {
        Self(Arc::new(services.iter().map(|(name, serving)| ((*name).to_owned(), *serving)).collect()))
    }
}

impl NamedService for Server {
    const NAME: &'static str = "grpc.health.v1.Health";
}

impl Service<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let check = Check(self.0.clone());
        Box::pin(async move {
            let codec = ProstCodec::<HealthCheckResponse, HealthCheckRequest>::default();
            Ok(Grpc::new(codec).unary(check, request).await)
        })
    }
}

struct Check(Arc<BTreeMap<String, Serving>>);

impl UnaryService<HealthCheckRequest> for Check {
    type Response = HealthCheckResponse;
    type Future = Ready<Result<Response<HealthCheckResponse>, Status>>;

    fn call(&mut self, request: Request<HealthCheckRequest>) -> Self::Future {
        let service = request.into_inner().service;
        ready(match self.0.get(&service) {
            Some(serving) => Ok(Response::new(HealthCheckResponse { status: *serving as i32 })),
            None => Err(Status::not_found("unknown service")),
        })
    }
}
