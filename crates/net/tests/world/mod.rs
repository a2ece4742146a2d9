//! A machine to test with: network namespaces, and conversations between them.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use podd_net::{Config, Network, PortMapping};
use podd_sys::namespace::{PodNamespacesSpec, create_pod_namespaces, with_netns};

/// The machine's address on its uplink.
pub(crate) const HOST: &str = "198.51.100.1";
/// The other end of it.
pub(crate) const OUTSIDE: &str = "198.51.100.2";
/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) struct World {
    host: OwnedFd,
    outside: OwnedFd,
    directory: tempfile::TempDir,
}

/// Where a socket is opened.
pub(crate) struct Place<'a>(BorrowedFd<'a>);

pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) address: IpAddr,
    pub(crate) netns: OwnedFd,
}

fn new_netns() -> OwnedFd {
    let spec = PodNamespacesSpec { net: true, ..Default::default() };
    create_pod_namespaces(&spec).unwrap().net.unwrap()
}

impl World {
    /// Runs a test on a new machine, in a thread that is inside.
    pub(crate) fn run(test: impl FnOnce(&World) + Send) {
        let world = World { host: new_netns(), outside: new_netns(), directory: tempfile::tempdir().unwrap() };
        world.outside().run(|| ip("link set lo up"));
        world.host().run(|| {
            ip("link set lo up");
            let outside = format!("/proc/{}/fd/{}", std::process::id(), world.outside.as_raw_fd());
            ip(&format!("link add up0 mtu 1400 type veth peer name out0 mtu 1400 netns {outside}"));
            ip("link set up0 addrgenmode none");
            ip(&format!("addr add {HOST}/24 dev up0"));
            ip("link set up0 up");
            ip(&format!("route add default via {OUTSIDE}"));
        });
        world.outside().run(|| {
            ip(&format!("addr add {OUTSIDE}/24 dev out0"));
            ip("link set out0 up");
        });
        world.host().run(|| test(&world));
    }

    pub(crate) fn host(&self) -> Place<'_> {
        Place(self.host.as_fd())
    }

    pub(crate) fn outside(&self) -> Place<'_> {
        Place(self.outside.as_fd())
    }

    pub(crate) fn netns(&self) -> OwnedFd {
        new_netns()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("network")
    }

    pub(crate) fn network(&self) -> Network {
        self.network_with(|_| ())
    }

    pub(crate) fn network_with(&self, change: impl FnOnce(&mut Config)) -> Network {
        let mut config = Config::new("podd", &self.state(), "boot");
        change(&mut config);
        Network::open(config).unwrap()
    }

    pub(crate) fn pod(&self, network: &Network, id: &str, ports: &[PortMapping]) -> Pod {
        let netns = self.netns();
        let addresses = network.attach(id, netns.as_fd(), ports).unwrap();
        Pod { id: id.to_owned(), address: addresses[0], netns }
    }

    /// What of the machine a network may change.
    pub(crate) fn picture(&self) -> String {
        // Links of ended pods go when the kernel gets to it.
        eventually("links of ended pods go", || !ip("-o link show").contains(" pod0a55"));
        let files = ["ip_forward", "conf/all/route_localnet", "conf/up0/route_localnet", "conf/up0/rp_filter"];
        let sysctls = files.map(|file| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{file}")).unwrap());
        let tables = nft_dump();
        [ip("-o link show"), ip("-o addr show"), ip("route show table all"), sysctls.concat(), tables].join("\n")
    }

    pub(crate) fn flush_table(&self, name: &str) {
        let body = [&[1, 0, 0, 0][..], &attribute(1, name)].concat();
        nft(&[(10 << 8 | 2, 4 | 1, body)], true);
    }

    /// How many host ports the table holds of sandboxes whose names begin with `pod-`.
    pub(crate) fn table_elements(&self) -> usize {
        let of_map = |map: &str| {
            let body = [&[1, 0, 0, 0][..], &attribute(1, "podd"), &attribute(2, map)].concat();
            nft(&[(10 << 8 | 13, 0x301, body)], false).windows(4).filter(|window| window == b"pod-").count()
        };
        of_map("ports4") + of_map("ports4_at")
    }
}

