//! A sandbox in memory: its immutable description, its status and the connection to its shim.

mod files;
pub(crate) mod list;
pub(crate) mod plan;
mod remove;
mod run;
mod status;
mod stop;
mod update;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use podd_cri::v1::{PodSandboxMetadata, PodSandboxState};
use podd_shim::wire::Exit;
use tokio::sync::{RwLock, oneshot, watch};

use crate::error::{Context, CriError, Result};
use crate::records::{Owner, Record, SandboxMeta, SandboxStage, SandboxStatus};
use crate::shim::{Client, launch::Process};

/// A sandbox that has a record.
pub(crate) struct Sandbox {
    pub(crate) meta: SandboxMeta,
    record: Record<SandboxStatus>,
    status: watch::Sender<SandboxStatus>,
    shim: Mutex<Option<Arc<Shim>>>,
    /// Shared by what needs the sandbox to stay ready (creating a container), exclusive for what ends it. Held over
    /// awaits on purpose: it is the order of operations, and guards no data.
    pub(crate) turn: RwLock<()>,
}

/// A sandbox's living shim.
pub(crate) struct Shim {
    pub(crate) client: Arc<Client>,
    pub(crate) process: Process,
    /// Who waits for the end of which exec.
    execs: Mutex<HashMap<String, oneshot::Sender<Exit>>>,
}

impl Shim {
    pub(crate) fn new(client: Arc<Client>, process: Process) -> Self {
        Self { client, process, execs: Mutex::default() }
    }

    /// Will get the end of an exec. To be called before the exec is sent off: its end may come before the reply.
    pub(crate) fn expect_exec(&self, exec: &str) -> oneshot::Receiver<Exit> {
        let (sender, exit) = oneshot::channel();
        self.execs().insert(exec.to_owned(), sender);
        exit
    }

    /// Hands the end of an exec to whoever waits for it.
    pub(crate) fn exec_ended(&self, exec: &str, exit: Exit) {
        if let Some(waiting) = self.execs().remove(exec) {
            // Nobody waits any more; nobody wants to know.
            let _gone = waiting.send(exit);
        }
    }

    /// No exec's end will be seen any more.
    pub(crate) fn forget_execs(&self) {
        self.execs().clear();
    }

    /// Stops waiting for one.
    pub(crate) fn forget_exec(&self, exec: &str) {
        self.execs().remove(exec);
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<Exit>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sandbox {
    pub(crate) fn new(meta: SandboxMeta, status: SandboxStatus, record: Record<SandboxStatus>) -> Self {
        Self { meta, record, status: watch::Sender::new(status), shim: Mutex::new(None), turn: RwLock::new(()) }
    }

    pub(crate) fn id(&self) -> &str {
        &self.meta.id
    }

    pub(crate) fn status(&self) -> SandboxStatus {
        self.status.borrow().clone()
    }

    /// Changes the status: first in the record, then for everybody to see.
    pub(crate) fn change(&self, change: impl FnOnce(&mut SandboxStatus)) -> Result<()> {
        let mut outcome = Ok(());
        self.status.send_if_modified(|status| {
            let mut next = status.clone();
            change(&mut next);
            if next == *status {
                return false;
            }
            outcome = self.record.put(&next).context(|| format!("record sandbox {}", self.id()));
            *status = next;
            true
        });
        outcome
    }

    pub(crate) fn forget_record(&self) -> std::io::Result<()> {
        self.record.delete()
    }

    /// The shim, or why nothing can be asked of it.
    pub(crate) fn shim(&self) -> Result<Arc<Shim>> {
        self.shim_if_alive()
            .ok_or_else(|| CriError::Precondition(format!("sandbox {} is not ready: its shim is gone", self.id())))
    }

    pub(crate) fn shim_if_alive(&self) -> Option<Arc<Shim>> {
        self.shim.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_shim(&self, shim: Option<Arc<Shim>>) {
        *self.shim.lock().unwrap_or_else(PoisonError::into_inner) = shim;
    }

    /// Whether callers may see it: a half-made one is nobody's business.
    pub(crate) fn is_listed(&self) -> bool {
        self.status.borrow().stage != SandboxStage::Creating
    }

    pub(crate) fn state(&self) -> PodSandboxState {
        match self.status.borrow().stage {
            SandboxStage::Ready => PodSandboxState::SandboxReady,
            SandboxStage::Creating | SandboxStage::NotReady => PodSandboxState::SandboxNotready,
        }
    }
}

/// CRI's form of a sandbox's name.
pub(crate) fn metadata(owner: &Owner) -> PodSandboxMetadata {
    PodSandboxMetadata {
        name: owner.name.clone(),
        uid: owner.uid.clone(),
        namespace: owner.namespace.clone(),
        attempt: owner.attempt,
    }
}
