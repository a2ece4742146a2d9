//! The systemd cgroup driver: pods are slices, containers are scopes, and systemd makes and removes both.
//!
//! ```text
//! kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice    the kubelet's, or made here
//! └─ podd-<id>.scope                                                           a container, Delegate=yes
//! ```
//!
//! A path says by its end whose it is (`.slice`, `.scope`), so what one configuration has made another can remove. systemd
//! refuses a scope without a process and ends one that has none: the caller passes one that stays until its own is there.
//! Limits are told to systemd *and* written to the files: systemd writes its own values again whenever it is reloaded, and
//! has no properties for some of them.
//!
//! Each operation has a connection of its own to the system bus: one that is kept would break whenever the bus is started
//! anew. The private socket that `systemctl` uses as root is no way for zbus: what systemd says there has a sender that is no
//! unique name, which zbus does not read.

mod names;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use podd_cgroup::{Limits, weight_of_shares};
use zbus::zvariant::{OwnedObjectPath, Value};

use crate::error::{CriError, Result};

pub(crate) use names::{leaf, own_slice, slice_path, unit_of};

/// How long systemd may take for one operation.
const PATIENCE: Duration = Duration::from_secs(30);
/// The period that systemd and the kernel take when none is said.
const DEFAULT_PERIOD: u64 = 100_000;
/// systemd keeps the quota in whole percents of a CPU.
const PERCENT: u64 = 10_000;

