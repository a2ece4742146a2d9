//! The agent's loop: changes of the sources become commands for the dispatcher, mirrors are kept, and what gone pods have
//! left on the node is taken away.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use podd_core::eviction::Condition;
use podd_cri::{RuntimeService, v1};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    desired::{Command, Desired, MirrorAction},
    names,
    objects::ApiObjects,
    resources::NodeResources,
    source::{Change, Source, uid},
    worker::{Lookup, Update, names::POD_UID},
};

/// How soon a mirror that could not be made is tried again, and the leftovers of a pod that has just gone are looked for.
const SOON: Duration = Duration::from_secs(1);

/// The loop and what it works with.
pub(crate) struct Keeper {
    pub(crate) desired: Desired,
    pub(crate) sources: Vec<Source>,
    pub(crate) updates: mpsc::Sender<Update>,
    pub(crate) pods: Lookup,
    pub(crate) objects: ApiObjects,
    pub(crate) leftovers: Leftovers,
    pub(crate) names: names::Keeper,
    /// What the node is short of.
    pub(crate) conditions: watch::Receiver<Vec<Condition>>,
    /// Whether the machine goes down.
    pub(crate) shutting_down: watch::Receiver<bool>,
    pub(crate) period: Duration,
}

impl Keeper {
    pub(crate) async fn run(mut self, mut changes: mpsc::Receiver<(Source, Change)>, shutdown: CancellationToken) {
        let mut clean_at = Instant::now() + self.period;
        let mut mirrors_at: Option<Instant> = None;
        loop {
            let next = mirrors_at.map_or(clean_at, |at| at.min(clean_at));
            tokio::select! {
                () = shutdown.cancelled() => return,
                // Neither loses anything when it is cancelled.
                change = changes.recv() => {
                    let Some((source, change)) = change else { return };
                    self.desired.short_of(self.conditions.borrow().clone(), *self.shutting_down.borrow());
                    for command in self.desired.take(source, change) {
                        if matches!(command, Command::Remove(..) | Command::Synced(_)) {
                            clean_at = clean_at.min(Instant::now() + SOON);
                        }
                        if self.updates.send(update(command)).await.is_err() {
                            return;
                        }
                    }
                    if self.desired.all_synced(&[Source::Api]) {
                        self.names.tell(self.desired.of_api());
                    }
                    self.leftovers.share_tier(&self.desired).await;
                    mirrors_at = self.keep_mirrors().await;
                }
                () = tokio::time::sleep_until(next) => {
                    if mirrors_at.is_some_and(|at| at <= Instant::now()) {
                        mirrors_at = self.keep_mirrors().await;
                    }
                    if clean_at <= Instant::now() {
                        clean_at = Instant::now() + self.period;
                        if self.desired.all_synced(&self.sources) {
                            self.clean().await;
                        }
                    }
                }
            }
        }
    }

    /// Makes and removes mirrors; when to try again, if something failed.
    async fn keep_mirrors(&self) -> Option<Instant> {
        let mut again = None;
        for action in self.desired.mirror_actions(&self.sources) {
            let outcome = match &action {
                MirrorAction::Create(pod) => self.objects.create_mirror(pod).await,
                MirrorAction::Delete(mirror) => self.objects.delete_mirror(mirror).await,
            };
            if let Err(error) = outcome {
                debug!(%error, "a mirror is not as it should be");
                again = Some(Instant::now() + SOON);
            }
        }
        again
    }

    async fn clean(&self) {
        let known = self.leftovers.known().await;
        // Asked for after the listing: whatever was there then and is nobody's now, is left over.
        let mut wanted: BTreeSet<String> = self.desired.pods().map(|pod| uid(pod).to_owned()).collect();
        wanted.extend(self.pods.pods().iter().map(|pod| uid(pod).to_owned()));
        self.objects.retain(|uid| wanted.contains(uid));
        match self.leftovers.in_runtime().await {
            Ok(running) => wanted.extend(running),
            Err(error) => return debug!(%error, "the runtime does not say what it has; nothing is cleared away"),
        }
        for (uid, logs) in known.into_iter().filter(|(uid, _)| !wanted.contains(uid)) {
            self.leftovers.remove(uid, logs).await;
        }
    }
}

fn update(command: Command) -> Update {
    match command {
        Command::Apply(source, pod) => Update::Applied(source, pod),
        Command::Refuse(source, pod, refusal) => Update::Refused(source, pod, refusal),
        Command::Remove(source, uid) => Update::Gone(source, uid),
        Command::Synced(source) => Update::Synced(source),
    }
}

/// What pods leave on a node: directories, cgroups, logs.
pub(crate) struct Leftovers {
    pub(crate) resources: NodeResources,
    pub(crate) runtime: Arc<dyn RuntimeService>,
    pub(crate) log_root: PathBuf,
}

impl Leftovers {
    async fn share_tier(&self, desired: &Desired) {
        if let Err(failure) = self.resources.refresh_tiers(desired.pods().cloned().collect()).await {
            warn!(message = failure.message, "shares of the Burstable tier");
        }
    }

    /// UIDs of which something is there, and their log directories.
    async fn known(&self) -> BTreeMap<String, Vec<PathBuf>> {
        let mut known: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        match self.resources.known_uids().await {
            Ok(uids) => known.extend(uids.into_iter().map(|uid| (uid, Vec::new()))),
            Err(error) => warn!(%error, "list what pods have left"),
        }
        let root = self.log_root.clone();
        let logs = tokio::task::spawn_blocking(move || log_directories(&root)).await.unwrap_or_default();
        for (uid, path) in logs {
            known.entry(uid).or_default().push(path);
        }
        known
    }

    async fn in_runtime(&self) -> Result<Vec<String>, tonic::Status> {
        let list = self.runtime.list_pod_sandbox(tonic::Request::new(v1::ListPodSandboxRequest::default())).await?;
        Ok(list.into_inner().items.into_iter().filter_map(|mut item| item.labels.remove(POD_UID)).collect())
    }

    async fn remove(&self, uid: String, logs: Vec<PathBuf>) {
        info!(uid, "clear away what a gone pod has left");
        if let Err(failure) = self.resources.release_uid(uid).await {
            warn!(message = failure.message, "clear away what a gone pod has left");
        }
        for path in logs {
            if let Err(error) = tokio::fs::remove_dir_all(&path).await {
                warn!(%error, path = %path.display(), "remove the logs of a gone pod");
            }
        }
    }
}

/// `<namespace>_<name>_<uid>` directories that only we can have made: another node agent may share the directory, and its
/// pods are told from ours by the mark that ours carry.
fn log_directories(root: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(root).into_iter().flatten().filter_map(Result::ok);
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let uid = name.rsplit_once('_')?.1.to_owned();
            let path = entry.path();
            path.join(LOG_MARK).exists().then_some((uid, path))
        })
        .collect()
}

/// The file that says whose a log directory is.
pub(crate) const LOG_MARK: &str = ".podd";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_marked_log_directories_are_ours() {
        let root = tempfile::tempdir().expect("a directory");
        for name in ["default_a_u1", "default_b_u2", "other"] {
            std::fs::create_dir(root.path().join(name)).expect("made");
        }
        std::fs::write(root.path().join("default_a_u1").join(LOG_MARK), "").expect("written");
        let found = log_directories(root.path());
        assert_eq!(found, [("u1".to_owned(), root.path().join("default_a_u1"))]);
        assert!(log_directories(Path::new("/nowhere/at/all")).is_empty());
    }
}
