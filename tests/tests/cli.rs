//! The command line on a real node: what a bad manifest is told, what is printed, how an agent starts, is refused and
//! ends.

use std::process::Stdio;

use podd_tests::{Node, Output, SOON, wait_for};

/// A pod that sleeps, and does not wait for its grace period.
fn sleeper(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: main\n    image: busybox:test\n    command: [sh, -c, \"trap 'exit 0' TERM; while true; do sleep 0.1; done\"]\n"
    )
}

/// Waits until the log says `wanted`: a container is Ready before it has said anything.
fn logged(node: &Node, args: &[&str], wanted: &str) -> Output {
    wait_for(SOON, &format!("{args:?} is {wanted:?}"), || {
        let log = node.podd(args);
        if log.ok() == wanted { Ok(log) } else { Err(log.stdout) }
    })
}

#[test]
fn a_bad_manifest_is_refused_with_its_place_and_starts_nothing() {
    let node = Node::new();
    let pod = |containers: &str| {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec:\n  containers:\n{containers}")
    };
    let with = |more: &str| pod(&format!("  - name: c\n    image: busybox:test\n    {more}\n"));
    let bomb: String = std::iter::once("a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned())
        .chain((b'b'..=b'j').map(|c| {
            let (c, before) = (char::from(c), char::from(c - 1));
            format!("{c}: &{c} [{}]\n", vec![format!("*{before}"); 10].join(","))
        }))
        .collect();
    let deep = format!("a: {}{}\n", "[".repeat(60_000), "]".repeat(60_000));
    let huge = format!("a: {}\n", "x".repeat(40 << 20));
    let table: &[(&str, String, &[&str])] = &[
        ("malformed YAML", "apiVersion: v1\nmetadata: {name: a\n".into(), &[":2:11:", "unclosed bracket"]),
        ("a tab", "kind: Pod\nmetadata:\n\tname: a\n".into(), &[":3:2:", "tab"]),
        (
            "a wrong type",
            with("ports: [{containerPort: http}]"),
            &[":8:14:", "ports[0].containerPort", "\"http\"", "an integer"],
        ),
        ("an octal text", with("env: [{name: A, value: 0440}]"), &[":8:21:", "env[0].value", "288", "in quotes"]),
        ("an unknown field", with("imagee: x"), &[":8:5:", "spec.containers[0].imagee", "unknown field"]),
        ("a duplicate key", with("image: y"), &[":8:5:", "spec.containers[0].image", "second time"]),
        ("no image", pod("  - name: c\n"), &[":6:5:", "spec.containers[0].image: Required value"]),
        (
            "a bad name",
            with("args: [x]").replace("name: a}", "name: Web_1}"),
            &[":3:12:", "metadata.name", "\"Web_1\"", "lower"],
        ),
        (
            "two containers of a name",
            with("\n  - {name: c, image: x}"),
            &["spec.containers[1].name", "Duplicate value: \"c\""],
        ),
        ("a bad quantity", with("resources: {limits: {memory: 12Q}}"), &[":8:26:", "limits.memory", "\"12Q\""]),
        (
            "a limit below the request",
            with("resources: {limits: {cpu: 1}, requests: {cpu: 2}}"),
            &["requests", "cpu limit of 1"],
        ),
        ("a bad port", with("ports: [{containerPort: 70000}]"), &[":8:14:", "70000", "between 1 and 65535"]),
        (
            "an unknown volume",
            with("volumeMounts: [{name: data, mountPath: /d}]"),
            &["volumeMounts[0].name", "Not found: \"data\""],
        ),
        (
            "a field not implemented",
            with("resources: {claims: [{name: gpu}]}"),
            &["resources.claims", "needs a cluster"],
        ),
        (
            "a kind not implemented",
            "apiVersion: apps/v1\nkind: Deployment\n".into(),
            &[":2:1:", "apps/v1 Deployment", "v1 Pod"],
        ),
        ("an alias bomb", bomb, &[":5:", "aliases unfold to more than"]),
        ("deep nesting", deep, &[":1:", "recursion limit"]),
        ("a huge file", huge, &[":1:1:", "more than the 16 MiB"]),
    ];
    for (what, text, wanted) in table {
        let file = node.file("bad.yaml", text);
        let refusal = node.podd(&["apply", "-f", &file]);
        let told = refusal.refused();
        assert!(told.starts_with("error: "), "{what}: {told}");
        assert!(told.len() < 2000, "{what}: {told}");
        for part in [&["bad.yaml:"], *wanted].concat() {
            assert!(told.contains(part), "{what}: {part:?} is not in {told}");
        }
        assert!(!node.path().join("run/podd.sock").exists(), "{what}: an agent was started");
    }
}

#[test]
fn one_bad_document_keeps_the_good_ones_from_being_made() {
    let node = Node::with_agent();
    let refusal =
        node.apply(&format!("{}---\n{}", sleeper("good"), sleeper("bad").replace("image: busybox:test", "x: 1")));
    assert!(refusal.refused().contains("spec.containers[0].x: unknown field"), "{}", refusal.stderr);
    assert!(node.podd(&["get", "pods"]).stderr.contains("No resources found in default namespace."));
}

#[test]
fn a_pod_goes_from_apply_to_delete() {
    let node = Node::with_agent();
    let file = node.file("pod.yaml", &sleeper("web").replace("trap", "echo hello; trap"));
    let applied = node.podd(&["apply", "--wait", "--timeout=60s", "-f", &file]);
    assert_eq!(applied.ok(), "pod/web created\n");
    assert_eq!(node.podd(&["apply", "-f", &file]).ok(), "pod/web unchanged\n");
    assert_eq!(node.podd(&["get", "pod", "web", "-o", "name"]).ok(), "pod/web\n");
    let row = node.podd(&["get", "pods", "-o", "wide"]);
    for part in ["NAME", "READY", "web", "1/1", "Running", "10.85."] {
        assert!(row.ok().contains(part), "{part} is not in {}", row.stdout);
    }
    let labelled = node.file(
        "labelled.yaml",
        &sleeper("web").replace("trap", "echo hello; trap").replace("name: web}", "name: web, labels: {a: b}}"),
    );
    assert_eq!(node.podd(&["apply", "-f", &labelled]).ok(), "pod/web configured\n");
    assert_eq!(node.podd(&["get", "pods", "-l", "a=b", "-o", "name"]).ok(), "pod/web\n");
    // What `get` prints is taken back without a change.
    let printed = node.podd(&["get", "pod", "web", "-o", "yaml"]);
    let again = node.file("again.yaml", printed.ok());
    assert_eq!(node.podd(&["apply", "-f", &again]).ok(), "pod/web unchanged\n");
    logged(&node, &["logs", "web"], "hello\n");
    assert!(node.podd(&["logs", "web", "--timestamps", "--tail=1"]).ok().trim_end().ends_with("Z hello"));
    let ran = node.podd(&["exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (7, "out\n"));
    assert!(ran.stderr.starts_with("err\n"), "{}", ran.stderr);
    let described = node.podd(&["describe", "pod", "web"]);
    for part in ["Name:", "busybox:test", "Events:", "Started"] {
        assert!(described.ok().contains(part), "{part} is not in {}", described.stdout);
    }
    assert_eq!(node.podd(&["wait", "pod/web", "--for=condition=Ready"]).ok(), "pod/web condition met\n");
    assert_eq!(node.podd(&["delete", "-f", &file]).ok(), "pod \"web\" deleted\n");
    assert!(node.podd(&["get", "pod", "web"]).refused().contains("\"web\" not found"));
}

#[test]
fn a_manifest_that_was_printed_and_applied_leaves_the_short_one_in_charge() {
    let node = Node::with_agent();
    let short = node.file("pod.yaml", &sleeper("web").replace("name: web}", "name: web, labels: {a: b}}"));
    node.podd(&["apply", "--wait", "-f", &short]).ok();
    let uid = node.field("pod/web", "/metadata/uid");
    let spec = node.field("pod/web", "/spec");
    // podd owns every defaulted field now.
    let printed = node.file("printed.yaml", node.podd(&["get", "pod", "web", "-o", "yaml"]).ok());
    assert_eq!(node.podd(&["apply", "-f", &printed]).ok(), "pod/web unchanged\n");
    // And drops them again, which gives them their defaults: nothing changes.
    assert_eq!(node.podd(&["apply", "-f", &short]).ok(), "pod/web unchanged\n");
    assert_eq!(node.field("pod/web", "/spec"), spec);
    node.podd(&["apply", "-f", &printed]).ok();
    let changed = node.file("changed.yaml", &sleeper("web").replace("name: web}", "name: web, labels: {c: d}}"));
    assert_eq!(node.podd(&["apply", "-f", &changed]).ok(), "pod/web configured\n");
    assert_eq!(node.field("pod/web", "/metadata/labels"), "{\"c\":\"d\"}");
    assert_eq!((node.field("pod/web", "/metadata/uid"), node.field("pod/web", "/spec")), (uid, spec));
    assert_eq!(node.field("pod/web", "/status/containerStatuses/0/restartCount"), "0");
}

#[test]
fn what_is_typed_as_with_kubectl_is_answered_so() {
    let node = Node::with_agent();
    for nothing in [&["get", "pods"][..], &["get", "all"], &["describe", "pods", "-l", "a=b"]] {
        let answer = node.podd(nothing);
        assert_eq!((answer.ok(), answer.stderr.as_str()), ("", "No resources found in default namespace.\n"));
    }
    assert_eq!(node.podd(&["get", "pods", "-A"]).stderr, "No resources found\n");
    node.apply_and_wait(&sleeper("web"));
    let all = node.podd(&["get", "all", "--no-headers"]);
    assert!(all.ok().starts_with("pod/web ") && !all.stdout.ends_with("\n\n"), "{}", all.stdout);
    let several = node.podd(&["get", "pods,ns", "-n", ""]);
    assert!(several.ok().starts_with("NAME ") && several.stdout.contains("\n\nNAME "), "{}", several.stdout);
    let refused: &[(&[&str], &str)] = &[
        (&["get", "-A", "pod", "web"], "a resource cannot be retrieved by name across all namespaces"),
        (
            &["wait", "pod/web", "--for=condition=Gone", "--timeout=0"],
            "timed out waiting for the condition on pods/web",
        ),
        (&["wait", "pod", "-l", "a=b", "--for=condition=Ready"], "no matching resources found"),
        (
            &["delete", "pod", "web", "--force", "--grace-period=5"],
            "--force and --grace-period greater than 0 cannot be specified together",
        ),
    ];
    for (args, wanted) in refused {
        let refusal = node.podd(args);
        assert!(refusal.refused().contains(wanted), "{args:?}: {}", refusal.stderr);
    }
    let printed = node.podd(&["apply", "-f", &node.file("pod.yaml", &sleeper("web")), "-o", "yaml"]);
    assert!(printed.ok().starts_with("apiVersion: v1\n"), "{}", printed.stdout);
    assert_eq!(node.podd(&["delete", "--wait", "pod", "web", "--grace-period=0"]).ok(), "pod \"web\" deleted\n");
    assert_eq!(node.podd(&["wait", "pod/web", "--for=delete"]).ok(), "pod/web condition met\n");
}

#[test]
fn a_watch_shows_changes_and_says_when_the_agent_goes_away() {
    let mut node = Node::with_agent();
    assert!(node.podd(&["get", "pod", "web", "-w"]).refused().contains("\"web\" not found"));
    let refusal = node.podd(&["get", "pods", "-w", "--field-selector=a=b"]);
    assert!(refusal.refused().contains("field label not supported: a"), "{}", refusal.stderr);
    let shown = node.path().join("shown.txt");
    let mut command = node.command("timeout");
    command.arg("60").arg(program(&node)).args(["get", "pods", "-w"]).stderr(Stdio::piped());
    let watch = command.stdout(std::fs::File::create(&shown).expect("a file")).spawn().expect("podd runs");
    node.apply_and_wait(&sleeper("web"));
    wait_for(SOON, "the pod is shown as running", || {
        let text = std::fs::read_to_string(&shown).expect("the file is there");
        if text.starts_with("NAME ") && text.contains(" Running ") { Ok(()) } else { Err(text) }
    });
    node.stop_agent(false).ok();
    let output = watch.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        (output.status.code(), &*told),
        (Some(1), "error: the agent has gone away; what is watched may go on\n")
    );
}

#[test]
fn standard_input_reaches_a_command() {
    let node = Node::with_agent();
    node.apply_and_wait(&sleeper("web"));
    let mut command = node.command(program(&node));
    command.args(["exec", "-i", "web", "--", "sh", "-c", "cat; exit 3"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("podd runs");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), b"through\n").expect("written");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b"through\n"[..]));
}

