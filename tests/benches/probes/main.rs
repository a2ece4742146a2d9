//! What probes cost the agent: pods with an HTTP readiness probe a second each, all of which ask one server of this program.
//! It notes when it is asked, so that lateness is what a container would see. `PODD_BENCH_PODS` (500) and
//! `PODD_BENCH_SECONDS` (30) say how many pods, and how long. `docs/performance.md` says what the figures mean.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use podd_tests::{Node, image::BUSYBOX, wait_for};

/// Where the server listens, in the node's network.
const PORT: u16 = 9099;

/// When each pod asked.
type Arrivals = Arc<Mutex<BTreeMap<String, Vec<Instant>>>>;

fn main() {
    let (pods, seconds) = (number("PODD_BENCH_PODS", 500), number("PODD_BENCH_SECONDS", 30));
    let node = Node::with_agent();
    let arrivals = Arrivals::default();
    serve(&node, arrivals.clone());
    let began = Instant::now();
    let manifest: String = (0..pods).map(pod).collect();
    node.apply(&manifest).ok();
    wait_for(Duration::from_secs(300), "all are ready", || {
        let ready = node.podd(&["get", "pods", "--no-headers"]).stdout.lines().filter(|l| l.contains("1/1")).count();
        if ready == pods { Ok(()) } else { Err(format!("{ready} of {pods}")) }
    });
    println!("{pods} pods ready after {:.1} s", began.elapsed().as_secs_f64());
    let idle = Duration::from_secs(u64::try_from(seconds).expect("small"));
    let (start, ticks) = (Instant::now(), ticks(&node));
    std::thread::sleep(idle);
    let (took, used) = (start.elapsed(), ticks_since(&node, ticks));
    let late = lateness(&arrivals, start);
    let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!("{} probes in {:.1} s", late.len(), took.as_secs_f64());
    println!("late: median {:.2} ms, 99 % {:.2} ms, most {:.2} ms", at(0.5), at(0.99), at(1.0));
    println!("agent: {:.1} % of a core", used.as_secs_f64() / took.as_secs_f64() * 100.0);
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

fn pod(n: usize) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{n}}}\nspec:\n  hostNetwork: true\n  terminationGracePeriodSeconds: 0\n  \
         containers:\n  - name: c\n    image: '{BUSYBOX}'\n    command: [sleep, '1000000']\n    readinessProbe: {{periodSeconds: 1, \
         httpGet: {{host: 127.0.0.1, port: {PORT}, path: /p{n}}}}}\n"
    )
}

/// Answers every request in the node's network, from a few threads of this program.
fn serve(node: &Node, arrivals: Arrivals) {
    let netns = File::open(format!("/proc/{}/ns/net", node.agent_pid())).expect("the node's network");
    let bind = || TcpListener::bind(("127.0.0.1", PORT));
    let listener = Arc::new(podd_sys::namespace::with_netns(netns.as_fd(), bind).expect("a port"));
    for _ in 0..4 {
        let (listener, arrivals) = (listener.clone(), arrivals.clone());
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let now = Instant::now();
                let mut request = [0; 1024];
                let Ok(read) = stream.read(&mut request) else { continue };
                let text = String::from_utf8_lossy(&request[..read]);
                let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
                arrivals.lock().expect("no thread panics").entry(path).or_default().push(now);
                let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            }
        });
    }
}

/// How late each probe since `start` was, sorted: against whole seconds since the earliest of its pod.
fn lateness(arrivals: &Arrivals, start: Instant) -> Vec<Duration> {
    let all = arrivals.lock().expect("no thread panics");
    let mut late = Vec::new();
    for times in all.values() {
        // The beat of this pod: the least time beyond a whole second.
        let beyond = |at: &Instant| at.duration_since(times[0]).as_nanos() as i64 % 1_000_000_000;
        let signed = |nanos: i64| if nanos > 500_000_000 { nanos - 1_000_000_000 } else { nanos };
        let least = times.iter().map(|at| signed(beyond(at))).min().unwrap_or(0);
        let recent = times.iter().filter(|at| **at >= start);
        late.extend(recent.map(|at| Duration::from_nanos(u64::try_from(signed(beyond(at)) - least).unwrap_or(0))));
    }
    late.sort_unstable();
    late
}

/// The agent's time on the processors, in ticks.
fn ticks(node: &Node) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", node.agent_pid())).expect("the agent runs");
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |n: usize| fields[n].parse::<u64>().expect("a number");
    // utime and stime; the state is the first after the name.
    field(11) + field(12)
}

fn ticks_since(node: &Node, before: u64) -> Duration {
    Duration::from_millis((ticks(node) - before) * 1000 / rustix::param::clock_ticks_per_second())
}
