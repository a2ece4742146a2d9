//! Lifecycle hooks: commands, requests and pauses after a container's start and before its stop.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    os::fd::AsFd as _,
    sync::mpsc,
    time::{Duration, Instant},
};

use podd_tests::{Node, SOON, image::BUSYBOX, wait_for};

fn read(node: &Node, file: &str) -> String {
    std::fs::read_to_string(node.path().join(file)).unwrap_or_default()
}

/// A pod with a volume at `/v` that is the node's directory, of containers with these fields and scripts.
fn pod(node: &Node, spec: &str, containers: &[(&str, &str, &str)]) -> String {
    let directory = node.path().display();
    let mut text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  volumes: [{{name: v, hostPath: {{path: '{directory}'}}}}]\n{spec}  containers:\n"
    );
    for (name, more, script) in containers {
        text += &format!(
            "    - {{name: {name}, image: '{BUSYBOX}', {more} volumeMounts: [{{name: v, mountPath: /v}}], command: [sh, -c, \"{script}\"]}}\n"
        );
    }
    text
}

fn events(node: &Node) -> String {
    node.podd(&["describe", "pod", "p"]).stdout.clone()
}

#[test]
fn a_hook_after_the_start_holds_up_what_comes_next() {
    let node = Node::with_agent();
    let hook = "lifecycle: {postStart: {exec: {command: [sh, -c, 'until [ -e /v/go ]; do sleep 0.05; done; echo hook >>/v/lines']}}},";
    let containers = [("a", hook, "sleep 100000"), ("b", "", "echo b >>/v/lines; sleep 100000")];
    node.apply(&pod(&node, "  terminationGracePeriodSeconds: 0\n", &containers)).ok();
    wait_for(SOON, "the first has been started", || {
        let told = events(&node);
        if told.contains("Started") { Ok(()) } else { Err(told) }
    });
    assert_eq!(node.field("pod/p", "/status/containerStatuses/0/state/waiting/reason"), "ContainerCreating");
    node.file("go", "");
    node.wait_field("pod/p", "/status/phase", "Running");
    wait_for(SOON, "both have written", || match read(&node, "lines") {
        lines if lines == "hook\nb\n" => Ok(()),
        lines => Err(lines),
    });
}

#[test]
fn a_container_whose_hook_fails_is_stopped_and_started_again() {
    let node = Node::with_agent();
    let hook = "lifecycle: {postStart: {exec: {command: [sh, -c, 'echo no such luck; exit 3']}}},";
    node.apply(&pod(&node, "  terminationGracePeriodSeconds: 0\n", &[("a", hook, "sleep 100000")])).ok();
    node.wait_field("pod/p", "/status/containerStatuses/0/state/waiting/reason", "PostStartHookError");
    let message = node.field("pod/p", "/status/containerStatuses/0/state/waiting/message");
    assert!(message.contains("no such luck") && message.contains("exited with 3"), "{message}");
    wait_for(SOON, "the event", || match events(&node) {
        told if told.contains("FailedPostStartHook") => Ok(()),
        told => Err(told),
    });
}

