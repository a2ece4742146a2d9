//! A container from its creation to its end.

use std::time::Duration;

use podd_shim::wire::{Phase, Request, ShimErrorKind, UserSpec, WindowSize};

use crate::group::Group;
use crate::harness::{Node, ended_within, eventually, hold, program, refusal};

#[test]
fn a_container_waits_for_its_start_and_its_end_comes_after_its_output() {
    let mut node = Node::new();
    let created = node.create(node.spec("a", "echo out; echo err >&2; exit 3"));
    let waiting = node.container("a");
    assert_eq!((waiting.phase, waiting.pid, waiting.started_at), (Phase::Created, Some(created.pid), 0));
    assert!(node.log("a").is_empty(), "it must not run before its start");

    let started_at = node.start("a");
    let exit = node.exit("a");
    assert_eq!((exit.code, exit.signal, exit.oom_killed, exit.started_at), (3, None, false, started_at));
    assert!(exit.finished_at >= started_at);
    let mut lines: Vec<_> =
        node.log("a").into_iter().map(|line| (line.stream, line.tag, line.text, line.time.len())).collect();
    lines.sort();
    let line = |stream: &str, text: &str| (stream.to_owned(), "F".to_owned(), text.to_owned(), 30);
    assert_eq!(lines, [line("stderr", "err"), line("stdout", "out")]);
    let ended = node.container("a");
    assert_eq!((ended.phase, ended.pid, ended.exit), (Phase::Exited, None, Some(exit)));

    node.order(Request::Forget { id: "a".into() });
    assert!(node.state().containers.is_empty());
    node.order(Request::Forget { id: "a".into() });
}

#[test]
fn a_signal_reaches_the_process_and_an_end_by_one_is_counted_as_a_shell_counts() {
    let mut node = Node::new();
    node.run(node.spec("a", "trap 'exit 7' TERM; echo ready; sleep 1000 & wait"));
    node.await_text("a", "ready");
    node.order(Request::Signal { id: "a".into(), exec: None, signal: 15, all: false });
    assert_eq!(node.exit("a").code, 7);
    // It is gone, and that is no error.
    node.order(Request::Signal { id: "a".into(), exec: None, signal: 15, all: false });

    node.run(node.spec("b", "sleep 1000"));
    node.order(Request::Signal { id: "b".into(), exec: None, signal: 9, all: false });
    let exit = node.exit("b");
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
}

#[test]
fn a_program_that_can_not_be_run_is_a_start_error_with_a_shells_code() {
    let table = [
        ("missing", ShimErrorKind::ExecNotFound, 127),
        ("/no/such/file", ShimErrorKind::ExecNotFound, 127),
        ("/bin/not-a-program", ShimErrorKind::ExecPermission, 126),
        ("/etc", ShimErrorKind::ExecPermission, 126),
    ];
    let mut node = Node::new();
    for (number, (name, kind, code)) in table.into_iter().enumerate() {
        let id = format!("c{number}");
        let mut spec = node.spec(&id, "");
        spec.process = program(&[name]);
        node.create(spec);
        let error = node.refused(Request::Start { id: id.clone() });
        assert_eq!(error.kind, kind, "{name}");
        let state = node.container(&id);
        assert_eq!((state.phase, state.exit.unwrap().code), (Phase::Exited, code), "{name}");
        assert_eq!((state.start_error, state.started_at), (Some(error), 0), "{name}");
    }
}

#[test]
fn a_container_that_can_not_be_made_leaves_nothing_and_its_id_is_free() {
    let mut node = Node::new();
    let mut spec = node.spec("a", "echo here");
    spec.process.user = UserSpec { user: "nobody-known".into(), ..UserSpec::default() };
    let error = node.refused(Request::Create(Box::new(spec)));
    assert_eq!(error.kind, ShimErrorKind::Invalid);
    assert!(error.to_string().contains("nobody-known"), "{error}");
    assert!(node.state().containers.is_empty());
    assert_eq!(node.output(node.spec("a", "echo here")), ["here"]);
}

#[test]
fn states_and_ids_are_kept_apart() {
    let mut node = Node::new();
    node.create(node.spec("a", "sleep 1000"));
    let again = node.spec("a", "");
    assert_eq!(node.refused(Request::Create(Box::new(again))).kind, ShimErrorKind::AlreadyExists);
    node.start("a");
    assert_eq!(node.refused(Request::Start { id: "a".into() }).kind, ShimErrorKind::WrongState);
    assert_eq!(node.refused(Request::Forget { id: "a".into() }).kind, ShimErrorKind::WrongState);
    assert_eq!(node.refused(Request::Start { id: "b".into() }).kind, ShimErrorKind::NotFound);
}

#[test]
fn a_process_gets_its_user_directory_environment_and_limits() {
    let mut node = Node::new();
    let mut spec = node.spec("a", "id; pwd; echo $HOME $A; ulimit -n; umask");
    spec.process.user = UserSpec { user: "web".into(), ..UserSpec::default() };
    spec.process.cwd = "/srv/new".into();
    spec.process.env.push("A=b".into());
    spec.process.umask = Some(0o027);
    spec.process.rlimits = vec![podd_shim::wire::Rlimit { resource: "nofile".into(), soft: 100, hard: 200 }];
    let texts = node.output(spec);
    assert_eq!(texts[1..], ["/srv/new", "/srv b", "100", "0027"]);
    assert_eq!(texts[0], "uid=33(web) gid=34(www) groups=4(adm),34(www)");
}

