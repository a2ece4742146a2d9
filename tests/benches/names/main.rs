//! What a pod sees of the rest: names that it looks up, and a ConfigMap that changes.
//!
//! Queries go from the node's network to the name server, `WINDOW` of them on their way at a time; beside them the floor: the
//! same datagrams to a thread in the server's network that sends each back. `PODD_BENCH_SECONDS` (5) says how long each, and
//! `docs/performance.md` what the figures mean.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use podd_tests::{Node, image::BUSYBOX};

/// Queries on their way at once.
const WINDOW: usize = 64;
/// The port of the floor's thread.
const ECHO: u16 = 5300;
/// How often the ConfigMap changes.
const CHANGES: usize = 30;

fn main() {
    let seconds = std::env::var("PODD_BENCH_SECONDS").ok().map_or(5, |text| text.parse().expect("a number"));
    let node = Node::with_agent();
    node.apply_and_wait(&format!("{}---\n{}", config_map("0"), pod()));
    names(&node, Duration::from_secs(seconds));
    changes(&node);
}

fn config_map(value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {{k: 'v{value}'}}\n")
}

fn pod() -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         volumes: [{{name: v, configMap: {{name: m}}}}]\n  containers:\n  - name: c\n    image: '{BUSYBOX}'\n    \
         command: [sleep, '1000000']\n    volumeMounts: [{{name: v, mountPath: /v}}]\n"
    )
}

fn names(node: &Node, long: Duration) {
    let resolver = node.podd(&["exec", "web", "--", "cat", "/etc/resolv.conf"]).ok().to_owned();
    let server = resolver.lines().find_map(|line| line.strip_prefix("nameserver ")).expect("a name server");
    let server: IpAddr = server.parse().expect("an address");
    let is_server = |pid: &i32| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.split(|b| *b == 0).nth(1).is_some_and(|word| word == b"dns"))
    };
    let pid = node.processes().into_iter().find(is_server).expect("a name server");
    let stop = Arc::new(AtomicBool::new(false));
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).expect("it runs");
    let words: Vec<&str> = line.split(|b| *b == 0).filter_map(|word| std::str::from_utf8(word).ok()).collect();
    let network = words.iter().skip_while(|word| **word != "--network").nth(1).expect("its network");
    let network = File::open(format!("/proc/{}/root{network}", node.agent_pid())).expect("its network");
    let echo = echo(&network, SocketAddr::new(server, ECHO), stop.clone());
    let before = ticks(pid);
    let answered = ask(node, SocketAddr::new(server, 53), long);
    let used = ticks(pid) - before;
    let floor = ask(node, SocketAddr::new(server, ECHO), long);
    stop.store(true, Ordering::Relaxed);
    echo.join().expect("the thread ends");
    let rate = |count: u64| count as f64 / long.as_secs_f64();
    println!(
        "names: {:.0} queries/s; sent back alone: {:.0}/s; {:.2} of it",
        rate(answered),
        rate(floor),
        rate(answered) / rate(floor)
    );
    let share = used as f64 / rustix::param::clock_ticks_per_second() as f64 / long.as_secs_f64();
    println!("name server: {:.0} % of a core, {:.1} µs a query", share * 100.0, share * 1e6 / rate(answered));
}

/// Sends back what comes to this address of a network.
fn echo(network: &File, address: SocketAddr, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let socket = podd_sys::namespace::with_netns(network.as_fd(), || UdpSocket::bind(address)).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _gone = socket.send_to(&buffer[..length], from);
            }
        }
    })
}

/// How many answers come in that time.
fn ask(node: &Node, server: SocketAddr, long: Duration) -> u64 {
    let network = File::open(format!("/proc/{}/ns/net", node.agent_pid())).expect("the node's network");
    let bind = || UdpSocket::bind("0.0.0.0:0");
    let socket = podd_sys::namespace::with_netns(network.as_fd(), bind).expect("a socket");
    socket.connect(server).expect("a route");
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    let query = query("web.default.svc.cluster.local");
    for _ in 0..WINDOW {
        socket.send(&query).expect("sent");
    }
    let (start, mut count, mut buffer) = (Instant::now(), 0, [0; 512]);
    while start.elapsed() < long {
        // One that is lost is replaced.
        count += u64::from(socket.recv(&mut buffer).is_ok());
        socket.send(&query).expect("sent");
    }
    count
}

/// A question for the IPv4 address of a name (RFC 1035).
fn query(name: &str) -> Vec<u8> {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).expect("a short label"));
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// From the change of a ConfigMap until a container's file has it.
fn changes(node: &Node) {
    let uid = node.field("pod/web", "/metadata/uid");
    let root = node.path().to_str().expect("plain text");
    let found = node.enter(&["find", root, "-path", &format!("*{uid}/volumes/*/v/k")]);
    // As the agent sees it: the node has its own mounts.
    let file_in_pod =
        format!("/proc/{}/root{}", node.agent_pid(), found.ok().lines().next().expect("the volume's file"));
    let mut took: Vec<(Duration, Duration)> = Vec::new();
    for n in 1..=CHANGES {
        let file = node.file("change.yaml", &config_map(&n.to_string()));
        let start = Instant::now();
        node.podd(&["apply", "-f", &file]).ok();
        let applied = start.elapsed();
        let wanted = format!("v{n}");
        while std::fs::read_to_string(&file_in_pod).unwrap_or_default() != wanted {
            assert!(start.elapsed() < Duration::from_secs(30), "the file does not follow");
            std::thread::sleep(Duration::from_micros(200));
        }
        took.push((start.elapsed(), applied));
    }
    took.sort_unstable();
    let (median, applied) = took[CHANGES / 2];
    println!(
        "a ConfigMap change, from the shell until the file has it: min {:.1} ms, median {:.1} ms; the command alone {:.1} ms",
        took[0].0.as_secs_f64() * 1e3,
        median.as_secs_f64() * 1e3,
        applied.as_secs_f64() * 1e3,
    );
}

/// A process's time on the processors, in ticks.
fn ticks(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |n: usize| fields[n].parse::<u64>().expect("a number");
    field(11) + field(12)
}
