//! A container in memory: its immutable description and its status.

mod checkpoint;
mod create;
mod devices;
mod edits;
mod external;
mod hooks;
pub(crate) mod limits;
mod list;
pub(crate) mod plan;
mod propagation;
pub(crate) mod remove;
pub(crate) mod start;
mod status;
mod stop;
mod update;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use podd_cri::v1::ContainerState;
use podd_image::Lease;
use tokio::sync::{Mutex, watch};

pub(crate) use edits::Edits;

use crate::error::{Context, Result};
use crate::records::{ContainerMeta, ContainerStatus, Record, Stage};
use crate::sandbox::Sandbox;

/// A container that has a record.
pub(crate) struct Container {
    pub(crate) meta: ContainerMeta,
    pub(crate) sandbox: Arc<Sandbox>,
    record: Record<ContainerStatus>,
    status: watch::Sender<ContainerStatus>,
    /// Start, update and removal, one at a time. Held over awaits on purpose: it is the order of operations, and
    /// guards no data. Stopping does not take it, so that it can end a container whose start hangs.
    pub(crate) turn: Mutex<()>,
    /// The stop signal was sent; who stops it too waits with the first.
    stop_sent: AtomicBool,
    /// Plugins were told of its end. Held while they are: it is the order of telling, and guards no more than this.
    pub(crate) stop_told: Mutex<bool>,
    /// Held while poststop hooks run, so that they do once.
    poststop: Mutex<()>,
    /// Keep the layers of its images on disk.
    layers: std::sync::Mutex<Vec<Lease>>,
}

impl Container {
    pub(crate) fn new(
        meta: ContainerMeta,
        status: ContainerStatus,
        record: Record<ContainerStatus>,
        sandbox: Arc<Sandbox>,
        layers: Vec<Lease>,
    ) -> Self {
        Self {
            meta,
            sandbox,
            record,
            status: watch::Sender::new(status),
            turn: Mutex::new(()),
            stop_sent: AtomicBool::new(false),
            stop_told: Mutex::new(false),
            poststop: Mutex::new(()),
            layers: std::sync::Mutex::new(layers),
        }
    }

    /// Lets go of its images' layers: nothing mounts them any more.
    pub(crate) fn release_layers(&self) {
        drop(std::mem::take(&mut *self.layers.lock().unwrap_or_else(PoisonError::into_inner)));
    }

    pub(crate) fn id(&self) -> &str {
        &self.meta.id
    }

    pub(crate) fn status(&self) -> ContainerStatus {
        self.status.borrow().clone()
    }

    /// Follows the status.
    pub(crate) fn watch(&self) -> watch::Receiver<ContainerStatus> {
        self.status.subscribe()
    }

    /// Changes the status: first in the record, then for everybody to see. The answer of `change` comes back, so that
    /// a decision and the change that it leads to are one step.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut ContainerStatus) -> T) -> Result<T> {
        let mut outcome = None;
        self.status.send_if_modified(|status| {
            let mut next = status.clone();
            let answer = change(&mut next);
            if next == *status {
                outcome = Some(Ok(answer));
                return false;
            }
            let put = self.record.put(&next).context(|| format!("record container {}", self.id()));
            outcome = Some(put.map(|()| answer));
            *status = next;
            true
        });
        outcome.expect("send_if_modified calls its closure once")
    }

    pub(crate) fn forget_record(&self) -> std::io::Result<()> {
        self.record.delete()
    }

    /// True for the first caller only.
    pub(crate) fn claim_stop(&self) -> bool {
        !self.stop_sent.swap(true, Ordering::AcqRel)
    }

    /// Whether callers may see it: a half-made one is nobody's business.
    pub(crate) fn is_listed(&self) -> bool {
        self.status.borrow().stage != Stage::Creating
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.status.borrow().stage, Stage::Running { .. })
    }

    pub(crate) fn state(&self) -> ContainerState {
        match self.status.borrow().stage {
            Stage::Creating | Stage::Created | Stage::Starting => ContainerState::ContainerCreated,
            Stage::Running { .. } => ContainerState::ContainerRunning,
            Stage::Exited(_) => ContainerState::ContainerExited,
        }
    }
}
