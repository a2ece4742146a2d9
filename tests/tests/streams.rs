//! Attach and port forwarding, through the address that the runtime answers with and a WebSocket.

mod world;

use std::sync::Arc;

use futures::{SinkExt as _, StreamExt as _};
use podd_cri::RuntimeService as _;
use podd_cri::streaming::channels::{Channel, Frame, Message, Protocol};
use podd_cri::v1::*;
use podd_runtime::Runtime;
use podd_tests::SOON;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message as Packet;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{WebSocketStream, client_async};
use tonic::{Code, Request};
use world::{Bench, container, on_a_node};

struct Client {
    socket: WebSocketStream<TcpStream>,
    protocol: &'static Protocol,
}

async fn dial(url: &str) -> Client {
    let address = url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).expect("an address");
    let protocol =
        Protocol::named(if url.contains("/portforward/") { "v4.channel.k8s.io" } else { "v5.channel.k8s.io" });
    let protocol = protocol.expect("a protocol");
    let mut request = url.replace("http://", "ws://").into_client_request().expect("a request");
    request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.name.parse().expect("a header"));
    let (socket, _) =
        client_async(request, TcpStream::connect(address).await.expect("it connects")).await.expect("it upgrades");
    Client { socket, protocol }
}

impl Client {
    async fn send(&mut self, message: Message) {
        let Message::Binary(bytes) = message else { panic!("a binary protocol") };
        self.socket.send(Packet::Binary(bytes)).await.expect("it is sent");
    }

    async fn say(&mut self, channel: Channel, text: &str) {
        self.send(self.protocol.data(channel, text.as_bytes())).await;
    }

    /// The next message's channel and text; `None` at the end.
    async fn hear(&mut self) -> Option<(Channel, String)> {
        loop {
            let packet = tokio::time::timeout(SOON, self.socket.next()).await.expect("something in time")?.ok()?;
            let Packet::Binary(bytes) = packet else { return None };
            if let Frame::Data(channel, data) = self.protocol.decode(bytes).expect("a frame")
                && !data.is_empty()
            {
                return Some((channel, String::from_utf8_lossy(&data).into_owned()));
            }
        }
    }

    /// Listens until a stream has said this.
    async fn hear_on(&mut self, wanted: Channel, text: &str) {
        let mut heard = String::new();
        while !heard.contains(text) {
            let (channel, more) = self.hear().await.unwrap_or_else(|| panic!("only {heard:?}, not {text:?}"));
            if channel == wanted {
                heard += &more;
            }
        }
    }
}

async fn running(
    bench: &Bench,
    change: impl FnOnce(&mut ContainerConfig),
    script: &str,
) -> (Arc<Runtime>, String, String) {
    let runtime = bench.open().await;
    let pod = bench.sandbox("a");
    let sandbox = world::run_sandbox(&*runtime, &pod).await;
    let mut config = container("c", script);
    change(&mut config);
    let id = world::create(&*runtime, &sandbox, &pod, config).await;
    world::start(&*runtime, &id).await;
    (runtime, sandbox, id)
}

async fn attach(runtime: &Runtime, id: &str, stdin: bool, tty: bool) -> Client {
    let request = AttachRequest { container_id: id.into(), stdin, stdout: true, stderr: !tty, tty };
    dial(&runtime.attach(Request::new(request)).await.expect("an address").into_inner().url).await
}

async fn close(runtime: &Runtime, sandbox: &str) {
    world::remove_sandbox(runtime, sandbox).await;
    runtime.close().await;
    runtime.shut_down().await.expect("nothing is left");
}

