//! StartContainer, and what a container's end leads to.

use std::sync::Arc;

use podd_cri::v1::ContainerEventType;
use podd_nri::message::Event;
use podd_shim::wire::{Exit as WireExit, Request, Response};

use super::Container;
use crate::clock::now;
use crate::engine::{Engine, blocking};
use crate::error::{CriError, Result};
use crate::records::{Exit, Reason, Stage};
use crate::shim::unexpected;

/// The exit code of a container whose process could never be started, as the kubelet knows it.
const START_ERROR: i32 = 128;
/// The exit code of a container whose end nobody saw.
const UNKNOWN: i32 = 137;

impl Engine {
    /// Lets a created container exec.
    pub(crate) async fn start_container(self: Arc<Self>, id: &str) -> Result<()> {
        let _gate = self.enter_nri().await;
        let container = self.registry.container(id)?;
        let _turn = container.turn.lock().await;
        let shim = container.sandbox.shim()?;
        if container.status().stage == Stage::Created {
            self.tell_of_container(Event::StartContainer, &container).await?;
        }
        let ready = container.change(|status| {
            if status.stage == Stage::Created && !status.removing {
                status.stage = Stage::Starting;
                return true;
            }
            false
        })?;
        if !ready {
            let state = container.state().as_str_name();
            return Err(CriError::Precondition(format!("container {id} is {state} and cannot be started")));
        }
        let started = match shim.client.call(Request::Start { id: container.id().to_owned() }).await {
            Ok(Response::Started { started_at }) => Ok(started_at),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => Err(error),
        };
        match started {
            Ok(started_at) => {
                self.note_started(&container, started_at)?;
                self.announce_container(Event::PostStartContainer, &container).await;
                self.run_poststart(&container).await
            }
            Err(error) => {
                let exit = Exit {
                    started_at: 0,
                    finished_at: now(),
                    code: START_ERROR,
                    reason: Reason::StartError,
                    message: error.chain(),
                };
                self.note_exit(&container, exit).await;
                Err(error)
            }
        }
    }

    fn note_started(&self, container: &Container, started_at: i64) -> Result<()> {
        let news = container.change(|status| {
            // A short-lived process may have ended before this line; then its end stands.
            let news = status.stage == Stage::Starting;
            if news {
                status.stage = Stage::Running { started_at };
            }
            news
        })?;
        if news {
            tracing::info!(container = container.id(), "container started");
            self.announce(container.id(), &container.sandbox, ContainerEventType::ContainerStartedEvent);
        }
        Ok(())
    }

    /// The shim says that a container ended.
    pub(crate) async fn on_exit(self: &Arc<Self>, id: &str, exit: WireExit) {
        let Ok(container) = self.registry.container(id) else {
            tracing::debug!(container = id, "a container ended that nobody knows any more");
            return;
        };
        if exit.started_at == 0 {
            match container.status().stage {
                // The reply to the start says why; it is on its way, and whoever waits for it records it.
                Stage::Starting => return,
                // A child that died while it waited for its start. It cannot be started any more.
                _ => tracing::debug!(container = id, code = exit.code, "a container ended before its start"),
            }
        } else if container.status().stage == Stage::Starting
            && let Err(error) = self.note_started(&container, exit.started_at)
        {
            tracing::error!(container = id, error = error.chain(), "a start could not be recorded");
        }
        self.note_exit(&container, ended(exit)).await;
    }

    /// Records the first end of a container that is told, and clears up behind it.
    pub(crate) async fn note_exit(self: &Arc<Self>, container: &Arc<Container>, exit: Exit) {
        let (code, reason) = (exit.code, exit.reason);
        let recorded = container.change(|status| {
            let news = !matches!(status.stage, Stage::Exited(_));
            if news {
                status.stage = Stage::Exited(exit);
                status.pid = 0;
            }
            news
        });
        match recorded {
            Ok(true) => tracing::info!(container = container.id(), code, reason = reason.name(), "container exited"),
            Ok(false) => {}
            Err(error) => {
                // The shim keeps the result until it is forgotten, which is left out here on purpose.
                tracing::error!(container = container.id(), error = error.chain(), "an exit could not be recorded");
                return;
            }
        }
        if !container.meta.own_pid_namespace {
            // Nothing but the cgroup holds what the first process has left behind.
            self.kill_group(container).await;
        }
        self.announce(container.id(), &container.sandbox, ContainerEventType::ContainerStoppedEvent);
        self.announce_stop_later(container);
        if container.status().poststop_due {
            let (engine, ended) = (Arc::clone(self), Arc::clone(container));
            self.in_background(async move { engine.run_poststop(&ended).await });
        }
        if let Some(shim) = container.sandbox.shim_if_alive()
            && let Err(error) = shim.client.order(Request::Forget { id: container.id().to_owned() }).await
        {
            tracing::debug!(container = container.id(), error = error.chain(), "the shim was not told to forget");
        }
    }

    /// Kills whatever is in a container's cgroup.
    pub(crate) async fn kill_group(self: &Arc<Self>, container: &Container) {
        let outcome = self.cgroups.group(&container.meta.cgroup);
        let outcome = blocking(move || outcome.and_then(|group| group.kill())).await;
        if let Err(error) = outcome {
            tracing::warn!(container = container.id(), %error, "kill what is left in the container's cgroup");
        }
    }
}

/// The shim's words in the record's.
pub(crate) fn ended(exit: WireExit) -> Exit {
    let reason = match exit {
        _ if exit.started_at == 0 => Reason::StartError,
        _ if exit.oom_killed => Reason::OOMKilled,
        WireExit { code: 0, .. } => Reason::Completed,
        _ => Reason::Error,
    };
    Exit {
        started_at: exit.started_at,
        finished_at: exit.finished_at,
        code: if exit.started_at == 0 { START_ERROR } else { exit.code },
        reason,
        message: String::new(),
    }
}

/// The end of a container whose shim is gone.
pub(crate) fn unseen(stage: &Stage, why: &str) -> Exit {
    let started_at = match stage {
        Stage::Running { started_at } => *started_at,
        _ => 0,
    };
    Exit {
        started_at,
        finished_at: now(),
        code: UNKNOWN,
        reason: Reason::ContainerStatusUnknown,
        message: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_has_the_kubelets_reason() {
        let ran = WireExit { started_at: 1, finished_at: 2, ..WireExit::default() };
        let table = [
            (ran, 0, Reason::Completed),
            (WireExit { code: 3, ..ran }, 3, Reason::Error),
            (WireExit { code: 143, signal: Some(15), ..ran }, 143, Reason::Error),
            (WireExit { code: 137, signal: Some(9), oom_killed: true, ..ran }, 137, Reason::OOMKilled),
            (WireExit { code: 127, started_at: 0, ..ran }, 128, Reason::StartError),
        ];
        for (exit, code, reason) in table {
            let ended = ended(exit);
            assert_eq!((ended.code, ended.reason), (code, reason), "{exit:?}");
        }
    }
}
