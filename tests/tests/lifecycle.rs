//! How containers begin and end, above all where it goes wrong: a failing init container, images that cannot be had, signals
//! heeded and ignored, restarts and their back-off; and processes that share a namespace.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use podd_cri::{RuntimeService as _, v1};
use podd_tests::{Node, SOON, image::BUSYBOX, wait_for};

fn pod(name: &str, spec: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n{spec}  containers:\n    - {{name: c, {container}}}\n"
    )
}

const SLEEP: &str = "command: [sleep, '100000']";

#[test]
fn an_init_container_that_fails_keeps_the_others_from_starting() {
    let node = Node::with_agent();
    let spec = format!(
        "  restartPolicy: Never\n  initContainers:\n    - {{name: i, image: '{BUSYBOX}', command: [sh, -c, 'exit 7']}}\n"
    );
    node.apply(&pod("p", &spec, &format!("image: '{BUSYBOX}', {SLEEP}"))).ok();
    node.wait_field("pod/p", "/status/phase", "Failed");
    assert_eq!(node.field("pod/p", "/status/initContainerStatuses/0/state/terminated/exitCode"), "7");
    assert_eq!(node.field("pod/p", "/status/containerStatuses/0/state/waiting/reason"), "PodInitializing");
}

#[test]
fn an_image_that_cannot_be_had_is_told_and_spares_other_pods() {
    let node = Node::with_agent();
    let grace = "  terminationGracePeriodSeconds: 0\n";
    node.apply_and_wait(&pod("good", grace, &format!("image: '{BUSYBOX}', {SLEEP}")));
    let id = node.field("pod/good", "/status/containerStatuses/0/containerID");
    node.apply(&pod("refused", grace, &format!("image: '127.0.0.1:1/none:v1', {SLEEP}"))).ok();
    node.apply(&pod("never", grace, &format!("image: 'none:v1', imagePullPolicy: Never, {SLEEP}"))).ok();
    node.wait_field("pod/refused", "/status/containerStatuses/0/state/waiting/reason", "ImagePullBackOff");
    node.wait_field("pod/never", "/status/containerStatuses/0/state/waiting/reason", "ErrImageNeverPull");
    let message = node.field("pod/refused", "/status/containerStatuses/0/state/waiting/message");
    assert!(message.contains("127.0.0.1:1/none:v1"), "{message}");
    assert_eq!(node.field("pod/good", "/status/containerStatuses/0/containerID"), id);
    assert_eq!(node.field("pod/good", "/status/phase"), "Running");
}

#[test]
fn a_container_that_ignores_its_signal_has_its_grace_and_no_more() {
    let node = Node::with_agent();
    let container = format!("image: '{BUSYBOX}', command: [sh, -c, \"trap '' TERM; while true; do sleep 0.1; done\"]");
    node.apply_and_wait(&pod("p", "  terminationGracePeriodSeconds: 1\n", &container));
    let begun = Instant::now();
    node.podd(&["delete", "pod", "p"]).ok();
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1), "it had its grace: {took:?}");
    assert!(took < Duration::from_secs(5), "and was killed after it: {took:?}");
    assert!(node.pod_processes().is_empty(), "nothing runs on");
}

#[test]
fn containers_that_share_processes_see_each_other() {
    let node = Node::with_agent();
    let spec = "  shareProcessNamespace: true\n  terminationGracePeriodSeconds: 0\n";
    let other = format!("    - {{name: d, image: '{BUSYBOX}', command: [sleep, '200000']}}\n");
    node.apply_and_wait(&(pod("p", spec, &format!("image: '{BUSYBOX}', {SLEEP}")) + &other));
    let seen = node.podd(&["exec", "p", "-c", "d", "--", "ps"]).ok().to_owned();
    assert!(seen.contains("sleep 100000") && seen.contains("sleep 200000"), "{seen}");
}

