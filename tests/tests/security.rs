//! What a container's security context gives and takes, seen from inside.

use podd_tests::{
    Node,
    image::{self, BUSYBOX},
};
use serde_json::json;

/// A pod of one container, and what this shell script says in it.
fn inside(context: &str, script: &str) -> String {
    let node = Node::with_agent();
    node.apply_and_wait(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n    \
         - {{name: c, image: '{BUSYBOX}', command: [sleep, '100000'], securityContext: {{{context}}}}}\n"
    ));
    let output = node.podd(&["exec", "p", "--", "sh", "-c", script]);
    output.stdout + &output.stderr
}

/// A line of `/proc/self/status`.
fn of_status(name: &str) -> String {
    format!("grep ^{name}: /proc/self/status | cut -f2")
}

/// The default set of capabilities, as bits (`kernel capability.h`): containerd's, which the kubelet's users know.
const DEFAULT: u64 = 0xa804_25fb;

fn capabilities(context: &str) -> u64 {
    let said = inside(context, &of_status("CapEff"));
    u64::from_str_radix(said.trim(), 16).expect("a set of capabilities")
}

#[test]
fn a_container_has_the_default_capabilities_filter_and_paths() {
    let script = [
        &of_status("CapEff"),
        &of_status("Seccomp"),
        "mount -t tmpfs none /mnt 2>&1 | grep -c 'permission denied'",
        "wc -c </proc/interrupts",
        "touch /proc/sys/kernel/hostname 2>&1 | grep -c 'Read-only'",
        "ls /dev | tr '\\n' ' '",
    ]
    .join("; ");
    let said = inside("", &script);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(u64::from_str_radix(lines[0], 16).expect("a set"), DEFAULT);
    assert_eq!(lines[1..5], ["2", "1", "0", "1"], "{said}");
    assert_eq!(
        lines[5].trim(),
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout termination-log tty urandom zero",
        "{said}"
    );
}

#[test]
fn a_privileged_container_has_the_hosts_devices_and_all_rights() {
    let script = [
        &of_status("Seccomp"),
        "mkdir -p /tmp/t && mount -t tmpfs none /tmp/t && echo mounted",
        "[ -c /dev/kmsg ] && echo kmsg",
        "ls -l /dev/ptmx | grep -c pts/ptmx",
        "mount | grep ' /proc/sys ' | wc -l",
        &of_status("CapEff"),
        "cat /proc/sys/kernel/cap_last_cap",
    ]
    .join("; ");
    let said = inside("privileged: true", &script);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..5], ["0", "mounted", "kmsg", "1", "0"], "{said}");
    // All that whoever runs the test has himself.
    let own = std::fs::read_to_string("/proc/self/status").expect("a status");
    let own = own.lines().find_map(|line| line.strip_prefix("CapBnd:")).expect("a bounding set").trim();
    assert_eq!(lines[5], own, "{said}");
}

#[test]
fn capabilities_are_added_and_dropped() {
    const NET_ADMIN: u64 = 1 << 12;
    const CHOWN: u64 = 1;
    assert_eq!(capabilities("capabilities: {add: [NET_ADMIN], drop: [CHOWN]}"), (DEFAULT | NET_ADMIN) & !CHOWN);
    assert_eq!(capabilities("capabilities: {add: [NET_ADMIN], drop: [ALL]}"), NET_ADMIN);
}

#[test]
fn a_user_is_who_the_context_says_and_gains_nothing() {
    let script = ["id -u; id -g", &of_status("NoNewPrivs"), &of_status("CapEff")].join("; ");
    let said = inside("runAsUser: 1234, runAsGroup: 4321, allowPrivilegeEscalation: false", &script);
    assert_eq!(said, "1234\n4321\n1\n0000000000000000\n");
    assert_eq!(inside("runAsUser: 1234", &of_status("NoNewPrivs")), "0\n");
}

#[test]
fn a_read_only_root_takes_no_writes_and_its_dev_does() {
    let script = "echo x >/file; echo >/dev/null && echo x >/dev/shm/x && echo shm";
    let said = inside("readOnlyRootFilesystem: true", script);
    assert!(said.starts_with("shm\n") && said.contains("Read-only file system"), "{said}");
}

/// A pod of one container with a context of its own and one of its pod's.
fn pod(name: &str, image: &str, of_pod: &str, of_container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         securityContext: {{{of_pod}}}\n  containers:\n    - {{name: c, image: '{image}', imagePullPolicy: Never, \
         command: [sleep, '100000'], securityContext: {{{of_container}}}}}\n---\n"
    )
}

