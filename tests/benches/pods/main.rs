//! What a pod costs: the kernel's floor, the runtime through CRI in process, the command line, a hundred pods, memory, exec
//! and logs. Figures of one run; quote the ratios. `docs/performance.md` says what they mean.
//!
//! Peers are measured beside when they are installed (podman).

#[path = "../../tests/world/mod.rs"]
mod world;

mod floor;

use std::process::Command;
use std::time::{Duration, Instant};

use podd_cri::RuntimeService;
use podd_cri::v1::*;
use podd_tests::Node;
use tonic::Request;
use world::{Bench, container, create, on_this_node, run_sandbox, start};

/// Says to the second start of this program that it is inside its own namespaces.
const INSIDE: &str = "PODD_BENCH_INSIDE";
/// How often a pod is made and taken away.
const PODS: usize = 40;

fn main() {
    if std::env::var_os(INSIDE).is_some() {
        in_process();
        return;
    }
    println!("{:<44} {:>10} {:>10} {:>10}", "milliseconds", "min", "median", "max");
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().expect("a program has a path"))
        .env(INSIDE, "1")
        .status()
        .expect("unshare runs");
    assert!(status.success(), "{status}");
    command_line();
    podman();
}

/// Prints a row of durations.
fn row(what: &str, mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    let median = millis(times[times.len() / 2]);
    let (min, max) = (millis(times[0]), millis(times[times.len() - 1]));
    println!("{what:<44} {min:>10.2} {median:>10.2} {max:>10.2}");
    median
}

fn in_process() {
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip runs");
    assert!(up.success());
    // Before there are threads: the floor forks as a shim does.
    let floor = row("floor: namespaces, network, cgroups, exec", floor::measure(PODS));
    on_this_node(|bench| async move {
        let runtime = bench.open().await;
        let (mut starts, mut stops, mut execs) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..PODS {
            let pod = bench.sandbox(&format!("p{number}"));
            let begin = Instant::now();
            let sandbox = run_sandbox(runtime.as_ref(), &pod).await;
            let id = create(runtime.as_ref(), &sandbox, &pod, container("c", "exec sleep 1000")).await;
            start(runtime.as_ref(), &id).await;
            starts.push(begin.elapsed());
            let begin = Instant::now();
            let request = ExecSyncRequest { container_id: id, cmd: vec!["true".into()], timeout: 10 };
            runtime.exec_sync(Request::new(request)).await.expect("exec");
            execs.push(begin.elapsed());
            let begin = Instant::now();
            world::remove_sandbox(runtime.as_ref(), &sandbox).await;
            stops.push(begin.elapsed());
        }
        let pod = row("runtime: sandbox + create + start", starts);
        row("runtime: exec of true", execs);
        row("runtime: stop + remove", stops);
        println!("{:<44} {:>10.2}", "runtime / floor (medians)", pod / floor);
        idle(&bench, runtime.as_ref()).await;
        logs(&bench, runtime.as_ref()).await;
        runtime.close().await;
    });
}

