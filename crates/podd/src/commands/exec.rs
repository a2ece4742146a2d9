//! `podd exec`: a command in a container, with its own exit code.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use futures::SinkExt as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Api, AttachParams, AttachedProcess, TerminalSize};
use rustix::termios::{OptionalActions, Termios};
use tokio::io::AsyncWriteExt as _;
use tokio::signal::unix::{SignalKind, signal};

use super::{api_error, pod_name};
use crate::cli::Exec;
use crate::client;
use crate::config::Settings;

pub(crate) async fn run(args: Exec, settings: &Settings) -> anyhow::Result<ExitCode> {
    let client = client::connect(settings).await?;
    let pods: Api<Pod> = Api::namespaced(client, &args.namespace.namespace);
    let tty = args.tty && std::io::stdin().is_terminal();
    if args.tty && !tty {
        eprintln!("warning: standard input is no terminal; going on without one");
    }
    let name = pod_name(&args.pod)?;
    let params = AttachParams {
        container: super::container_of(&pods, name, args.container).await?,
        stdin: args.stdin,
        stdout: true,
        stderr: !tty,
        tty,
        ..Default::default()
    };
    let process = pods.exec(name, &args.command, &params).await.map_err(api_error)?;
    let _raw = if tty { Some(RawTerminal::enter()?) } else { None };
    let status = converse(process, tty).await?;
    exit_code(status)
}

/// Copies the streams until the command ends; its status.
async fn converse(mut process: AttachedProcess, tty: bool) -> anyhow::Result<Option<Status>> {
    let status = process.take_status().context("the status was taken already")?;
    if let Some(mut stdin) = process.stdin() {
        // Reading a terminal can't be cancelled; the process ends with the command.
        tokio::spawn(async move {
            let mut input = tokio::io::stdin();
            let _ = tokio::io::copy(&mut input, &mut stdin).await;
            let _ = stdin.shutdown().await;
        });
    }
    if tty && let Some(sizes) = process.terminal_size() {
        tokio::spawn(follow_size(sizes));
    }
    let stdout = process.stdout();
    let stderr = process.stderr();
    let out = async {
        if let Some(mut from) = stdout {
            copy(&mut from, &mut tokio::io::stdout()).await;
        }
    };
    let err = async {
        if let Some(mut from) = stderr {
            copy(&mut from, &mut tokio::io::stderr()).await;
        }
    };
    let (status, (), ()) = tokio::join!(status, out, err);
    Ok(status)
}

/// Copies until either side ends, flushing what has come.
async fn copy(from: &mut (impl tokio::io::AsyncRead + Unpin), to: &mut (impl tokio::io::AsyncWrite + Unpin)) {
    let _ = tokio::io::copy(from, to).await;
    let _ = to.flush().await;
}

/// Tells the other side each new size of the terminal.
async fn follow_size(mut sizes: impl futures::Sink<TerminalSize> + Unpin) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else {
        return;
    };
    loop {
        if let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdout()) {
            let size = TerminalSize { width: size.ws_col, height: size.ws_row };
            if sizes.send(size).await.is_err() {
                return;
            }
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// The exit code that a status carries: the command's own, or 1 with a message.
fn exit_code(status: Option<Status>) -> anyhow::Result<ExitCode> {
    let Some(status) = status else { anyhow::bail!("the connection ended before the command did") };
    if status.status.as_deref() == Some("Success") {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status.details.and_then(|d| d.causes).unwrap_or_default();
    let code = causes
        .iter()
        .find(|c| c.reason.as_deref() == Some("ExitCode"))
        .and_then(|c| c.message.as_ref()?.parse::<u8>().ok());
    match code {
        Some(code) => {
            eprintln!("command terminated with exit code {code}");
            Ok(ExitCode::from(code))
        }
        None => anyhow::bail!("{}", status.message.unwrap_or_else(|| "the command could not be run".into())),
    }
}

/// The terminal in raw mode, and as it was before when dropped.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn enter() -> anyhow::Result<Self> {
        let before = rustix::termios::tcgetattr(std::io::stdin()).context("read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)
            .context("set the terminal to raw mode")?;
        Ok(RawTerminal { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_exit_code_is_the_commands_own() {
        let status = |value| serde_json::from_value::<Status>(value).ok();
        let code = |value| exit_code(status(value)).map(|c| format!("{c:?}"));
        assert_eq!(code(json!({"status": "Success"})).unwrap(), format!("{:?}", ExitCode::SUCCESS));
        let failure = json!({"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [{"reason": "ExitCode", "message": "42"}]}});
        assert_eq!(code(failure).unwrap(), format!("{:?}", ExitCode::from(42)));
        assert!(
            code(json!({"status": "Failure", "message": "no such container"}))
                .unwrap_err()
                .to_string()
                .contains("no such")
        );
        assert!(exit_code(None).is_err());
    }
}
