//! Names of pods, as containers look them up: of each other, of the outside, while the agent is away and when others hold
//! the node's port 53.

use podd_tests::{Node, SOON, image::BUSYBOX, wait_for};

fn pod(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  terminationGracePeriodSeconds: 0\n\
         {spec}  containers:\n  - {{name: c, image: '{BUSYBOX}', command: [sleep, '100000']}}\n"
    )
}

/// The address that a container finds for a name, as its C library looks it up.
fn lookup(node: &Node, pod: &str, name: &str) -> Result<String, String> {
    let found = node.podd(&["exec", pod, "--", "ping", "-c1", "-W5", name]);
    let address = found.stdout.split(['(', ')']).nth(1).map(str::to_owned);
    match (found.code, address) {
        (0, Some(address)) => Ok(address),
        _ => Err(format!("{}{}", found.stdout, found.stderr)),
    }
}

fn until_found(node: &Node, pod: &str, name: &str, address: &str) {
    wait_for(SOON, &format!("{pod} finds {name} at {address}"), || match lookup(node, pod, name) {
        Ok(found) if found == address => Ok(()),
        Ok(found) => Err(found),
        Err(error) => Err(format!("{error}\n{}", node.podd(&["exec", pod, "--", "cat", "/etc/resolv.conf"]).stdout)),
    });
}

#[test]
fn pods_find_each_other_by_name() {
    let node = Node::with_agent();
    let shop = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    let db = pod("shop", "db-0", "  hostname: first\n  subdomain: db\n");
    node.apply_and_wait(&format!("{shop}---\n{}---\n{db}---\n{}", pod("default", "web", ""), pod("shop", "web", "")));
    let ip = |pod: &str, namespace: &str| {
        let shown = node.podd(&["get", "pod", pod, "-n", namespace, "-o", "json"]);
        let value: serde_json::Value = serde_json::from_str(shown.ok()).expect("JSON");
        value["status"]["podIP"].as_str().expect("an address").to_owned()
    };
    let (web, other, db) = (ip("web", "default"), ip("web", "shop"), ip("db-0", "shop"));
    for (name, address) in [
        ("web", &web),
        ("web.shop", &other),
        ("web.shop.svc.cluster.local", &other),
        ("db-0.shop", &db),
        ("first.db.shop", &db),
        ("first.db.shop.svc.cluster.local", &db),
    ] {
        until_found(&node, "web", name, address);
    }
    let refused = node.podd(&["exec", "web", "--", "ping", "-c1", "none.shop.svc.cluster.local"]);
    assert!(refused.stderr.contains("bad address"), "{}{}", refused.stdout, refused.stderr);
    // What is gone is gone at once.
    node.podd(&["delete", "pod", "web", "-n", "shop"]).ok();
    wait_for(SOON, "the name is gone", || match lookup(&node, "web", "web.shop.svc.cluster.local") {
        Err(error) if error.contains("bad address") => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn names_resolve_while_the_agent_is_away_and_again_when_the_server_was_killed() {
    let mut node = Node::with_agent();
    node.apply_and_wait(&format!("{}---\n{}", pod("default", "a", ""), pod("default", "b", "")));
    let address = node.field("pod/b", "/status/podIP");
    until_found(&node, "a", "b", &address);
    let servers = |node: &Node| -> Vec<i32> {
        let is_server = |pid: &i32| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.split(|b| *b == 0).any(|word| word == b"dns"))
        };
        node.processes().into_iter().filter(is_server).collect()
    };
    let [server] = servers(&node)[..] else { panic!("{:?}", servers(&node)) };
    // From a container, without the agent: in the network of its process.
    let container = node.processes().into_iter().find(|pid| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep\x00100000"))
    });
    let container = container.expect("a container").to_string();
    node.kill_agent();
    let inside =
        |name: &str| node.enter(&["nsenter", "--net", "--mount", "--target", &container, "ping", "-c1", "-W5", name]);
    assert!(inside("b").ok().contains(&address));
    node.start_agent();
    until_found(&node, "a", "b", &address);
    assert_eq!(servers(&node), [server], "the server is found again");
    node.enter(&["kill", "-KILL", &server.to_string()]).ok();
    until_found(&node, "a", "b", &address);
    assert_ne!(servers(&node), [server]);
}