#[test]
fn a_hook_before_the_stop_is_paid_from_the_grace() {
    let node = Node::with_agent();
    let script = "trap 'echo told >>/v/lines; exit 0' TERM; echo runs >>/v/lines; while true; do sleep 0.05; done";
    let exec = "lifecycle: {postStart: {sleep: {seconds: 1}}, preStop: {exec: {command: [sh, -c, 'sleep 1; echo hook >>/v/lines']}}},";
    let begun = Instant::now();
    node.apply_and_wait(&pod(&node, "", &[("a", exec, script)]));
    assert!(begun.elapsed() >= Duration::from_secs(1), "it was running before its pause was over");
    node.podd(&["delete", "pod", "p"]).ok();
    assert_eq!(read(&node, "lines"), "runs\nhook\ntold\n");

    // A pause as long as the grace leaves the two seconds that everybody gets.
    let deaf = "trap '' TERM; while true; do sleep 0.05; done";
    let sleep = "lifecycle: {preStop: {sleep: {seconds: 2}}},";
    node.apply_and_wait(&pod(&node, "  terminationGracePeriodSeconds: 2\n", &[("a", sleep, deaf)]));
    let begun = Instant::now();
    node.podd(&["delete", "pod", "p"]).ok();
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(9), "{took:?}");

    // And one that takes longer than the grace is given up.
    let long = "lifecycle: {preStop: {exec: {command: [sleep, '100000']}}},";
    node.apply_and_wait(&pod(&node, "  terminationGracePeriodSeconds: 1\n", &[("a", long, deaf)]));
    let begun = Instant::now();
    node.podd(&["delete", "pod", "p"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    assert!(node.pod_processes().is_empty(), "nothing is left of it");
}

#[test]
fn a_hook_that_fails_before_the_stop_is_told_and_holds_up_nothing() {
    let node = Node::with_agent();
    let hook = "lifecycle: {preStop: {exec: {command: ['false']}}},";
    node.apply_and_wait(&pod(
        &node,
        "  activeDeadlineSeconds: 1\n  terminationGracePeriodSeconds: 2\n",
        &[("a", hook, "sleep 100000")],
    ));
    node.wait_field("pod/p", "/status/phase", "Failed");
    wait_for(SOON, "the event", || match events(&node) {
        told if told.contains("FailedPreStopHook") => Ok(()),
        told => Err(told),
    });
}

/// A server in the node's network that speaks no TLS; what it is asked comes out, head by head. It ends with the receiver.
fn server(node: &Node, port: u16) -> mpsc::Receiver<String> {
    let netns = File::open(format!("/proc/{}/ns/net", node.agent_pid())).expect("the node's network");
    let bind = || TcpListener::bind(("0.0.0.0", port));
    let listener = podd_sys::namespace::with_netns(netns.as_fd(), bind).expect("a port");
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
            let is_plain = reader.fill_buf().is_ok_and(|bytes| bytes.starts_with(b"GET "));
            let (answer, asked) = match is_plain {
                true => {
                    let lines = reader.lines().map_while(Result::ok).take_while(|line| !line.is_empty());
                    ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", lines.collect::<Vec<_>>().join("\n"))
                }
                false => ("HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request", "no HTTP".to_owned()),
            };
            let _gone = stream.write_all(answer.as_bytes());
            if tell.send(asked).is_err() {
                return;
            }
        }
    });
    told
}

#[test]
fn a_server_is_told_of_a_start_and_of_a_stop() {
    let node = Node::with_agent();
    let asked = server(&node, 9091);
    let hooks = "ports: [{name: hooks, containerPort: 9091}], lifecycle: {postStart: {httpGet: {path: '/up?a=b', port: hooks, \
        httpHeaders: [{name: X-Why, value: start}]}}, preStop: {httpGet: {path: /down, port: 9091, scheme: HTTPS, \
        httpHeaders: [{name: Authorization, value: secret}, {name: X-Why, value: stop}]}}},";
    let spec = "  hostNetwork: true\n  terminationGracePeriodSeconds: 5\n  activeDeadlineSeconds: 2\n";
    node.apply_and_wait(&pod(&node, spec, &[("a", hooks, "sleep 100000")]));
    let up = asked.recv_timeout(SOON).expect("it is told of the start");
    assert!(up.starts_with("GET /up?a=b HTTP/1.1\n") && up.contains("\nX-Why: start"), "{up}");
    assert!(up.contains("User-Agent: kube-lifecycle/1.36"), "{up}");
    assert_eq!(asked.recv_timeout(SOON).as_deref(), Ok("no HTTP"), "TLS comes first");
    let down = asked.recv_timeout(SOON).expect("it is told of the stop");
    assert!(down.starts_with("GET /down HTTP/1.1\n") && down.contains("\nX-Why: stop"), "{down}");
    assert!(!down.contains("secret"), "{down}");
    node.wait_field("pod/p", "/status/phase", "Failed");
    let told = events(&node);
    assert!(told.contains("LifecycleHTTPFallback") && told.contains("got HTTP response, retry with HTTP"), "{told}");
    assert!(!told.contains("FailedPreStopHook") && !told.contains("FailedPostStartHook"), "{told}");
}

#[test]
fn a_hook_whose_server_is_not_there_fails() {
    let node = Node::with_agent();
    let hook = "lifecycle: {postStart: {httpGet: {path: /up, port: 9092}}},";
    node.apply(&pod(&node, "  terminationGracePeriodSeconds: 0\n", &[("a", hook, "sleep 100000")])).ok();
    node.wait_field("pod/p", "/status/containerStatuses/0/state/waiting/reason", "PostStartHookError");
    let message = node.field("pod/p", "/status/containerStatuses/0/state/waiting/message");
    assert!(message.starts_with("HTTP lifecycle hook (/up) for Container \"a\" in Pod \"p_default("), "{message}");
    assert!(message.contains(":9092") && message.ends_with("connection refused"), "{message}");
}
