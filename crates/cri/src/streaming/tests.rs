//! Sessions over real connections, with tungstenite as the foreign client.

mod hops;
mod ports;
mod sessions;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message as Packet};
use tokio_tungstenite::{WebSocketStream, client_async};
use tonic::Status;

use super::channels::{Channel, Frame, Message, Outcome, Protocol, Size};
use super::{Connection, Options, Server, StreamingRuntime, Streams, Target};
use crate::v1::{ExecRequest, PortForwardRequest};

/// Nothing here takes this long unless it is broken.
pub(super) const SOON: Duration = Duration::from_secs(10);

/// Commands that a test can foresee.
#[derive(Default)]
struct Commands {
    /// Bytes that `flood` got rid of.
    flooded: AtomicU64,
    progress: Notify,
    /// Commands that came to their end.
    ended: Notify,
    tokens: Mutex<u32>,
}

#[tonic::async_trait]
impl StreamingRuntime for Commands {
    async fn exec(&self, _: &str, cmd: &[String], _: bool, io: Streams) -> Result<i32, Status> {
        let Streams { stdin, stdout, stderr, resize } = io;
        let code = match cmd[0].as_str() {
            "exit" => cmd[1].parse().unwrap(),
            "missing" => return Err(Status::not_found("no container of that name")),
            "both" => {
                stdout.unwrap().write_all(b"to stdout").await.unwrap();
                stderr.unwrap().write_all(b"to stderr").await.unwrap();
                7
            }
            "cat" => {
                let (mut from, mut to) = (stdin.unwrap(), stdout.unwrap());
                let copied = tokio::io::copy(&mut from, &mut to).await;
                i32::from(copied.is_err())
            }
            "sizes" => {
                let (mut sizes, mut to) = (resize.unwrap(), stdout.unwrap());
                while let Some(Size { width, height }) = sizes.next().await {
                    to.write_all(format!("{width}x{height} ").as_bytes()).await.unwrap();
                    if width == 0 {
                        break;
                    }
                }
                0
            }
            "flood" => {
                let mut to = stdout.unwrap();
                let stalled = Duration::from_millis(300);
                while let Ok(Ok(())) = tokio::time::timeout(stalled, to.write_all(&[b'x'; 4096])).await {
                    self.flooded.fetch_add(4096, Ordering::Relaxed);
                    self.progress.notify_one();
                }
                0
            }
            other => panic!("no command {other}"),
        };
        self.ended.notify_one();
        Ok(code)
    }

    async fn attach(&self, _: &str, _: bool, io: Streams) -> Result<(), Status> {
        io.stdout.unwrap().write_all(b"attached").await.unwrap();
        Ok(())
    }

    /// Port 7 says back what it hears, port 1 says something and ends, on others nobody listens.
    async fn port_forward(&self, sandbox: &str, port: u16, connection: Connection) -> Result<(), Status> {
        let Connection { mut input, mut output } = connection;
        match port {
            7 => drop(tokio::io::copy(&mut input, &mut output).await),
            1 => output.write_all(sandbox.as_bytes()).await.unwrap(),
            _ => return Err(Status::unavailable("connection refused")),
        }
        Ok(())
    }
}

pub(super) struct Node {
    pub(super) server: Server,
    commands: Arc<Commands>,
}

pub(super) async fn node() -> Node {
    node_with(|_| {}).await
}

async fn node_with(change: impl FnOnce(&mut Options)) -> Node {
    let commands = Arc::new(Commands::default());
    let tokens = Arc::clone(&commands);
    let mut options = Options::new(move || {
        let mut next = tokens.tokens.lock().unwrap();
        *next += 1;
        format!("token-{next:04}")
    });
    change(&mut options);
    let server = Server::bind(Arc::<Commands>::clone(&commands), options).await.unwrap();
    Node { server, commands }
}

pub(super) fn request(cmd: &[&str], tty: bool) -> ExecRequest {
    ExecRequest {
        container_id: "c".into(),
        cmd: cmd.iter().map(|&word| word.to_owned()).collect(),
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    }
}

