//! One server, one client.

use super::*;

const V5: &str = "v5.channel.k8s.io";

fn check(said: &Said, stdout: &str, stderr: &str, outcome: &Outcome) {
    assert_eq!(said.stdout, stdout);
    assert_eq!(said.stderr, stderr);
    assert_eq!(said.outcome.as_ref(), Some(outcome));
}

#[tokio::test]
async fn every_protocol_carries_output_and_exit_code() {
    let node = node().await;
    for protocol in &super::super::channels::PROTOCOLS {
        let client = open(&node.exec(&["both"]), protocol.name).await;
        assert_eq!(client.protocol, protocol);
        let said = client.hear_out().await;
        assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("to stdout", "to stderr"));
        match said.outcome {
            Some(Outcome::Exit(7)) => assert!(protocol.status),
            Some(Outcome::Failure(text)) => {
                assert!(!protocol.status && text.message.contains("exit code 7"));
            }
            other => panic!("{}: {other:?}", protocol.name),
        }
    }
}

#[tokio::test]
async fn success_is_told() {
    let node = node().await;
    let said = open(&node.exec(&["exit", "0"]), V5).await.hear_out().await;
    check(&said, "", "", &Outcome::Success);
    assert_eq!(said.close.as_deref(), Some(""));
}

#[tokio::test]
async fn stdin_ends_while_output_goes_on() {
    let node = node().await;
    let mut client = open(&node.exec(&["cat"]), V5).await;
    client.say(Channel::Stdin, b"hello ").await;
    client.say(Channel::Stdin, b"world").await;
    let close = client.protocol.close(Channel::Stdin).unwrap();
    client.send(close).await;
    check(&client.hear_out().await, "hello world", "", &Outcome::Success);
}

#[tokio::test]
async fn more_than_all_buffers_hold_passes_through_unchanged() {
    let node = node().await;
    let client = open(&node.exec(&["cat"]), V5).await;
    let protocol = client.protocol;
    let (mut sink, mut source) = client.socket.split();
    let data: Vec<u8> = (0..8 << 20).map(|n: u32| (n % 251) as u8).collect();
    let sending = async {
        for chunk in data.chunks(100_000) {
            let Message::Binary(bytes) = protocol.data(Channel::Stdin, chunk) else { panic!() };
            sink.send(Packet::Binary(bytes)).await.unwrap();
        }
        let Some(Message::Binary(bytes)) = protocol.close(Channel::Stdin) else { panic!() };
        sink.send(Packet::Binary(bytes)).await.unwrap();
    };
    let receiving = async {
        let mut received = Vec::new();
        while let Some(Ok(Packet::Binary(bytes))) = source.next().await {
            if let Frame::Data(Channel::Stdout, data) = protocol.decode(bytes).unwrap() {
                received.extend_from_slice(&data);
            }
        }
        received
    };
    let ((), received) =
        tokio::time::timeout(SOON, futures::future::join(sending, receiving)).await.expect("no deadlock");
    assert!(received == data, "{} of {} bytes", received.len(), data.len());
}

#[tokio::test]
async fn a_terminal_learns_its_newest_size() {
    let node = node().await;
    let mut client = open(&node.exec_tty(&["sizes"]), V5).await;
    let mut said = Said::default();
    client.say(Channel::Resize, Size { width: 80, height: 24 }.to_json().as_bytes()).await;
    client.hear_until(&mut said, |said| said.stdout == "80x24 ").await;
    client.say(Channel::Resize, b"{\"Width\":1,\"Height\":1}{\"Width\":0,\"Height\":2}").await;
    let rest = client.hear_out().await;
    check(&rest, "0x2 ", "", &Outcome::Success);
}

#[tokio::test]
async fn a_runtime_that_refuses_is_told_as_a_status() {
    let node = node().await;
    let said = open(&node.exec(&["missing"]), V5).await.hear_out().await;
    let Some(Outcome::Failure(failure)) = said.outcome else { panic!("{said:?}") };
    assert_eq!((failure.code, failure.reason.as_str()), (404, "NotFound"));
    assert_eq!(failure.message, "no container of that name");
}

#[tokio::test]
async fn a_process_learns_that_its_client_is_gone() {
    let node = node().await;
    let mut client = open(&node.exec(&["cat"]), "v4.channel.k8s.io").await;
    client.say(Channel::Stdin, b"x").await;
    client.hear_until(&mut Said::default(), |said| said.stdout == "x").await;
    drop(client);
    tokio::time::timeout(SOON, node.commands.ended.notified()).await.expect("stdin ends");
}

