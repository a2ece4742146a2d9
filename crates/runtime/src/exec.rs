//! A further process in a running container: ExecSync, and the process behind Exec's streams.
//!
//! In both the process gets pipes (or a terminal) of its own through the shim, and it is its own end that counts: what
//! it has written is read to the last byte, and whoever it left behind with its pipes is not waited for.

mod family;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use podd_cri::streaming::{Output, Streams};
use podd_cri::v1::ExecSyncResponse;
use podd_shim::wire::{ExecSpec, Exit, Launch, Process, Request, Response, Stdio, WindowSize};
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;

use self::family::Family;
use crate::container::Container;
use crate::engine::{Engine, blocking, new_id};
use crate::error::{Context, CriError, Result};
use crate::external::{Commands, Files};
use crate::request::{arguments, seconds};
use crate::sandbox::Shim;
use crate::shim::unexpected;
use crate::signals::SIGKILL;
use crate::streams::pipe::{self, Capture, Pipe};
use crate::streams::{CHUNK, feed, follow_sizes};

/// What ExecSync keeps of each output; the rest is read and dropped (cri-api's limit of one message).
const CAPTURE_LIMIT: usize = 16 << 20;
/// What both may have together, so that the answer is a message that clients take.
const ANSWER_LIMIT: usize = podd_cri::MAX_MESSAGE - 1024;
/// How long a killed process may take to end before nobody waits for it any more.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// An exec that runs. Dropping it forgets it here and, in the background, in the shim.
struct Running {
    engine: Arc<Engine>,
    shim: Arc<Shim>,
    container: Arc<Container>,
    id: String,
    exit: oneshot::Receiver<Exit>,
    /// The terminal's master, if there is one.
    terminal: Option<OwnedFd>,
    /// Its first process.
    pid: u32,
}

impl Engine {
    /// Runs a command and collects what it writes.
    pub(crate) async fn exec_sync(
        self: Arc<Self>,
        id: &str,
        cmd: Vec<String>,
        timeout: i64,
    ) -> Result<ExecSyncResponse> {
        let what = || format!("exec in container {id}");
        let limit = Some(seconds("timeout", timeout)?).filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let (stdout, stdout_end) = pipe::from_process().context(what)?;
        let (stderr, stderr_end) = pipe::from_process().context(what)?;
        let stdio = [(Stdio::Stdout, stdout_end), (Stdio::Stderr, stderr_end)];
        let mut running = self.exec(id, cmd, false, stdio.into()).await?;
        let mut stdout = Capture::new(stdout, CAPTURE_LIMIT);
        let mut stderr = Capture::new(stderr, CAPTURE_LIMIT);
        let deadline = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(deadline);
        let exit = loop {
            tokio::select! {
                // All three keep what they have when cancelled: bytes are in the buffer or still in the pipe.
                exit = running.ended() => break exit?,
                outcome = stdout.fill(), if !stdout.is_closed() => outcome.context(what)?,
                outcome = stderr.fill(), if !stderr.is_closed() => outcome.context(what)?,
                () = &mut deadline => {
                    running.kill().await;
                    let seconds = limit.unwrap_or_default().as_secs();
                    return Err(CriError::Deadline(format!("exec in container {id}: command timed out after {seconds} s")));
                }
            }
        };
        let (mut stdout, mut stderr) = (stdout.finish().context(what)?, stderr.finish().context(what)?);
        fit(&mut stdout, &mut stderr);
        Ok(ExecSyncResponse { stdout, stderr, exit_code: exit.code })
    }

    /// Starts a process in a running container.
    async fn exec(
        self: &Arc<Self>,
        id: &str,
        cmd: Vec<String>,
        tty: bool,
        stdio: Vec<(Stdio, OwnedFd)>,
    ) -> Result<Running> {
        let container = self.registry.container(id)?;
        self.may_exec(&container, &cmd)?;
        let shim = container.sandbox.shim()?;
        let exec = new_id();
        let (kinds, fds): (Vec<Stdio>, Vec<OwnedFd>) = stdio.into_iter().unzip();
        let mut process = Process { args: cmd, ..container.meta.exec.clone() };
        if tty && !process.env.iter().any(|variable| variable.starts_with("TERM=")) {
            process.env.push("TERM=xterm".to_owned());
        }
        let external = self.exec_elsewhere(&container, &exec, &process, tty).await?;
        let spec = ExecSpec {
            container: container.id().to_owned(),
            id: exec.clone(),
            process,
            stdio: kinds,
            tty,
            window: None,
            deadline_ms: 0,
            external: external.map(Box::new),
        };
        let files = container.meta.external.is_some().then(|| Files::of(&self.paths, &exec));
        let exit = shim.expect_exec(&exec);
        let mut running = Running { engine: Arc::clone(self), shim, container, id: exec, exit, terminal: None, pid: 0 };
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let answer = running.shim.client.call_with_fds(Request::Exec(Box::new(spec)), &borrowed).await;
        if let Some(files) = files {
            blocking(move || files.remove()).await;
        }
        match answer? {
            (Response::Executing(executing), fds) => {
                running.terminal = fds.into_iter().next();
                running.pid = executing.pid;
            }
            (other, _) => return Err(unexpected(&other)),
        }
        Ok(running)
    }