impl Node {
    fn exec(&self, cmd: &[&str]) -> String {
        self.server.register_exec(request(cmd, false)).unwrap()
    }

    pub(super) fn forward(&self, ports: &[i32]) -> String {
        let request = PortForwardRequest { pod_sandbox_id: "sandbox".into(), port: ports.to_vec() };
        self.server.register_port_forward(request).unwrap()
    }

    fn exec_tty(&self, cmd: &[&str]) -> String {
        self.server.register_exec(request(cmd, true)).unwrap()
    }
}

pub(super) trait Socket: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Socket for T {}

struct Client {
    socket: WebSocketStream<Box<dyn Socket>>,
    protocol: &'static Protocol,
}

/// All that a session said.
#[derive(Debug, Default, PartialEq)]
struct Said {
    stdout: String,
    stderr: String,
    outcome: Option<Outcome>,
    close: Option<String>,
}

pub(super) async fn dial(target: &Target) -> Box<dyn Socket> {
    match target {
        Target::Tcp(address) => Box::new(TcpStream::connect(address).await.unwrap()),
        Target::Unix(path) => Box::new(UnixStream::connect(path).await.unwrap()),
    }
}

async fn try_open(
    target: &Target,
    path: &str,
    protocols: &str,
) -> Result<(WebSocketStream<Box<dyn Socket>>, Option<String>), tungstenite::Error> {
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    if !protocols.is_empty() {
        let value = protocols.parse().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", value);
    }
    let (socket, response) = client_async(request, dial(target).await).await?;
    let chosen = response.headers().get("Sec-WebSocket-Protocol");
    Ok((socket, chosen.map(|name| name.to_str().unwrap().to_owned())))
}

async fn open(url: &str, protocols: &str) -> Client {
    let (target, path) = Target::of_url(url).unwrap();
    open_at(&target, path.as_str(), protocols).await
}

async fn open_at(target: &Target, path: &str, protocols: &str) -> Client {
    let (socket, chosen) = try_open(target, path, protocols).await.unwrap();
    let protocol = match chosen {
        Some(name) => Protocol::named(&name).unwrap(),
        None => Protocol::negotiate([]).unwrap(),
    };
    Client { socket, protocol }
}

impl Client {
    async fn send(&mut self, message: Message) {
        let packet = match message {
            Message::Binary(bytes) => Packet::Binary(bytes),
            Message::Text(text) => Packet::Text(text.into()),
        };
        self.socket.send(packet).await.unwrap();
    }

    async fn say(&mut self, channel: Channel, data: &[u8]) {
        self.send(self.protocol.data(channel, data)).await;
    }

    /// The next data; `None` when the other side closes or is gone.
    async fn hear(&mut self, said: &mut Said) -> Option<()> {
        let packet = tokio::time::timeout(SOON, self.socket.next()).await.expect("something")?;
        let bytes: Bytes = match packet.ok()? {
            Packet::Binary(bytes) => bytes,
            Packet::Text(text) => text.into(),
            Packet::Close(frame) => {
                said.close = frame.map(|frame| frame.reason.to_string());
                return None;
            }
            _ => return Some(()),
        };
        let Frame::Data(channel, data) = self.protocol.decode(bytes).unwrap() else {
            panic!("a server ends no stream")
        };
        let text = String::from_utf8(data.to_vec()).unwrap();
        match channel {
            Channel::Stdout => said.stdout += &text,
            Channel::Stderr => said.stderr += &text,
            Channel::Error if data.is_empty() => {}
            Channel::Error => said.outcome = Some(Outcome::parse(&data)),
            other => panic!("data on {other:?}"),
        }
        Some(())
    }

    async fn hear_out(mut self) -> Said {
        let mut said = Said::default();
        while self.hear(&mut said).await.is_some() {}
        said
    }

    async fn hear_until(&mut self, said: &mut Said, done: impl Fn(&Said) -> bool) {
        while !done(said) {
            self.hear(said).await.expect("the session goes on");
        }
    }
}