#[test]
fn a_command_on_a_terminal_ends_though_nobody_types() {
    let node = Node::with_agent();
    node.apply_and_wait(&sleeper("web"));
    let line = format!("{} exec -it web -- sh -c 'tty; exit 5'", program(&node).display());
    let mut command = node.command("timeout");
    let mut child = command
        .args(["20", "script", "-qec", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script (package bsdutils) runs");
    // Held open: the command must not need its end.
    let stdin = child.stdin.take();
    let output = child.wait_with_output().expect("it ends");
    drop(stdin);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(5), "{shown}");
    assert!(shown.contains("/dev/pts/0"), "{shown}");
}

#[test]
fn the_first_of_several_containers_is_meant_and_that_is_said() {
    let node = Node::with_agent();
    let side = "  - {name: side, image: busybox:test, command: [sh, -c, echo side; exec sleep 1000]}\n";
    node.apply_and_wait(&format!("{}{side}", sleeper("web").replace("trap", "echo main; trap")));
    let log = logged(&node, &["logs", "web"], "main\n");
    assert_eq!(log.stderr, "Defaulted container \"main\" out of: main, side\n");
    assert_eq!(logged(&node, &["logs", "web", "-c", "side"], "side\n").stderr, "");
    assert!(node.podd(&["logs", "web", "-c", "none"]).refused().contains("container none is not valid for pod web"));
}

#[test]
fn a_dry_run_changes_nothing() {
    let node = Node::with_agent();
    let file = node.file("pod.yaml", &sleeper("web"));
    for (flag, told) in
        [("--dry-run", "pod/web created (server dry run)"), ("--dry-run=client", "pod/web valid (dry run)")]
    {
        let shown = node.podd(&["apply", flag, "-f", &file]);
        assert!(shown.ok().starts_with(&format!("{told}\n")), "{}", shown.stdout);
    }
    assert!(node.podd(&["get", "pod", "web"]).refused().contains("not found"));
}

#[test]
fn a_dry_run_tells_what_becomes_of_each_field() {
    let node = Node::with_agent();
    let file = node.file("pod.yaml", &sleeper("web").replace("spec:", "spec:\n  nodeSelector: {disk: ssd}"));
    let shown = node.podd(&["apply", "--dry-run", "-f", &file]);
    let selector = "pod.yaml:5  spec.nodeSelector: no effect: there is one node only";
    for part in [selector, "spec.containers[0].image: honoured", "pod.yaml:1  apiVersion: honoured"] {
        assert!(shown.ok().contains(part), "{part} is not in {}", shown.stdout);
    }
}

#[test]
fn a_field_is_explained_with_its_verdict() {
    let node = Node::new();
    let told = node.podd(&["explain", "pods.spec.nodeSelector"]);
    assert!(told.ok().contains("VERDICT: accepted without effect: there is one node only"), "{}", told.stdout);
    let refusal = node.podd(&["explain", "pod.spec.nodeSelectr"]);
    assert!(refusal.refused().contains("spec has: ") && refusal.stderr.contains("nodeSelector"), "{}", refusal.stderr);
    assert!(!node.path().join("run/podd.sock").exists(), "an agent was started");
}

#[test]
fn a_pod_that_cannot_become_ready_is_told_why() {
    let node = Node::with_agent();
    let file = node.file("pod.yaml", &sleeper("web").replace("busybox:test", "127.0.0.1:1/none:1"));
    let refusal = node.podd(&["apply", "--wait", "--timeout=5s", "-f", &file]);
    let told = refusal.refused();
    assert!(told.contains("pod/web is not ready in time") && told.contains("127.0.0.1:1"), "{told}");
}

#[test]
fn a_play_is_taken_down_again() {
    let node = Node::with_agent();
    let file = node.file("play.yaml", &sleeper("played"));
    let publish = ["play", "kube", "--publish", "8099:80", &file];
    assert_eq!(node.podd(&publish).ok(), "pod/played\n");
    node.wait_field("pod/played", "/status/phase", "Running");
    assert_eq!(node.field("pod/played", "/spec/containers/0/ports/0/hostPort"), "8099");
    let before = node.field("pod/played", "/metadata/uid");
    node.podd(&["play", "kube", "--replace", &file]).ok();
    assert_ne!(node.field("pod/played", "/metadata/uid"), before);
    assert_eq!(node.podd(&["kube", "down", &file]).ok(), "pod/played removed\n");
    assert!(node.podd(&["get", "pod", "played"]).refused().contains("not found"));
    for flag in ["--userns=auto", "--configmap=x", "--network=host", "--build"] {
        let refusal = node.podd(&["play", "kube", flag, &file]);
        let name = flag.split('=').next().expect("a name");
        assert!(refusal.code != 0 && refusal.stderr.contains(name), "{flag}: {}", refusal.stderr);
    }
}

#[test]
fn a_second_agent_on_the_same_directories_is_refused_by_name() {
    let node = Node::with_agent();
    let refusal = node.podd(&["agent"]);
    let holder = format!("in use by process {}", node.agent_pid());
    assert!(refusal.refused().contains(&holder), "{holder} is not in {}", refusal.stderr);
    assert_eq!(node.podd(&["agent", "status"]).code, 0);
}

#[test]
fn the_command_line_starts_an_agent_and_says_so() {
    let node = Node::new();
    let listed = node.podd(&["get", "nodes", "-o", "name"]);
    assert!(listed.stderr.contains("started the agent in the background"), "{}", listed.stderr);
    assert!(!node.podd(&["get", "nodes"]).stderr.contains("started"), "it is started once");
    node.podd(&["agent", "stop"]).ok();
    // Stopped is stopped: the next one is not in its way.
    assert!(node.podd(&["get", "nodes", "-o", "name"]).ok().starts_with("node/"));
    node.podd(&["agent", "stop", "--pods"]).ok();
    assert_eq!(node.enter(&["/bin/busybox", "ip", "-o", "link"]).ok().lines().count(), 1);
    assert_eq!(node.podd(&["agent", "status"]).code, 3);
}

#[test]
fn commands_that_start_an_agent_at_the_same_moment_share_one() {
    let node = Node::new();
    let outputs: Vec<Output> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| node.podd(&["get", "ns", "-o", "name"]))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    for output in outputs {
        assert!(output.ok().contains("namespace/default\n"), "{}", output.stdout);
    }
    node.podd(&["agent", "stop", "--pods"]).ok();
    assert_eq!(node.podd(&["agent", "status"]).code, 3, "a second agent was left");
}

