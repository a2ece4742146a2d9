//! Where a group's path says that it is systemd's: what is done through systemd before and after the files. Elsewhere
//! nothing.

use std::path::Path;
use std::time::Duration;

use podd_cgroup::Limits;

use crate::engine::{Engine, blocking};
use crate::error::Result;
use crate::shim::Holder;

/// How long a holder that was killed may take to be reaped.
const REAPED_WITHIN: Duration = Duration::from_secs(5);

/// The process that keeps a scope from ending before the scope's own process is there.
#[must_use = "a scope that nobody is in ends"]
pub(crate) struct Held(Option<Holder>);

impl Held {
    /// Lets go: the scope has its own process now, or will not get one.
    pub(crate) async fn release(self) {
        let Some(holder) = self.0 else { return };
        holder.process.kill();
        if !holder.process.ended_within(REAPED_WITHIN).await {
            tracing::warn!(pid = holder.process.pid, "the holder of a scope does not end");
        }
    }
}

fn is(path: &Path, kind: &str) -> bool {
    path.extension().is_some_and(|extension| extension == kind)
}

impl Engine {
    /// Makes a pod's slice, unless it is there.
    pub(crate) async fn ensure_slice(&self, group: &Path) -> Result<()> {
        match is(group, "slice") {
            true => self.systemd.ensure_slice(group).await,
            false => Ok(()),
        }
    }

    /// Makes a scope that stays for as long as it is held, at least.
    pub(crate) async fn hold_scope(&self, group: &Path, limits: &Limits) -> Result<Held> {
        if !is(group, "scope") {
            return Ok(Held(None));
        }
        let launcher = self.launcher.clone();
        let holder = blocking(move || launcher.hold()).await?;
        let pid = holder.process.pid;
        let held = Held(Some(holder));
        match self.systemd.start_scope(group, limits, pid).await {
            Ok(()) => Ok(held),
            Err(error) => {
                held.release().await;
                Err(error)
            }
        }
    }

    /// Keeps systemd's idea of the limits in step.
    pub(crate) async fn update_scope(&self, group: &Path, limits: &Limits) -> Result<()> {
        match is(group, "scope") {
            true => self.systemd.update(group, limits).await,
            false => Ok(()),
        }
    }

    /// Ends a slice or scope whose processes are killed. One that is gone is fine.
    pub(crate) async fn stop_unit(&self, group: &Path) -> Result<()> {
        match is(group, "scope") || is(group, "slice") {
            true => self.systemd.stop(group).await,
            false => Ok(()),
        }
    }
}