impl Pod {
    pub(crate) fn place(&self) -> Place<'_> {
        Place(self.netns.as_fd())
    }
}

impl<'a> Place<'a> {
    pub(crate) fn of(netns: &'a OwnedFd) -> Self {
        Self(netns.as_fd())
    }

    /// Runs something there, in a thread of its own.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        with_netns(self.0, || Ok(work())).unwrap()
    }
}

/// Connects over TCP and sends a word each way. Returns the client as the server saw it.
pub(crate) fn tcp(
    server: &Place<'_>,
    listen: SocketAddr,
    client: &Place<'_>,
    to: SocketAddr,
) -> io::Result<SocketAddr> {
    // A program that another test is just starting may hold the listener of before, until it has closed what it inherited.
    let deadline = Instant::now() + PATIENCE;
    let listener = loop {
        match server.run(|| TcpListener::bind(listen)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            bound => break bound?,
        }
    };
    let mut stream = client.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    listener.set_nonblocking(true)?;
    let (mut accepted, seen) = listener.accept()?;
    accepted.set_nonblocking(false)?;
    let mut word = [0; 4];
    accepted.set_read_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"ping")?;
    accepted.read_exact(&mut word)?;
    accepted.write_all(b"pong")?;
    stream.read_exact(&mut word)?;
    assert_eq!(&word, b"pong");
    Ok(seen)
}

/// The same with datagrams.
pub(crate) fn udp(
    server: &Place<'_>,
    listen: SocketAddr,
    client: &Place<'_>,
    to: SocketAddr,
) -> io::Result<SocketAddr> {
    let server = server.run(|| UdpSocket::bind(listen))?;
    let client = client.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    client.connect(to)?;
    client.send(b"ping")?;
    let mut word = [0; 8];
    server.set_read_timeout(Some(PATIENCE))?;
    let (_, seen) = server.recv_from(&mut word)?;
    server.send_to(b"pong", seen)?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.recv(&mut word)?;
    Ok(seen)
}

/// ip(8), in this thread's namespace.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Many commands of ip(8) at once.
pub(crate) fn ip_batch(commands: &str) {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    // The last of them may be more than the bridge takes: what follows tells.
    let written = child.stdin.take().unwrap().write_all(commands.as_bytes());
    child.wait().unwrap();
    written.unwrap();
}

pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn attribute(kind: u16, text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u16 + 5).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The names of all tables, as the kernel tells them.
fn nft_dump() -> String {
    let answer = nft(&[(10 << 8 | 1, 0x301, vec![0, 0, 0, 0])], false);
    String::from_utf8_lossy(&answer).matches("podd").collect()
}

/// Speaks nfnetlink in words of its own, so that a mistake of the code under test is not the test's as well.
fn nft(messages: &[(u16, u16, Vec<u8>)], batch: bool) -> Vec<u8> {
    use rustix::net::{RecvFlags, SendFlags, recv, send};
    let socket = podd_sys::namespace::netlink_socket(12, None).unwrap();
    let end = |kind| (kind, 1, vec![0, 0, 0, 10]);
    let mut all = messages.to_vec();
    if batch {
        all.insert(0, end(0x10));
        all.push(end(0x11));
    }
    let mut bytes = Vec::new();
    for (at, (kind, flags, body)) in all.iter().enumerate() {
        bytes.extend((16 + body.len() as u32).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | 1).to_ne_bytes());
        bytes.extend((at as u32).to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
    }
    send(&socket, &bytes, SendFlags::empty()).unwrap();
    let (mut found, mut buffer) = (Vec::new(), vec![0; 65536]);
    while let Ok((_, length)) = recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT) {
        found.extend(&buffer[..length]);
    }
    found
}