#[test]
fn attached_clients_type_and_hear_and_leave_without_harm() {
    on_a_node("attached_clients_type_and_hear_and_leave_without_harm", |bench| async move {
        let script = "while read word; do echo got $word; echo err $word >&2; done; exit 7";
        let (runtime, sandbox, id) = running(&bench, |config| config.stdin = true, script).await;
        let mut first = attach(&runtime, &id, true, false).await;
        first.say(Channel::Stdin, "one\n").await;
        first.hear_on(Channel::Stdout, "got one\n").await;
        drop(first);
        // The container goes on, and its stdin is still open for the next.
        let mut listener = attach(&runtime, &id, false, false).await;
        let mut second = attach(&runtime, &id, true, false).await;
        second.say(Channel::Stdin, "two\n").await;
        second.hear_on(Channel::Stderr, "err two\n").await;
        listener.hear_on(Channel::Stdout, "got two\n").await;
        // The log may be a moment behind those who are attached.
        podd_tests::wait_for(podd_tests::SOON, "the log has both outputs", || {
            let log = std::fs::read_to_string(bench.path("logs/c.log")).map_err(|error| error.to_string())?;
            let whole = log.contains("stdout F got one\n") && log.contains("stderr F err two\n");
            if whole { Ok(()) } else { Err(log) }
        });
        let stop = StopContainerRequest { container_id: id.clone(), timeout: 0 };
        runtime.stop_container(Request::new(stop)).await.unwrap();
        // Sessions end with the container, well.
        for mut client in [listener, second] {
            while let Some((channel, text)) = client.hear().await {
                assert!(channel != Channel::Error || text.contains("Success"), "{text}");
            }
        }
        let request = AttachRequest { container_id: id, stdout: true, ..AttachRequest::default() };
        let refused = runtime.attach(Request::new(request)).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        let request = AttachRequest { container_id: "nobody".into(), stdout: true, ..AttachRequest::default() };
        assert_eq!(runtime.attach(Request::new(request)).await.unwrap_err().code(), Code::NotFound);
        close(&runtime, &sandbox).await;
    });
}

#[test]
fn a_stdin_for_one_client_ends_with_its_session() {
    on_a_node("a_stdin_for_one_client_ends_with_its_session", |bench| async move {
        let once = |config: &mut ContainerConfig| (config.stdin, config.stdin_once) = (true, true);
        let (runtime, sandbox, id) = running(&bench, once, "cat; exit 9").await;
        let mut client = attach(&runtime, &id, true, false).await;
        client.say(Channel::Stdin, "hello\n").await;
        client.hear_on(Channel::Stdout, "hello\n").await;
        drop(client);
        assert_eq!(world::exited(&*runtime, &id).await.exit_code, 9);
        close(&runtime, &sandbox).await;
    });
}

#[test]
fn a_terminal_is_attached_to_and_has_its_clients_size() {
    on_a_node("a_terminal_is_attached_to_and_has_its_clients_size", |bench| async move {
        let terminal = |config: &mut ContainerConfig| (config.stdin, config.tty) = (true, true);
        let (runtime, sandbox, id) = running(&bench, terminal, "sh").await;
        let mut client = attach(&runtime, &id, true, true).await;
        client.say(Channel::Resize, r#"{"Width":91,"Height":37}"#).await;
        client.say(Channel::Stdin, "until [ \"$(stty size)\" = '37 91' ]; do sleep 0.02; done; echo si''zed\n").await;
        client.hear_on(Channel::Stdout, "sized").await;
        client.say(Channel::Stdin, "exit 3\n").await;
        assert_eq!(world::exited(&*runtime, &id).await.exit_code, 3);
        close(&runtime, &sandbox).await;
    });
}

#[test]
fn ports_of_a_sandbox_are_reached_on_its_own_loopback() {
    on_a_node("ports_of_a_sandbox_are_reached_on_its_own_loopback", |bench| async move {
        let script = "nc -ll -p 8080 -e sh -c 'read line; echo you said $line'";
        let (runtime, sandbox, _) = running(&bench, |_| {}, script).await;
        let address = async |ports: &[i32]| {
            let request = PortForwardRequest { pod_sandbox_id: sandbox.clone(), port: ports.to_vec() };
            runtime.port_forward(Request::new(request)).await
        };
        // Until it listens, it is refused, and that is told.
        let answer = async {
            loop {
                let mut client = dial(&address(&[8080]).await.unwrap().into_inner().url).await;
                client.say(Channel::Stdin, "hello\n").await;
                let mut heard = (String::new(), String::new());
                while let Some((channel, text)) = client.hear().await {
                    match channel {
                        Channel::Stdin => heard.0 += &text,
                        Channel::Stdout => heard.1 += &text,
                        other => panic!("{other:?}"),
                    }
                }
                if heard.0.contains("you said hello") {
                    return;
                }
                assert!(heard.1.contains("error forwarding port 8080") && heard.1.contains("refused"), "{heard:?}");
            }
        };
        tokio::time::timeout(SOON, answer).await.expect("the pod answers");
        assert_eq!(address(&[0]).await.unwrap_err().code(), Code::InvalidArgument);
        let stop = StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
        runtime.stop_pod_sandbox(Request::new(stop)).await.unwrap();
        assert_eq!(address(&[8080]).await.unwrap_err().code(), Code::FailedPrecondition);
        close(&runtime, &sandbox).await;
    });
}
