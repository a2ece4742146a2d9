//! Containers of another OCI runtime, whose program is a script here: what it leaves behind, and what becomes of it when it fails.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use podd_shim::wire::{
    Command, ContainerSpec, ExecSpec, External, Launch, Mount, MountKind, Mounted, NamespaceKind, Phase, Request,
    Response, ShimErrorKind,
};

use crate::harness::{Node, exec_of, program, refusal};

/// A run of a script, which finds its files in `$PID` and `$LOG`.
fn command(node: &Node, name: &str, text: &str) -> Command {
    let (path, log) = (node.path(name), node.path(&format!("{name}.log")));
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let file = |name: &str, path: &PathBuf| format!("{name}={}", path.display());
    let env = vec!["PATH=/bin:/usr/bin".into(), file("PID", &pid_file(node, name)), file("LOG", &log)];
    Command { args: vec![path.to_str().unwrap().into()], env, log }
}

fn pid_file(node: &Node, name: &str) -> PathBuf {
    node.path(&format!("{name}.pid"))
}

fn launch(node: &Node, name: &str, text: &str) -> Launch {
    Launch { command: command(node, name, text), pid_file: pid_file(node, name), console: None }
}

/// A container that these scripts make and start. The first finds the root at `$ROOT`.
fn spec(node: &Node, create: &str, start: &str) -> ContainerSpec {
    let mut spec = node.spec("a", "");
    for part in ["a/root", "a/mounts"] {
        fs::create_dir_all(node.path(part)).unwrap();
    }
    spec.rootfs.mount_point = Some(node.path("a/root"));
    let mut create = launch(node, "create", create);
    create.command.env.push(format!("ROOT={}", node.path("a/root").display()));
    let start = command(node, "start", start);
    spec.external = Some(Box::new(External { create, start, mounts: node.path("a/mounts") }));
    spec
}

/// Leaves a process behind that waits for a word of the start.
const WAITING: &str = "{ until [ -e $PID.go ]; do sleep 0.02; done; echo runs; exit 4; } & echo $! >$PID";
const GO: &str = "touch ${PID%start.pid}create.pid.go";

fn mounted(node: &mut Node, spec: ContainerSpec) -> Mounted {
    match node.client.call(Request::Create(Box::new(spec))).unwrap() {
        Response::Mounted(mounted) => mounted,
        other => panic!("{other:?}"),
    }
}

fn proceed() -> Request {
    Request::Proceed { id: "a".into() }
}

/// Makes and starts a container.
fn run(node: &mut Node, spec: ContainerSpec) {
    mounted(node, spec);
    assert!(matches!(node.client.call(proceed()).unwrap(), Response::Created(_)));
    node.start("a");
}

#[test]
fn a_process_that_a_program_leaves_behind_is_the_container() {
    let mut node = Node::new();
    fs::create_dir(node.path("volume")).unwrap();
    fs::write(node.path("volume/file"), "content").unwrap();
    let looks = format!(
        "cat $ROOT/../mounts/0/file; echo; ls $ROOT/bin/busybox >/dev/null || exit 1; echo warning >&2; {WAITING}"
    );
    let mut spec = spec(&node, &looks, GO);
    let kind = MountKind::Bind { source: node.path("volume"), recursive: false };
    spec.mounts = vec![Mount { destination: "/v".into(), kind, ..Mount::default() }];
    let told = mounted(&mut node, spec);
    assert_eq!((told.user.uid, told.home.is_empty()), (0, false));
    assert!(told.namespaces.iter().all(|(_, path)| path.exists()), "{told:?}");
    assert!(!told.namespaces.iter().any(|(kind, _)| *kind == NamespaceKind::User));
    let created = match node.client.call(proceed()).unwrap() {
        Response::Created(created) => created,
        other => panic!("{other:?}"),
    };
    assert_eq!(fs::read_to_string(pid_file(&node, "create")).unwrap().trim(), created.pid.to_string());
    for part in ["a/root", "a/mounts"] {
        assert_eq!(fs::read_dir(node.path(part)).unwrap().count(), 0, "the host has nothing mounted there");
    }
    assert_eq!(node.container("a").phase, Phase::Created);
    let started = node.start("a");
    let exit = node.exit("a");
    assert_eq!((exit.code, exit.started_at), (4, started));
    let mut texts = node.texts("a");
    texts.sort();
    assert_eq!(texts, ["content", "runs", "warning"]);
}

