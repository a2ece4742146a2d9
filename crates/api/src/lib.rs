//! A Kubernetes API server for one machine: kinds, verbs, validation, watch, and an embedded store.
//!
//! It is an [`axum::Router`]; who listens where is the composition root's choice, and in process the router is
//! a `kube::Client`'s service as it is. Objects live as JSON in one database file and, whole, in memory; one
//! thread owns every change. Logs and exec of pods are passed to the node's kubelet router. What a pod's
//! fields mean, default to and may hold is `podd_core`'s business.
//!
//! ```text
//! request ─► server ─► target (path), query, body, decode ─► verbs on a transaction ─► store ─► response
//!              ├─► list, watch ◄── cache (what is published) ◄─────────────────────────┘
//!              └─► proxy ─► kubelet                             kinds: the table that all of them read
//! ```

mod apply;
mod body;
mod bounds;
mod check;
mod config;
mod decode;
mod discovery;
mod failure;
mod kinds;
mod list;
mod meta;
mod proxy;
mod query;
mod selector;
mod server;
mod store;
mod target;
mod verbs;
mod warning;
mod watch;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;

pub use check::{Objection, check};
pub use config::{Clock, Config, Error, KubeletTransport};
pub use selector::selects;

use query::{FieldValidation, WriteOptions};
use server::Server;
use store::{Key, Store, Weight};
use target::Target;

/// The result of opening or stopping the server.
pub type Result<T> = std::result::Result<T, Error>;

/// Between two looks for expired events.
const SWEEP: Duration = Duration::from_secs(60);

/// A running API server over one database.
///
/// Dropping it leaves the store running until every router made from it is gone; [`Api::shutdown`] ends it in order.
pub struct Api {
    server: Arc<Server>,
    sweeper: JoinHandle<()>,
}

impl Api {
    /// Opens the database, loads its objects and makes sure that the namespaces `default` and `kube-system` and the
    /// system's priority classes exist.
    ///
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The database is locked, damaged, of a newer podd, or cannot be written.
    pub async fn open(config: Config) -> Result<Self> {
        let Config { database, node_name, kubelet, event_ttl, history, clock } = config;
        let path = database.clone();
        let store = tokio::task::spawn_blocking(move || Store::open(&path, history))
            .await
            .map_err(|e| Error::Thread(std::io::Error::other(e)))??;
        let store = Arc::new(store);
        let server = Server { store, node_name, clock, kubelet: RwLock::new(kubelet) };
        let server = Arc::new(server);
        ensure_objects(&server).await.map_err(|source| Error::Database { path: database, source: source.into() })?;
        let sweeper = tokio::spawn(sweep(server.clone(), event_ttl));
        Ok(Self { server, sweeper })
    }

    /// The whole API as a router; cheap to call, and every router serves the same store.
    pub fn router(&self) -> axum::Router {
        server::router(self.server.clone())
    }

    /// Sets or replaces the way to the kubelet; until then logs and exec answer 503.
    pub fn connect_kubelet(&self, kubelet: KubeletTransport) {
        let mut current = self.server.kubelet.write().unwrap_or_else(PoisonError::into_inner);
        *current = Some(kubelet);
    }

    /// Ends watches, writes what is pending, closes the database.
    ///
    /// # Errors
    /// The store's thread has panicked.
    pub async fn shutdown(self) -> Result<()> {
        self.sweeper.abort();
        // The kubelet's router may hold clients of this API: let go of it.
        self.server.kubelet.write().unwrap_or_else(PoisonError::into_inner).take();
        self.server.store.close().await
    }
}

/// The objects that are always there: two namespaces, and Kubernetes' own priority classes.
async fn ensure_objects(server: &Server) -> std::result::Result<(), String> {
    let namespaces = verbs::IMMORTAL
        .map(|name| (kinds::NAMESPACE, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})));
    let priorities = podd_core::classes::SYSTEM_PRIORITIES.map(|(name, value)| {
        let description = format!(
            "Used for system critical pods that must not be moved from their current {}.",
            if name.contains("node") { "node" } else { "cluster" }
        );
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description,
        });
        (kinds::of("PriorityClass"), class)
    });
    for (kind, object) in namespaces.into_iter().chain(priorities) {
        let name = meta::text(&object, "name");
        if server.store.read().get(kind, &Key::new("", name)).is_some() {
            continue;
        }
        let context = server.context();
        let work = move |transaction: &mut store::Transaction<'_>| {
            let target = Target { kind, namespace: None, name: None, subresource: None };
            let options = WriteOptions {
                dry_run: false,
                validation: FieldValidation::Ignore,
                manager: Some("podd".into()),
                client: String::new(),
                force: false,
            };
            verbs::create(transaction, &target, object, &options, &context, Vec::new())
        };
        let written = server.store.write(Weight::Full, false, work).await;
        written.map_err(|failure| failure.status()["message"].to_string())?;
    }
    Ok(())
}

/// Drops expired events, now and then.
async fn sweep(server: Arc<Server>, ttl: Duration) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        let now = server.clock.now();
        let work = move |transaction: &mut store::Transaction<'_>| Ok(verbs::expire(transaction, now, ttl));
        match server.store.write(Weight::Light, false, work).await {
            Ok(0) => {}
            Ok(expired) => tracing::debug!(expired, "events expired"),
            Err(failure) => tracing::warn!(?failure, "expire events"),
        }
    }
}
