//! The harness itself: what a test leaves behind that was killed from outside, as a runner kills one that hangs.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use podd_tests::{Node, SOON, image::BUSYBOX, keeper, wait_for};

/// What the killed test says of its node, one a line.
const MARK: &str = "node: ";

/// Runs only as the child of the test below, which kills it.
#[test]
#[ignore = "waits to be killed; a_test_that_is_killed_leaves_nothing runs it"]
fn a_test_that_hangs() {
    let node = Node::with_agent();
    node.apply_and_wait(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  volumes: [{{name: v, emptyDir: {{medium: Memory}}}}]\n  containers:\n    \
         - {{name: c, image: '{BUSYBOX}', command: [sleep, '100000'], volumeMounts: [{{name: v, mountPath: /v}}]}}\n"
    ));
    // One that no control group of the node has, and that ignores what can be ignored.
    let mut loose =
        node.command("/bin/busybox").args(["sh", "-c", "trap '' TERM HUP INT; sleep 100000"]).spawn().expect("runs");
    let (instance, path) = (node.instance(), node.path().display());
    println!("{MARK}{instance}\n{MARK}{path}\n{MARK}{}\n{MARK}{}", node.agent_pid(), loose.id());
    std::io::stdout().flush().expect("a pipe");
    loose.wait().expect("a child can be waited for");
}

#[test]
fn a_test_that_is_killed_leaves_nothing() {
    let mut test = Killed(
        Command::new(std::env::current_exe().expect("a test has a path"))
            .args(["--exact", "a_test_that_hangs", "--ignored", "--nocapture", "--test-threads=1"])
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a test runs"),
    );
    let lines = BufReader::new(test.0.stdout.take().expect("piped")).lines().map_while(Result::ok);
    // libtest writes the test's name before its first line.
    let said = lines.filter_map(|line| line.split_once(MARK).map(|(_, said)| said.to_owned())).take(4);
    let said: Vec<String> = said.collect();
    let [instance, directory, agent, loose] = said.as_slice() else { panic!("the node did not start: {said:?}") };
    let namespaces = namespaces(agent);
    assert_eq!(namespaces.len(), 2, "the node has namespaces of its own: {namespaces:?}");
    wait_for(SOON, "all of it runs", || {
        let found = running(instance, &namespaces);
        let loose = found.iter().any(|line| line.starts_with(&format!("{loose} ")));
        // Holder, agent, shim, container, loose, keeper.
        if loose && found.len() >= 6 { Ok(()) } else { Err(format!("{found:?}")) }
    });
    assert!(!keeper::cgroups(instance).is_empty() && Path::new(directory).is_dir());

    drop(test);
    wait_for(SOON, "the node is gone", || {
        let left = (running(instance, &namespaces), keeper::cgroups(instance), Path::new(directory).exists());
        if left.0.is_empty() && left.1.is_empty() && !left.2 { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// A test whose process group is killed at the end, as a runner does.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let group = format!("-{}", self.0.id());
        let killed = Command::new("kill").args(["-9", "--", &group]).status().expect("kill runs");
        self.0.wait().expect("a child can be waited for");
        assert!(killed.success() || std::thread::panicking(), "there was nothing to kill");
    }
}

/// The network and mount namespaces of a process, as far as they are not this test's.
fn namespaces(pid: &str) -> BTreeSet<String> {
    let of = |pid: &str, kind: &str| {
        let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap_or_default();
        link.to_string_lossy().into_owned()
    };
    let kinds = ["net", "mnt"].into_iter().filter(|kind| of(pid, kind) != of("self", kind));
    kinds.map(|kind| of(pid, kind)).filter(|name| !name.is_empty()).collect()
}

/// Every process of the machine that is in one of these namespaces or in a control group of the instance, keeper included.
fn running(instance: &str, namespaces: &BTreeSet<String>) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("proc is mounted").filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let pids = pids.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let found = pids.filter_map(|pid| {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let command = read("cmdline").replace('\0', " ");
        let ours = !self::namespaces(&pid).is_disjoint(namespaces)
            || read("cgroup").contains(&format!("/podd-test-{instance}"))
            || command.ends_with(&format!("podd-test-keeper {instance} "));
        // One that has ended and waits for the machine's init to ask after it has no command.
        (ours && !command.is_empty()).then(|| format!("{pid} {command}"))
    });
    found.collect()
}