    /// What the program of another OCI runtime is run with to start a process, and the file that says which.
    async fn exec_elsewhere(
        &self,
        container: &Container,
        exec: &str,
        process: &Process,
        tty: bool,
    ) -> Result<Option<Launch>> {
        let Some(program) = &container.meta.external else { return Ok(None) };
        let files = Files::of(&self.paths, exec);
        self.write_process(container, &files, process, tty).await?;
        Ok(Some(Commands::new(program, &self.paths, container.id()).exec(&files, tty)))
    }

    /// Whether an exec makes sense now; also asked before an address for streams is given out.
    pub(crate) fn may_exec(&self, container: &Container, cmd: &[String]) -> Result<()> {
        if cmd.first().is_none_or(String::is_empty) {
            return Err(CriError::invalid("cmd is empty: exec needs a command"));
        }
        arguments("cmd", cmd)?;
        if !container.is_running() {
            let (id, state) = (container.id(), container.state().as_str_name());
            return Err(CriError::Precondition(format!("container {id} is {state}; nothing can be executed in it")));
        }
        Ok(())
    }
}

impl Running {
    /// Waits for the process' end. May be cancelled and asked again.
    async fn ended(&mut self) -> Result<Exit> {
        (&mut self.exit).await.map_err(|_| {
            CriError::Precondition(format!("the shim of container {} was lost during exec", self.container.id()))
        })
    }

    /// Kills the process with what it has started (not the container), and waits until it is gone.
    async fn kill(&mut self) {
        let (pid, container) = (self.pid, self.container.id().to_owned());
        let family = blocking(move || Family::stop(pid, |pid| is_within(pid, &container))).await;
        let request = Request::Signal {
            id: self.container.id().to_owned(),
            exec: Some(self.id.clone()),
            signal: SIGKILL,
            all: false,
        };
        if let Err(error) = self.shim.client.order(request).await {
            tracing::warn!(container = self.container.id(), error = error.chain(), "kill an exec that timed out");
        }
        family.kill();
        // One that is stuck in the kernel ends when it can; the shim reaps it.
        let _gone = tokio::time::timeout(KILL_PATIENCE, self.ended()).await;
    }

    fn resize(&self, rows: u16, cols: u16) -> Request {
        Request::Resize {
            id: self.container.id().to_owned(),
            exec: Some(self.id.clone()),
            window: WindowSize { rows, cols },
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shim.forget_exec(&self.id);
        let shim = Arc::clone(&self.shim);
        let request = Request::ForgetExec { id: self.container.id().to_owned(), exec: self.id.clone() };
        self.engine.in_background(async move {
            if let Err(error) = shim.client.order(request).await {
                tracing::debug!(error = error.chain(), "the shim was not told to forget an exec");
            }
        });
    }
}

/// Whether a process is in the container's group: a number may be somebody else's by now.
fn is_within(pid: u32, container: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(container))
}

/// Shortens the outputs until they fit one message: each may have half of it, and what the other leaves.
fn fit(stdout: &mut Vec<u8>, stderr: &mut Vec<u8>) {
    stdout.truncate((ANSWER_LIMIT / 2).max(ANSWER_LIMIT.saturating_sub(stderr.len())));
    stderr.truncate(ANSWER_LIMIT - stdout.len());
}

/// Runs a command whose streams the streaming server carries, to its end.
pub(crate) async fn exec_streamed(
    engine: &Arc<Engine>,
    id: &str,
    cmd: Vec<String>,
    tty: bool,
    io: Streams,
) -> Result<i32> {
    if tty { with_terminal(engine, id, cmd, io).await } else { with_pipes(engine, id, cmd, io).await }
}

