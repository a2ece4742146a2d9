//! `podd agent stop` and `podd agent status`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::Request;
use http_body_util::BodyExt as _;
use kube::client::Body;
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::client;
use crate::config::Settings;
use crate::daemon::Lock;
use crate::print::say;

/// How often it is looked whether the agent is gone.
const POLL: Duration = Duration::from_millis(10);

/// Asks the agent to end and waits until it has.
pub(crate) async fn stop(pods: bool, timeout: Duration, settings: &Settings) -> anyhow::Result<()> {
    let socket = settings.api_socket();
    let mut client = None;
    if UnixStream::connect(&socket).await.is_ok() {
        client = Some(client::over_unix(&socket));
    } else if pods {
        // Pods may run on without an agent; only an agent can stop them.
        client = Some(client::connect(settings).await?);
    }
    let Some(client) = client else {
        say!("no agent runs");
        return Ok(());
    };
    let request =
        Request::post(format!("/podd/v1/stop?pods={pods}")).body(Body::empty()).context("build the request")?;
    let response = client.send(request).await.map_err(super::api_error)?;
    let status = response.status();
    let text = response.into_body().collect().await.context("read the answer")?.to_bytes();
    if !status.is_success() {
        bail!("{}", String::from_utf8_lossy(&text));
    }
    let deadline = Instant::now() + timeout;
    // The sockets go before the runtime and the network do; the lock is the last thing that an agent gives back.
    while Lock::is_held(&settings.root) {
        if Instant::now() > deadline {
            bail!("the agent has not ended within {} s; see {}", timeout.as_secs(), settings.agent_log().display());
        }
        tokio::time::sleep(POLL).await;
    }
    say!("agent stopped{}", if pods { ", pods and network are gone" } else { "; pods go on running" });
    Ok(())
}

/// Tells whether the agent runs; exit code 3 when not, as service managers do.
pub(crate) async fn status(settings: &Settings) -> anyhow::Result<ExitCode> {
    let socket = settings.api_socket();
    if UnixStream::connect(&socket).await.is_err() {
        say!("no agent runs ({})", socket.display());
        return Ok(ExitCode::from(3));
    }
    let version = client::over_unix(&socket).apiserver_version().await.map_err(super::api_error)?;
    say!("the agent runs at {} (API {})", socket.display(), version.git_version);
    Ok(ExitCode::SUCCESS)
}