#[test]
fn an_agent_that_cannot_start_says_why() {
    let node = Node::new();
    node.file("config.toml", "[network]\nsubnet = \"nonsense\"\n");
    let told = node.podd(&["get", "pods"]);
    assert!(
        told.refused().contains("the agent did not start") && told.stderr.contains("network.subnet \"nonsense\""),
        "{}",
        told.stderr
    );
    node.file("config.toml", "nonsense = 1\n");
    let told = node.podd(&["get", "pods"]);
    assert!(
        told.refused().contains("config.toml") && told.stderr.contains("unknown field `nonsense`"),
        "{}",
        told.stderr
    );
}

#[test]
fn a_socket_that_a_killed_agent_left_is_replaced() {
    let mut node = Node::with_agent();
    node.apply_and_wait(&sleeper("web"));
    let started = node.field("pod/web", "/status/containerStatuses/0/state/running/startedAt");
    node.kill_agent();
    assert!(node.path().join("run/podd.sock").exists());
    node.start_agent();
    node.wait_field("pod/web", "/status/phase", "Running");
    assert_eq!(node.field("pod/web", "/status/containerStatuses/0/state/running/startedAt"), started);
}

#[test]
fn pods_go_on_when_the_agent_stops_and_end_when_it_is_told_so() {
    let mut node = Node::with_agent();
    // One process that stays the same, beside the shim.
    node.apply_and_wait(
        &sleeper("web").replace("trap 'exit 0' TERM; while true; do sleep 0.1; done", "exec sleep 1000"),
    );
    let links = |node: &Node| node.enter(&["/bin/busybox", "ip", "-o", "link"]).ok().to_owned();
    let running = node.processes();
    assert!(!running.is_empty());
    assert!(node.stop_agent(false).ok().contains("pods go on running"));
    for name in ["podd.sock", "cri.sock"] {
        assert!(!node.path().join("run").join(name).exists(), "{name} was left");
    }
    assert_eq!(node.processes().iter().filter(|pid| running.contains(pid)).count(), running.len());
    node.start_agent();
    assert!(node.stop_agent(true).ok().contains("pods and network are gone"));
    wait_for(SOON, "no process is left", || {
        let left = node.processes();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    assert_eq!(links(&node).lines().count(), 1, "only the loopback interface is left: {}", links(&node));
    let mounts = node.enter(&["cat", "/proc/self/mounts"]);
    let own = node.path().to_str().expect("a plain path");
    assert!(!mounts.ok().contains(own), "{}", mounts.stdout);
    assert_eq!(node.nft_tables(), [""; 0]);
    // The pod is still wanted: the next agent runs it again.
    node.start_agent();
    node.wait_field("pod/web", "/status/phase", "Running");
}

/// The program under test, as the node runs it.
fn program(_: &Node) -> std::path::PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let beside = test.parent().and_then(std::path::Path::parent).expect("target/<profile>/deps").join("podd");
    std::env::var_os("PODD_BIN").map_or(beside, Into::into)
}