/// Memory of idle pods, shim and all.
async fn idle(bench: &Bench, runtime: &dyn RuntimeService) {
    let mut sandboxes = Vec::new();
    for number in 0..20 {
        let pod = bench.sandbox(&format!("idle{number}"));
        let sandbox = run_sandbox(runtime, &pod).await;
        let id = create(runtime, &sandbox, &pod, container("c", "exec sleep 1000")).await;
        start(runtime, &id).await;
        sandboxes.push(sandbox);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let shims = world::processes(&format!("{}/shims", bench.group));
    let all = world::processes(&bench.group);
    let kib = |processes: &[(i32, String)]| processes.iter().map(|(pid, _)| pss(*pid)).sum::<u64>() as f64;
    println!("{:<44} {:>10.3}", "MiB per idle pod: shim (PSS)", kib(&shims) / 20.0 / 1024.0);
    println!("{:<44} {:>10.3}", "MiB per idle pod: all (PSS)", kib(&all) / 20.0 / 1024.0);
    for sandbox in sandboxes {
        world::remove_sandbox(runtime, &sandbox).await;
    }
}

fn pss(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
}

/// Log throughput: lines of 100 bytes from one container.
async fn logs(bench: &Bench, runtime: &dyn RuntimeService) {
    const LINES: usize = 3_000_000;
    let line = "x".repeat(99);
    let script = format!("yes {line} | head -n {LINES}");
    let pod = bench.sandbox("logs");
    let sandbox = run_sandbox(runtime, &pod).await;
    let id = create(runtime, &sandbox, &pod, container("c", &script)).await;
    let begin = Instant::now();
    start(runtime, &id).await;
    world::exited(runtime, &id).await;
    let logged = begin.elapsed();
    let plain = bench.path("plain.txt");
    let begin = Instant::now();
    let written = Command::new("/bin/busybox").args(["sh", "-c", &format!("{script} > {}", plain.display())]).status();
    assert!(written.expect("a shell runs").success());
    let direct = begin.elapsed();
    let rate = |time: Duration| (LINES * 100) as f64 / 1e6 / time.as_secs_f64();
    println!("{:<44} {:>10.0}", "logs: MB/s through the shim", rate(logged));
    println!("{:<44} {:>10.0}", "logs: MB/s of the same straight to a file", rate(direct));
    world::remove_sandbox(runtime, &sandbox).await;
}

fn manifest(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
         - {{name: c, image: '{}', command: [sleep, '100000']}}\n",
        podd_tests::image::BUSYBOX
    )
}

fn command_line() {
    let node = Node::with_agent();
    let mut times = Vec::new();
    for number in 0..20 {
        let file = node.file("pod.yaml", &manifest(&format!("one{number}")));
        let begin = Instant::now();
        node.podd(&["apply", "--wait", "-f", &file]).ok();
        times.push(begin.elapsed());
        node.podd(&["delete", "-f", &file]).ok();
    }
    row("podd apply --wait, from the shell", times);
    let many: Vec<String> = (0..100).map(|number| manifest(&format!("many{number}"))).collect();
    let file = node.file("many.yaml", &many.join("---\n"));
    let begin = Instant::now();
    node.podd(&["apply", "--wait", "-f", &file]).ok();
    println!("{:<44} {:>10.0}", "100 pods, all Ready", begin.elapsed().as_secs_f64() * 1000.0);
    std::thread::sleep(Duration::from_secs(3));
    let agent = i32::try_from(node.agent_pid()).expect("a pid");
    println!("{:<44} {:>10.1}", "MiB of the agent with 100 pods (PSS)", pss(agent) as f64 / 1024.0);
    let before = cpu_ticks(agent);
    std::thread::sleep(Duration::from_secs(10));
    let used = cpu_ticks(agent) - before;
    println!("{:<44} {:>10.2}", "% of a core, agent idle with 100 pods", used as f64 / 10.0);
}

/// User and system time of a process, in hundredths of a second.
fn cpu_ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// The same pod by `podman kube play`, where podman is installed and its runtime takes this machine.
fn podman() {
    let found = Command::new("podman").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        println!("podman is not installed: not compared");
        return;
    }
    let node = Node::new();
    let archive = podd_tests::image::busybox(node.path());
    let root = node.path().join("podman");
    let base = ["--root", root.to_str().expect("a plain path"), "--cgroup-manager", "cgroupfs", "--runtime", "runc"];
    // Without CAP_SYS_RESOURCE nobody may raise limits, and podman tries.
    let limits = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";
    let configuration = format!("CONTAINERS_CONF={}", node.file("containers.conf", limits));
    let podman = |args: &[&str]| node.enter(&[&["env", &configuration, "podman"], &base[..], args].concat());
    if podman(&["load", "-i", archive.to_str().expect("a plain path")]).code != 0 {
        println!("podman does not run here: not compared");
        return;
    }
    let mut times = Vec::new();
    for number in 0..5 {
        let file = node.file("pod.yaml", &manifest(&format!("peer{number}")));
        let begin = Instant::now();
        let played = podman(&["kube", "play", "--network", "none", &file]);
        times.push(begin.elapsed());
        if played.code != 0 {
            println!("podman kube play does not run here: {}", played.stderr.trim());
            return;
        }
        podman(&["kube", "down", &file]);
    }
    row("podman kube play, without network", times);
}
