//! One exec or attach under way, as a transport sees it: the other ends of the runtime's streams, and
//! how it ended. Whatever carries the streams (WebSocket channels, SPDY streams) works on this.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::io::{DuplexStream, duplex};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::channels::{Failure, Outcome, Size};
use super::{Resizes, StreamingRuntime, Streams};
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
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
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
                Self { remote, ended: workshop.run(work) }
            }
            Pending::Attach(r) => {
                let wanted = Wanted { stdin: r.stdin, stdout: r.stdout, stderr: r.stderr, tty: r.tty };
                let (streams, remote) = pipes(wanted);
                let work = async move {
                    match runtime.attach(&r.container_id, r.tty, streams).await {
                        Ok(()) => Outcome::Success,
                        Err(status) => Outcome::Failure(Failure::from(&status)),
                    }
                };
                Self { remote, ended: workshop.run(work) }
            }
            Pending::PortForward(r) => {
                // Each port is a pair of streams that the client opens when it likes, which the
                // channel protocols cannot say.
                let text = format!("port forwarding to {} needs SPDY/3.1", r.pod_sandbox_id);
                let failure = Failure { code: 501, reason: "NotImplemented".into(), message: text };
                let none = Wanted { stdin: false, stdout: false, stderr: false, tty: false };
                let (_, remote) = pipes(none);
                Self { remote, ended: workshop.run(async { Outcome::Failure(failure) }) }
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
