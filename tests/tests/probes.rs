//! Probes: who is asked, how, when it counts, and what follows. The timings are proved on a virtual clock by
//! `crates/agent/tests/simulation/probes.rs`.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use podd_cri::health::{Serving, fake};
use podd_tests::{Node, SOON, image::BUSYBOX, wait_for};
use serde_json::{Value, json};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

/// A pod with a directory `/v` that the test sees, and these fields of its spec and of its container.
fn pod(node: &Node, name: &str, spec: Value, container: Value) -> String {
    let directory = shared(node, name);
    std::fs::create_dir_all(&directory).expect("a directory");
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "v", "hostPath": {"path": directory}}],
            "containers": [{
                "name": "c", "image": BUSYBOX, "command": ["sleep", "100000"],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            }],
        },
    });
    let merge = |into: &mut Value, fields: Value| {
        into.as_object_mut().expect("an object").extend(fields.as_object().expect("fields").clone());
    };
    merge(&mut pod["spec"], spec);
    merge(&mut pod["spec"]["containers"][0], container);
    pod.to_string()
}

/// What the test sees of the pod's `/v`.
fn shared(node: &Node, name: &str) -> PathBuf {
    node.path().join(format!("of-{name}"))
}

fn sh(script: &str) -> Value {
    json!({"exec": {"command": ["sh", "-c", script]}})
}

/// A probe that is made every second and counts at once.
fn quick(mut probe: Value) -> Value {
    let fields = json!({"periodSeconds": 1, "failureThreshold": 1});
    probe.as_object_mut().expect("a probe").extend(fields.as_object().expect("fields").clone());
    probe
}

fn status(node: &Node, name: &str, pointer: &str) -> String {
    node.field(&format!("pod/{name}"), &format!("/status/containerStatuses/0{pointer}"))
}

/// Status, reason and message of a condition.
fn condition(node: &Node, name: &str, kind: &str) -> [String; 3] {
    let all: Value =
        serde_json::from_str(&node.field(&format!("pod/{name}"), "/status/conditions")).unwrap_or_default();
    let one = all.as_array().into_iter().flatten().find(|c| c["type"] == kind).cloned().unwrap_or_default();
    ["status", "reason", "message"].map(|field| one[field].as_str().unwrap_or_default().to_owned())
}

fn events(node: &Node, name: &str) -> Vec<String> {
    let all: Value = serde_json::from_str(&node.podd(&["get", "events", "-o", "json"]).stdout).unwrap_or_default();
    let of = |event: &&Value| event["involvedObject"]["name"] == name;
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    let items = all["items"].as_array().into_iter().flatten();
    items.filter(of).map(|event| format!("{}: {}", text(event, "reason"), text(event, "message"))).collect()
}

fn wait_event(node: &Node, name: &str, wanted: &str) {
    wait_for(SOON, wanted, || {
        let events = events(node, name);
        if events.iter().any(|event| event.starts_with(wanted)) { Ok(()) } else { Err(events.join("\n")) }
    });
}

fn wait_ready(node: &Node, name: &str, wanted: &str) {
    wait_for(SOON, &format!("{name} is ready: {wanted}"), || {
        let found = condition(node, name, "Ready");
        if found[0] == wanted { Ok(()) } else { Err(format!("{found:?}\n{}", events(node, name).join("\n"))) }
    });
}

/// Waits until a log that the pod writes has so many lines, and returns them.
fn wait_lines(node: &Node, name: &str, file: &str, count: usize) -> Vec<String> {
    wait_for(SOON, &format!("{count} lines of {file}"), || {
        let text = std::fs::read_to_string(shared(node, name).join(file)).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if lines.len() >= count { Ok(lines) } else { Err(text) }
    })
}