#[test]
fn stdin_stays_open_until_it_is_closed() {
    let mut node = Node::new();
    let mut spec = node.spec("a", "echo ready; cat; echo closed");
    spec.stdin = true;
    node.run(spec);
    node.await_text("a", "ready");
    assert_eq!(node.container("a").phase, Phase::Running);
    node.order(Request::CloseStdin { id: "a".into() });
    assert_eq!(node.exit("a").code, 0);
    assert_eq!(node.texts("a"), ["ready", "closed"]);
}

#[test]
fn a_container_with_a_terminal_has_its_size_and_logs_as_stdout() {
    let mut node = Node::new();
    let mut spec = node.spec("a", "stty size; trap 'stty size; exit 0' WINCH; echo ready >&2; sleep 1000 & wait");
    spec.tty = true;
    spec.window = Some(WindowSize { rows: 30, cols: 90 });
    node.run(spec);
    node.await_text("a", "ready\r");
    node.order(Request::Resize { id: "a".into(), exec: None, window: WindowSize { rows: 50, cols: 132 } });
    assert_eq!(node.exit("a").code, 0);
    assert_eq!(node.texts("a"), ["30 90\r", "ready\r", "50 132\r"]);
    assert!(node.log("a").iter().all(|line| line.stream == "stdout"));
}

#[test]
fn forgetting_a_container_that_was_never_started_ends_its_child() {
    let mut node = Node::new();
    let child = hold(node.create(node.spec("a", "sleep 1000")).pid);
    node.order(Request::Forget { id: "a".into() });
    assert!(ended_within(std::os::fd::AsFd::as_fd(&child), Duration::from_secs(10)));
    assert!(node.state().containers.is_empty());
}

#[test]
fn a_child_that_dies_while_it_waits_is_told_of() {
    let mut node = Node::new();
    node.create(node.spec("a", "sleep 1000"));
    node.order(Request::Signal { id: "a".into(), exec: None, signal: 9, all: false });
    let exit = node.exit("a");
    assert_eq!((exit.code, exit.started_at), (137, 0));
    assert_eq!(node.refused(Request::Start { id: "a".into() }).kind, ShimErrorKind::WrongState);
}

#[test]
fn a_child_that_can_not_set_itself_up_in_time_is_given_up() {
    let group = Group::new("freezer");
    group.set("freezer.state", "FROZEN");
    let mut node = Node::new();
    let mut spec = node.spec("a", "echo never");
    spec.cgroup = group.spec();
    spec.deadline_ms = 300;
    let mut other = node.connect();
    // The loop goes on meanwhile.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| refusal(node.client.call(Request::Create(Box::new(spec)))));
        let creating =
            || (crate::harness::state(&mut other).containers.first()?.phase == Phase::Creating).then_some(());
        eventually(Duration::from_secs(10), creating).expect("the shim answers others while a child sets itself up");
        assert_eq!(waiting.join().unwrap().kind, ShimErrorKind::Timeout);
    });
    assert!(node.state().containers.is_empty());
    group.set("freezer.state", "THAWED");
    eventually(Duration::from_secs(10), || group.pids().is_empty().then_some(())).expect("the child is killed");
}

#[test]
fn a_container_forgotten_while_it_is_made_answers_whoever_waits() {
    let group = Group::new("freezer");
    group.set("freezer.state", "FROZEN");
    let mut node = Node::new();
    let mut spec = node.spec("a", "echo never");
    spec.cgroup = group.spec();
    let mut other = node.connect();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| refusal(node.client.call(Request::Create(Box::new(spec)))));
        let creating = || crate::harness::state(&mut other).containers.first().map(drop);
        eventually(Duration::from_secs(10), creating).unwrap();
        other.call(Request::Forget { id: "a".into() }).unwrap();
        assert_eq!(waiting.join().unwrap().kind, ShimErrorKind::NotFound);
    });
}

#[test]
fn an_oom_kill_is_told_apart_from_any_other() {
    let group = Group::new("memory");
    group.set("memory.limit_in_bytes", &(16 << 20).to_string());
    let mut node = Node::new();
    let mut spec = node.spec("a", "x=x; while :; do x=$x$x; done");
    spec.cgroup = group.spec();
    node.run(spec);
    let exit = node.exit("a");
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), true));

    // The counter stands above zero now, and that is not this container's doing.
    let mut spec = node.spec("b", "exit 1");
    spec.cgroup = group.spec();
    node.run(spec);
    let exit = node.exit("b");
    assert_eq!((exit.code, exit.oom_killed), (1, false));
}

#[test]
fn no_zombie_is_left() {
    let mut node = Node::new();
    for id in ["a", "b", "c"] {
        node.output(node.spec(id, "(sleep 0.01 &) ; true"));
        node.order(Request::Forget { id: id.into() });
    }
    let pid = node.shim.pid;
    let children = || std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    eventually(Duration::from_secs(10), || children().is_empty().then_some(())).expect("all are reaped");
}

#[test]
fn a_container_has_the_usual_devices_and_nothing_of_the_shim() {
    let mut node = Node::new();
    let spec = node.spec("a", "ls -1 /proc/self/fd; readlink /dev/stdout; head -c 4 /dev/zero >/dev/null; ls -1 /dev");
    // The fourth is the directory that ls reads.
    let mut wanted = vec!["0", "1", "2", "3", "/proc/self/fd/1"];
    let dev = [
        "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero",
    ];
    wanted.extend(dev);
    assert_eq!(node.output(spec), wanted);
}
