//! Servers on unix sockets of mode 0600, and their end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use podd_cri::{ImageService, RuntimeService};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long open connections may go on after the end was said.
const PATIENCE: Duration = Duration::from_secs(2);

/// Something that is served on a socket.
pub(super) struct Served {
    path: PathBuf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Served {
    /// HTTP/1.1 with upgrades.
    pub(super) async fn http(path: &Path, router: Router) -> anyhow::Result<Self> {
        let listener = podd_cri::server::bind(path).await.with_context(|| format!("listen on {}", path.display()))?;
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(async {
                // Said, or dropped.
                let _either = stopped.await;
            });
            if let Err(error) = served.await {
                tracing::error!(%error, "the API's server ended");
            }
        });
        Ok(Self { path: path.to_owned(), stop, task })
    }

    /// CRI over gRPC.
    pub(super) async fn cri(
        path: &Path,
        runtime: Arc<dyn RuntimeService>,
        images: Arc<dyn ImageService>,
    ) -> anyhow::Result<Self> {
        let listener = podd_cri::server::bind(path).await.with_context(|| format!("listen on {}", path.display()))?;
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let end = async {
                // Said, or dropped.
                let _either = stopped.await;
            };
            if let Err(error) = podd_cri::server::serve(listener, runtime, images, end).await {
                tracing::error!(%error, "the CRI server ended");
            }
        });
        Ok(Self { path: path.to_owned(), stop, task })
    }

    /// Takes no new connections, waits a little for the others, and removes the socket.
    pub(super) async fn end(self) {
        // The server has ended by itself, then.
        let _gone = self.stop.send(());
        let abort = self.task.abort_handle();
        if tokio::time::timeout(PATIENCE, self.task).await.is_err() {
            abort.abort();
        }
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.path.display(), "remove the socket");
            }
            _ => {}
        }
    }
}
