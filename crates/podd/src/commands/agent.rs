//! `podd agent stop` and `podd agent status`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use axum::body::Body;
use tokio::time::Instant;

use crate::client::own;
use crate::config::Settings;
use crate::daemon::Lock;
use crate::print::say;

/// How often it is looked whether the agent is gone.
const POLL: Duration = Duration::from_millis(10);

/// Asks the agent to end and waits until it has.
pub(crate) async fn stop(pods: bool, timeout: Duration, settings: &Settings) -> anyhow::Result<()> {
    let running = own::running_agent_socket(settings).await;
    let socket = match running {
        Some(socket) => socket,
        // Pods may run on without an agent; only an agent can stop them.
        None if pods => own::agent_socket(settings).await?,
        None => {
            say!("no agent runs");
            return Ok(());
        }
    };
    own::post(&socket, &format!("/podd/v1/stop?pods={pods}"), "text/plain", Body::empty()).await?;
    let deadline = Instant::now() + timeout;
    // The sockets go before the runtime and the network do; the lock is the last thing that an agent gives back.
    while Lock::is_held(&settings.root) {
        if Instant::now() > deadline {
            bail!("the agent has not ended within {} s; see {}", timeout.as_secs(), settings.agent_log().display());
        }
        tokio::time::sleep(POLL).await;
    }
    let what = match (pods, socket == settings.api_socket()) {
        (false, _) => "; pods go on running",
        (true, true) => ", pods and network are gone",
        // The network is the runtime's, which is another process.
        (true, false) => ", pods are gone",
    };
    say!("agent stopped{what}");
    Ok(())
}

/// Tells whether the agent runs; exit code 3 when not, as service managers do.
pub(crate) async fn status(settings: &Settings) -> anyhow::Result<ExitCode> {
    match own::running_agent_socket(settings).await {
        Some(socket) => {
            say!("the agent runs at {}", socket.display());
            Ok(ExitCode::SUCCESS)
        }
        None => {
            say!("no agent runs ({})", settings.api_socket().display());
            Ok(ExitCode::from(3))
        }
    }
}
