//! One exec, attach or forwarded connection under way, as a transport sees it: the other ends of the runtime's streams,
//! and how it ended. Whatever carries the streams (WebSocket channels, SPDY streams) works on this.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::io::{DuplexStream, duplex};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::channels::{Failure, Outcome, Size};
use super::{Connection, Resizes, StreamingRuntime, Streams};
use crate::v1::{AttachRequest, ExecRequest, PortForwardRequest};

/// Bytes that wait in each stream before its writer does.
const PIPE: usize = 64 << 10;

/// A request that waits for its client.
pub(super) enum Pending {
    Exec(ExecRequest),
    Attach(AttachRequest),
    PortForward(PortForwardRequest),
}

/// Which streams there are.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl Pending {
    /// The streams of a command; `None` when it is none.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        match self {
            Self::Exec(r) => Some(Wanted { stdin: r.stdin, stdout: r.stdout, stderr: r.stderr, tty: r.tty }),
            Self::Attach(r) => Some(Wanted { stdin: r.stdin, stdout: r.stdout, stderr: r.stderr, tty: r.tty }),
            Self::PortForward(_) => None,
        }
    }
}

/// When a session ends by itself.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Neither side has said anything for so long.
    pub(super) idle: Duration,
    /// The work has ended, and the client has not taken the rest of the output for so long.
    pub(super) drain: Duration,
    /// The client has been told that it is over, and says nothing for so long.
    pub(super) farewell: Duration,
}

/// Waits until nothing was said for that long.
pub(super) async fn idle(active: &Mutex<Instant>, limit: Duration) {
    loop {
        let end = *lock(active) + limit;
        if end <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(end).await;
    }
}

/// Something was said.
pub(super) fn touch(active: &Mutex<Instant>) {
    *lock(active) = Instant::now();
}

fn lock(active: &Mutex<Instant>) -> std::sync::MutexGuard<'_, Instant> {
    active.lock().expect("nothing panics while it holds this")
}

/// The client's ends.
pub(super) struct Remote {
    pub(super) stdin: Option<DuplexStream>,
    pub(super) stdout: Option<DuplexStream>,
    pub(super) stderr: Option<DuplexStream>,
    pub(super) resize: Option<watch::Sender<Option<Size>>>,
}

/// How it ended; may be asked for more than once.
pub(super) type Ended = Shared<BoxFuture<'static, Outcome>>;

pub(super) struct Session {
    pub(super) remote: Remote,
    pub(super) ended: Ended,
    /// Work that is nothing without its client ends when this is dropped.
    pub(super) presence: Option<oneshot::Sender<()>>,
}

/// Where the work of sessions runs.
#[derive(Clone)]
pub(super) struct Workshop {
    pub(super) runtime: Arc<dyn StreamingRuntime>,
    pub(super) tasks: TaskTracker,
    pub(super) ending: CancellationToken,
}

impl Session {
    /// Starts the work in a task of its own, which goes on when the client goes.
    pub(super) fn begin(pending: Pending, workshop: &Workshop) -> Self {
        let runtime = Arc::clone(&workshop.runtime);
        match pending {
            Pending::Exec(r) => {
                let wanted = Wanted { stdin: r.stdin, stdout: r.stdout, stderr: r.stderr, tty: r.tty };
                let (streams, remote) = pipes(wanted);
                let work = async move {
                    match runtime.exec(&r.container_id, &r.cmd, r.tty, streams).await {
                        Ok(0) => Outcome::Success,
                        Ok(code) => Outcome::Exit(code),
                        Err(status) => Outcome::Failure(Failure::from(&status)),
                    }
                };
                Self { remote, ended: workshop.run(work), presence: None }
            }
            Pending::Attach(r) => {
                let wanted = Wanted { stdin: r.stdin, stdout: r.stdout, stderr: r.stderr, tty: r.tty };
                let (streams, remote) = pipes(wanted);
                let (presence, gone) = oneshot::channel();
                let work = async move {
                    let attached = tokio::select! {
                        attached = runtime.attach(&r.container_id, r.tty, streams) => attached,
                        // The container goes on; nobody is there any more whom an answer could reach.
                        _ = gone => Ok(()),
                    };
                    match attached {
                        Ok(()) => Outcome::Success,
                        Err(status) => Outcome::Failure(Failure::from(&status)),
                    }
                };
                Self { remote, ended: workshop.run(work), presence: Some(presence) }
            }
            Pending::PortForward(r) => {
                // Only ever run by a transport's own forwarding.
                let failure = Failure::internal(format!("port forwarding to {} is no command", r.pod_sandbox_id));
                let none = Wanted { stdin: false, stdout: false, stderr: false, tty: false };
                let (_, remote) = pipes(none);
                Self { remote, ended: workshop.run(async { Outcome::Failure(failure) }), presence: None }
            }
        }
    }
}

impl Workshop {
    fn run(&self, work: impl Future<Output = Outcome> + Send + 'static) -> Ended {
        let (tell, told) = oneshot::channel();
        let ending = self.ending.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                // Work that is dropped here is the runtime's to undo; its caller is told below.
                () = ending.cancelled() => {}
                outcome = work => drop(tell.send(outcome)),
            }
        });
        let lost = || Outcome::Failure(Failure::internal("the work ended without an answer"));
        told.map(move |told| told.unwrap_or_else(|_| lost())).boxed().shared()
    }
}

/// One connection to a port of a sandbox: the client's ends, and the work, which ends when it is dropped.
pub(super) struct Forward<F> {
    pub(super) to_pod: DuplexStream,
    pub(super) from_pod: DuplexStream,
    pub(super) work: F,
}

impl Workshop {
    pub(super) fn forward(
        &self,
        sandbox: &str,
        port: u16,
    ) -> Forward<impl Future<Output = Result<(), Status>> + use<>> {
        let ((to_pod, input), (output, from_pod)) = (duplex(PIPE), duplex(PIPE));
        let (runtime, sandbox) = (Arc::clone(&self.runtime), sandbox.to_owned());
        let connection = Connection { input: Box::new(input), output: Box::new(output) };
        let work = async move { runtime.port_forward(&sandbox, port, connection).await };
        Forward { to_pod, from_pod, work }
    }
}

fn pipes(wanted: Wanted) -> (Streams, Remote) {
    let pipe = |on: bool| on.then(|| duplex(PIPE)).unzip();
    let (stdin, to_stdin) = pipe(wanted.stdin);
    let (stdout, from_stdout) = pipe(wanted.stdout);
    let (stderr, from_stderr) = pipe(wanted.stderr && !wanted.tty);
    let (resize, sizes) = wanted.tty.then(|| watch::channel(None)).unzip();
    let streams = Streams {
        stdin: stdin.map(|pipe: DuplexStream| Box::new(pipe) as super::Input),
        stdout: stdout.map(|pipe: DuplexStream| Box::new(pipe) as super::Output),
        stderr: stderr.map(|pipe: DuplexStream| Box::new(pipe) as super::Output),
        resize: sizes.map(Resizes),
    };
    let remote = Remote { stdin: to_stdin, stdout: from_stdout, stderr: from_stderr, resize };
    (streams, remote)
}
