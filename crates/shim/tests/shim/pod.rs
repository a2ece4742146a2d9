//! The pod as a whole: shared namespaces, several runtimes, and the shim's own life.

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use podd_shim::wire::{
    Event, NamespaceKind, OLDEST, PidNamespace, Request, Response, SandboxSpec, ShimErrorKind, VERSION, encode,
};

use crate::group::Group;
use crate::harness::{Node, ended_within, eventually, hold, namespace, state};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn containers_share_the_pods_namespaces_and_have_their_own_mounts_and_processes() {
    let mut node = Node::new();
    let first = node.run(node.spec("a", "sleep 1000")).pid;
    let second = node.run(node.spec("b", "hostname; exec sleep 1000")).pid;
    node.await_text("b", "inside");
    let here = std::process::id();
    for (kind, shared) in
        [("net", true), ("ipc", true), ("uts", true), ("mnt", false), ("pid", false), ("cgroup", false)]
    {
        assert_eq!(namespace(first, kind) == namespace(second, kind), shared, "{kind}");
        assert_ne!(namespace(first, kind), namespace(here, kind), "{kind}");
        assert_eq!(namespace(node.shim.pid, kind), namespace(here, kind), "the shim stays in the host's {kind}");
    }
    let (response, fds) = node.client.call_with_fds(Request::Namespaces, &[]).unwrap();
    assert_eq!(
        response,
        Response::Namespaces { kinds: vec![NamespaceKind::Net, NamespaceKind::Ipc, NamespaceKind::Uts] }
    );
    let inode = |path: &Path| fs::metadata(path).unwrap();
    let given = rustix::fs::fstat(&fds[0]).unwrap().st_ino;
    assert_eq!(given, std::os::unix::fs::MetadataExt::ino(&inode(Path::new(&format!("/proc/{first}/ns/net")))));
}

#[test]
fn a_container_may_see_another_ones_processes() {
    let mut node = Node::new();
    let first = node.run(node.spec("a", "sleep 1000")).pid;
    let mut spec = node.spec("b", "cat /proc/1/cmdline");
    spec.namespaces.pid = PidNamespace::Target("a".into());
    assert_eq!(node.output(spec), ["sleep\x001000\0"]);
    assert_eq!(namespace(first, "pid"), namespace(node.container("a").pid.unwrap(), "pid"));
    let mut spec = node.spec("c", "");
    spec.namespaces.pid = PidNamespace::Target("b".into());
    assert_eq!(node.refused(Request::Create(Box::new(spec))).kind, ShimErrorKind::WrongState);
}

fn with_pid_namespace() -> Node {
    Node::with(SandboxSpec { pid_namespace: true, ..SandboxSpec::default() })
}

#[test]
fn a_shared_pid_namespace_has_an_init_that_reaps() {
    let mut node = with_pid_namespace();
    let init = node.state().init_pid.unwrap();
    let mut spec = node.spec("a", "cat /proc/1/comm; (sleep 0.05 & echo $!); sleep 1000");
    spec.namespaces.pid = PidNamespace::Pod;
    node.run(spec);
    let mut spec = node.spec("b", "sleep 1000");
    spec.namespaces.pid = PidNamespace::Pod;
    let second = node.run(spec).pid;
    assert_eq!(namespace(second, "pid"), namespace(init, "pid"));
    eventually(SOON, || (node.texts("a").len() == 2).then_some(())).unwrap();
    assert_eq!(node.texts("a")[0], "podd-init");
    let children = || fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
    eventually(SOON, || children().is_empty().then_some(())).expect("the init reaps orphans");
    assert_eq!(
        fs::read_to_string(format!("/proc/{init}/status")).unwrap().matches("CapBnd:\t0000000000000000").count(),
        1
    );
    assert!(fs::read_dir(format!("/proc/{init}/root/")).unwrap().next().is_none(), "its root is empty");
}

#[test]
fn an_init_that_can_not_be_set_up_fails_the_setup_and_another_may_follow() {
    let mut node = Node::bare();
    let wrong = SandboxSpec {
        id: "sandbox".into(),
        pid_namespace: true,
        init_cgroup_join: vec!["/sys/fs/cgroup/pids/no-such-group/tasks".into()],
        ..SandboxSpec::default()
    };
    let error = node.refused(Request::Setup(wrong.clone()));
    assert!(error.to_string().contains("no-such-group"), "{error}");
    node.order(Request::Setup(SandboxSpec { init_cgroup_join: vec![], ..wrong }));
    let comm = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(comm(node.state().init_pid.unwrap()), "podd-init\n");
    assert_eq!(comm(node.shim.pid), "podd-shim\n");
}

