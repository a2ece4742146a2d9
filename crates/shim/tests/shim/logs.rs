//! What becomes of a container's output.

use std::fs;
use std::time::Duration;

use podd_shim::wire::{LogLimits, LogSpec, PidNamespace, Request};

use crate::group::Group;
use crate::harness::{Node, ended_within, eventually, hold, read_log};

#[test]
fn a_long_line_comes_in_parts_and_a_last_one_without_end_is_whole() {
    let mut node = Node::new();
    node.output(node.spec("a", "head -c 40000 /dev/zero; echo; echo -n last"));
    let parts: Vec<_> = node.log("a").into_iter().map(|line| (line.tag, line.text.len())).collect();
    let part = |tag: &str, length: usize| (tag.to_owned(), length);
    assert_eq!(parts, [part("P", 16384), part("P", 16384), part("F", 40000 - 32768), part("F", 4)]);
}

#[test]
fn many_lines_are_all_there_in_order() {
    let mut node = Node::new();
    let texts = node.output(node.spec("a", "seq 1 100000"));
    assert_eq!(texts.len(), 100_000);
    assert!(texts.iter().zip(1..).all(|(text, number)| *text == number.to_string()));
}

#[test]
fn a_log_rotates_at_its_size_between_lines_and_keeps_so_many_files() {
    let mut node = Node::new();
    let mut spec = node.spec("a", "seq 1 1000");
    let limits = LogLimits { max_size: 4000, max_files: 3 };
    spec.log = Some(LogSpec { path: node.log_path("a"), limits });
    node.finish(spec);
    let mut files: Vec<_> = fs::read_dir(node.path("a"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("0.log"))
        .collect();
    assert_eq!(files.len(), 3, "{files:?}");
    files.sort();
    // The live one sorts first and is the newest.
    files.rotate_left(1);
    let mut texts = Vec::new();
    for file in &files {
        assert!(fs::metadata(file).unwrap().len() <= 4000);
        texts.extend(read_log(file).into_iter().map(|line| line.text.parse::<u32>().unwrap()));
    }
    let newest: Vec<u32> = (1001 - texts.len() as u32..=1000).collect();
    assert_eq!(texts, newest);
    assert!(texts.len() > 100);
}

#[test]
fn limits_can_change_while_it_runs() {
    let mut node = Node::new();
    let mut spec = node.spec("a", "seq 1 100; echo ready; cat; seq 1 100");
    spec.stdin = true;
    node.run(spec);
    node.await_text("a", "ready");
    let limits = LogLimits { max_size: 1000, max_files: 2 };
    node.order(Request::LogLimits { id: "a".into(), limits });
    node.order(Request::CloseStdin { id: "a".into() });
    node.exit("a");
    assert!(fs::metadata(node.log_path("a")).unwrap().len() <= 1000);
}

#[test]
fn a_renamed_log_is_opened_anew_on_request() {
    let mut node = Node::new();
    let mut spec = node.spec("a", "echo before; cat; echo after");
    spec.stdin = true;
    node.run(spec);
    node.await_text("a", "before");
    let moved = node.path("a").join("moved");
    fs::rename(node.log_path("a"), &moved).unwrap();
    node.order(Request::ReopenLog { id: "a".into() });
    node.order(Request::CloseStdin { id: "a".into() });
    node.exit("a");
    assert_eq!(node.texts("a"), ["after"]);
    assert_eq!(read_log(&moved).len(), 1);
}

#[test]
fn a_log_that_can_not_be_written_is_counted_and_holds_nobody_up() {
    let mut node = Node::new();
    let mut spec = node.spec("a", "seq 1 100000");
    spec.log = Some(LogSpec { path: "/dev/full".into(), ..LogSpec::default() });
    node.finish(spec);
    let dropped = node.container("a").log_bytes_dropped;
    assert!(dropped > 588_895, "{dropped} bytes counted, and the texts alone are 588,895");
}

#[test]
fn without_a_log_output_is_read_and_dropped() {
    let mut node = Node::new();
    let mut spec = node.spec("a", "seq 1 100000");
    spec.log = None;
    node.finish(spec);
}

#[test]
fn who_holds_the_output_of_an_ended_container_is_not_waited_for() {
    let mut node = Node::new();
    let mut spec = node.spec("a", "echo -n first; sleep 1000 & echo $! >&2; exit 2");
    // In the host's PID namespace nothing ends the sleeper but its group; here it has none.
    spec.namespaces.pid = PidNamespace::Host;
    node.run(spec);
    assert_eq!(node.exit("a").code, 2);
    let lines = node.log("a");
    let pid = lines.iter().find(|line| line.stream == "stderr").unwrap().text.parse().unwrap();
    let sleeper = hold(pid);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains(&format!("PPid:\t{}\n", node.shim.pid)), "orphans are the shim's");
    assert!(lines.iter().any(|line| line.stream == "stdout" && line.text == "first" && line.tag == "F"), "{lines:?}");
    podd_sys::signal::send(std::os::fd::AsFd::as_fd(&sleeper), 9).unwrap();
    let gone = || fs::metadata(format!("/proc/{pid}")).is_err().then_some(());
    eventually(Duration::from_secs(10), gone).expect("the shim reaps orphans");
}

#[test]
fn the_rest_of_a_group_ends_with_the_first_process() {
    let group = Group::new("pids");
    let mut node = Node::new();
    let mut spec = node.spec("a", "sleep 1000 & echo $!; cat; exit 0");
    spec.namespaces.pid = PidNamespace::Host;
    spec.cgroup = group.spec();
    spec.stdin = true;
    node.run(spec);
    let pid = eventually(Duration::from_secs(10), || node.texts("a").first()?.parse().ok()).unwrap();
    let sleeper = hold(pid);
    node.order(Request::CloseStdin { id: "a".into() });
    assert_eq!(node.exit("a").code, 0);
    assert!(ended_within(std::os::fd::AsFd::as_fd(&sleeper), Duration::from_secs(10)));
}
