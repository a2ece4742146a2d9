//! Sandboxes with a user namespace of their own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use podd_shim::wire::{
    IdMaps, IdRange, Mount, MountKind, NamespaceKind, Request, Response, SandboxSpec, UserNamespace,
};

use crate::harness::{Node, eventually, namespace};

const SOON: Duration = Duration::from_secs(10);

const ROOT: u32 = 300_000;

fn ids(outside: u32) -> IdMaps {
    let range = vec![IdRange { inside: 0, outside, count: 65536 }];
    IdMaps { uids: range.clone(), gids: range }
}

fn setup(sysctls: &[(&str, &str)]) -> SandboxSpec {
    let inside = vec![NamespaceKind::Net, NamespaceKind::Ipc, NamespaceKind::Uts];
    let sysctls = sysctls.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let user = UserNamespace { ids: ids(ROOT), inside, hostname: Some("inside".into()), sysctls };
    SandboxSpec { id: "sandbox".into(), user: Some(user), ..SandboxSpec::default() }
}

fn children_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap()
}

#[test]
fn a_container_lives_in_the_pods_users_and_the_shim_does_not() {
    let mut node = Node::bare();
    node.order(Request::Setup(setup(&[("kernel.shm_rmid_forced", "1")])));
    let shim = node.shim.pid;
    eventually(SOON, || children_of(shim).is_empty().then_some(())).expect("who made the namespaces is gone");
    let (response, fds) = node.client.call_with_fds(Request::Namespaces, &[]).unwrap();
    let kinds = vec![NamespaceKind::User, NamespaceKind::Net, NamespaceKind::Ipc, NamespaceKind::Uts];
    assert_eq!((response, fds.len()), (Response::Namespaces { kinds }, 4));
    let script =
        "id -u; cat /proc/self/uid_map /proc/sys/kernel/shm_rmid_forced; hostname; ls -ldn / /dev/null; sleep 1000";
    let mut spec = node.spec("a", script);
    let volume = node.path("volume");
    fs::create_dir(&volume).unwrap();
    spec.mounts = vec![Mount {
        destination: "/volume".into(),
        kind: MountKind::Bind { source: volume.clone(), recursive: true },
        ids: Some(ids(ROOT + 65536)),
        ..Mount::default()
    }];
    let pid = node.run(spec).pid;
    eventually(SOON, || (node.texts("a").len() == 6).then_some(())).unwrap();
    let texts = node.texts("a").into_iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let texts: Vec<String> = texts.collect();
    assert_eq!(texts[..4], ["0", &format!("0 {ROOT} 65536"), "1", "inside"]);
    assert!(texts[4..].iter().all(|line| line.contains(" 0 0 ")), "{texts:?}");
    assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), ROOT);
    assert_ne!(namespace(pid, "user"), namespace(shim, "user"));
    // A volume by other ids than the pod's is there, and belongs to nobody in it.
    assert_eq!(fs::metadata(format!("/proc/{pid}/root/volume")).unwrap().uid(), ROOT + 65536);
}

#[test]
fn a_user_namespace_that_can_not_be_made_is_told_and_another_may_follow() {
    let mut node = Node::bare();
    let error = node.refused(Request::Setup(setup(&[("net.no.such", "1")])));
    assert!(error.to_string().contains("net.no.such=1"), "{error}");
    let mut wrong = setup(&[]);
    wrong.user.as_mut().unwrap().ids.uids.push(IdRange { inside: 5, outside: 7, count: 1 });
    let error = node.refused(Request::Setup(wrong));
    assert!(error.to_string().contains("map ids"), "{error}");
    let shim = node.shim.pid;
    eventually(SOON, || children_of(shim).is_empty().then_some(())).expect("nobody is left of either");
    node.order(Request::Setup(setup(&[])));
}