async fn with_pipes(engine: &Arc<Engine>, id: &str, cmd: Vec<String>, io: Streams) -> Result<i32> {
    let what = || format!("exec in container {id}");
    let mut stdio = Vec::new();
    let mut stdin = None;
    if let Some(input) = io.stdin {
        let (pipe, end) = pipe::to_process().context(what)?;
        stdio.push((Stdio::Stdin, end));
        stdin = Some((input, pipe));
    }
    let mut outputs = Vec::new();
    for (kind, output) in [(Stdio::Stdout, io.stdout), (Stdio::Stderr, io.stderr)] {
        if let Some(output) = output {
            let (pipe, end) = pipe::from_process().context(what)?;
            stdio.push((kind, end));
            outputs.push((pipe, output));
        }
    }
    let mut running = engine.exec(id, cmd, false, stdio).await?;
    let feeding = async {
        if let Some((input, pipe)) = stdin {
            feed(input, &pipe).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::pin!(feeding);
    let (ended, over) = tokio::sync::watch::channel(false);
    let draining =
        futures::future::join_all(outputs.into_iter().map(|(pipe, output)| drain(pipe, output, over.clone())));
    let waiting = async {
        let exit = running.ended().await;
        // The readers take what is there and stop.
        ended.send_replace(true);
        exit
    };
    let both = async { tokio::join!(waiting, draining).0 };
    tokio::select! {
        // What the client still sends means nothing once the process has ended.
        () = &mut feeding => unreachable!("feeding never ends"),
        exit = both => Ok(exit?.code),
    }
}

async fn with_terminal(engine: &Arc<Engine>, id: &str, cmd: Vec<String>, io: Streams) -> Result<i32> {
    let what = || format!("exec in container {id}");
    let mut running = engine.exec(id, cmd, true, Vec::new()).await?;
    let terminal = running
        .terminal
        .take()
        .ok_or_else(|| CriError::Precondition(format!("the shim gave no terminal for an exec in container {id}")))?;
    let keyboard = Pipe::new(terminal.try_clone().context(what)?).context(what)?;
    let screen = Pipe::new(terminal).context(what)?;
    let (shim, resize) = (Arc::clone(&running.shim), running.resize(0, 0));
    let side = async {
        let feeding = async {
            if let Some(input) = io.stdin {
                feed(input, &keyboard).await;
            }
        };
        let resizing = async {
            if let Some(sizes) = io.resize {
                follow_sizes(&shim, resize, sizes).await;
            }
        };
        tokio::join!(feeding, resizing);
        std::future::pending::<()>().await;
    };
    tokio::pin!(side);
    let (ended, over) = tokio::sync::watch::channel(false);
    let draining = async {
        if let Some(output) = io.stdout {
            drain(screen, output, over).await;
        }
    };
    let waiting = async {
        let exit = running.ended().await;
        ended.send_replace(true);
        exit
    };
    let both = async { tokio::join!(waiting, draining).0 };
    tokio::select! {
        // Keys and sizes mean nothing once the process has ended.
        () = &mut side => unreachable!("the side never ends"),
        exit = both => Ok(exit?.code),
    }
}

/// Copies to the client until the process' end of the pipe is closed, or the process has ended and the pipe is empty. A
/// client that has gone is written to no more, but the process can go on writing.
async fn drain(pipe: Pipe, output: Output, mut over: tokio::sync::watch::Receiver<bool>) {
    let mut buffer = vec![0; CHUNK];
    let mut output = Some(output);
    loop {
        let read = tokio::select! {
            biased;
            // Neither loses anything when cancelled: bytes stay in the pipe until they are returned.
            read = pipe.read(&mut buffer) => read,
            _ = over.wait_for(|over| *over) => match pipe.try_read(&mut buffer) {
                Ok(Some(count)) => Ok(count),
                // Empty, and nobody writes who matters.
                Ok(None) => break,
                Err(error) => Err(error),
            },
        };
        match read {
            Ok(0) => break,
            Ok(count) => {
                if let Some(client) = output.as_mut()
                    && client.write_all(&buffer[..count]).await.is_err()
                {
                    output = None;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "read the output of an exec");
                break;
            }
        }
    }
    if let Some(mut client) = output {
        // It may have gone; then nothing is left to tell it.
        let _gone = client.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_outputs_share_a_message_and_one_alone_has_it() {
        let table = [
            ((3, 4), (3, 4)),
            ((CAPTURE_LIMIT, 4), (ANSWER_LIMIT - 4, 4)),
            ((4, CAPTURE_LIMIT), (4, ANSWER_LIMIT - 4)),
            ((CAPTURE_LIMIT, CAPTURE_LIMIT), (ANSWER_LIMIT / 2, ANSWER_LIMIT / 2)),
        ];
        for ((out, err), expected) in table {
            let (mut stdout, mut stderr) = (vec![0; out], vec![0; err]);
            fit(&mut stdout, &mut stderr);
            assert_eq!((stdout.len(), stderr.len()), expected);
        }
    }
}
