//! A client of SPDY/3.1, and what it hears.

use std::collections::BTreeMap;

use bytes::{Buf as _, BufMut as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::frames::StreamId;
use super::headers::{Deflate, Headers};
use crate::streaming::Target;
use crate::streaming::channels::Outcome;
use crate::streaming::tests::{Node, SOON, Socket, dial, node, request};
use crate::v1::AttachRequest;

/// One connection that has been upgraded.
struct Client {
    socket: Box<dyn Socket>,
    deflate: Deflate,
    next: StreamId,
}

/// What came on each stream.
#[derive(Debug, Default)]
struct Heard {
    replies: Vec<StreamId>,
    data: BTreeMap<StreamId, Vec<u8>>,
    ended: Vec<StreamId>,
    reset: Vec<StreamId>,
    pings: Vec<u32>,
}

impl Heard {
    fn text(&self, stream: StreamId) -> String {
        String::from_utf8(self.data.get(&stream).cloned().unwrap_or_default()).unwrap()
    }
}

async fn upgrade(url: &str, protocols: &str) -> (String, Box<dyn Socket>) {
    let (target, path) = Target::of_url(url).unwrap();
    let mut socket = dial(&target).await;
    let offered = match protocols {
        "" => String::new(),
        names => format!("X-Stream-Protocol-Version: {names}\r\n"),
    };
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: podd\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n{offered}\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(socket.read_u8().await.unwrap());
    }
    (String::from_utf8(answer).unwrap().to_lowercase(), socket)
}

async fn open(url: &str, protocol: &str) -> Client {
    let (answer, socket) = upgrade(url, protocol).await;
    assert!(answer.starts_with("http/1.1 101 ") && answer.contains("upgrade: spdy/3.1"), "{answer}");
    assert!(protocol.is_empty() || answer.contains(&format!("x-stream-protocol-version: {protocol}")), "{answer}");
    Client { socket, deflate: Deflate::new().unwrap(), next: 1 }
}

impl Client {
    async fn frame(&mut self, first: u32, flags: u8, payload: &[u8]) {
        let mut frame = Vec::new();
        frame.put_u32(first);
        frame.put_u32(u32::from(flags) << 24 | u32::try_from(payload.len()).unwrap());
        frame.extend_from_slice(payload);
        self.socket.write_all(&frame).await.unwrap();
    }

    async fn stream<const N: usize>(&mut self, headers: [(&str, &str); N]) -> StreamId {
        let stream = self.next;
        self.next += 2;
        let mut payload = Vec::new();
        payload.put_u32(stream);
        payload.put_u32(0);
        payload.put_u16(0);
        // As the Go library writes them: capitalised.
        let capital = headers.map(|(name, value)| {
            let mut name = name.to_owned();
            name[..1].make_ascii_uppercase();
            (name, value)
        });
        let pairs = capital.each_ref().map(|(name, value)| (name.as_str(), *value));
        payload.append(&mut self.deflate.write(&Headers::from(pairs)).unwrap());
        self.frame(0x8003_0001, 0, &payload).await;
        stream
    }

    async fn streams(&mut self, names: &[&str]) -> Vec<StreamId> {
        let mut streams = Vec::new();
        for name in names {
            streams.push(self.stream([("streamtype", name)]).await);
        }
        streams
    }

    async fn pair(&mut self, port: &str, request: &str) -> (StreamId, StreamId) {
        let error = self.stream([("streamtype", "error"), ("port", port), ("requestid", request)]).await;
        self.end(error).await;
        let data = self.stream([("streamtype", "data"), ("port", port), ("requestid", request)]).await;
        (error, data)
    }

    async fn say(&mut self, stream: StreamId, data: &[u8]) {
        self.frame(stream, 0, data).await;
    }

    async fn end(&mut self, stream: StreamId) {
        self.frame(stream, 1, &[]).await;
    }

    async fn hear(&mut self, heard: &mut Heard) {
        let mut head = [0; 8];
        self.socket.read_exact(&mut head).await.unwrap();
        let mut head = &head[..];
        let (first, flags) = (head.get_u32(), head.get_u8());
        let mut payload = vec![0; usize::try_from(head.get_uint(3)).unwrap()];
        self.socket.read_exact(&mut payload).await.unwrap();
        match first {
            0x8003_0002 => heard.replies.push((&payload[..]).get_u32()),
            0x8003_0003 => heard.reset.push((&payload[..]).get_u32()),
            0x8003_0006 => heard.pings.push((&payload[..]).get_u32()),
            stream if stream & 0x8000_0000 == 0 => {
                heard.data.entry(stream).or_default().extend(payload);
                heard.ended.extend((flags & 1 != 0).then_some(stream));
            }
            other => panic!("frame {other:#x}"),
        }
    }