/// What a shell script says in a pod.
fn said(node: &Node, pod: &str, script: &str) -> String {
    let output = node.podd(&["exec", pod, "--", "sh", "-c", script]);
    output.stdout + &output.stderr
}

/// The status of a pod's one container, by JSON pointer.
fn waiting(node: &Node, pod: &str, field: &str) -> String {
    node.field(&format!("pod/{pod}"), &format!("/status/containerStatuses/0/state/waiting/{field}"))
}

#[test]
fn who_must_not_be_root_is_not_started_as_root() {
    let node = Node::with_agent();
    for (name, user) in [("number", "1234:99"), ("word", "nobody")] {
        let archive = image::archive(node.path(), &format!("localhost/{name}:1"), json!({"User": user}));
        node.podd(&["load", "-i", archive.to_str().expect("a plain path")]).ok();
    }
    let set = "runAsNonRoot: true";
    let fine = [
        pod("number", "localhost/number:1", set, ""),
        pod("given", "localhost/word:1", set, "runAsUser: 5"),
        pod("lifted", BUSYBOX, set, "runAsNonRoot: false"),
    ];
    node.apply_and_wait(&fine.concat());
    assert_eq!(said(&node, "number", "id -u; id -g"), "1234\n99\n");
    assert_eq!(said(&node, "given", "id -u"), "5\n");
    assert_eq!(said(&node, "lifted", "id -u"), "0\n");

    let refused = [
        (pod("root", BUSYBOX, "", set), "container has runAsNonRoot and image will run as root"),
        (pod("asked", "localhost/number:1", set, "runAsUser: 0"), "container's runAsUser breaks non-root policy"),
        (
            pod("word", "localhost/word:1", set, ""),
            "container has runAsNonRoot and image has non-numeric user (nobody), cannot verify user is non-root",
        ),
    ];
    node.apply(&refused.each_ref().map(|(manifest, _)| manifest.as_str()).concat()).ok();
    for (name, (_, message)) in ["root", "asked", "word"].into_iter().zip(refused) {
        let uid = node.field(&format!("pod/{name}"), "/metadata/uid");
        node.wait_field(
            &format!("pod/{name}"),
            "/status/containerStatuses/0/state/waiting/reason",
            "CreateContainerConfigError",
        );
        let whole = format!("{message} (pod: \"{name}_default({uid})\", container: c)");
        assert_eq!(waiting(&node, name, "message"), whole);
        let told = node.podd(&["describe", "pod", name]).stdout;
        assert!(told.contains(&format!("Error: {whole}")), "{told}");
    }
}

#[test]
fn a_process_is_in_the_groups_of_its_pod_and_by_the_policy_of_its_image() {
    let node = Node::with_agent();
    // `nobody` is in a group of the image's own.
    let groups = "root:x:0:\nnogroup:x:65534:\nstaff:x:50:nobody\n";
    let archive = image::with_file(node.path(), "localhost/groups:1", json!({"User": "nobody"}), "etc/group", groups);
    node.podd(&["load", "-i", archive.to_str().expect("a plain path")]).ok();
    let more = "supplementalGroups: [7, 8]";
    let pods = [
        pod("merged", "localhost/groups:1", more, ""),
        pod("strict", "localhost/groups:1", &format!("{more}, supplementalGroupsPolicy: Strict"), ""),
        pod("bare", "localhost/groups:1", "supplementalGroupsPolicy: Strict, runAsUser: 65534", ""),
    ];
    node.apply_and_wait(&pods.concat());
    let groups = |name| {
        let said = said(&node, name, "grep ^Groups: /proc/self/status");
        let mut groups: Vec<u32> = said.split_whitespace().skip(1).map(|gid| gid.parse().expect("a group")).collect();
        groups.sort_unstable();
        groups
    };
    assert_eq!(groups("merged"), [7, 8, 50, 65534]);
    assert_eq!(groups("strict"), [7, 8, 65534]);
    assert_eq!(groups("bare"), [65534]);
}