#[test]
fn a_container_that_heeds_its_signal_ends_its_work_and_has_its_own_exit_code() {
    let node = Node::with_agent();
    let directory = node.path().to_str().expect("a plain path");
    let spec = format!(
        "  terminationGracePeriodSeconds: 60\n  restartPolicy: Never\n  volumes: [{{name: v, hostPath: {{path: '{directory}'}}}}]\n"
    );
    let script =
        "trap 'echo told >>/v/work; sleep 1; echo done >>/v/work; exit 43' TERM; while true; do sleep 0.1; done";
    let container =
        format!("image: '{BUSYBOX}', volumeMounts: [{{name: v, mountPath: /v}}], command: [sh, -c, \"{script}\"]");
    node.apply_and_wait(&pod("p", &spec, &container));
    // The object goes with the pod: its last states are seen by whoever watches.
    let watched = std::fs::File::create(node.path().join("watched.json")).expect("a file");
    let mut watch = node.command(podd_tests::program());
    watch.args(["get", "pods", "-w", "-o", "json"]).stdin(Stdio::null()).stdout(watched);
    let _watch = Watch(watch.spawn().expect("podd runs"));
    let states = || states(&std::fs::read_to_string(node.path().join("watched.json")).unwrap_or_default());
    wait_for(SOON, "the watch has begun", || if states().is_empty() { Err(String::new()) } else { Ok(()) });
    let begun = Instant::now();
    node.podd(&["delete", "pod", "p"]).ok();
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "as soon as it ended, not after its grace: {:?}",
        begun.elapsed()
    );
    let work = std::fs::read_to_string(node.path().join("work")).expect("it was told");
    assert_eq!(work, "told\ndone\n", "it was told once, and not cut off");
    let code = wait_for(SOON, "the end was published", || {
        let states = states();
        let mut ends = states.iter().rev().filter_map(|state| state.pointer("/terminated/exitCode").cloned());
        ends.next().ok_or_else(|| format!("{states:?}"))
    });
    assert_eq!(code, 43, "{:?}", states());
}

/// A watch in the background; ended with the value.
struct Watch(Child);