    async fn hear_until(&mut self, heard: &mut Heard, done: impl Fn(&Heard) -> bool) {
        let hearing = async {
            while !done(heard) {
                self.hear(heard).await;
            }
        };
        tokio::time::timeout(SOON, hearing).await.expect("it comes soon");
    }
}

fn exec(node: &Node, cmd: &[&str], tty: bool) -> String {
    node.server.register_exec(request(cmd, tty)).unwrap()
}

#[tokio::test]
async fn every_version_carries_output_and_exit_code() {
    let node = node().await;
    for protocol in ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io", ""] {
        let mut client = open(&exec(&node, &["both"], false), protocol).await;
        let ids = client.streams(&["error", "stdin", "stdout", "stderr"]).await;
        let mut heard = Heard::default();
        client.hear_until(&mut heard, |heard| heard.ended.len() == 3).await;
        assert_eq!(heard.replies, ids);
        assert_eq!((heard.text(ids[2]), heard.text(ids[3])), ("to stdout".into(), "to stderr".into()));
        match Outcome::parse(heard.text(ids[0]).as_bytes()) {
            Outcome::Exit(7) => assert_eq!(protocol, "v4.channel.k8s.io"),
            Outcome::Failure(failure) => assert!(failure.message.contains("exit code 7"), "{failure:?}"),
            other => panic!("{protocol}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn stdin_ends_while_output_goes_on() {
    let node = node().await;
    let mut client = open(&exec(&node, &["cat"], false), "v4.channel.k8s.io").await;
    let ids = client.streams(&["error", "stdin", "stdout", "stderr"]).await;
    client.say(ids[1], b"hello ").await;
    client.say(ids[1], &vec![b'x'; 100_000]).await;
    client.end(ids[1]).await;
    let mut heard = Heard::default();
    client.hear_until(&mut heard, |heard| heard.ended.contains(&ids[0])).await;
    assert_eq!(heard.text(ids[2]).len(), 100_006);
    assert_eq!(Outcome::parse(heard.text(ids[0]).as_bytes()), Outcome::Success);
}

#[tokio::test]
async fn what_is_said_before_the_last_stream_is_open_is_not_lost() {
    let node = node().await;
    let mut client = open(&exec(&node, &["cat"], false), "v4.channel.k8s.io").await;
    let stdin = client.streams(&["stdin"]).await[0];
    client.say(stdin, b"early").await;
    client.end(stdin).await;
    let ids = client.streams(&["error", "stdout", "stderr"]).await;
    let mut heard = Heard::default();
    client.hear_until(&mut heard, |heard| heard.ended.contains(&ids[0])).await;
    assert_eq!(heard.text(ids[1]), "early");
}

#[tokio::test]
async fn a_terminal_has_sizes_and_no_stderr() {
    let node = node().await;
    let mut client = open(&exec(&node, &["sizes"], true), "v4.channel.k8s.io").await;
    let ids = client.streams(&["error", "stdin", "stderr", "stdout", "resize"]).await;
    let mut heard = Heard::default();
    for size in [(80, 24), (0, 0)] {
        client.say(ids[4], format!("{{\"Width\":{},\"Height\":{}}}\n", size.0, size.1).as_bytes()).await;
        let told = format!("{}x{} ", size.0, size.1);
        client.hear_until(&mut heard, |heard| heard.text(ids[3]).ends_with(&told)).await;
    }
    client.hear_until(&mut heard, |heard| heard.ended.contains(&ids[0])).await;
    assert_eq!(heard.reset, [ids[2]], "nobody asked for stderr");
}

#[tokio::test]
async fn attach_and_pings_are_answered() {
    let node = node().await;
    let request = AttachRequest { container_id: "c".into(), stdout: true, ..AttachRequest::default() };
    let mut client = open(&node.server.register_attach(request).unwrap(), "v4.channel.k8s.io").await;
    client.frame(0x8003_0006, 0, &77_u32.to_be_bytes()).await;
    let ids = client.streams(&["error", "stdout"]).await;
    let mut heard = Heard::default();
    client.hear_until(&mut heard, |heard| heard.ended.contains(&ids[0])).await;
    assert_eq!((heard.text(ids[1]).as_str(), heard.pings.as_slice()), ("attached", &[77][..]));
}

#[tokio::test]
async fn connections_are_forwarded_side_by_side() {
    let node = node().await;
    let mut client = open(&node.forward(&[]), "portforward.k8s.io").await;
    let (quiet_error, quiet) = client.pair("7", "0").await;
    let (error, data) = client.pair("7", "1").await;
    let mut heard = Heard::default();
    client.say(data, b"ping").await;
    client.hear_until(&mut heard, |heard| heard.text(data) == "ping").await;
    client.say(quiet, b"pong").await;
    client.end(quiet).await;
    client.hear_until(&mut heard, |heard| heard.ended.contains(&quiet_error)).await;
    assert_eq!(heard.text(quiet), "pong");
    assert_eq!(heard.text(quiet_error), "");
    // The other goes on.
    client.say(data, b"!").await;
    client.end(data).await;
    client.hear_until(&mut heard, |heard| heard.ended.contains(&error)).await;
    assert_eq!(heard.text(data), "ping!");
}

#[tokio::test]
async fn a_port_on_which_nobody_listens_is_told_on_the_error_stream() {
    let node = node().await;
    let mut client = open(&node.forward(&[]), "portforward.k8s.io").await;
    let (error, data) = client.pair("99", "0").await;
    let mut heard = Heard::default();
    client.hear_until(&mut heard, |heard| heard.reset.contains(&data)).await;
    assert_eq!(heard.text(error), "error forwarding port 99 to pod sandbox: connection refused");
    // The connection is of use for the next.
    let (error, data) = client.pair("1", "1").await;
    client.hear_until(&mut heard, |heard| heard.ended.contains(&error)).await;
    assert_eq!(heard.text(data), "sandbox");
}

#[tokio::test]
async fn streams_that_make_no_sense_are_reset() {
    let node = node().await;
    let mut client = open(&node.forward(&[]), "portforward.k8s.io").await;
    let bad = [
        client.stream([("streamtype", "data"), ("requestid", "0")]).await,
        client.stream([("streamtype", "data"), ("port", "0"), ("requestid", "0")]).await,
        client.stream([("streamtype", "data"), ("port", "70000"), ("requestid", "0")]).await,
        client.stream([("streamtype", "stdin"), ("port", "7"), ("requestid", "0")]).await,
    ];
    let mut heard = Heard::default();
    client.hear_until(&mut heard, |heard| heard.reset.len() == bad.len()).await;
    assert_eq!(heard.reset, bad);
    // One that numbers no requests: the data stream comes next after its error stream.
    let error = client.stream([("streamtype", "error"), ("port", "1")]).await;
    let data = client.stream([("streamtype", "data"), ("port", "1")]).await;
    client.hear_until(&mut heard, |heard| heard.ended.contains(&error)).await;
    assert_eq!(heard.text(data), "sandbox");
}

#[tokio::test]
async fn a_client_that_speaks_no_known_version_is_refused_and_may_try_again() {
    let node = node().await;
    let url = exec(&node, &["both"], false);
    let (answer, _) = upgrade(&url, "v9.channel.k8s.io").await;
    assert!(answer.starts_with("http/1.1 403 "), "{answer}");
    let (answer, _) = upgrade(&url, "v9.channel.k8s.io, v4.channel.k8s.io").await;
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
}

#[tokio::test]
async fn what_is_no_spdy_ends_the_connection() {
    let node = node().await;
    let mut client = open(&exec(&node, &["both"], false), "v4.channel.k8s.io").await;
    client.socket.write_all(&[0xff; 64]).await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(SOON, client.socket.read_to_end(&mut rest)).await.unwrap().ok();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_port_is_joined_with_a_local_connection_whose_halves_end_apart() {
    let node = node().await;
    for (port, sent, told, wrong) in
        [(7, "echoed", "echoed", None), (1, "", "sandbox", None), (9, "", "", Some("refused"))]
    {
        let url = node.forward(&[]);
        let mut asked = http::HeaderMap::new();
        super::ask_for_forwarding(&mut asked);
        let protocol = asked[super::VERSION_HEADER].to_str().unwrap();
        let (answer, socket) = upgrade(&url, protocol).await;
        assert!(answer.starts_with("http/1.1 101 "), "{answer}");
        let (local, mut program) = tokio::io::duplex(1000);
        let joined = tokio::spawn(super::join_port(socket, port, local));
        let talk = async {
            program.write_all(sent.as_bytes()).await.unwrap();
            program.shutdown().await.unwrap();
            let mut heard = String::new();
            program.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, told);
        };
        tokio::time::timeout(SOON, talk).await.expect("an end in time");
        let outcome = tokio::time::timeout(SOON, joined).await.expect("an end in time").unwrap().unwrap();
        match wrong {
            None => assert_eq!(outcome, None),
            Some(word) => assert!(outcome.as_ref().is_some_and(|text| text.contains(word)), "{outcome:?}"),
        }
    }
}

#[tokio::test]
async fn a_pods_side_that_breaks_off_is_told_from_one_that_has_ended() {
    let (pods, socket) = tokio::io::duplex(1000);
    let (local, _program) = tokio::io::duplex(1000);
    let joined = tokio::spawn(super::join_port(socket, 7, local));
    drop(pods);
    let broken = tokio::time::timeout(SOON, joined).await.expect("an end in time").unwrap().unwrap_err();
    assert_eq!(broken.kind(), std::io::ErrorKind::BrokenPipe);
}
