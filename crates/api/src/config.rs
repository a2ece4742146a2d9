//! What the API server is told at its start, and the errors of opening it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

/// The settings of one API server.
#[derive(Clone)]
pub struct Config {
    /// The database file; it is created when absent, its directory must exist.
    pub database: PathBuf,
    /// The node that every pod without `spec.nodeName` is bound to when it is created.
    pub node_name: String,
    /// Where logs and streams of pods are served; it may also come later through
    /// [`Api::connect_kubelet`](crate::Api::connect_kubelet), since the agent is itself a client of this API.
    pub kubelet: Option<KubeletTransport>,
    /// How long an event is kept after it was last written.
    pub event_ttl: Duration,
    /// How many changes of each kind a watch can look back on; a watch from further back is told `Expired`.
    pub history: usize,
    /// The clock of creation and deletion timestamps.
    pub clock: Clock,
}

impl Config {
    /// The defaults of upstream (events live one hour) for a database and a node.
    pub fn new(database: impl Into<PathBuf>, node_name: impl Into<String>) -> Self {
        Self {
            database: database.into(),
            node_name: node_name.into(),
            kubelet: None,
            event_ttl: Duration::from_secs(60 * 60),
            history: 4096,
            clock: Clock(Arc::new(Timestamp::now)),
        }
    }
}

/// Tells the present time; tests move it by hand.
#[derive(Clone)]
pub struct Clock(pub Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    pub(crate) fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// The way to the kubelet HTTP router of the node, which serves `/containerLogs` and `/exec`.
#[derive(Clone)]
pub enum KubeletTransport {
    /// The agent's router in this process; the upgrade extension of the request is passed on.
    InProcess(axum::Router),
    /// A kubelet behind a socket.
    Remote(podd_cri::streaming::Target),
}

/// Why an API server did not open or did not stop in order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database could not be opened or read: it is locked by another process, damaged, or no database at all.
    #[error("open database {}", path.display())]
    Database {
        /// The file of [`Config::database`].
        path: PathBuf,
        /// What the storage engine said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database was written by a newer podd.
    #[error("database {} has format {found}, this podd reads up to {known}: use the newer podd, or move the file away", path.display())]
    Newer {
        /// The file of [`Config::database`].
        path: PathBuf,
        /// The format of the file.
        found: u64,
        /// The newest format that this program reads.
        known: u64,
    },
    /// An object in the database is not what was once written there.
    #[error("database {} holds a damaged object {key}", path.display())]
    Damaged {
        /// The file of [`Config::database`].
        path: PathBuf,
        /// The key of the object: `resource/namespace/name`.
        key: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store's thread could not start or ended early.
    #[error("run the store's thread")]
    Thread(#[source] std::io::Error),
}