impl Drop for Watch {
    fn drop(&mut self) {
        let _may_have_ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The first container's state in each of a row of pods, as far as they have been written.
fn states(text: &str) -> Vec<serde_json::Value> {
    let pods = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>().map_while(Result::ok);
    pods.filter_map(|pod| pod.pointer("/status/containerStatuses/0/state").cloned()).collect()
}

#[test]
fn a_container_that_fails_again_waits_for_its_back_off_and_says_so() {
    let node = Node::with_agent();
    let spec = "  terminationGracePeriodSeconds: 0\n";
    node.apply(&pod("p", spec, &format!("image: '{BUSYBOX}', command: [sh, -c, 'exit 3']"))).ok();
    let status = "/status/containerStatuses/0";
    let field = |pointer: &str| node.field("pod/p", &format!("{status}{pointer}"));
    node.wait_field("pod/p", &format!("{status}/state/waiting/reason"), "CrashLoopBackOff");
    // The first restart came at once; the second waits.
    let uid = node.field("pod/p", "/metadata/uid");
    let message = format!("back-off 10s restarting failed container=c pod=p_default({uid})");
    assert_eq!(field("/state/waiting/message"), message);
    assert_eq!((field("/restartCount"), field("/ready")), ("1".into(), "false".into()));
    assert_eq!(field("/lastState/terminated/exitCode"), "3");
    assert_eq!(field("/lastState/terminated/reason"), "Error");
    assert_eq!(node.field("pod/p", "/status/phase"), "Running");
    let listed = node.podd(&["get", "pods", "--no-headers"]).ok().to_owned();
    let words: Vec<&str> = listed.split_whitespace().collect();
    assert_eq!(words[..4], ["p", "0/1", "CrashLoopBackOff", "1"], "{listed}");
    let ended = field("/lastState/terminated/finishedAt");
    node.wait_field("pod/p", &format!("{status}/restartCount"), "2");
    wait_for(SOON, "the third run has ended", || {
        let again = field("/lastState/terminated/finishedAt");
        if again == ended { Err(again) } else { Ok(()) }
    });
    let started: Timestamp = field("/lastState/terminated/startedAt").parse().expect("a time");
    let ended: Timestamp = ended.parse().expect("a time");
    let waited = started.as_second() - ended.as_second();
    // Both are whole seconds.
    assert!((9..30).contains(&waited), "ten seconds after the end of the second: {waited}");
    let message = format!("back-off 20s restarting failed container=c pod=p_default({uid})");
    node.wait_field("pod/p", &format!("{status}/state/waiting/message"), &message);
}

#[test]
fn the_log_of_the_run_before_is_kept() {
    let node = Node::with_agent();
    let spec = "  terminationGracePeriodSeconds: 0\n  volumes: [{name: v, emptyDir: {}}]\n";
    let script = "if [ -e /v/ran ]; then echo second; exec sleep 100000; fi; touch /v/ran; echo first; exit 3";
    let container =
        format!("image: '{BUSYBOX}', volumeMounts: [{{name: v, mountPath: /v}}], command: [sh, -c, '{script}']");
    node.apply(&pod("p", spec, &container)).ok();
    node.wait_field("pod/p", "/status/containerStatuses/0/restartCount", "1");
    wait_for(SOON, "the second run writes", || {
        let log = node.podd(&["logs", "p"]);
        if log.stdout == "second\n" { Ok(()) } else { Err(log.stdout + &log.stderr) }
    });
    assert_eq!(node.podd(&["logs", "p", "--previous"]).ok(), "first\n");
    node.apply_and_wait(&pod("q", spec, &format!("image: '{BUSYBOX}', {SLEEP}")));
    let none = node.podd(&["logs", "q", "--previous"]);
    assert!(none.refused().contains("previous terminated container \"c\" in pod \"q\" not found"), "{}", none.stderr);
}

/// What of podd's work can be seen on a node: links, addresses and routes, tables, settings, mounts, control groups, processes.
fn traces(node: &Node) -> Vec<(&'static str, String)> {
    let seen = |command: &[&str]| node.enter(command).ok().to_owned();
    vec![
        ("links", seen(&["ip", "-o", "link"])),
        ("addresses", seen(&["ip", "-o", "address"])),
        ("routes", seen(&["ip", "route", "show", "table", "all"])),
        ("nft tables", format!("{:?}", node.nft_tables())),
        ("forwarding", seen(&["cat", "/proc/sys/net/ipv4/ip_forward"])),
        ("mounts", seen(&["cat", "/proc/self/mounts"])),
        ("control groups", format!("{:?}", node.cgroups())),
        ("processes", format!("{:?}", node.processes())),
    ]
}

#[test]
fn a_stop_with_pods_leaves_no_trace_and_the_pods_run_at_the_next_start() {
    let mut node = Node::new();
    let before = traces(&node);
    node.start_agent();
    node.load_busybox();
    let spec = "  terminationGracePeriodSeconds: 1\n  volumes: [{name: v, emptyDir: {medium: Memory}}]\n";
    let httpd = format!("image: '{BUSYBOX}', command: [httpd, -f, -p, '8080', -h, /www]");
    let mounted = "volumeMounts: [{name: v, mountPath: /v}], ports: [{containerPort: 8080, hostPort: 8088}]";
    node.apply_and_wait(&pod("web", spec, &format!("{httpd}, {mounted}")));
    let shares = "  shareProcessNamespace: true\n  hostNetwork: true\n";
    node.apply_and_wait(&pod("host", &(spec.to_owned() + shares), &format!("image: '{BUSYBOX}', {SLEEP}")));
    for ((what, seen), (_, before)) in traces(&node).iter().zip(&before) {
        assert_ne!(seen, before, "pods leave no trace in {what}: it shows nothing");
    }
    assert!(node.stop_agent(true).ok().contains("pods and network are gone"));
    for ((what, seen), (_, before)) in traces(&node).iter().zip(&before) {
        assert_eq!(seen, before, "{what}");
    }
    node.start_agent();
    for name in ["web", "host"] {
        node.podd(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]).ok();
    }
    wait_for(SOON, "the port is open again", || {
        let got = node.enter(&["curl", "-fsS", "--max-time", "2", "http://127.0.0.1:8088/"]);
        if got.stdout == "hello from busybox\n" { Ok(()) } else { Err(got.stderr) }
    });
}

#[test]
fn a_sandbox_that_was_made_by_hand_stays_while_the_agent_does_and_goes_with_the_pods() {
    let mut node = Node::new();
    let before = traces(&node);
    node.start_agent();
    node.load_busybox();
    let socket = node.path().join("run/cri.sock");
    let by_hand = async || {
        let runtime = podd_cri::client::connect(socket).await.expect("a runtime");
        let metadata = v1::PodSandboxMetadata { name: "alien".into(), uid: "u".into(), ..Default::default() };
        let pod = v1::PodSandboxConfig { metadata: Some(metadata), ..Default::default() };
        let request = v1::RunPodSandboxRequest { config: Some(pod.clone()), ..Default::default() };
        let id =
            runtime.run_pod_sandbox(tonic::Request::new(request)).await.expect("a sandbox").into_inner().pod_sandbox_id;
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: BUSYBOX.into(), ..Default::default() }),
            command: ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"].map(str::to_owned).into(),
            ..Default::default()
        };
        let request =
            v1::CreateContainerRequest { pod_sandbox_id: id, config: Some(config), sandbox_config: Some(pod) };
        let created = runtime.create_container(tonic::Request::new(request)).await.expect("a container").into_inner();
        let start = v1::StartContainerRequest { container_id: created.container_id };
        runtime.start_container(tonic::Request::new(start)).await.expect("it runs");
    };
    tokio::runtime::Runtime::new().expect("a runtime").block_on(by_hand());
    let processes = node.processes();
    node.stop_agent(false).ok();
    node.start_agent();
    assert!(processes.iter().all(|pid| node.processes().contains(pid)), "{processes:?} are not left alone");
    node.stop_agent(true).ok();
    for ((what, seen), (_, before)) in traces(&node).iter().zip(&before) {
        assert_eq!(seen, before, "{what}");
    }
}
