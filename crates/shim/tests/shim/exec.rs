//! Further processes in a running container.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use podd_shim::wire::{ClientError, ExecSpec, Request, ShimErrorKind, UserSpec, WindowSize};

use crate::group::Group;
use crate::harness::{Node, exec_of, namespace, program, read_all, refusal, shell};

fn with_container() -> Node {
    let mut node = Node::new();
    node.run(node.spec("a", "sleep 1000"));
    node
}

#[test]
fn an_exec_runs_inside_and_its_output_and_end_are_its_own() {
    let mut node = with_container();
    let first = node.container("a").pid.unwrap();
    let mut process = shell("echo out; echo err >&2; id -u; hostname; ls -1 /proc/self/fd; sleep 0.05; exit 5");
    process.user = UserSpec { user: "web".into(), ..UserSpec::default() };
    let (executing, output) = node.exec(exec_of("a", "x", process)).unwrap();
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        // Compared while it sleeps; its end is waited for below.
        assert_eq!(namespace(executing.pid, kind), namespace(first, kind), "{kind}");
    }
    assert_eq!(read_all(output), "out\nerr\n33\ninside\n0\n1\n2\n3\n");
    let exit = node.exec_exit("x");
    assert_eq!((exit.code, exit.started_at), (5, executing.started_at));
    assert!(node.log("a").is_empty(), "an exec's output is not the container's");
    let execs = node.container("a").execs;
    assert_eq!((execs.len(), execs[0].exit), (1, Some(exit)), "kept until it is forgotten");
    node.order(Request::ForgetExec { id: "a".into(), exec: "x".into() });
    assert!(node.container("a").execs.is_empty());
}

#[test]
fn an_exec_that_can_not_be_run_is_told_at_once_and_leaves_nothing() {
    let mut node = with_container();
    for (name, kind) in
        [("missing", ShimErrorKind::ExecNotFound), ("/bin/not-a-program", ShimErrorKind::ExecPermission)]
    {
        assert_eq!(refusal(node.exec(exec_of("a", "x", program(&[name])))).kind, kind, "{name}");
        assert!(node.container("a").execs.is_empty());
    }
    assert_eq!(refusal(node.exec(exec_of("b", "x", shell("")))).kind, ShimErrorKind::NotFound);
    node.create(node.spec("b", "true"));
    assert_eq!(refusal(node.exec(exec_of("b", "x", shell("")))).kind, ShimErrorKind::WrongState);
}

/// Writes a command and reads until its answer, a line of its own, is there.
fn ask(master: &OwnedFd, command: &str, answer: &str) {
    let mut terminal = std::fs::File::from(master.try_clone().unwrap());
    terminal.write_all(command.as_bytes()).unwrap();
    let mut seen = String::new();
    while !seen.contains(&format!("\n{answer}\r\n")) {
        let mut buffer = [0; 256];
        let count = terminal.read(&mut buffer).unwrap_or_else(|error| panic!("{error} after {seen:?}"));
        seen += std::str::from_utf8(&buffer[..count]).unwrap();
    }
}

#[test]
fn an_exec_with_a_terminal_gets_one_that_can_be_resized() {
    let mut node = with_container();
    let window = Some(WindowSize { rows: 24, cols: 80 });
    let spec = ExecSpec { tty: true, window, ..exec_of("a", "x", program(&["sh"])) };
    let (_, master) = node.exec(spec).unwrap();
    ask(&master, "stty size\n", "24 80");
    let window = WindowSize { rows: 50, cols: 132 };
    node.order(Request::Resize { id: "a".into(), exec: Some("x".into()), window });
    ask(&master, "stty size\n", "50 132");
    ask(&master, "readlink /proc/self/fd/0\n", "/dev/pts/0");
    std::fs::File::from(master.try_clone().unwrap()).write_all(b"exit 4\n").unwrap();
    assert_eq!(node.exec_exit("x").code, 4);
    read_all(master);
}

#[test]
fn a_terminals_process_is_hung_up_on_when_its_client_leaves() {
    let mut node = with_container();
    let mut other = node.connect();
    let spec = ExecSpec { tty: true, ..exec_of("a", "x", program(&["sh"])) };
    let (_, fds) = other.call_with_fds(Request::Exec(Box::new(spec)), &[]).unwrap();
    drop((other, fds));
    let exit = node.exec_exit("x");
    assert_ne!(exit.code, 0);
}

#[test]
fn an_exec_is_signalled_alone() {
    let mut node = with_container();
    let (_, output) = node.exec(exec_of("a", "x", shell("echo ready; exec sleep 1000"))).unwrap();
    node.order(Request::Signal { id: "a".into(), exec: Some("x".into()), signal: 9, all: false });
    assert_eq!(node.exec_exit("x").code, 137);
    read_all(output);
    assert!(node.container("a").pid.is_some());
}

#[test]
fn execs_end_with_their_container() {
    let mut node = with_container();
    let (_, output) = node.exec(exec_of("a", "x", shell("sleep 1000"))).unwrap();
    node.order(Request::Signal { id: "a".into(), exec: None, signal: 9, all: false });
    assert_eq!(node.exec_exit("x").code, 137);
    assert_eq!(node.exit("a").code, 137);
    read_all(output);
}

#[test]
fn a_container_and_its_execs_are_in_its_group_of_either_version() {
    for controller in ["pids", "unified"] {
        let group = Group::new(controller);
        let mut node = Node::new();
        let mut spec = node.spec("a", "sleep 1000");
        spec.cgroup = group.spec();
        let first = node.create(spec).pid;
        assert_eq!(group.pids(), [first], "{controller}: from before its start");
        node.start("a");
        let (executing, _output) = node.exec(exec_of("a", "x", program(&["sleep", "1000"]))).unwrap();
        assert!(group.pids().contains(&executing.pid), "{controller}");
        node.order(Request::Signal { id: "a".into(), exec: None, signal: 9, all: true });
        node.exit("a");
        assert!(group.pids().is_empty(), "{controller}");
    }
}

#[test]
fn an_exec_that_dies_before_it_is_ready_is_an_error() {
    let group = Group::new("freezer");
    let mut node = Node::new();
    let mut spec = node.spec("a", "sleep 1000");
    spec.cgroup = group.spec();
    let first = node.run(spec).pid;
    group.set("freezer.state", "FROZEN");
    let mut other = node.connect();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| refusal(node.exec(exec_of("a", "x", shell("true")))));
        let started = || group.pids().into_iter().find(|pid| *pid != first);
        let child = crate::harness::eventually(crate::harness::PATIENCE, started).unwrap();
        podd_sys::signal::send(crate::harness::hold(child).as_fd(), 9).unwrap();
        group.set("freezer.state", "THAWED");
        assert_eq!(waiting.join().unwrap().kind, ShimErrorKind::System);
    });
    assert!(crate::harness::state(&mut other).containers[0].execs.is_empty());
}

#[test]
fn descriptors_have_to_be_as_many_as_named() {
    let mut node = with_container();
    let spec = ExecSpec { stdio: vec![podd_shim::wire::Stdio::Stdout], ..exec_of("a", "x", shell("true")) };
    let outcome: Result<_, ClientError> = node.client.call(Request::Exec(Box::new(spec)));
    assert_eq!(refusal(outcome).kind, ShimErrorKind::Invalid);
}
