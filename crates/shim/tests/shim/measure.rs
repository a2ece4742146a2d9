//! What a shim costs. Not tests: run them alone, on the static binary (`PODD_SHIM_BINARY`), with
//! `--ignored --nocapture --test-threads 1`.

use std::fs;
use std::time::Instant;

use podd_shim::wire::{LogLimits, LogSpec, Request};

use crate::harness::{Node, exec_of, program, read_all};

/// Proportional set size and private dirty memory of a process, in KiB.
fn memory(pid: u32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let row = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    (row("Pss:"), row("Private_Dirty:"))
}

fn cpu_seconds(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // utime and stime in hundredths, counted from behind the name.
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11..13].iter().map(|field| field.parse::<f64>().unwrap() / 100.0).sum()
}

#[test]
#[ignore = "a measurement"]
fn memory_of_an_idle_pod() {
    // One shim alone bears the binary's pages; the second shares them.
    let mut nodes: Vec<Node> = (0..20).map(|_| Node::new()).collect();
    for node in &mut nodes {
        node.run(node.spec("a", "echo ready; exec sleep 1000"));
        node.await_text("a", "ready");
    }
    let rows: Vec<_> = nodes.iter().map(|node| memory(node.shim.pid)).collect();
    println!("{} idle shims (PSS, private dirty; KiB): {rows:?}", rows.len());
    let node = &mut nodes[0];
    for number in 0..20 {
        let (_, output) = node.exec(exec_of("a", &number.to_string(), program(&["id"]))).unwrap();
        read_all(output);
        node.exec_exit(&number.to_string());
        node.order(Request::ForgetExec { id: "a".into(), exec: number.to_string() });
    }
    println!("the first after 20 execs: {:?}", memory(node.shim.pid));
}

#[test]
#[ignore = "a measurement"]
fn throughput_of_logs() {
    let mut node = Node::new();
    let line = "x".repeat(99) + "\n";
    fs::write(node.path("layer/lines"), line.repeat(500_000)).unwrap();
    let logs = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = logs.path().join("0.log");
    for limits in [LogLimits::default(), LogLimits { max_size: 50 << 20, max_files: 2 }] {
        let mut spec = node.spec("a", &format!("cat {}", "/lines ".repeat(12)));
        spec.log = Some(LogSpec { path: path.clone(), limits });
        node.create(spec);
        let before = cpu_seconds(node.shim.pid);
        let begin = Instant::now();
        node.start("a");
        node.exit("a");
        let seconds = begin.elapsed().as_secs_f64();
        let busy = cpu_seconds(node.shim.pid) - before;
        println!("{limits:?}: {:.0} MB/s of 100-byte lines, {:.0} per second of CPU", 600.0 / seconds, 600.0 / busy);
        assert_eq!(node.container("a").log_bytes_dropped, 0);
        node.order(Request::Forget { id: "a".into() });
        fs::remove_file(&path).unwrap();
    }
}

#[test]
#[ignore = "a measurement"]
fn round_trips() {
    let mut node = Node::new();
    node.run(node.spec("a", "sleep 1000"));
    let rounds = 200;
    let mut times: Vec<_> = (0..rounds)
        .map(|number| {
            let begin = Instant::now();
            let id = number.to_string();
            let (_, output) = node.exec(exec_of("a", &id, program(&["true"]))).unwrap();
            drop(output);
            node.exec_exit(&id);
            begin.elapsed()
        })
        .collect();
    times.sort();
    println!("exec to exit: median {:?}, 95 % {:?}", times[rounds / 2], times[rounds * 95 / 100]);
    let mut times: Vec<_> = (0..rounds)
        .map(|number| {
            let id = format!("c{number}");
            let mut spec = node.spec(&id, "");
            spec.process = program(&["true"]);
            let begin = Instant::now();
            node.create(spec);
            node.start(&id);
            let started = begin.elapsed();
            node.exit(&id);
            started
        })
        .collect();
    times.sort();
    println!("create and start: median {:?}, 95 % {:?}", times[rounds / 2], times[rounds * 95 / 100]);
}