#[test]
fn a_program_that_does_not_make_the_container_says_why() {
    let mut node = Node::new();
    for (script, says) in [
        ("echo no luck >&2; exit 3", "exit status 3: no luck"),
        ("echo heard >&2; echo '{\"level\":\"error\",\"msg\":\"by log\"}' >$LOG; exit 3", "exit status 3: by log"),
        ("exit 0", "create.pid"),
        ("echo 1 >$PID", "no child of the shim"),
        ("true & echo $! >$PID; wait", "has ended"),
    ] {
        let spec = spec(&node, script, "true");
        mounted(&mut node, spec);
        let error = refusal(node.client.call(proceed()));
        assert!(error.to_string().contains(says), "{script}: {error}");
        assert!(node.state().containers.is_empty(), "{script}");
        assert!(node.texts("a").is_empty(), "its words are no output: {script}");
    }
    let mut missing = spec(&node, "true", "true");
    missing.external.as_mut().unwrap().create.command.args[0] = "/no/program".into();
    mounted(&mut node, missing);
    let error = refusal(node.client.call(proceed()));
    assert!(error.to_string().contains("/no/program"), "{error}");
}

#[test]
fn a_program_that_hangs_is_given_up() {
    let mut node = Node::new();
    let late = ContainerSpec { deadline_ms: 300, ..spec(&node, "exec sleep 1000", "true") };
    mounted(&mut node, late);
    assert_eq!(refusal(node.client.call(proceed())).kind, ShimErrorKind::Timeout);
    let late = ContainerSpec { deadline_ms: 2000, ..spec(&node, WAITING, "exec sleep 1000") };
    mounted(&mut node, late);
    node.client.call(proceed()).unwrap();
    assert_eq!(refusal(node.client.call(Request::Start { id: "a".into() })).kind, ShimErrorKind::Timeout);
    assert_eq!(node.container("a").phase, Phase::Exited);
}

#[test]
fn a_start_that_fails_ends_the_container_and_one_that_is_outrun_does_not_lose_its_end() {
    let mut node = Node::new();
    let failing = spec(&node, WAITING, "echo not today >&2; exit 1");
    mounted(&mut node, failing);
    node.client.call(proceed()).unwrap();
    let error = refusal(node.client.call(Request::Start { id: "a".into() }));
    assert!(error.to_string().contains("start: exit status 1: not today"), "{error}");
    assert_eq!(node.exit("a").code, 128);
    node.order(Request::Forget { id: "a".into() });

    // The container has ended before the program that started it.
    let slow = spec(&node, WAITING, &format!("{GO}; sleep 1"));
    run(&mut node, slow);
    let exit = node.exit("a");
    assert_eq!(exit.code, 4);
    assert!(exit.started_at > 0 && exit.finished_at >= exit.started_at);
    assert!(node.container("a").start_error.is_none());
}

#[test]
fn an_exec_is_the_process_that_a_program_leaves_behind_even_if_that_has_ended_already() {
    let mut node = Node::new();
    let container = spec(&node, "sleep 1000 & echo $! >$PID", "true");
    run(&mut node, container);
    let exec = |node: &Node, id: &str, script: &str| ExecSpec {
        external: Some(Box::new(launch(node, id, script))),
        ..exec_of("a", id, program(&["unused"]))
    };
    for (id, script) in [
        ("later", "{ sleep 0.3; exit 6; } & echo $! >$PID"),
        // A child of nobody but the shim, which has reaped it before the program is done. Its own parent might do that, so it
        // outlives that one.
        (
            "before",
            "sh -c '{ while [ -d /proc/$$ ]; do sleep 0.02; done; exit 6; } & echo $! >$PID'
            while [ -d /proc/$(cat $PID) ]; do sleep 0.02; done",
        ),
    ] {
        let spec = exec(&node, id, script);
        let answer = node.client.call(Request::Exec(Box::new(spec))).unwrap();
        let Response::Executing(executing) = answer else { panic!("{answer:?}") };
        assert_eq!(fs::read_to_string(pid_file(&node, id)).unwrap().trim(), executing.pid.to_string());
        assert_eq!(node.exec_exit(id).code, 6, "{id}");
    }
    let spec = exec(&node, "failing", "echo '{\"level\":\"error\",\"msg\":\"no such program\"}' >$LOG; exit 255");
    let error = refusal(node.client.call(Request::Exec(Box::new(spec))));
    assert!(error.to_string().contains("exit status 255: no such program"), "{error}");
    node.order(Request::Signal { id: "a".into(), exec: None, signal: 9, all: false });
    assert_eq!(node.exit("a").signal, Some(9));
}
