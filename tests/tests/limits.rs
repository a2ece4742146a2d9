//! Limits that bite, and the kubelet's numbers in the control groups.

use podd_tests::{Node, SOON, image::BUSYBOX, wait_for};

#[test]
fn a_memory_limit_kills_its_container_and_spares_the_sibling() {
    let node = Node::with_agent();
    node.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: greedy}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
    - name: eater
      image: {BUSYBOX}
      command: [sh, -c, "x=xxxxxxxxxxxxxxxx; while true; do x=$x$x; done"]
      resources: {{limits: {{memory: 16Mi}}}}
    - name: sibling
      image: {BUSYBOX}
      command: [sleep, "100000"]
"#
    ))
    .ok();
    node.wait_field("pod/greedy", "/status/containerStatuses/0/state/terminated/reason", "OOMKilled");
    assert_eq!(node.field("pod/greedy", "/status/containerStatuses/0/state/terminated/exitCode"), "137");
    assert_eq!(node.podd(&["exec", "greedy", "-c", "sibling", "--", "echo", "alive"]).ok(), "alive\n");
    assert_eq!(node.field("pod/greedy", "/status/containerStatuses/1/restartCount"), "0");
}

#[test]
fn a_cpu_limit_holds_a_container_back() {
    let node = Node::with_agent();
    node.apply_and_wait(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: busy}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: c
      image: {BUSYBOX}
      command: [sh, -c, "while true; do :; done"]
      resources: {{limits: {{cpu: 100m}}}}
"#
    ));
    wait_for(SOON, "the container is throttled", || {
        let throttled: u64 = files(&node, "cpu.stat").iter().map(|text| number(text, "nr_throttled ")).sum();
        if throttled >= 5 { Ok(()) } else { Err(format!("{throttled} times")) }
    });
    // Of five periods or more it ran a tenth each, whatever else the machine did.
    let quotas = files(&node, "cpu.cfs_quota_us");
    assert!(quotas.iter().any(|quota| quota.trim() == "10000"), "{quotas:?}");
}

#[test]
fn control_groups_have_the_kubelets_numbers() {
    let node = Node::with_agent();
    for (name, resources, class, shares) in [
        ("guaranteed", "{limits: {cpu: 100m, memory: 32Mi}}", "Guaranteed", "102"),
        ("burstable", "{requests: {cpu: 50m}}", "Burstable", "51"),
        ("besteffort", "{}", "BestEffort", "2"),
    ] {
        node.apply_and_wait(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n    \
             - {{name: c, image: '{BUSYBOX}', command: [sleep, '100000'], resources: {resources}}}\n"
        ));
        assert_eq!(node.field(&format!("pod/{name}"), "/status/qosClass"), class);
        let uid = node.field(&format!("pod/{name}"), "/metadata/uid");
        let found: Vec<String> = files_where(&node, "cpu.shares", |path| path.contains(&uid));
        assert_eq!(found.len(), 2, "a pod's group and its container's: {found:?}");
        assert!(found.iter().all(|text| text.trim() == shares), "{name}: {found:?}");
    }
    let limits = files(&node, "memory.limit_in_bytes");
    assert_eq!(limits.iter().filter(|text| text.trim() == "33554432").count(), 2, "{limits:?}");
}

#[test]
fn a_pod_has_resources_of_its_own() {
    let node = Node::with_agent();
    let manifest = |name: &str, resources: &str, of_a: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
             resources: {resources}\n  containers:\n    \
             - name: a\n      image: {BUSYBOX}\n      command: [sleep, '100000']\n      resources: {of_a}\n      \
             env: [{{name: MEMORY, valueFrom: {{resourceFieldRef: {{resource: limits.memory}}}}}}]\n    \
             - {{name: b, image: '{BUSYBOX}', command: [sleep, '100000']}}\n"
        )
    };
    node.apply_and_wait(&manifest("p", "{limits: {cpu: 200m, memory: 48Mi}}", "{}"));
    // It asks for its limits, and so is guaranteed to have them; its containers share them.
    assert_eq!(node.field("pod/p", "/status/qosClass"), "Guaranteed");
    assert_eq!(node.field("pod/p", "/spec/resources/requests/memory"), "48Mi");
    assert_eq!(node.field("pod/p", "/status/resources/limits/cpu"), "200m");
    assert_eq!(node.field("pod/p", "/status/allocatedResources/cpu"), "200m");
    let uid = node.field("pod/p", "/metadata/uid");
    let of_pod = |name: &str| files_where(&node, name, |path| path.contains(&uid));
    let limits = of_pod("memory.limit_in_bytes");
    assert_eq!(limits.iter().map(|text| text.trim()).collect::<Vec<_>>(), ["50331648"; 3]);
    let quotas = of_pod("cpu.cfs_quota_us");
    assert_eq!(quotas.iter().map(|text| text.trim()).collect::<Vec<_>>(), ["20000"; 3]);
    assert_eq!(node.podd(&["exec", "p", "-c", "a", "--", "sh", "-c", "echo $MEMORY"]).ok(), "50331648\n");
    let told = node.podd(&["describe", "pod", "p"]).ok().to_owned();
    assert!(told.lines().any(|line| line.starts_with("Limits:") && line.ends_with("cpu 200m, memory 48Mi")), "{told}");

    // Containers ask for no more than their pod does, and the node has to have what the pod asks for.
    let refused = node.apply(&manifest("q", "{requests: {cpu: 100m}}", "{requests: {cpu: 250m}}"));
    let why = "spec.resources.requests.cpu: Invalid value: \"100m\": must be greater than or equal to aggregate container \
               requests of 250m";
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
    node.apply(&manifest("q", "{requests: {cpu: '9999'}}", "{}")).ok();
    node.wait_field("pod/q", "/status/reason", "OutOfcpu");
}

#[test]
fn who_asks_for_memory_is_the_later_one_to_be_killed_for_want_of_it() {
    let node = Node::with_agent();
    node.apply_and_wait(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n    \
         - {{name: much, image: '{BUSYBOX}', command: [sleep, '1000001'], resources: {{requests: {{memory: 2Gi}}}}}}\n    \
         - {{name: little, image: '{BUSYBOX}', command: [sleep, '1000002'], resources: {{requests: {{memory: 1Mi}}}}}}\n"
    ));
    let score = |argument: &str| -> i64 {
        let runs = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line == format!("sleep\0{argument}\0").into_bytes()
        };
        let pid = node.pod_processes().into_iter().find(runs).expect("it runs");
        let text = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("a score");
        text.trim().parse().expect("a number")
    };
    let memory = std::fs::read_to_string("/proc/meminfo").expect("readable");
    let total: i64 = memory.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("MemTotal");
    assert_eq!((score("1000001"), score("1000002")), (1000 - 1000 * (2 << 20) / total, 999));
}

/// The contents of every file of this name in the node's control groups (v1; the guest's tests look at v2).
fn files(node: &Node, name: &str) -> Vec<String> {
    files_where(node, name, |_| true)
}

fn files_where(node: &Node, name: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = node.cgroups();
    // Joint mounts show one group under several names.
    left.retain(|top| !top.starts_with("/sys/fs/cgroup/cpu,cpuacct") && !top.starts_with("/sys/fs/cgroup/cpuacct"));
    while let Some(group) = left.pop() {
        for entry in std::fs::read_dir(&group).into_iter().flatten().filter_map(Result::ok) {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else if path.ends_with(name) && wanted(&path.to_string_lossy()) {
                found.extend(std::fs::read_to_string(path));
            }
        }
    }
    found
}

fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().parse().ok()).unwrap_or(0)
}