#[test]
fn a_container_whose_liveness_fails_is_started_again() {
    let node = Node::with_agent();
    let probes = json!({"livenessProbe": quick(sh("cat /v/alive"))});
    let manifest = pod(&node, "p", json!({}), probes);
    std::fs::write(shared(&node, "p").join("alive"), "").expect("a file");
    node.apply_and_wait(&manifest);
    let id = status(&node, "p", "/containerID");
    std::fs::remove_file(shared(&node, "p").join("alive")).expect("the file goes");
    node.wait_field("pod/p", "/status/containerStatuses/0/restartCount", "1");
    wait_event(&node, "p", "Unhealthy: Liveness probe failed: cat: can't open '/v/alive'");
    wait_event(&node, "p", "Killing: Container c failed liveness probe, will be restarted");
    assert_ne!(status(&node, "p", "/containerID"), id);
    assert_eq!(status(&node, "p", "/lastState/terminated/containerID"), id);
    // Whoever is not started again is not said to be.
    let probes = json!({"livenessProbe": quick(sh("exit 1"))});
    node.apply(&pod(&node, "once", json!({"restartPolicy": "Never"}), probes)).ok();
    node.wait_field("pod/once", "/status/phase", "Failed");
    let events = events(&node, "once");
    assert!(events.contains(&"Killing: Container c failed liveness probe".to_owned()), "{events:?}");
}

#[test]
fn a_container_is_ready_while_its_probe_says_so() {
    let node = Node::with_agent();
    node.apply(&pod(&node, "p", json!({}), json!({"readinessProbe": quick(sh("test -e /v/ready"))}))).ok();
    wait_event(&node, "p", "Unhealthy: Readiness probe failed:");
    let not_ready = ["False", "ContainersNotReady", "containers with unready status: [c]"];
    assert_eq!(condition(&node, "p", "Ready"), not_ready);
    assert_eq!(condition(&node, "p", "ContainersReady"), not_ready);
    assert_eq!((status(&node, "p", "/started"), status(&node, "p", "/ready")), ("true".into(), "false".into()));
    let listed = node.podd(&["get", "pods", "--no-headers"]).ok().to_owned();
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>()[..3], ["p", "0/1", "Running"], "{listed}");
    let file = shared(&node, "p").join("ready");
    std::fs::write(&file, "").expect("a file");
    wait_ready(&node, "p", "True");
    assert_eq!(condition(&node, "p", "ContainersReady")[0], "True");
    std::fs::remove_file(&file).expect("the file goes");
    wait_ready(&node, "p", "False");
    assert_eq!(status(&node, "p", "/restartCount"), "0", "nobody is stopped for not being ready");
}

#[test]
fn the_other_probes_wait_for_the_startup_probe() {
    let node = Node::with_agent();
    let probes = json!({
        "startupProbe": {"exec": {"command": ["sh", "-c", "echo startup >>/v/log; test -e /v/started"]},
            "periodSeconds": 1, "failureThreshold": 1000},
        "livenessProbe": quick(sh("echo liveness >>/v/log")),
        "readinessProbe": quick(sh("echo readiness >>/v/log")),
    });
    node.apply(&pod(&node, "p", json!({}), probes)).ok();
    let log = wait_lines(&node, "p", "log", 3);
    assert!(log.iter().all(|line| line == "startup"), "{log:?}");
    assert_eq!((status(&node, "p", "/started"), status(&node, "p", "/ready")), ("false".into(), "false".into()));
    std::fs::write(shared(&node, "p").join("started"), "").expect("a file");
    wait_ready(&node, "p", "True");
    assert_eq!(status(&node, "p", "/started"), "true");
    let asked = wait_lines(&node, "p", "log", log.len() + 6);
    let after = &asked[asked.iter().position(|line| line != "startup").expect("others")..];
    assert!(after.iter().all(|line| line != "startup"), "it is not asked again: {asked:?}");
    // One that does not start in time is stopped.
    node.apply(&pod(&node, "late", json!({}), json!({"startupProbe": quick(sh("exit 3"))}))).ok();
    wait_event(&node, "late", "Killing: Container c failed startup probe, will be restarted");
    wait_for(SOON, "a restart", || match status(&node, "late", "/restartCount").as_str() {
        "0" | "" => Err(events(&node, "late").join("\n")),
        _ => Ok(()),
    });
}

