//! gRPC probes: the server's own word on its health.

use std::{net::IpAddr, time::Duration};

use podd_cri::health::{self, Serving};
use tonic::{Code, transport::Endpoint};

use super::{reach, run::Verdict};
use crate::worker::chain;

/// Asks a server for the health of a service, without TLS.
pub(super) async fn check(ip: IpAddr, port: u16, service: &str, timeout: Duration) -> Verdict {
    let address = reach::join(&ip.to_string(), port);
    match tokio::time::timeout(timeout, ask(&address, service)).await {
        Ok(verdict) => verdict,
        Err(_) => Verdict::Failure(format!(
            "timeout: failed to connect service \"{address}\" within {}s: context deadline exceeded",
            timeout.as_secs()
        )),
    }
}

async fn ask(address: &str, service: &str) -> Verdict {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).and_then(|e| e.user_agent("kube-probe/1.36"));
    let connected = match endpoint {
        Ok(endpoint) => endpoint.connect().await,
        Err(error) => Err(error),
    };
    let channel = match connected {
        Ok(channel) => channel,
        Err(error) => {
            let why = chain(&error);
            return Verdict::Failure(format!("error: failed to connect service at \"{address}\": {why}"));
        }
    };
    match health::check(channel, service).await {
        Ok(Serving::Serving) => Verdict::Success,
        Ok(other) => Verdict::Failure(format!("service unhealthy (responded with \"{}\")", other.word())),
        Err(status) if status.code() == Code::Unimplemented => Verdict::Failure(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        )),
        Err(status) => Verdict::Failure(format!("error: health rpc probe failed: {}", words(&status))),
    }
}

/// As Go's client prints a status.
fn words(status: &tonic::Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}
