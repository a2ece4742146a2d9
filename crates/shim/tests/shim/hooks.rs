//! Hooks in the container's namespaces, and the stop for those outside.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use podd_shim::wire::{ContainerSpec, Hook, InsideHooks, Mount, MountKind, Phase, Request, Response, ShimErrorKind};

use crate::harness::{Node, namespace, read_all};

fn script(node: &Node, name: &str, text: &str) -> Hook {
    let path = node.path(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Hook {
        path,
        args: vec![name.into(), "word".into()],
        env: vec!["COLOUR=red".into(), "PATH=/bin".into()],
        timeout: None,
    }
}

fn inside(script: &str) -> Hook {
    let args = ["sh", "-c", script].map(str::to_owned).to_vec();
    Hook { path: "/bin/sh".into(), args, env: vec!["PATH=/bin".into()], timeout: None }
}

fn with(node: &Node, hooks: InsideHooks) -> ContainerSpec {
    let mut spec = node.spec("a", "cat /told; sleep 1000");
    fs::create_dir(node.path("a/root")).unwrap();
    spec.rootfs.mount_point = Some(node.path("a/root"));
    let annotations = [("k".to_owned(), "v".to_owned())].into();
    spec.hooks = InsideHooks { bundle: node.path("a"), annotations, ..hooks };
    spec
}

#[test]
fn a_hook_before_the_root_sees_the_host_and_the_containers_mounts() {
    let mut node = Node::new();
    let root = node.path("a/root").display().to_string();
    let hook = script(
        &node,
        "hook",
        &format!(
            "{{ cat; echo; echo $0 $1 $COLOUR; readlink /proc/self/ns/net; }} >{root}/told; touch {root}/proc/x 2>/dev/null; ls {root}/proc/self >/dev/null"
        ),
    );
    let spec = with(&node, InsideHooks { create_container: vec![hook], ..InsideHooks::default() });
    let created = node.run(spec);
    node.await_text("a", &format!("{} word red", node.path("hook").display()));
    let texts = node.texts("a");
    let bundle = node.path("a");
    let state = format!(
        r#"{{"ociVersion":"1.2.1","id":"a","status":"creating","pid":1,"bundle":"{}","annotations":{{"k":"v"}}}}"#,
        bundle.display()
    );
    assert_eq!(texts[0], state);
    node.await_text("a", namespace(created.pid, "net").to_str().unwrap());
    assert_eq!(fs::read_dir(node.path("a/root")).unwrap().count(), 0, "the host has nothing mounted there");
}

#[test]
fn a_hook_at_the_start_is_the_containers_own_and_comes_before_its_program() {
    let mut node = Node::new();
    let hook = inside("{ cat; echo; id -u; pwd; } >/told");
    let spec = with(&node, InsideHooks { start_container: vec![hook], ..InsideHooks::default() });
    node.run(spec);
    node.await_text("a", "0");
    assert!(node.texts("a")[0].contains(r#""status":"created","pid":1"#), "{:?}", node.texts("a"));
}

#[test]
fn a_hook_that_fails_fails_its_step_with_what_it_said() {
    let mut node = Node::new();
    let wrong = || inside("echo not today >&2; exit 3");
    let never = || inside("touch /told");
    let spec = with(&node, InsideHooks { create_container: vec![wrong(), never()], ..InsideHooks::default() });
    let error = node.refused(Request::Create(Box::new(spec)));
    assert_eq!(error.to_string().matches("createContainer").count(), 1, "{error}");
    assert!(error.to_string().contains("exit status 3: not today"), "{error}");
    assert!(node.state().containers.is_empty());

    fs::remove_dir(node.path("a/root")).unwrap();
    let spec = with(&node, InsideHooks { start_container: vec![wrong()], ..InsideHooks::default() });
    node.create(spec);
    let error = node.refused(Request::Start { id: "a".into() });
    assert!(error.to_string().contains("startContainer") && error.to_string().contains("not today"), "{error}");
    assert_eq!(node.container("a").phase, Phase::Exited);
}

#[test]
fn a_hook_that_hangs_is_killed_with_what_it_started() {
    let mut node = Node::new();
    let hook = Hook { timeout: Some(1), ..inside("echo so far; sleep 1000 & sleep 1000") };
    let spec = with(&node, InsideHooks { create_container: vec![hook], ..InsideHooks::default() });
    let error = node.refused(Request::Create(Box::new(spec)));
    assert!(error.to_string().contains("killed after 1 s: so far"), "{error}");
    let missing = Hook { path: "/no/such/hook".into(), ..Hook::default() };
    fs::remove_dir(node.path("a/root")).unwrap();
    let spec = with(&node, InsideHooks { create_container: vec![missing], ..InsideHooks::default() });
    let error = node.refused(Request::Create(Box::new(spec)));
    assert!(error.to_string().contains("/no/such/hook") && error.to_string().contains("No such file"), "{error}");
}

#[test]
fn a_creation_that_pauses_goes_on_when_it_is_told() {
    let mut node = Node::new();
    let spec = with(&node, InsideHooks { pause: true, ..InsideHooks::default() });
    let root = node.path("a/root");
    let Response::Paused { pid } = node.client.call(Request::Create(Box::new(spec))).unwrap() else {
        panic!("it does not pause");
    };
    assert_eq!(node.refused(Request::Start { id: "a".into() }).kind, ShimErrorKind::WrongState);
    // As a hook of the runtime's would, by way of the child's mount namespace.
    let target = format!("/proc/{pid}/root{}/told", root.display());
    fs::write(target, "from outside\n").unwrap();
    let proceeded = node.client.call(Request::Proceed { id: "a".into() }).unwrap();
    assert!(matches!(proceeded, Response::Created(created) if created.pid == pid));
    assert_eq!(node.refused(Request::Proceed { id: "a".into() }).kind, ShimErrorKind::WrongState);
    node.start("a");
    node.await_text("a", "from outside");
    node.order(Request::Signal { id: "a".into(), exec: None, signal: 9, all: false });
    assert_eq!(node.exit("a").code, 137);
}

#[test]
fn a_creation_that_pauses_can_be_given_up() {
    let mut node = Node::new();
    let spec = with(&node, InsideHooks { pause: true, ..InsideHooks::default() });
    let Response::Paused { pid } = node.client.call(Request::Create(Box::new(spec))).unwrap() else {
        panic!("it does not pause");
    };
    let child = crate::harness::hold(pid);
    node.order(Request::Forget { id: "a".into() });
    assert!(crate::harness::ended_within(std::os::fd::AsFd::as_fd(&child), crate::harness::PATIENCE));
    assert!(node.state().containers.is_empty());
}

#[test]
fn hooks_hold_nothing_of_the_shims() {
    let mut node = Node::new();
    let listing = node.path("listing");
    let hook = script(&node, "hook", &format!("ls -l /proc/self/fd >{}", listing.display()));
    let mut spec = with(&node, InsideHooks { create_container: vec![hook], ..InsideHooks::default() });
    spec.mounts =
        vec![Mount { destination: "/m".into(), kind: MountKind::Tmpfs { size: None, mode: None }, ..Mount::default() }];
    node.create(spec);
    let text = read_all(fs::File::open(listing).unwrap().into());
    assert!(!text.contains("socket"), "{text}");
}
