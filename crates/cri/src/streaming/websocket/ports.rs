//! Port forwarding over one WebSocket, in two ways: the older has two channels for each port of the request, one for the
//! bytes and one that tells what went wrong, each begun by the port's number; the newer tunnels SPDY/3.1 through binary
//! messages. (`k8s.io/cri-streaming/pkg/streaming/portforward/websocket.go`; KEP 4006.)

use std::io;
use std::sync::{Arc, Mutex};

use axum::extract::ws::{Message as Packet, WebSocket, close_code};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::{CHUNK, packet, part};
use crate::streaming::channels::Protocol;
use crate::streaming::session::{Forward, Limits, Workshop, idle, touch};
use crate::streaming::spdy;

/// The sub-protocol that tunnels SPDY.
pub(in crate::streaming) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Most ports of one request: two channels each, and 255 ends a stream.
pub(in crate::streaming) const MAX_PORTS: usize = 127;
/// Messages that wait to be written.
const QUEUE: usize = 16;

/// Forwards through SPDY/3.1 in binary messages.
pub(in crate::streaming) async fn tunnel(socket: WebSocket, sandbox: String, workshop: &Workshop, limits: Limits) {
    let (sink, source) = socket.split();
    let bytes = source.filter_map(async |packet| match packet {
        Ok(Packet::Binary(bytes)) => Some(Ok(bytes)),
        Ok(Packet::Text(text)) => Some(Ok(text.into())),
        Ok(Packet::Close(_)) => Some(Err(io::ErrorKind::UnexpectedEof.into())),
        Ok(Packet::Ping(_) | Packet::Pong(_)) => None,
        Err(error) => Some(Err(io::Error::other(error))),
    });
    let bytes = std::pin::pin!(bytes);
    let sink = sink
        .with(async |bytes: Bytes| Ok(Packet::Binary(bytes)))
        .sink_map_err(|error: axum::Error| io::Error::other(error));
    let sink = std::pin::pin!(sink);
    let io = tokio::io::join(StreamReader::new(bytes), SinkWriter::new(CopyToBytes::new(sink)));
    spdy::run_forward(io, sandbox, workshop, limits).await;
}

/// Forwards each of the ports once, through channels of its own.
pub(in crate::streaming) async fn channels(
    socket: WebSocket,
    protocol: &'static Protocol,
    sandbox: String,
    ports: Vec<u16>,
    workshop: &Workshop,
    limits: Limits,
) {
    let (mut sink, mut source) = socket.split();
    let active = Arc::new(Mutex::new(Instant::now()));
    let (say, mut said) = mpsc::channel::<Packet>(QUEUE);
    let mut work = JoinSet::new();
    let mut inputs = Vec::with_capacity(ports.len());
    for (data, port) in (0_u8..).step_by(2).zip(ports) {
        let Forward { to_pod, from_pod, work: forwarding } = workshop.forward(&sandbox, port);
        inputs.push(Some(to_pod));
        let (say, active, sandbox) = (say.clone(), Arc::clone(&active), sandbox.clone());
        work.spawn(async move {
            for channel in [data, data + 1] {
                drop(say.send(packet(protocol.numbered(channel, &port.to_le_bytes()))).await);
            }
            let copying = copy(from_pod, |bytes| packet(protocol.numbered(data, bytes)), &say, &active);
            if let (Err(status), ()) = tokio::join!(forwarding, copying) {
                let text = format!("error forwarding port {port} to pod {sandbox}: {}", status.message());
                drop(say.send(packet(protocol.numbered(data + 1, text.as_bytes()))).await);
            }
        });
    }
    drop(say);
    let listening = async {
        while let Some(Ok(message)) = source.next().await {
            touch(&active);
            let bytes = match message {
                Packet::Binary(bytes) => bytes,
                Packet::Text(text) => text.into(),
                Packet::Close(_) => return,
                Packet::Ping(_) | Packet::Pong(_) => continue,
            };
            let Ok((number, bytes)) = protocol.number_of(&bytes) else { continue };
            // Odd ones are for what went wrong, and a client has nothing to say there.
            let input = (number % 2 == 0).then(|| inputs.get_mut(usize::from(number / 2))).flatten();
            if let Some(input) = input
                && let Some(pipe) = input
                && pipe.write_all(&bytes).await.is_err()
            {
                *input = None;
            }
        }
    };
    let talking = async {
        // Ends when every port's work has.
        while let Some(packet) = said.recv().await {
            sink.send(packet).await?;
        }
        Ok::<(), axum::Error>(())
    };
    let (code, reason) = tokio::select! {
        told = talking => match told {
            Ok(()) => (close_code::NORMAL, ""),
            Err(_) => return,
        },
        // Dropping the work closes the connections.
        () = listening => return,
        () = idle(&active, limits.idle) => (close_code::NORMAL, "idle for too long"),
        () = workshop.ending.cancelled() => (close_code::AWAY, "the server is ending"),
    };
    part(&mut sink, &mut source, code, reason.to_owned(), limits.farewell).await;
}

async fn copy(
    mut from: DuplexStream,
    message: impl Fn(&[u8]) -> Packet,
    say: &mpsc::Sender<Packet>,
    active: &Mutex<Instant>,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        // A pipe in memory does not fail.
        let count = from.read(&mut buffer).await.unwrap_or(0);
        if count == 0 || say.send(message(&buffer[..count])).await.is_err() {
            return;
        }
        touch(active);
    }
}
