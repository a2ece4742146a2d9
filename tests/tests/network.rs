//! Pods on the network of a node: each other, the node's ports, the node's own network.

use podd_tests::{Node, SOON, image::BUSYBOX, wait_for};

/// A pod that serves busybox's page on port 8080.
fn server(name: &str, ports: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n    \
         - {{name: c, image: '{BUSYBOX}', command: [httpd, -f, -p, '8080', -h, /www], ports: [{ports}]}}\n"
    )
}

/// Fetches a page in the node's namespaces until it comes.
fn page(node: &Node, url: &str) {
    wait_for(SOON, url, || {
        let got = node.enter(&["curl", "-fsS", "--max-time", "2", url]);
        if got.stdout == "hello from busybox\n" { Ok(()) } else { Err(got.stderr) }
    });
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
