//! What others of the agent may ask of the dispatcher: to look pods up, and to end them.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use podd_core::pod::{ContainerSeen, Ending};
use tokio::sync::mpsc;

use super::Command;
use crate::worker::table::Table;

/// Looks pods up, as [`Dispatcher`] does. Cheap to clone.
#[derive(Clone)]
pub struct Lookup {
    pub(super) table: Table,
}

impl Lookup {
    /// All pods: the newest objects with the newest statuses.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.table.all()
    }

    /// Whether every source has told all it has: before that a pod may run that nobody has named yet.
    pub fn is_complete(&self) -> bool {
        self.table.is_complete()
    }

    /// A pod by its name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.table.find(namespace, name)
    }

    /// The containers of a pod as they were last seen; see [`Dispatcher::containers`].
    pub fn containers(&self, uid: &str) -> Vec<ContainerSeen> {
        self.table.seen(uid).map(|seen| seen.containers.clone()).unwrap_or_default()
    }
}

/// Ends pods that run, for the node's own reasons. Cheap to clone.
#[derive(Clone)]
pub struct Ender {
    pub(super) commands: mpsc::Sender<Command>,
}

impl Ender {
    /// Ends the pod with this uid: it fails for this reason as soon as nothing of it runs, which is when its containers
    /// have ended by themselves or this grace is over. Nothing happens to one that is on its way out.
    pub async fn end(&self, uid: &str, ending: Ending, grace: Duration) {
        // A dispatcher that is closed leaves the pods to the next agent.
        let _ = self.commands.send(Command::End { uid: uid.to_owned(), ending, grace }).await;
    }
}