#[test]
fn every_container_of_a_shared_pid_namespace_ends_with_its_init() {
    let mut node = with_pid_namespace();
    let init = hold(node.state().init_pid.unwrap());
    let mut spec = node.spec("a", "sleep 1000");
    spec.namespaces.pid = PidNamespace::Pod;
    node.run(spec);
    podd_sys::signal::send(init.as_fd(), 9).unwrap();
    let mut events = [node.client.next_event().unwrap(), node.client.next_event().unwrap()];
    events.sort_by_key(|event| matches!(event, Event::InitExited));
    assert!(matches!(&events[0], Event::Exited { id, exit } if id == "a" && exit.code == 137), "{events:?}");
    assert_eq!(events[1], Event::InitExited);
    assert_eq!(node.state().init_pid, None);
}

#[test]
fn a_pod_without_a_shared_pid_namespace_refuses_containers_that_want_one() {
    let mut node = Node::new();
    let mut spec = node.spec("a", "");
    spec.namespaces.pid = PidNamespace::Pod;
    assert_eq!(node.refused(Request::Create(Box::new(spec))).kind, ShimErrorKind::Invalid);
}

#[test]
fn a_runtime_that_was_away_misses_nothing() {
    let mut node = Node::new();
    let mut other = node.connect();
    node.run(node.spec("a", "exit 3"));
    node.run(node.spec("b", "sleep 1000"));
    let exit = node.exit("a");
    assert!(matches!(other.next_event().unwrap(), Event::Exited { id, .. } if id == "a"), "everybody is told");
    drop(other);
    // The runtime goes, and with it nothing else.
    let known = node.state();
    node.client = node.connect();
    assert_eq!(node.state(), known);
    assert_eq!(node.container("a").exit, Some(exit));
    node.order(Request::Signal { id: "b".into(), exec: None, signal: 9, all: false });
    assert_eq!(node.exit("b").code, 137);
}

#[test]
fn the_shim_ends_on_request_and_not_before_its_containers() {
    let mut node = with_pid_namespace();
    let init = hold(node.state().init_pid.unwrap());
    node.run(node.spec("a", "sleep 1000"));
    assert_eq!(node.refused(Request::Shutdown).kind, ShimErrorKind::Busy);
    node.order(Request::Signal { id: "a".into(), exec: None, signal: 9, all: false });
    node.exit("a");
    node.order(Request::Shutdown);
    node.reap_shim();
    assert!(ended_within(init.as_fd(), SOON));
}

#[test]
fn signals_do_not_end_the_shim() {
    let mut node = Node::new();
    for signal in [1, 2, 3, 10, 12, 13, 14, 15] {
        podd_sys::signal::send(node.shim.pidfd.as_fd(), signal).unwrap();
    }
    assert!(node.state().containers.is_empty());
    let exit_code = node.output(node.spec("a", "trap - TERM; kill -TERM $$; sleep 0.01; echo unharmed"));
    assert_eq!(exit_code, ["unharmed"], "PID 1 has no default action, and none is inherited");
}

#[test]
fn what_waits_for_its_start_ends_with_the_shim_and_what_runs_does_not() {
    let group = Group::new("pids");
    let mut node = with_pid_namespace();
    let init = hold(node.state().init_pid.unwrap());
    let waiting = hold(node.create(node.spec("a", "sleep 1000")).pid);
    let mut spec = node.spec("b", "echo ready; exec sleep 1000");
    spec.cgroup = group.spec();
    let running = node.run(spec).pid;
    node.await_text("b", "ready");
    node.kill_shim();
    assert!(ended_within(waiting.as_fd(), SOON));
    assert!(ended_within(init.as_fd(), SOON));
    assert_eq!(group.pids(), [running], "the runtime finds the rest by its group");
}

#[test]
fn the_shim_joins_its_own_group_and_holds_nothing_but_what_it_needs() {
    let group = Group::new("pids");
    let spec = SandboxSpec { cgroup_join: group.join(), oom_score_adj: Some(-998), ..SandboxSpec::default() };
    let mut node = Node::with(spec);
    assert_eq!(group.pids(), [node.shim.pid]);
    let created = node.run(node.spec("a", "sleep 1000"));
    assert_eq!(group.pids(), [node.shim.pid, created.pid], "who names no group stays; a runtime always names one");
    let links: Vec<String> = fs::read_dir(format!("/proc/{}/fd", node.shim.pid))
        .unwrap()
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap().display().to_string())
        .collect();
    assert!(!links.iter().any(|link| link.contains("memfd")), "{links:?}");
    let title = fs::read_to_string(format!("/proc/{}/cmdline", node.shim.pid)).unwrap();
    assert_eq!(title, "podd-shim\0sandbox\0");
}