#[test]
fn a_busy_port_of_the_node_is_no_obstacle_and_other_names_go_to_the_nodes_servers() {
    let mut node = Node::new();
    let resolver = node.file("resolv.conf", "nameserver 127.0.0.1\n");
    node.enter(&["mount", "--bind", &resolver, "/etc/resolv.conf"]).ok();
    // A server of the node on every address: it answers any question with 192.0.2.80.
    let script = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('0.0.0.0', 53))\n\
                  while True:\n    q, a = s.recvfrom(4096)\n    end = q.index(b'\\0', 12) + 5\n    \
                  n = 1 if q[end-3] == 1 else 0\n    \
                  s.sendto(q[:2] + b'\\x81\\x80\\0\\1\\0' + bytes([n]) + b'\\0\\0\\0\\0' + q[12:end] + \
                  (b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\0\\0\\4\\xc0\\0\\2\\x50' if n else b''), a)\n";
    let mut other = node.command("python3").args(["-c", script]).spawn().expect("python3 runs");
    node.start_agent();
    node.load_busybox();
    node.apply_and_wait(&pod("default", "a", ""));
    // The node's server may bind its port later than the pod runs.
    wait_for(SOON, "a name of the node's server", || {
        let found = node.podd(&["exec", "a", "--", "ping", "-c1", "-W1", "www.example.test"]);
        if found.stdout.contains("(192.0.2.80)") {
            return Ok(());
        }
        Err(format!("{}{}", found.stdout, found.stderr))
    });
    other.kill().expect("our child");
    other.wait().expect("our child");
    let address = node.field("pod/a", "/status/podIP");
    until_found(&node, "a", "a.default", &address);
}

#[test]
fn a_pod_is_called_as_it_asks_to_be() {
    let node = Node::with_agent();
    node.apply_and_wait(&format!(
        "{}---\n{}",
        pod("default", "full", "  hostname: first\n  subdomain: db\n  setHostnameAsFQDN: true\n"),
        pod("default", "other", "  subdomain: db\n  hostnameOverride: elsewhere.example\n")
    ));
    let run = |pod: &str, command: &[&str]| node.podd(&[&["exec", pod, "--"], command].concat()).ok().trim().to_owned();
    assert_eq!(run("full", &["hostname"]), "first.db.default.svc.cluster.local");
    assert_eq!(run("other", &["hostname"]), "elsewhere.example");
    let hosts = run("other", &["cat", "/etc/hosts"]);
    assert!(hosts.ends_with("\telsewhere.example"), "{hosts}");
    // Others find it by the names that it would have had.
    let address = node.field("pod/other", "/status/podIP");
    until_found(&node, "full", "other.db.default.svc.cluster.local", &address);
    // The kernel's limit is told, and tried again.
    let long = pod(
        "default",
        "long",
        &format!("  hostname: {}\n  subdomain: db\n  setHostnameAsFQDN: true\n", "h".repeat(40)),
    );
    node.apply(&long).ok();
    wait_for(SOON, "the limit is told", || {
        let said = node.podd(&["describe", "pod", "long"]).stdout;
        let wanted = "FailedCreatePodSandBox";
        if said.contains(wanted) && said.contains("is too long (64 characters is the max") { Ok(()) } else { Err(said) }
    });
    assert_eq!(node.field("pod/long", "/status/phase"), "Pending");
}

#[test]
fn a_pod_says_how_it_finds_names() {
    let mut node = Node::new();
    let resolver = node.file("resolv.conf", "nameserver 192.0.2.53\nsearch example.test\n");
    node.enter(&["mount", "--bind", &resolver, "/etc/resolv.conf"]).ok();
    node.start_agent();
    node.load_busybox();
    let own = "  dnsPolicy: None\n  dnsConfig: {nameservers: [192.0.2.1], searches: [a.test], options: [{name: ndots, value: '2'}]}\n  \
               hostAliases: [{ip: 192.0.2.9, hostnames: [nine, nine.test]}]\n";
    node.apply_and_wait(&format!(
        "{}---\n{}---\n{}",
        pod("default", "first", ""),
        pod("default", "of-node", "  dnsPolicy: Default\n"),
        pod("default", "own", own)
    ));
    let read = |pod: &str, path: &str| node.podd(&["exec", pod, "--", "cat", path]).ok().to_owned();
    let lines = |pod: &str| {
        let mut lines: Vec<String> = read(pod, "/etc/resolv.conf").lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(lines("of-node"), ["nameserver 192.0.2.53", "search example.test"]);
    assert_eq!(lines("own"), ["nameserver 192.0.2.1", "options ndots:2", "search a.test"]);
    let first = lines("first");
    assert!(first[0].starts_with("nameserver 10.85."), "{first:?}");
    let search = "search default.svc.cluster.local svc.cluster.local cluster.local example.test";
    assert_eq!(first[1..], ["options ndots:5", search]);
    assert!(read("own", "/etc/hosts").ends_with("192.0.2.9\tnine\tnine.test\n"));
    let refused = node.apply(&pod("default", "bad", "  dnsPolicy: None\n"));
    assert!(refused.refused().contains("spec.dnsConfig: Required value"), "{}", refused.stderr);
}
