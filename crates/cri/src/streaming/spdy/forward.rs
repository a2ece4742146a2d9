//! Port forwarding: for each connection of the client a pair of streams, one for its bytes and one that tells what went
//! wrong. (`k8s.io/cri-streaming/pkg/streaming/portforward/httpstream.go`.)

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::frames::{Frame, Reader, Reset, Say, StreamId};
use super::headers::Headers;
use super::{CREATION, answer, converse, copy};
use crate::streaming::session::{Forward, Limits, Workshop, idle, touch};

/// Connections that one client may have at a time, whole and half.
const MAX_PAIRS: usize = 1000;
/// Bytes that may come before both streams of a pair are open.
const MAX_EARLY: usize = 64 << 10;

/// Serves connections to the sandbox's ports until the client goes. Those that are open go with it.
pub(in crate::streaming) async fn run<S>(io: S, sandbox: String, workshop: &Workshop, limits: Limits)
where
    S: AsyncRead + AsyncWrite + Send,
{
    let talk = |mut reader: Reader<ReadHalf<S>>, say: mpsc::Sender<Say>| async move {
        let active = Arc::new(Mutex::new(Instant::now()));
        let mut pairs = Pairs {
            sandbox,
            workshop,
            say,
            active: Arc::clone(&active),
            halves: HashMap::new(),
            sinks: HashMap::new(),
            work: JoinSet::new(),
        };
        tokio::select! {
            () = pairs.serve(&mut reader) => None,
            () = idle(&active, limits.idle) => None,
            () = workshop.ending.cancelled() => None,
        }
    };
    converse(io, limits, &workshop.ending, |reader, say| talk(reader, say).boxed()).await;
}

/// One of the two streams is there.
struct Half {
    port: u16,
    data: Option<StreamId>,
    error: Option<StreamId>,
    early: BytesMut,
    since: Instant,
}

/// Both are.
struct Pair {
    port: u16,
    data: StreamId,
    error: StreamId,
    early: Bytes,
}

struct Pairs<'a> {
    sandbox: String,
    workshop: &'a Workshop,
    say: mpsc::Sender<Say>,
    active: Arc<Mutex<Instant>>,
    /// By request.
    halves: HashMap<String, Half>,
    /// By data stream.
    sinks: HashMap<StreamId, DuplexStream>,
    work: JoinSet<()>,
}

impl Pairs<'_> {
    async fn serve<R>(&mut self, reader: &mut Reader<R>)
    where
        R: AsyncRead + Send + Unpin,
    {
        while let Ok(Some(frame)) = reader.next().await {
            touch(&self.active);
            while self.work.try_join_next().is_some() {}
            match frame {
                Frame::Open { stream, headers } => self.open(stream, &headers).await,
                Frame::Data { stream, data } => self.data(stream, data).await,
                Frame::End { stream } | Frame::Reset { stream } => drop(self.sinks.remove(&stream)),
                frame => answer(&frame, &self.say).await,
            }
        }
    }

    async fn open(&mut self, stream: StreamId, headers: &Headers) {
        self.expire(Instant::now()).await;
        let pair = match self.add(stream, headers) {
            Ok(pair) => pair,
            Err(reason) => {
                tracing::debug!(stream, reason, "stream refused");
                return self.tell(Say::Reset(stream, Reset::Refused)).await;
            }
        };
        self.tell(Say::Reply(stream)).await;
        if let Some(pair) = pair {
            self.begin(pair).await;
        }
    }

    /// The pair, once both its streams are there.
    fn add(&mut self, stream: StreamId, headers: &Headers) -> Result<Option<Pair>, &'static str> {
        let port = headers.get("port").and_then(|port| port.parse().ok()).filter(|port| *port > 0);
        let port: u16 = port.ok_or("no port")?;
        let is_data = match headers.get("streamtype") {
            Some("data") => true,
            Some("error") => false,
            _ => return Err("neither a data nor an error stream"),
        };
        // The oldest clients number no requests: there the data stream is the next after the error stream.
        let guess = || if is_data { stream.saturating_sub(2) } else { stream }.to_string();
        let request = headers.get("requestid").map_or_else(guess, str::to_owned);
        if self.halves.len() + self.work.len() >= MAX_PAIRS {
            return Err("too many connections");
        }
        let fresh = || Half { port, data: None, error: None, early: BytesMut::new(), since: Instant::now() };
        let half = self.halves.entry(request.clone()).or_insert_with(fresh);
        let place = if is_data { &mut half.data } else { &mut half.error };
        if place.replace(stream).is_some() {
            return Err("the request has that stream already");
        }
        let (Some(data), Some(error)) = (half.data, half.error) else { return Ok(None) };
        let early = std::mem::take(&mut half.early).freeze();
        let port = half.port;
        self.halves.remove(&request);
        Ok(Some(Pair { port, data, error, early }))
    }

    /// Gives up pairs that were never completed.
    async fn expire(&mut self, now: Instant) {
        let mut late = Vec::new();
        for (_, half) in self.halves.extract_if(|_, half| now.duration_since(half.since) > CREATION) {
            late.extend(half.data.into_iter().chain(half.error));
        }
        for stream in late {
            self.tell(Say::Reset(stream, Reset::Cancel)).await;
        }
    }

    async fn begin(&mut self, pair: Pair) {
        let Pair { port, data, error, early } = pair;
        let Forward { mut to_pod, from_pod, work } = self.workshop.forward(&self.sandbox, port);
        let (say, active, sandbox) = (self.say.clone(), Arc::clone(&self.active), self.sandbox.clone());
        self.work.spawn(async move {
            let (outcome, _gone) = tokio::join!(work, copy(data, from_pod, &say, &active));
            let mut last = vec![Say::End(error)];
            if let Err(status) = outcome {
                let text = format!("error forwarding port {port} to pod {sandbox}: {}", status.message());
                last = vec![Say::Data(error, text.into()), Say::End(error), Say::Reset(data, Reset::Cancel)];
            }
            for say_it in last {
                // The client has gone; there is nobody to tell.
                let _gone = say.send(say_it).await;
            }
        });
        // Fits the pipe, so it does not wait.
        if to_pod.write_all(&early).await.is_ok() {
            self.sinks.insert(data, to_pod);
        }
    }

    async fn data(&mut self, stream: StreamId, data: Bytes) {
        if let Some(sink) = self.sinks.get_mut(&stream) {
            if sink.write_all(&data).await.is_err() {
                // The pod reads no more.
                self.sinks.remove(&stream);
            }
            return;
        }
        let half = self.halves.values_mut().find(|half| half.data == Some(stream));
        match half {
            Some(half) if half.early.len() + data.len() <= MAX_EARLY => half.early.extend_from_slice(&data),
            Some(_) => {
                self.halves.retain(|_, half| half.data != Some(stream));
                self.tell(Say::Reset(stream, Reset::Protocol)).await;
            }
            // Of a connection that has ended.
            None => {}
        }
    }

    async fn tell(&self, say: Say) {
        // When the writer has ended so has the connection, which the reader sees too.
        let _gone = self.say.send(say).await;
    }
}