#[test]
fn an_oom_score_that_the_machine_forbids_is_clamped_and_told() {
    // The lowest that this machine lets a process have.
    let script = "for v in $(seq -998 1000); do echo $v 2>/dev/null >/proc/self/oom_score_adj && break; done; \
        cat /proc/self/oom_score_adj";
    let output = std::process::Command::new("sh").args(["-c", script]).output().unwrap();
    let lowest: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    let score =
        |pid: u32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse::<i32>().unwrap();

    for pid_namespace in [false, true] {
        let mut node = Node::with(SandboxSpec { oom_score_adj: Some(-998), pid_namespace, ..SandboxSpec::default() });
        let told = || match lowest {
            -998 => vec![],
            _ => vec!["oom_score_adj: it may not be lowered here as far as wanted, clamped".to_owned()],
        };
        assert_eq!((score(node.shim.pid), node.warnings.clone()), (lowest, told()));
        let mut spec = node.spec("a", "sleep 1000");
        spec.process.oom_score_adj = Some(-998);
        let created = node.run(spec);
        assert_eq!((score(created.pid), created.warnings), (lowest, told()));
        let mut spec = node.spec("b", "sleep 1000");
        spec.process.oom_score_adj = Some(1000);
        let created = node.run(spec);
        assert_eq!((score(created.pid), created.warnings), (1000, vec![]));
    }
}

#[test]
fn a_group_that_holds_the_shim_is_never_signalled() {
    let group = Group::new("pids");
    let mut node = Node::with(SandboxSpec { cgroup_join: group.join(), ..SandboxSpec::default() });
    let mut spec = node.spec("a", "sleep 1000");
    spec.cgroup = group.spec();
    node.run(spec);
    let error = node.refused(Request::Signal { id: "a".into(), exec: None, signal: 9, all: true });
    assert_eq!(error.kind, ShimErrorKind::System);
    assert!(node.container("a").pid.is_some());
}

#[test]
fn a_signal_to_all_reaches_the_whole_group() {
    let group = Group::new("pids");
    let mut node = Node::new();
    let mut spec = node.spec("a", "sleep 1000 & sleep 1000 & echo ready; wait");
    spec.cgroup = group.spec();
    node.run(spec);
    node.await_text("a", "ready");
    eventually(SOON, || (group.pids().len() == 3).then_some(())).unwrap();
    node.order(Request::Signal { id: "a".into(), exec: None, signal: 9, all: true });
    assert_eq!(node.exit("a").code, 137);
    assert!(group.pids().is_empty());
}

#[test]
fn a_client_that_never_reads_is_cut_off_and_delays_nobody() {
    let mut node = Node::new();
    // Its replies are long, so that not many are needed.
    let long = "x".repeat(200);
    let mut spec = node.spec("a", "sleep 1000");
    spec.id = long.repeat(500);
    node.create(spec);
    let mut silent = UnixStream::connect(node.socket()).unwrap();
    silent.set_write_timeout(Some(SOON)).unwrap();
    let call = |seq: u64, request: Request| encode(&podd_shim::wire::Call { seq, fds: 0, request }).unwrap();
    silent.write_all(&call(0, Request::Hello { version: VERSION, oldest: OLDEST })).unwrap();
    let mut cut = None;
    for seq in 1..10_000 {
        if let Err(error) = silent.write_all(&call(seq, Request::State)) {
            cut = Some(error.kind());
            break;
        }
        if seq % 50 == 0 {
            assert_eq!(node.state().containers.len(), 1);
        }
    }
    let cut = cut.expect("a bound on what waits");
    assert!(matches!(cut, std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset), "{cut}");
    assert_eq!(state(&mut node.connect()).containers.len(), 1);
}

#[test]
fn a_setup_is_done_once_and_before_anything_else() {
    let mut node = Node::bare();
    let spec = node.spec("a", "");
    assert_eq!(node.refused(Request::Create(Box::new(spec))).kind, ShimErrorKind::WrongState);
    let without = SandboxSpec { namespaces: vec![NamespaceKind::Net], ..SandboxSpec::default() };
    assert_eq!(node.refused(Request::Setup(without)).kind, ShimErrorKind::Invalid);
    node.order(Request::Setup(SandboxSpec { id: "sandbox".into(), ..SandboxSpec::default() }));
    assert_eq!(node.refused(Request::Setup(SandboxSpec::default())).kind, ShimErrorKind::WrongState);
    // Of no namespaces of its own: the host's.
    let pid = node.run(node.spec("a", "sleep 1000")).pid;
    assert_eq!(namespace(pid, "net"), namespace(std::process::id(), "net"));
}
