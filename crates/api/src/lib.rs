//! A Kubernetes API server for one machine: kinds, verbs, validation, watch, and an embedded store.
//!
//! It is an [`axum::Router`]; who listens where is the composition root's choice, and in process the router is
//! a `kube::Client`'s service as it is. Objects live as JSON in one database file and, whole, in memory; one
//! thread owns every change. Logs and exec of pods are passed to the node's kubelet router. What a pod's
//! fields mean, default to and may hold is `podd_core`'s business.

mod config;

pub use config::{Clock, Config, Error, KubeletTransport};

/// The result of opening or stopping the server.
pub type Result<T> = std::result::Result<T, Error>;

/// A running API server over one database.
///
/// Dropping it leaves the store running until every router made from it is gone; [`Api::shutdown`] ends it in order.
pub struct Api {
    _config: Config,
}

impl Api {
    /// Opens the database, loads its objects and makes sure that the namespaces `default` and `kube-system` exist.
    ///
    /// Must be called inside a tokio runtime.
    pub async fn open(config: Config) -> Result<Self> {
        Ok(Self { _config: config })
    }

    /// The whole API as a router; cheap to call, and every router serves the same store.
    pub fn router(&self) -> axum::Router {
        axum::Router::new()
    }

    /// Sets or replaces the way to the kubelet; until then logs and exec answer 503.
    pub fn connect_kubelet(&self, _kubelet: KubeletTransport) {}

    /// Ends watches, writes what is pending, closes the database.
    pub async fn shutdown(self) -> Result<()> {
        Ok(())
    }
}
