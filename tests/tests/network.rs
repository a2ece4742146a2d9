//! Pods on the network of a node: each other, the node's ports, the node's own network, the world outside, names.

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::process::{Child, Stdio};

use podd_tests::{Node, Output, Outside, SOON, image::BUSYBOX, wait_for};

/// A pod that serves busybox's page on port 8080.
fn server(name: &str, ports: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n    \
         - {{name: c, image: '{BUSYBOX}', command: [httpd, -fv, -p, '8080', -h, /www], ports: [{ports}]}}\n"
    )
}

/// The page that [`server`] serves.
const PAGE: &str = "hello from busybox\n";

/// Fetches a page in the node's namespaces until it comes.
fn page(node: &Node, url: &str) {
    until_page(url, || node.enter(&["curl", "-fsS", "--max-time", "2", url]));
}

/// Fetches a page in a pod until it comes. (Debian's static wget crashes when it is given a timeout.)
fn page_in(node: &Node, pod: &str, url: &str) {
    until_page(&format!("{url} in pod {pod}"), || node.podd(&["exec", pod, "--", "wget", "-qO-", url]));
}

fn until_page(what: &str, fetch: impl Fn() -> Output) {
    wait_for(SOON, what, || {
        let got = fetch();
        if got.stdout == PAGE { Ok(()) } else { Err(got.stdout + &got.stderr) }
    });
}

/// A node with a machine outside it, and an agent that found this uplink.
fn with_outside() -> (Node, Outside) {
    let mut node = Node::new();
    let outside = Outside::of(&node);
    node.start_agent();
    node.load_busybox();
    (node, outside)
}

#[test]
fn pods_reach_each_other_and_the_nodes_port_leads_to_its_pod() {
    let node = Node::with_agent();
    node.apply_and_wait(&server("web", "{containerPort: 8080, hostPort: 8088}"));
    node.apply_and_wait(&server("other", "{containerPort: 8080}"));
    let ip = node.field("pod/web", "/status/podIP");
    assert!(ip.starts_with("10.85."), "{ip}");
    let between = format!("for i in $(seq 50); do wget -qO- http://{ip}:8080/ && exit; sleep 0.1; done; exit 1");
    let got = node.podd(&["exec", "other", "--", "sh", "-c", &between]);
    assert_eq!(got.ok(), "hello from busybox\n");
    page(&node, "http://127.0.0.1:8088/");
    page(&node, &format!("http://{ip}:8080/"));
    let hosts = node.podd(&["exec", "web", "--", "cat", "/etc/hosts"]).ok().to_owned();
    assert!(hosts.contains(&format!("{ip}\tweb")), "{hosts}");
    assert_eq!(node.podd(&["exec", "web", "--", "hostname"]).ok(), "web\n");
}

#[test]
fn a_node_port_that_is_held_refuses_the_pod_and_names_the_holder() {
    let node = Node::with_agent();
    node.apply_and_wait(&server("first", "{containerPort: 8080, hostPort: 8088}"));
    node.apply(&server("second", "{containerPort: 8080, hostPort: 8088}")).ok();
    node.wait_field("pod/second", "/status/phase", "Failed");
    assert_eq!(node.field("pod/second", "/status/reason"), "NodePorts");
    let message = node.field("pod/second", "/status/message");
    assert!(message.contains("8088") && message.contains("default/first"), "{message}");
    page(&node, "http://127.0.0.1:8088/");
    node.podd(&["delete", "pods", "--all"]).ok();
    node.apply_and_wait(&server("third", "{containerPort: 8080, hostPort: 8088}"));
    page(&node, "http://127.0.0.1:8088/");
}

#[test]
fn a_pod_on_the_nodes_network_listens_there() {
    let node = Node::with_agent();
    node.apply_and_wait(&server("host", "{containerPort: 8080}").replace("spec:\n", "spec:\n  hostNetwork: true\n"));
    page(&node, "http://127.0.0.1:8080/");
    assert_eq!(node.field("pod/host", "/status/podIP"), node.field("pod/host", "/status/hostIP"));
}

#[test]
fn a_node_port_is_open_from_outside_from_the_node_from_its_loopback_and_from_the_pod_itself() {
    let (node, outside) = with_outside();
    node.apply_and_wait(&server("web", "{containerPort: 8080, hostPort: 8088}"));
    node.apply_and_wait(&server("other", "{containerPort: 8080}"));
    let at_node = format!("http://{}:8088/", Outside::NODE);
    until_page("from outside", || outside.run(&["curl", "-fsS", "--max-time", "2", &at_node]));
    page(&node, &at_node);
    page(&node, "http://127.0.0.1:8088/");
    page_in(&node, "other", &at_node);
    page_in(&node, "web", &at_node);
    // The server sees who really asks, where that can be answered to.
    let log = node.podd(&["logs", "web"]).ok().to_owned();
    assert!(log.contains(Outside::ADDRESS), "{log}");
    node.podd(&["delete", "pod", "web"]).ok();
    let gone = outside.run(&["curl", "-sS", "--max-time", "2", &at_node]);
    assert_eq!(gone.code, 7, "the port closes with its pod: {}", gone.stderr);
}

#[test]
fn a_node_port_at_one_address_is_closed_at_the_others() {
    let (node, outside) = with_outside();
    node.apply_and_wait(&server("web", "{containerPort: 8080, hostPort: 8088, hostIP: 127.0.0.1}"));
    page(&node, "http://127.0.0.1:8088/");
    let at_node = format!("http://{}:8088/", Outside::NODE);
    for refused in [
        outside.run(&["curl", "-sS", "--max-time", "2", &at_node]),
        node.enter(&["curl", "-sS", "--max-time", "2", &at_node]),
    ] {
        assert_eq!(refused.code, 7, "refused: {}", refused.stderr);
    }
}