#[test]
fn a_profile_of_system_calls_is_the_containers_the_pods_or_a_file_of_the_node() {
    let node = Node::with_agent();
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]});
    let directory = node.path().join("root/seccomp/team");
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(directory.join("no-mkdir.json"), profile.to_string()).expect("a file");
    let kind = |kind: &str| format!("seccompProfile: {{type: {kind}}}");
    let file = "seccompProfile: {type: Localhost, localhostProfile: team/no-mkdir.json}";
    let pods = [
        pod("lifted", BUSYBOX, &kind("Unconfined"), ""),
        pod("kept", BUSYBOX, &kind("Unconfined"), &kind("RuntimeDefault")),
        pod("filed", BUSYBOX, file, ""),
    ];
    node.apply_and_wait(&pods.concat());
    let script = format!("{}; mkdir /tmp/x && echo made", of_status("Seccomp"));
    assert_eq!(said(&node, "lifted", &script), "0\nmade\n");
    assert_eq!(said(&node, "kept", &script), "2\nmade\n");
    let filed = said(&node, "filed", &script);
    assert!(filed.starts_with("2\n") && filed.contains("Operation not supported"), "{filed}");

    let missing = "seccompProfile: {type: Localhost, localhostProfile: none.json}";
    node.apply(&pod("missing", BUSYBOX, "", missing)).ok();
    node.wait_field("pod/missing", "/status/containerStatuses/0/state/waiting/reason", "CreateContainerError");
    let message = waiting(&node, "missing", "message");
    assert!(message.contains("/seccomp/none.json"), "{message}");

    let out = node.apply(&pod("out", BUSYBOX, "", "seccompProfile: {type: Localhost, localhostProfile: ../x}"));
    assert!(out.code != 0 && out.stderr.contains("must not contain '..'"), "{}", out.stderr);
}

#[test]
fn kernel_parameters_are_the_pods_own_and_only_those_that_the_node_allows() {
    let mut node = Node::new();
    node.file("config.toml", "[agent]\nallowed-unsafe-sysctls = [\"kernel.msg*\", \"net.core.somaxconn\"]\n");
    node.start_agent();
    node.load_busybox();
    let sysctls = |pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{{name: {name}, value: '{value}'}}")).collect();
        format!("sysctls: [{}]", pairs.join(", "))
    };
    let wanted = [
        ("net.ipv4.ip_unprivileged_port_start", "81"),
        ("net/ipv4/tcp_fin_timeout", "17"),
        ("kernel.shm_rmid_forced", "1"),
        ("kernel.msgmax", "1234"),
        ("net.core.somaxconn", "77"),
    ];
    node.apply_and_wait(&pod("set", BUSYBOX, &sysctls(&wanted), ""));
    for (name, value) in wanted {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        assert_eq!(said(&node, "set", &format!("cat {path}")), format!("{value}\n"), "{name}");
        let of_node = node.enter(&["cat", &path]).stdout;
        assert_ne!(of_node, format!("{value}\n"), "{name} of the node");
    }

    node.apply(&pod("unsafe", BUSYBOX, &sysctls(&[("kernel.shmmax", "1")]), "")).ok();
    node.wait_field("pod/unsafe", "/status/phase", "Failed");
    assert_eq!(node.field("pod/unsafe", "/status/reason"), "SysctlForbidden");
    let message = node.field("pod/unsafe", "/status/message");
    assert_eq!(message, "Pod was rejected: forbidden sysctl: \"kernel.shmmax\" not allowlisted");

    let shared = pod("shared", BUSYBOX, &sysctls(&[("net.core.somaxconn", "5")]), "")
        .replace("spec:\n", "spec:\n  hostNetwork: true\n");
    let refused = node.apply(&shared);
    let wanted = "spec.securityContext.sysctls[0].name";
    assert!(refused.code != 0 && refused.stderr.contains(wanted), "{}", refused.stderr);
}

#[test]
fn a_pod_that_wants_apparmor_fails_as_on_a_node_without_it() {
    let node = Node::with_agent();
    let profile = |kind: &str| format!("appArmorProfile: {{type: {kind}}}");
    node.apply_and_wait(&pod("free", BUSYBOX, &profile("Unconfined"), "seLinuxOptions: {level: 's0:c1,c2'}"));
    node.apply(&pod("confined", BUSYBOX, "", &profile("RuntimeDefault"))).ok();
    node.wait_field("pod/confined", "/status/phase", "Failed");
    assert_eq!(node.field("pod/confined", "/status/reason"), "AppArmor");
    let message = node.field("pod/confined", "/status/message");
    assert!(message.starts_with("Pod was rejected: Cannot enforce AppArmor: "), "{message}");
}
