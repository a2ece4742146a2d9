//! What the streaming server carries: exec, attach and port forwarding, between a client's streams and a pod.

mod attach;
mod forward;
pub(crate) mod pipe;

use std::sync::{Arc, Weak};

use podd_cri::streaming::{Connection, Input, Resizes, StreamingRuntime, Streams};
use podd_shim::wire::{Request, WindowSize};
use tokio::io::AsyncReadExt;
use tonic::Status;

use crate::engine::Engine;
use crate::error::status;
use crate::exec::exec_streamed;
use crate::sandbox::Shim;
pub(crate) use forward::network_of;
use pipe::Pipe;

/// Bytes that are copied at once.
pub(crate) const CHUNK: usize = 32 << 10;

/// The streaming server's way to the engine, which owns the server.
pub(crate) struct Streamed(pub(crate) Weak<Engine>);

impl Streamed {
    fn engine(&self) -> Result<Arc<Engine>, Status> {
        self.0.upgrade().ok_or_else(|| Status::unavailable("the runtime is closing"))
    }
}

#[tonic::async_trait]
impl StreamingRuntime for Streamed {
    async fn exec(&self, container_id: &str, cmd: &[String], tty: bool, io: Streams) -> Result<i32, Status> {
        exec_streamed(&self.engine()?, container_id, cmd.to_vec(), tty, io).await.map_err(status)
    }

    async fn attach(&self, container_id: &str, _: bool, io: Streams) -> Result<(), Status> {
        self.engine()?.attach(container_id, io).await.map_err(status)
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16, connection: Connection) -> Result<(), Status> {
        self.engine()?.port_forward(sandbox_id, port, connection).await.map_err(status)
    }
}

/// Passes the sizes of the client's terminal on; `resize` says whose terminal it is.
pub(crate) async fn follow_sizes(shim: &Shim, resize: Request, mut sizes: Resizes) {
    while let Some(size) = sizes.next().await {
        let mut request = resize.clone();
        if let Request::Resize { window, .. } = &mut request {
            *window = WindowSize { rows: size.height, cols: size.width };
        }
        if let Err(error) = shim.client.order(request).await {
            tracing::debug!(error = error.chain(), "resize a terminal");
        }
    }
}

/// Copies from the client until it ends or the process reads no more; then the process sees the end.
pub(crate) async fn feed(mut input: Input, pipe: &Pipe) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count) = input.read(&mut buffer).await {
        if count == 0 || pipe.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
}