#[test]
fn a_node_port_for_datagrams_leads_to_its_pod_and_back() {
    let (node, outside) = with_outside();
    node.apply_and_wait(&server("web", "{containerPort: 7, hostPort: 7007, protocol: UDP}"));
    // The image has no server for datagrams, so one of the test's listens in the pod's network.
    let [pid] = node.pod_processes().into_iter().filter(|pid| is_httpd(*pid)).collect::<Vec<_>>()[..] else {
        panic!("one server")
    };
    let network = File::open(format!("/proc/{pid}/ns/net")).expect("the pod's network");
    let bind = || UdpSocket::bind("0.0.0.0:7");
    let socket = podd_sys::namespace::with_netns(network.as_fd(), bind).expect("a socket");
    socket.set_read_timeout(Some(SOON)).expect("a timeout");
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        let (length, from) = socket.recv_from(&mut buffer).expect("a datagram");
        socket.send_to(&buffer[..length], from).expect("sent");
    });
    let script = format!(
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.settimeout(10)\n\
         s.sendto(b'over there', ('{}', 7007))\nprint(s.recvfrom(64))",
        Outside::NODE
    );
    let answer = outside.run(&["python3", "-c", &script]);
    assert_eq!(answer.ok(), format!("(b'over there', ('{}', 7007))\n", Outside::NODE));
    echo.join().expect("no panic");
    // The same port for TCP is another one.
    let refused = outside.run(&["curl", "-sS", "--max-time", "2", &format!("http://{}:7007/", Outside::NODE)]);
    assert_eq!(refused.code, 7, "{}", refused.stderr);
}

fn is_httpd(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"httpd\0"))
}

#[test]
fn a_pod_of_another_node_is_left_to_that_node() {
    let node = Node::with_agent();
    node.apply(&server("away", "").replace("spec:\n", "spec:\n  nodeName: elsewhere\n")).ok();
    // One that comes later is up, and nobody has touched the first.
    node.apply_and_wait(&server("here", ""));
    assert_eq!(node.field("pod/away", "/status/phase"), "Pending");
    assert_eq!(node.field("pod/away", "/status/startTime"), "");
    assert_eq!(node.field("pod/away", "/spec/nodeName"), "elsewhere");
    node.podd(&["delete", "pod", "away"]).ok();
}

/// A server outside; ended with the value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _may_have_ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn a_pod_reaches_the_outside_as_its_node() {
    let (node, outside) = with_outside();
    node.apply_and_wait(&server("p", "{containerPort: 8080}"));
    node.file("index.html", PAGE);
    let root = node.path().to_str().expect("a plain path");
    let log = std::fs::File::create(node.path().join("seen.txt")).expect("a file");
    let mut httpd = outside.command("/bin/busybox");
    httpd.args(["httpd", "-fv", "-p", "80", "-h", root]).stdout(Stdio::null()).stderr(log);
    let _server = Server(httpd.spawn().expect("busybox runs"));
    page_in(&node, "p", &format!("http://{}/", Outside::ADDRESS));
    let seen = std::fs::read_to_string(node.path().join("seen.txt")).expect("a file");
    assert!(seen.contains(Outside::NODE), "the pod's own address has no way back: {seen}");
    let mtu = node.podd(&["exec", "p", "--", "cat", "/sys/class/net/eth0/mtu"]);
    assert_eq!(mtu.ok().trim(), Outside::MTU, "the uplink's, so that nothing is cut up on the way");
}

#[test]
fn a_pod_resolves_names_as_its_node_and_knows_its_own() {
    let mut node = Node::new();
    let resolver = node.file("resolv.conf", "# by hand\nnameserver 192.0.2.53\nsearch example.test\noptions edns0\n");
    let hosts = node.file("hosts", "127.0.0.1 localhost\n192.0.2.7 seven\n");
    node.enter(&["mount", "--bind", &resolver, "/etc/resolv.conf"]).ok();
    node.enter(&["mount", "--bind", &hosts, "/etc/hosts"]).ok();
    node.start_agent();
    node.load_busybox();
    node.apply_and_wait(&server("p", "").replace("spec:\n", "spec:\n  hostname: named\n"));
    node.apply_and_wait(&server("host", "").replace("spec:\n", "spec:\n  hostNetwork: true\n"));
    let read = |pod: &str, path: &str| node.podd(&["exec", pod, "--", "cat", path]).ok().to_owned();
    let mut lines: Vec<String> = read("host", "/etc/resolv.conf").lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["nameserver 192.0.2.53", "options edns0", "search example.test"]);
    let ip = node.field("pod/p", "/status/podIP");
    let own = read("p", "/etc/hosts");
    assert!(own.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"), "{own}");
    assert!(own.ends_with(&format!("\n{ip}\tnamed\n")), "{own}");
    assert!(!own.contains("seven"), "the node's names are the node's: {own}");
    assert_eq!(read("p", "/etc/hostname"), "named\n");
    page_in(&node, "p", "http://named:8080/");
    let of_node = read("host", "/etc/hosts");
    assert!(of_node.starts_with("# Kubernetes-managed hosts file (host network).\n"), "{of_node}");
    assert!(of_node.contains("192.0.2.7 seven"), "{of_node}");
}