/// The way to systemd.
#[derive(Clone, Debug)]
pub(crate) struct Systemd {
    /// Where somebody listens without a bus in between; none is the system bus.
    peer: Option<PathBuf>,
    patience: Duration,
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Value<'_>)],
        auxiliary: &[(&str, &[(&str, Value<'_>)])],
    ) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn set_unit_properties(&self, name: &str, runtime: bool, properties: &[(&str, Value<'_>)]) -> zbus::Result<()>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

impl Default for Systemd {
    fn default() -> Self {
        Self { peer: None, patience: PATIENCE }
    }
}

impl Systemd {
    /// Makes a slice, unless it is there.
    pub(crate) async fn ensure_slice(&self, path: &Path) -> Result<()> {
        let unit = unit_of(path);
        let properties = [("Description", Value::from("a pod of podd")), ("DefaultDependencies", Value::from(false))];
        self.start(unit, &properties).await
    }

    /// Makes a scope with `pid` in it and limits on it.
    pub(crate) async fn start_scope(&self, path: &Path, limits: &Limits, pid: u32) -> Result<()> {
        let unit = unit_of(path);
        let slice = path.parent().map(unit_of).unwrap_or_default();
        let mut properties = vec![
            ("Description", Value::from("a container of podd")),
            ("Slice", Value::from(slice)),
            ("PIDs", Value::from(vec![pid])),
            ("Delegate", Value::from(true)),
            // As runc has it: otherwise systemd would end containers at shutdown before the kubelet does.
            ("DefaultDependencies", Value::from(false)),
            ("CollectMode", Value::from("inactive-or-failed")),
        ];
        properties.extend(self::properties(limits).into_iter().map(|(name, value)| (name, Value::from(value))));
        self.start(unit, &properties).await
    }

    /// Tells systemd the limits that a scope has now.
    pub(crate) async fn update(&self, path: &Path, limits: &Limits) -> Result<()> {
        let unit = unit_of(path);
        let values: Vec<_> = properties(limits).into_iter().map(|(name, value)| (name, Value::from(value))).collect();
        self.within(unit, "change", async {
            let manager = self.manager().await?;
            Ok(manager.set_unit_properties(unit, true, &values).await?)
        })
        .await
    }

    /// Ends a unit; one that is gone is ended.
    pub(crate) async fn stop(&self, path: &Path) -> Result<()> {
        let unit = unit_of(path);
        self.within(unit, "stop", async {
            let manager = self.manager().await?;
            let jobs = manager.receive_job_removed().await?;
            match manager.stop_unit(unit, "replace").await {
                Ok(job) => finish(jobs, &job).await,
                Err(error) if is(&error, "NoSuchUnit") => Ok(()),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    async fn start(&self, unit: &str, properties: &[(&str, Value<'_>)]) -> Result<()> {
        self.within(unit, "start", async {
            let manager = self.manager().await?;
            let jobs = manager.receive_job_removed().await?;
            match manager.start_transient_unit(unit, "replace", properties, &[]).await {
                Ok(job) => finish(jobs, &job).await,
                // Slices are shared, and somebody may have been first. A scope's name is never used twice.
                Err(error) if is(&error, "UnitExists") && unit.ends_with(".slice") => Ok(()),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    async fn within(
        &self,
        unit: &str,
        action: &str,
        work: impl Future<Output = std::result::Result<(), Problem>>,
    ) -> Result<()> {
        let what = || format!("{action} the systemd unit {unit}");
        // An operation that is cut off may still happen; removal stops the unit whether it has or not.
        match tokio::time::timeout(self.patience, work).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(problem)) => Err(CriError::internal(what(), problem)),
            Err(_) => Err(CriError::internal(what(), Problem::Silent(self.patience))),
        }
    }

    async fn manager(&self) -> zbus::Result<ManagerProxy<'static>> {
        let connection = match &self.peer {
            Some(socket) => {
                let stream = tokio::net::UnixStream::connect(socket).await?;
                zbus::connection::Builder::unix_stream(stream).p2p().build().await?
            }
            None => zbus::Connection::system().await?,
        };
        let manager = ManagerProxy::new(&connection).await?;
        manager.subscribe().await?;
        Ok(manager)
    }
}

/// What systemd answers, or does not.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Bus(#[from] zbus::Error),
    #[error("its job ended with {0:?}")]
    Job(String),
    #[error("the connection ended before the job")]
    Closed,
    #[error("no answer within {0:?}")]
    Silent(Duration),
}

/// Waits for the end of a job. The stream was there before the job.
async fn finish(mut jobs: JobRemovedStream, job: &OwnedObjectPath) -> std::result::Result<(), Problem> {
    while let Some(signal) = jobs.next().await {
        let ended = signal.args()?;
        if ended.job == *job {
            return match ended.result.as_str() {
                "done" => Ok(()),
                other => Err(Problem::Job(other.to_owned())),
            };
        }
    }
    Err(Problem::Closed)
}

fn is(error: &zbus::Error, name: &str) -> bool {
    matches!(error, zbus::Error::MethodError(found, ..) if found.rsplit('.').next() == Some(name))
}

/// The limits that systemd has properties for. "Unlimited" is its largest number.
fn properties(limits: &Limits) -> Vec<(&'static str, u64)> {
    let bound = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    let mut properties = Vec::new();
    if let Some(shares) = limits.cpu_shares {
        properties.push(("CPUWeight", weight_of_shares(shares)));
    }
    if let Some(quota) = limits.cpu_quota {
        let period = limits.cpu_period.filter(|period| *period > 0).unwrap_or(DEFAULT_PERIOD);
        let share = u64::try_from(quota).ok().filter(|quota| *quota > 0);
        let per_second = share.map_or(u64::MAX, |quota| {
            quota.saturating_mul(1_000_000).div_ceil(period).div_ceil(PERCENT).saturating_mul(PERCENT)
        });
        properties.push(("CPUQuotaPeriodUSec", period));
        properties.push(("CPUQuotaPerSecUSec", per_second));
    }
    if let Some(memory) = limits.memory {
        properties.push(("MemoryMax", bound(memory)));
    }
    if let Some(total) = limits.memory_swap {
        let swap = limits.memory.filter(|memory| *memory >= 0 && total >= *memory).map(|memory| total - memory);
        properties.push(("MemorySwapMax", if total < 0 { u64::MAX } else { swap.map_or(u64::MAX, bound) }));
    }
    if let Some(pids) = limits.pids {
        properties.push(("TasksMax", if pids <= 0 { u64::MAX } else { bound(pids) }));
    }
    properties
}

#[cfg(test)]
mod tests;
