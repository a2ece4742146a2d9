//! Attach: the streams of a container's first process, shared with its log and whoever else is attached.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use podd_cri::streaming::{Output, Streams};
use podd_shim::wire::{Request, Response, Stdio, WindowSize};
use tokio::io::AsyncWriteExt;

use super::pipe::{self, Pipe};
use super::{CHUNK, feed, follow_sizes};
use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Context, CriError, Result};
use crate::records::Stage;
use crate::shim::unexpected;

/// What a reader may be behind before the shim cuts it off, where the kernel gives as much.
const SLACK: usize = 1 << 20;

impl Engine {
    /// Whether there is something to attach to.
    pub(crate) fn may_attach(&self, container: &Container) -> Result<()> {
        if container.is_running() {
            return Ok(());
        }
        let (id, state) = (container.id(), container.state().as_str_name());
        Err(CriError::Precondition(format!("container {id} is {state}; there is nothing to attach to")))
    }

    /// Joins a container's streams until it ends, or until nothing is left of the client's.
    pub(crate) async fn attach(self: &Arc<Self>, id: &str, io: Streams) -> Result<()> {
        let what = || format!("attach to container {id}");
        let container = self.registry.container(id)?;
        self.may_attach(&container)?;
        let shim = container.sandbox.shim()?;
        let Streams { stdin, stdout, stderr, resize } = io;
        let (mut kinds, mut ends, mut outputs) = (Vec::new(), Vec::<OwnedFd>::new(), Vec::new());
        for (kind, output) in [(Stdio::Stdout, stdout), (Stdio::Stderr, stderr)] {
            if let Some(output) = output {
                let (ours, theirs) = pipe::from_process().context(what)?;
                // A smaller one serves too.
                let _smaller = rustix::pipe::fcntl_setpipe_size(&theirs, SLACK);
                kinds.push(kind);
                ends.push(theirs);
                outputs.push((ours, output));
            }
        }
        let request = Request::Attach {
            id: container.id().to_owned(),
            outputs: kinds,
            stdin: stdin.is_some() && container.meta.stdin,
        };
        let fds: Vec<BorrowedFd<'_>> = ends.iter().map(AsFd::as_fd).collect();
        let keyboard = match shim.client.call_with_fds(request, &fds).await? {
            (Response::Attached, fds) => fds.into_iter().next(),
            (other, _) => return Err(unexpected(&other)),
        };
        drop(ends);
        let keyboard = keyboard.map(Pipe::new).transpose().context(what)?;
        // Whatever ends this, an stdin for one client ends with it.
        let _leave = keyboard
            .as_ref()
            .filter(|_| container.meta.stdin_once && !container.meta.tty)
            .map(|_| Leave { engine: Arc::clone(self), container: Arc::clone(&container) });
        let feeding = async {
            if let (Some(input), Some(keyboard)) = (stdin, keyboard) {
                feed(input, &keyboard).await;
                drop(keyboard);
                if container.meta.stdin_once && !container.meta.tty {
                    close_stdin(&container).await;
                }
            }
            std::future::pending::<()>().await;
        };
        let resizing = async {
            if let Some(sizes) = resize {
                let window = WindowSize::default();
                let resize = Request::Resize { id: container.id().to_owned(), exec: None, window };
                follow_sizes(&shim, resize, sizes).await;
            }
            std::future::pending::<()>().await;
        };
        let silent = outputs.is_empty();
        let draining = futures::future::join_all(outputs.into_iter().map(|(pipe, output)| pass_on(pipe, output)));
        let draining = async {
            draining.await;
            if silent {
                // With stdin alone it lasts as long as the container.
                ended(&container).await;
            }
        };
        tokio::select! {
            // Keys and sizes mean nothing once there is no output any more.
            () = draining => Ok(()),
            () = feeding => unreachable!("feeding never ends"),
            () = resizing => unreachable!("resizing never ends"),
        }
    }
}

/// Copies until the shim closes the pipe or the client has gone.
async fn pass_on(pipe: Pipe, mut output: Output) {
    let mut buffer = vec![0; CHUNK];
    loop {
        match pipe.read(&mut buffer).await {
            Ok(count) if count > 0 => {
                if output.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
            _ => break,
        }
    }
    // It may have gone; then nothing is left to tell it.
    let _gone = output.shutdown().await;
}

async fn ended(container: &Container) {
    let mut status = container.watch();
    // An error means that the container is gone, too.
    let _ended = status.wait_for(|status| matches!(status.stage, Stage::Exited(_))).await;
}

async fn close_stdin(container: &Container) {
    let Some(shim) = container.sandbox.shim_if_alive() else { return };
    if let Err(error) = shim.client.order(Request::CloseStdin { id: container.id().to_owned() }).await {
        tracing::debug!(container = container.id(), error = error.chain(), "close stdin");
    }
}

/// Closes stdin when it is dropped.
struct Leave {
    engine: Arc<Engine>,
    container: Arc<Container>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let container = Arc::clone(&self.container);
        self.engine.in_background(async move { close_stdin(&container).await });
    }
}
