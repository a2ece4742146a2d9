//! The streams of a session in a container, exec's or attach's, joined with those of this process.

use anyhow::Context as _;
use futures::SinkExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachedProcess, TerminalSize};
use rustix::termios::{OptionalActions, Termios};
use tokio::io::AsyncWriteExt as _;
use tokio::signal::unix::{SignalKind, signal};

/// Copies the streams until the other side ends; the status that it gave.
pub(super) async fn converse(mut process: AttachedProcess, tty: bool) -> anyhow::Result<Option<Status>> {
    let status = process.take_status().context("the status was taken already")?;
    if let Some(mut stdin) = process.stdin() {
        // Reading a terminal can't be cancelled; the process ends with the session.
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

/// The terminal in raw mode, and as it was before when dropped.
pub(super) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    pub(super) fn enter() -> anyhow::Result<Self> {
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