#[tokio::test]
async fn a_client_that_never_reads_costs_no_more_than_the_buffers_and_not_for_ever() {
    let node = node_with(|options| {
        options.drain = Duration::from_millis(50);
        options.farewell = Duration::from_millis(50);
    })
    .await;
    let mut client = open(&node.exec(&["flood"]), V5).await;
    // `flood` ends when nothing moves any more.
    tokio::time::timeout(SOON, node.commands.ended.notified()).await.expect("output stalls");
    let flooded = node.commands.flooded.load(Ordering::Relaxed);
    assert!(flooded < 32 << 20, "{flooded} bytes went somewhere");
    // The work has ended and nobody takes its output: the server lets go, and then writing fails.
    let pinging = async {
        while client.socket.send(Packet::Ping(Bytes::new())).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, pinging).await.expect("the server lets go");
    assert_eq!(client.hear_out().await.outcome, None);
}

#[tokio::test]
async fn a_session_in_which_nobody_says_anything_ends() {
    let node = node_with(|options| options.idle = Duration::from_millis(100)).await;
    let said = open(&node.exec(&["cat"]), V5).await.hear_out().await;
    assert_eq!(said.close.as_deref(), Some("idle for too long"));
}

#[tokio::test]
async fn sessions_are_told_when_the_server_ends() {
    let node = node().await;
    let mut client = open(&node.exec(&["cat"]), V5).await;
    client.say(Channel::Stdin, b"x").await;
    client.hear_until(&mut Said::default(), |said| said.stdout == "x").await;
    let ending = tokio::spawn(node.server.shutdown());
    let said = client.hear_out().await;
    assert_eq!(said.close.as_deref(), Some("the server is ending"));
    tokio::time::timeout(SOON, ending).await.unwrap().unwrap();
}

#[tokio::test]
async fn nonsense_ends_the_session_and_not_the_server() {
    let node = node().await;
    let mut client = open(&node.exec(&["cat"]), V5).await;
    client.send(Message::Binary(Bytes::from_static(&[42, 1]))).await;
    assert_eq!(client.hear_out().await.close.as_deref(), Some("unknown channel 42"));
    let said = open(&node.exec(&["exit", "0"]), V5).await.hear_out().await;
    assert_eq!(said.outcome, Some(Outcome::Success));
}

async fn refused(url: &str, protocols: &str) -> (u16, String) {
    let (target, path) = Target::of_url(url).unwrap();
    match try_open(&target, path.as_str(), protocols).await {
        Err(tungstenite::Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((&body["kind"], &body["apiVersion"]), (&"Status".into(), &"v1".into()));
            (response.status().as_u16(), body["reason"].as_str().unwrap().to_owned())
        }
        other => panic!("not refused: {:?}", other.map(|_| ())),
    }
}

#[tokio::test]
async fn an_address_works_once() {
    let node = node().await;
    let url = node.exec(&["exit", "0"]);
    open(&url, V5).await.hear_out().await;
    assert_eq!(refused(&url, V5).await, (404, "NotFound".into()));
    assert_eq!(refused(&url.replace("exec", "attach"), V5).await.0, 404);
}

#[tokio::test]
async fn a_client_that_speaks_something_else_keeps_its_address() {
    let node = node().await;
    let url = node.exec(&["exit", "0"]);
    assert_eq!(refused(&url, "chat").await, (400, "BadRequest".into()));
    let said = open(&url, V5).await.hear_out().await;
    assert_eq!(said.outcome, Some(Outcome::Success));
}

#[tokio::test]
async fn what_cri_forbids_is_not_registered() {
    let node = node().await;
    let good = request(&["cat"], true);
    let cases = [
        ExecRequest { stderr: true, ..good.clone() },
        ExecRequest { stdin: false, stdout: false, ..good.clone() },
        ExecRequest { cmd: vec![], ..good.clone() },
    ];
    for case in cases {
        let status = node.server.register_exec(case).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    }
}

#[tokio::test]
async fn the_server_listens_on_loopback_alone() {
    let node = node().await;
    assert!(node.server.address().ip().is_loopback());
    assert!(node.exec(&["cat"]).starts_with("http://127.0.0.1:"));
}
