//! What a container's security context gives and takes, seen from inside.

use podd_tests::{Node, image::BUSYBOX};

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
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero",
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