#[test]
fn a_probe_waits_for_its_delay_and_counts_its_successes() {
    let node = Node::with_agent();
    let mut probe = quick(sh("echo asked >>/v/log"));
    probe["initialDelaySeconds"] = json!(3);
    probe["successThreshold"] = json!(3);
    node.apply(&pod(&node, "p", json!({}), json!({"readinessProbe": probe}))).ok();
    wait_lines(&node, "p", "log", 1);
    let since: jiff::Timestamp = status(&node, "p", "/state/running/startedAt").parse().expect("a time");
    // The start is told in whole seconds, cut off.
    let waited = jiff::Timestamp::now().duration_since(since).as_secs_f64();
    assert!(waited > 3.0, "asked {waited} s after the start");
    assert_eq!(condition(&node, "p", "Ready")[0], "False");
    wait_ready(&node, "p", "True");
    let asked = wait_lines(&node, "p", "log", 3).len();
    assert!(asked <= 5, "ready only after {asked}");
}

/// A probe that is made every second and leaves a server time to listen.
fn patient(probe: &Value) -> Value {
    let mut probe = quick(probe.clone());
    probe["failureThreshold"] = json!(30);
    probe
}

/// All three probes with the same handler.
fn each_kind(handler: &Value) -> Value {
    json!({
        "startupProbe": patient(handler),
        "livenessProbe": patient(handler),
        "readinessProbe": quick(handler.clone()),
    })
}

/// A server in the node's network that tells of its health, as long as the value lives.
fn health_server(node: &Node, port: u16) -> tokio::runtime::Runtime {
    let netns = File::open(format!("/proc/{}/ns/net", node.agent_pid())).expect("the node's network");
    let bind = || std::net::TcpListener::bind(("0.0.0.0", port));
    let listener = podd_sys::namespace::with_netns(netns.as_fd(), bind).expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let _here = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let health = fake::Server::new(&[("", Serving::Serving), ("sick", Serving::NotServing)]);
    runtime.spawn(Server::builder().add_service(health).serve_with_incoming(TcpListenerStream::new(listener)));
    runtime
}

#[test]
fn each_kind_of_probe_takes_each_handler() {
    let node = Node::with_agent();
    let _server = health_server(&node, 9090);
    let httpd = json!({"command": ["httpd", "-f", "-p", "8080", "-h", "/v"], "ports": [{"name": "web", "containerPort": 8080}]});
    let on_node = json!({"hostNetwork": true});
    let with = |base: &Value, probes: Value| {
        let mut all = base.clone();
        all.as_object_mut().expect("fields").extend(probes.as_object().expect("probes").clone());
        all
    };
    let good = [
        ("exec", json!({}), json!({}), json!({"exec": {"command": ["test", "-d", "$(WHERE)"]}})),
        ("http", json!({}), httpd.clone(), json!({"httpGet": {"path": "/page", "port": "web"}})),
        ("tcp", json!({}), httpd.clone(), json!({"tcpSocket": {"port": 8080}})),
        ("grpc", on_node.clone(), json!({}), json!({"grpc": {"port": 9090}})),
    ];
    for (name, spec, container, handler) in good {
        let container = with(&container, json!({"env": [{"name": "WHERE", "value": "/v"}]}));
        let manifest = pod(&node, name, spec, with(&container, each_kind(&handler)));
        std::fs::write(shared(&node, name).join("page"), "hello").expect("a page");
        node.apply(&manifest).ok();
        wait_ready(&node, name, "True");
        assert_eq!(status(&node, name, "/restartCount"), "0", "{name}");
    }
    let bad = [
        ("no-exec", json!({}), json!({}), sh("echo out; echo err >&2; exit 1"), "out\nerr"),
        (
            "no-page",
            json!({}),
            httpd.clone(),
            json!({"httpGet": {"path": "/none", "port": 8080}}),
            "HTTP probe failed with statuscode: 404",
        ),
        ("no-server", json!({}), httpd, json!({"tcpSocket": {"port": 81}}), "dial tcp 10."),
        (
            "sick",
            on_node.clone(),
            json!({}),
            json!({"grpc": {"port": 9090, "service": "sick"}}),
            "service unhealthy (responded with \"NOT_SERVING\")",
        ),
        (
            "unknown",
            on_node,
            json!({}),
            json!({"grpc": {"port": 9090, "service": "other"}}),
            "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service",
        ),
    ];
    for (name, spec, container, handler, why) in bad {
        node.apply(&pod(&node, name, spec, with(&container, json!({"readinessProbe": quick(handler)})))).ok();
        wait_event(&node, name, &format!("Unhealthy: Readiness probe failed: {why}"));
        assert_eq!(condition(&node, name, "Ready")[0], "False", "{name}");
    }
}

/// A program that is ended with the value.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _may_have_ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn an_http_probe_asks_as_the_kubelet_does() {
    let node = Node::with_agent();
    let probe = json!({"httpGet": {
        "path": "/cgi-bin/note?a=b&c", "port": 8080,
        "httpHeaders": [{"name": "X-Own", "value": "one two"}, {"name": "Host", "value": "app.example"}],
    }});
    let httpd = json!({"command": ["httpd", "-f", "-p", "8080", "-h", "/v"], "readinessProbe": quick(probe)});
    let manifest = pod(&node, "p", json!({}), httpd);
    let cgi = shared(&node, "p").join("cgi-bin");
    std::fs::create_dir_all(&cgi).expect("a directory");
    let script =
        "#!/bin/sh\nenv >/v/seen.new; mv /v/seen.new /v/seen\nprintf 'Content-Type: text/plain\\r\\n\\r\\nok'\n";
    for (name, text) in [
        ("note", script),
        ("away", "#!/bin/sh\nprintf 'Status: 302 Found\\r\\nLocation: http://other.example/\\r\\n\\r\\nover there'\n"),
    ] {
        std::fs::write(cgi.join(name), text).expect("a script");
        std::process::Command::new("chmod").arg("755").arg(cgi.join(name)).status().expect("chmod runs");
    }
    node.apply(&manifest).ok();
    wait_ready(&node, "p", "True");
    let seen = std::fs::read_to_string(shared(&node, "p").join("seen")).expect("it was asked");
    for line in [
        "HTTP_USER_AGENT=kube-probe/1.36",
        "HTTP_ACCEPT=*/*",
        "HTTP_X_OWN=one two",
        "HTTP_HOST=app.example",
        "QUERY_STRING=a=b&c",
        "REQUEST_METHOD=GET",
    ] {
        assert!(seen.lines().any(|l| l == line), "{line} in\n{seen}");
    }
    // What leads to another host is good enough, and told.
    let probe = json!({"httpGet": {"path": "/cgi-bin/away", "port": 8080}});
    let httpd = json!({"command": ["httpd", "-f", "-p", "8080", "-h", "/v"], "readinessProbe": quick(probe)});
    let manifest = pod(&node, "q", json!({}), httpd);
    let to = shared(&node, "q").join("cgi-bin");
    std::process::Command::new("cp").arg("-r").arg(&cgi).arg(&to).status().expect("cp runs");
    node.apply(&manifest).ok();
    wait_ready(&node, "q", "True");
    wait_event(
        &node,
        "q",
        "ProbeWarning: Readiness probe warning: Probe terminated redirects, Response body: over there",
    );
}

#[test]
fn a_certificate_that_nobody_signed_is_good_enough() {
    let node = Node::with_agent();
    let (key, certificate) = (node.path().join("key.pem"), node.path().join("certificate.pem"));
    let mut make = std::process::Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=nobody", "-keyout"]);
    let made = make.arg(&key).arg("-out").arg(&certificate).output().expect("openssl runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut server = node.command("openssl");
    server.args(["s_server", "-quiet", "-www", "-accept", "8443", "-key"]).arg(&key).arg("-cert").arg(&certificate);
    let _server = Background(server.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("openssl runs"));
    let probe = |scheme: &str| json!({"readinessProbe": quick(json!({"httpGet": {"port": 8443, "scheme": scheme}}))});
    node.apply(&pod(&node, "tls", json!({"hostNetwork": true}), probe("HTTPS"))).ok();
    node.apply(&pod(&node, "plain", json!({"hostNetwork": true}), probe("HTTP"))).ok();
    wait_ready(&node, "tls", "True");
    wait_event(&node, "plain", "Unhealthy: Readiness probe failed: Get \"http://");
    assert_eq!(condition(&node, "plain", "Ready")[0], "False");
}

#[test]
fn a_probe_reaches_a_server_that_listens_on_loopback_only() {
    let node = Node::with_agent();
    let httpd = |handler: Value| json!({"command": ["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/v"], "readinessProbe": quick(handler)});
    let table = [
        ("http", json!({"httpGet": {"path": "/page", "port": 8080, "host": "127.0.0.1"}}), true),
        ("name", json!({"httpGet": {"path": "/page", "port": 8080, "host": "localhost"}}), true),
        ("tcp", json!({"tcpSocket": {"port": 8080, "host": "127.0.0.1"}}), true),
        ("outside", json!({"httpGet": {"path": "/page", "port": 8080}}), false),
        ("elsewhere", json!({"tcpSocket": {"port": 8081, "host": "127.0.0.1"}}), false),
    ];
    for (name, handler, reaches) in table {
        let manifest = pod(&node, name, json!({}), httpd(handler));
        std::fs::write(shared(&node, name).join("page"), "hello").expect("a page");
        node.apply(&manifest).ok();
        if reaches {
            wait_ready(&node, name, "True");
        } else {
            wait_event(&node, name, "Unhealthy: Readiness probe failed:");
            let events = events(&node, name);
            assert!(events.iter().any(|event| event.ends_with("connect: connection refused")), "{events:?}");
        }
    }
}

#[test]
fn a_probe_may_give_a_grace_of_its_own() {
    let node = Node::with_agent();
    let deaf = json!(["sh", "-c", "trap '' TERM; while true; do sleep 0.1; done"]);
    for kind in ["livenessProbe", "startupProbe"] {
        let mut probe = quick(sh("exit 1"));
        probe["terminationGracePeriodSeconds"] = json!(1);
        let mut container = json!({"command": deaf});
        container[kind] = probe;
        let name = kind.to_lowercase();
        node.apply(&pod(&node, &name, json!({"terminationGracePeriodSeconds": 600}), container)).ok();
        node.wait_field(&format!("pod/{name}"), "/status/containerStatuses/0/lastState/terminated/exitCode", "137");
    }
}

#[test]
fn a_command_that_takes_too_long_is_killed_and_the_container_is_not() {
    let node = Node::with_agent();
    let probe = json!({"exec": {"command": ["sleep", "54321"]}, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 100});
    node.apply(&pod(&node, "p", json!({}), json!({"livenessProbe": probe}))).ok();
    wait_event(&node, "p", "Unhealthy: Liveness probe failed: command timed out: \"sleep 54321\" timed out after 1s");
    let id = status(&node, "p", "/containerID");
    let begun = Instant::now();
    // At least two more.
    while begun.elapsed() < Duration::from_secs(3) {
        let commands =
            node.processes().into_iter().map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default());
        let sleeps = commands.filter(|text| text.starts_with(b"sleep\x0054321")).count();
        assert!(sleeps <= 1, "{sleeps} of them at once");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(status(&node, "p", "/containerID"), id);
    assert_eq!(status(&node, "p", "/restartCount"), "0");
}

#[test]
fn a_pod_is_ready_when_its_gates_are_open_too() {
    let node = Node::with_agent();
    let gates = json!({"readinessGates": [{"conditionType": "example.com/open"}]});
    node.apply(&pod(&node, "p", gates, json!({}))).ok();
    wait_for(SOON, "the container is ready", || match condition(&node, "p", "ContainersReady") {
        [ready, ..] if ready == "True" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let closed = "corresponding condition of pod readiness gate \"example.com/open\" does not exist.";
    assert_eq!(condition(&node, "p", "Ready"), ["False", "ReadinessGatesNotReady", closed]);
    let say = |word: &str| {
        let patch = json!({"status": {"conditions": [{"type": "example.com/open", "status": word}]}}).to_string();
        let socket = node.path().join("run/podd.sock");
        let url = "http://podd/api/v1/namespaces/default/pods/p/status";
        let kind = "Content-Type: application/merge-patch+json";
        let socket = socket.to_str().expect("a plain path");
        node.enter(&["curl", "-fsS", "--unix-socket", socket, "-X", "PATCH", "-H", kind, "-d", &patch, url]).ok();
    };
    say("True");
    wait_ready(&node, "p", "True");
    say("False");
    wait_ready(&node, "p", "False");
    let closed = "the status of pod readiness gate \"example.com/open\" is not \"True\", but False";
    assert_eq!(condition(&node, "p", "Ready"), ["False", "ReadinessGatesNotReady", closed]);
}

#[test]
fn readiness_is_asked_for_to_the_end_and_liveness_is_not() {
    let node = Node::with_agent();
    let probes = json!({
        "command": ["sh", "-c", "touch /v/well; trap 'rm /v/well; echo stop >>/v/log; sleep 5; exit 0' TERM; while true; do sleep 0.1; done"],
        "readinessProbe": quick(sh("echo readiness >>/v/log; test -e /v/well")),
        "livenessProbe": quick(sh("echo liveness >>/v/log")),
    });
    let manifest = pod(&node, "p", json!({"terminationGracePeriodSeconds": 60}), probes);
    node.apply_and_wait(&manifest);
    wait_lines(&node, "p", "log", 4);
    let mut delete = node.command(podd_tests::program());
    let _delete = Background(delete.args(["delete", "pod", "p"]).stdin(Stdio::null()).spawn().expect("podd runs"));
    wait_for(SOON, "it is not ready while it ends", || {
        let (ready, deleted) = (condition(&node, "p", "Ready"), node.field("pod/p", "/metadata/deletionTimestamp"));
        if ready[0] == "False" && !deleted.is_empty() { Ok(()) } else { Err(format!("{ready:?} {deleted}")) }
    });
    wait_for(SOON, "it is gone", || match node.field("pod/p", "/metadata/name").as_str() {
        "" => Ok(()),
        name => Err(name.to_owned()),
    });
    let log = wait_lines(&node, "p", "log", 1);
    let end = &log[log.iter().position(|line| line == "stop").expect("it was told to stop") + 1..];
    assert!(end.iter().filter(|line| *line == "readiness").count() >= 2, "{log:?}");
    // One may have been under way.
    assert!(end.iter().filter(|line| *line == "liveness").count() <= 1, "{log:?}");
}

#[test]
fn an_agent_that_begins_anew_makes_nobody_unready() {
    let mut node = Node::with_agent();
    let probes = json!({
        "startupProbe": quick(sh("echo startup >>/v/log")),
        "readinessProbe": quick(sh("echo readiness >>/v/log")),
    });
    node.apply_and_wait(&pod(&node, "p", json!({}), probes));
    let pointer = "/status/conditions";
    let ready_since = |node: &Node| {
        let all: Value = serde_json::from_str(&node.field("pod/p", pointer)).unwrap_or_default();
        let one = all.as_array().into_iter().flatten().find(|c| c["type"] == "Ready").cloned().unwrap_or_default();
        (one["status"].clone(), one["lastTransitionTime"].clone())
    };
    let (id, since) = (status(&node, "p", "/containerID"), ready_since(&node));
    assert_eq!(since.0, "True");
    node.kill_agent();
    let before = wait_lines(&node, "p", "log", 1).len();
    // The time is in whole seconds.
    std::thread::sleep(Duration::from_millis(1100));
    node.start_agent();
    let log = wait_lines(&node, "p", "log", before + 3);
    assert!(log[before..].iter().all(|line| line == "readiness"), "it has started: {log:?}");
    assert_eq!(ready_since(&node), since);
    assert_eq!((status(&node, "p", "/containerID"), status(&node, "p", "/started")), (id, "true".into()));
}
