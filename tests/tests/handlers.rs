//! Runtime handlers that are programs: pods whose containers runc makes, and programs that fail or are not there.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::Stdio;

use podd_cri::{RuntimeService as _, v1};
use podd_tests::{Node, SOON, image::BUSYBOX, wait_for};
use tonic::{Code, Request, Response, Status};

/// A node with a handler of each kind: runc, and programs that come to nothing.
fn node() -> Node {
    let mut node = Node::new();
    let refusing = script(&node, "refusing", "echo no containers today >&2; exit 7");
    let hooks = node.path().join("hooks.d");
    let config = format!(
        "[runtime]\nhooks-dirs = [{hooks:?}]\n[runtime.handlers]\nrunc = {{ path = \"runc\" }}\nrefusing = {{ path = \"{refusing}\" }}\n\
         missing = {{ path = \"/nowhere/runc\" }}\n"
    );
    node.file("config.toml", &config);
    node.start_agent();
    node.load_busybox();
    node
}

/// A program of the node.
fn script(node: &Node, name: &str, text: &str) -> String {
    let path = node.file(name, &format!("#!/bin/sh\n{text}\n"));
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("made executable");
    path
}

/// A pod of one container and the class of its handler; `spec` and `container` are further fields.
fn pod(name: &str, handler: &str, spec: &str, container: &str) -> String {
    format!(
        "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {{name: {handler}}}\nhandler: {handler}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  runtimeClassName: {handler}\n  \
         terminationGracePeriodSeconds: 1\n{spec}  containers:\n    - {{name: c, image: '{BUSYBOX}', {container}}}\n"
    )
}

/// What runc keeps of its containers.
fn kept(node: &Node) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(node.path().join("run/oci/runc"));
    entries.map(|entries| entries.map(|entry| entry.expect("an entry").path()).collect()).unwrap_or_default()
}

/// Nothing is left of pods: neither of runc's knowledge, nor files, groups of containers, mounts or processes.
#[track_caller]
fn nothing_is_left(node: &Node) {
    wait_for(SOON, "nothing is left", || {
        let files = node.enter(&["sh", "-c", "cd \"$0\" && find run/oci run/io root/containers -mindepth 1 -path run/oci/\\* -prune -o -mindepth 1 -print; ls run/oci/*", node.path().to_str().expect("plain")]).stdout;
        let files: Vec<&str> = files.lines().filter(|line| !line.is_empty() && !line.ends_with(':')).collect();
        let mounts = node.enter(&["cat", "/proc/self/mounts"]).stdout;
        let mounts: Vec<&str> = mounts.lines().filter(|line| line.contains("/containers/")).collect();
        let groups: Vec<PathBuf> = node.cgroups().iter().flat_map(|top| pod_groups(top)).collect();
        let processes = node.pod_processes();
        let left = format!("{files:?} {mounts:?} {groups:?} {processes:?}");
        if left == "[] [] [] []" { Ok(()) } else { Err(left) }
    });
}

/// Groups of pods below one, at any depth.
fn pod_groups(top: &std::path::Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(top) else { return Vec::new() };
    let directories = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    directories
        .flat_map(|path| {
            let is_pods = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pod"));
            if is_pods { vec![path] } else { pod_groups(&path) }
        })
        .collect()
}

#[test]
fn a_container_of_another_runtime_writes_its_log_and_ends_with_its_code() {
    let node = node();
    // The machine's hooks are run by that runtime.
    std::fs::create_dir(node.path().join("hooks.d")).expect("a directory");
    let told = node.path().join("told");
    let hook =
        script(&node, "hook", &format!("sed -n 's/.*\"status\": *\"\\([a-z]*\\)\".*/\\1/p' >>{}", told.display()));
    let file = serde_json::json!({
        "version": "1.0.0",
        "hook": { "path": hook, "env": ["PATH=/bin:/usr/bin"] },
        "when": { "always": true },
        "stages": ["createRuntime", "poststart", "poststop"],
    });
    node.file("hooks.d/all.json", &file.to_string());
    let command = "command: [sh, -c, 'echo out; echo err >&2; id -u; echo $HOME; exit 3']";
    node.apply(&pod("p", "runc", "  restartPolicy: Never\n", command)).ok();
    node.wait_field("pod/p", "/status/phase", "Failed");
    let ended = |field: &str| node.field("pod/p", &format!("/status/containerStatuses/0/state/terminated/{field}"));
    assert_eq!((ended("exitCode"), ended("reason")), ("3".to_owned(), "Error".to_owned()));
    assert_ne!(ended("startedAt"), "");
    let log = node.podd(&["logs", "p"]).ok().to_owned();
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["/root", "0", "err", "out"]);
    node.podd(&["delete", "pod", "p"]).ok();
    nothing_is_left(&node);
    let told = std::fs::read_to_string(told).expect("hooks have run");
    // One after the other, in one line; what it calls the middle of a life is its own to say.
    assert!(told.starts_with("creating") && told.ends_with("stopped"), "{told:?}");
}

#[test]
fn a_container_of_another_runtime_is_like_any_other_while_it_runs() {
    let mut node = node();
    let script =
        "trap 'echo told; exit 5' TERM; echo begun; read line; echo got $line; while true; do sleep 0.05; done";
    let spec =
        format!("  restartPolicy: Never\n  volumes: [{{name: v, hostPath: {{path: '{}'}}}}]\n", node.path().display());
    let container = format!(
        "stdin: true, command: [sh, -c, \"{script}\"], volumeMounts: [{{name: v, mountPath: /v, readOnly: true}}], \
         resources: {{limits: {{memory: 32Mi, cpu: 100m}}}}, \
         securityContext: {{readOnlyRootFilesystem: true, runAsUser: 1000, runAsGroup: 1001}}"
    );
    node.apply_and_wait(&pod("p", "runc", &spec, &container));
    assert_eq!(kept(&node).len(), 1, "runc has made it");
    let exec = |words: &[&str]| node.podd(&[&["exec", "p", "--"], words].concat());

    // A further process is where the container is, as its user, with its limits and its filter.
    assert_eq!(exec(&["sh", "-c", "id -u; id -g; exit 0"]).ok(), "1000\n1001\n");
    let ended = exec(&["sh", "-c", "echo out; echo err >&2; exit 9"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (9, "out\n"));
    assert!(ended.stderr.starts_with("err\n"), "{}", ended.stderr);
    assert!(exec(&["/nothing"]).refused().contains("no such file or directory"));
    assert_eq!(exec(&["hostname"]).ok(), "p\n");
    assert_eq!(exec(&["cat", "/proc/1/comm"]).ok(), "sh\n", "processes are the container's own");
    assert!(exec(&["ls", "/v"]).ok().contains("config.toml"));
    assert!(exec(&["touch", "/v/x"]).refused().contains("Read-only"));
    assert!(exec(&["touch", "/x"]).refused().contains("Read-only"));
    assert!(exec(&["mount", "-t", "tmpfs", "x", "/tmp"]).refused().contains("permission denied"));
    let status = exec(&["cat", "/proc/self/status"]).ok().to_owned();
    assert!(status.contains("Seccomp:\t2") && status.contains("CapEff:\t0000000000000000"), "{status}");
    let groups = exec(&["cat", "/proc/1/cgroup"]).ok().to_owned();
    assert!(groups.lines().all(|line| line.ends_with(":/")), "it sees no group above its own: {groups}");
    let log = || node.podd(&["logs", "p"]).ok().to_owned();
    assert_eq!(log(), "begun\n");

    // What is typed at it arrives.
    let mut attached = node.command(podd_tests::program());
    let mut attached =
        attached.args(["attach", "-i", "p"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("podd");
    attached.stdin.as_mut().expect("piped").write_all(b"hello\n").expect("typed");
    wait_for(SOON, "it has read", || if log() == "begun\ngot hello\n" { Ok(()) } else { Err(log()) });
    attached.kill().expect("killed");
    attached.wait().expect("waited for");

    let memory = node.cgroups().iter().find_map(|top| find(top, &["memory.limit_in_bytes", "memory.max"]));
    assert_eq!(memory.as_deref(), Some("33554432"));

    // The agent goes and comes; the shim and the container have not noticed.
    let id = node.field("pod/p", "/status/containerStatuses/0/containerID");
    node.kill_agent();
    node.start_agent();
    node.wait_field("pod/p", "/status/phase", "Running");
    assert_eq!(node.field("pod/p", "/status/containerStatuses/0/containerID"), id);
    assert_eq!(node.podd(&["exec", "p", "--", "echo", "again"]).ok(), "again\n");

    // It is told to stop, has its grace and its own code.
    node.podd(&["delete", "pod", "p", "--grace-period=30", "--wait=false"]).ok();
    wait_for(SOON, "the last word", || {
        let code = node.field("pod/p", "/status/containerStatuses/0/state/terminated/exitCode");
        let gone = node.podd(&["get", "pod", "p"]).code != 0;
        if code == "5" || gone { Ok(()) } else { Err(code) }
    });
    nothing_is_left(&node);
}

/// The first file of these names in a container's group.
fn find(top: &std::path::Path, files: &[&str]) -> Option<String> {
    for entry in std::fs::read_dir(top).ok()?.flatten().filter(|entry| entry.path().is_dir()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let above = top.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pod"));
        let limit = files.iter().find_map(|file| std::fs::read_to_string(entry.path().join(file)).ok());
        match limit {
            Some(limit) if above && name.len() == 64 => return Some(limit.trim().to_owned()),
            _ => {
                if let Some(found) = find(&entry.path(), files) {
                    return Some(found);
                }
            }
        }
    }
    None
}

#[test]
fn a_container_of_another_runtime_has_a_terminal_and_so_has_an_exec_in_it() {
    let node = node();
    let container =
        "tty: true, stdin: true, command: [sh, -c, 'tty; stty size; read line; echo got $line; sleep 100000']";
    node.apply_and_wait(&pod("p", "runc", "", container));
    let log = || node.podd(&["logs", "p"]).ok().replace('\r', "");
    wait_for(SOON, "it says its terminal", || if log().starts_with("/dev/pts/0\n") { Ok(()) } else { Err(log()) });
    let typing = |args: &[&str], text: &str, wanted: &str| {
        // `script` gives the command line a terminal.
        let program = podd_tests::program();
        let line = format!("stty cols 77 rows 33; {} {}", program.display(), args.join(" "));
        let mut child = node.command("script");
        let child = child.args(["-qefc", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().expect("script runs");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(text.as_bytes()).expect("typed");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut seen = String::new();
        let found = lines.map_while(Result::ok).any(|line| {
            seen += &line;
            seen += "\n";
            line.contains(wanted)
        });
        drop(stdin);
        let _may_have_ended = child.kill();
        child.wait().expect("waited for");
        assert!(found, "no {wanted:?} but {seen}");
    };
    typing(&["exec", "-it", "p", "--", "sh", "-c", "'tty; sleep 1; stty size; exit 4'"], "", "33 77");
    typing(&["attach", "-it", "p"], "hello\n", "got hello");
    wait_for(SOON, "it is logged", || if log().contains("got hello\n") { Ok(()) } else { Err(log()) });
    node.podd(&["delete", "pod", "p"]).ok();
    nothing_is_left(&node);
}

#[test]
fn a_container_of_another_runtime_that_takes_too_much_memory_is_told_as_such() {
    let node = node();
    let eats = "command: [sh, -c, 'head -c 200000000 /dev/zero | tail'], resources: {limits: {memory: 16Mi}}";
    node.apply(&pod("p", "runc", "  restartPolicy: Never\n", eats)).ok();
    let reason = "/status/containerStatuses/0/state/terminated/reason";
    node.wait_field("pod/p", reason, "OOMKilled");
    // One that heeds nothing is killed when its grace is over.
    node.apply_and_wait(&pod(
        "deaf",
        "runc",
        "",
        "command: [sh, -c, 'trap \"\" TERM; while true; do sleep 0.1; done']",
    ));
    for name in ["p", "deaf"] {
        node.podd(&["delete", "pod", name]).ok();
    }
    nothing_is_left(&node);
}

#[test]
fn containers_of_another_runtime_share_what_the_pod_shares() {
    let node = node();
    let spec = "  shareProcessNamespace: true\n  volumes: [{name: v, emptyDir: {}}]\n";
    let second = "volumeMounts: [{name: v, mountPath: /v}], command: [sh, -c, 'echo there > /v/f; exec sleep 100001']}\n    \
                  - {name: d, image: 'IMAGE', volumeMounts: [{name: v, mountPath: /v}], command: [sleep, '100002']";
    node.apply_and_wait(&pod("p", "runc", spec, &second.replace("IMAGE", BUSYBOX)));
    let seen = node.podd(&["exec", "p", "-c", "d", "--", "sh", "-c", "cat /v/f; ps"]).ok().to_owned();
    for wanted in ["there", "sleep 100001", "sleep 100002"] {
        assert!(seen.contains(wanted), "{seen}");
    }
    let address = node.field("pod/p", "/status/podIP");
    assert!(node.podd(&["exec", "p", "-c", "c", "--", "ip", "address"]).ok().contains(&address));
    // One that is made later joins the processes of another container.
    node.apply_and_wait(&pod("q", "runc", "", "command: [sleep, '100004']"));
    node.podd(&["debug", "q", "--image", BUSYBOX, "-c", "d", "--target", "c", "--", "sleep", "100005"]).ok();
    wait_for(SOON, "the debugger sees its target", || {
        let seen = node.podd(&["exec", "q", "-c", "d", "--", "ps"]);
        if seen.stdout.contains("sleep 100004") { Ok(()) } else { Err(seen.stdout + &seen.stderr) }
    });
    let host = "  hostNetwork: true\n  hostPID: true\n  hostIPC: true\n";
    node.apply_and_wait(&pod("host", "runc", host, "command: [sleep, '100003']"));
    assert!(node.podd(&["exec", "host", "--", "ps"]).ok().contains("sleep 100001"));
    for name in ["p", "q", "host"] {
        node.podd(&["delete", "pod", name]).ok();
    }
    nothing_is_left(&node);
}

#[test]
fn a_program_that_fails_is_told_and_leaves_nothing() {
    let node = node();
    node.apply(&pod("refused", "refusing", "", "command: [sleep, '100000']")).ok();
    node.apply(&pod("wrong", "runc", "", "command: [/no/such/program]")).ok();
    node.apply(&pod("missing", "missing", "", "command: [sleep, '100000']")).ok();
    let users = pod("users", "runc", "  hostUsers: false\n", "command: [sleep, '100000']");
    node.apply(&users).ok();
    for (name, says) in [
        ("refused", vec!["refusing: exit status 7", "no containers today"]),
        ("wrong", vec!["runc: exit status 1", "/no/such/program", "no such file or directory"]),
        ("missing", vec!["no program /nowhere/runc; install it, or correct runtime.handlers.missing.path"]),
        ("users", vec!["runtime handler \"runc\"", "hostUsers"]),
    ] {
        wait_for(SOON, &format!("{name} says why"), || {
            let told = node.podd(&["describe", "pod", name]).stdout;
            if says.iter().all(|text| told.contains(text)) { Ok(()) } else { Err(told) }
        });
        node.podd(&["delete", "pod", name]).ok();
    }
    nothing_is_left(&node);
    let log = node.agent_log();
    assert!(log.contains("runtime.handlers.missing.path"), "the start has told, too");
}

#[test]
fn a_shim_that_dies_takes_its_containers_with_it_and_runc_forgets_them() {
    let node = node();
    node.apply_and_wait(&pod("p", "runc", "  restartPolicy: Never\n", "command: [sleep, '100000']"));
    let of_shim = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("/shims")
    };
    let parent = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        after.split(' ').nth(1).and_then(|pid| pid.parse::<i32>().ok()).unwrap_or_default()
    };
    let container = *node.pod_processes().first().expect("it runs");
    let shim = parent(container);
    assert!(of_shim(&shim), "the shim is the parent of what runc has made");
    rustix::process::kill_process(rustix::process::Pid::from_raw(shim).expect("a pid"), rustix::process::Signal::KILL)
        .expect("killed");
    node.wait_field("pod/p", "/status/phase", "Failed");
    node.podd(&["delete", "pod", "p"]).ok();
    nothing_is_left(&node);
}

/// The answer of a call that has to go well.
#[track_caller]
fn good<T>(answer: Result<Response<T>, Status>) -> T {
    answer.unwrap_or_else(|status| panic!("{status:?}")).into_inner()
}

#[test]
fn a_caller_of_cri_chooses_the_runtime_and_finds_all_that_it_finds_with_podds_own() {
    let node = node();
    tokio::runtime::Runtime::new().expect("a runtime").block_on(by_cri(&node));
    nothing_is_left(&node);
}

async fn by_cri(node: &Node) {
    let cri = podd_cri::client::connect(node.path().join("run/cri.sock")).await.expect("a runtime");
    let told = good(cri.status(Request::new(v1::StatusRequest::default())).await).runtime_handlers;
    let features = |name: &str| told.iter().find(|handler| handler.name == name).and_then(|handler| handler.features);
    let (own, other) = (features("podd").expect("podd's own"), features("runc").expect("runc"));
    assert!(!other.user_namespaces, "another runtime makes no user namespaces");
    assert_eq!(other.recursive_read_only_mounts, own.recursive_read_only_mounts);

    let metadata = v1::PodSandboxMetadata { name: "p".into(), uid: "u".into(), ..Default::default() };
    let directory = node.path().join("logs/cri").to_string_lossy().into_owned();
    let pod = v1::PodSandboxConfig { metadata: Some(metadata), log_directory: directory.clone(), ..Default::default() };
    let run = |handler: &str| {
        Request::new(v1::RunPodSandboxRequest { config: Some(pod.clone()), runtime_handler: handler.into() })
    };
    let refused = cri.run_pod_sandbox(run("missing")).await.expect_err("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let sandbox = good(cri.run_pod_sandbox(run("runc")).await).pod_sandbox_id;
    let config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: BUSYBOX.into(), ..Default::default() }),
        command: ["sh", "-c", "trap 'exit 6' TERM; echo hi; while true; do sleep 0.05; done"].map(str::to_owned).into(),
        log_path: "c.log".into(),
        ..Default::default()
    };
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(config),
        sandbox_config: Some(pod.clone()),
    };
    let container_id = good(cri.create_container(Request::new(request)).await).container_id;
    good(cri.start_container(Request::new(v1::StartContainerRequest { container_id: container_id.clone() })).await);
    for (script, expected) in [("echo out; echo err >&2; exit 3", 3), ("exit 0", 0), ("kill -9 $$", 137)] {
        let cmd = ["sh", "-c", script].map(str::to_owned).into();
        let request = v1::ExecSyncRequest { container_id: container_id.clone(), cmd, timeout: 20 };
        let ran = good(cri.exec_sync(Request::new(request)).await);
        assert_eq!(ran.exit_code, expected, "{script}");
        let outputs = (&ran.stdout[..], &ran.stderr[..]);
        assert_eq!(outputs, if expected == 3 { (&b"out\n"[..], &b"err\n"[..]) } else { (&b""[..], &b""[..]) });
    }
    let late = ["sleep", "100"].map(str::to_owned).into();
    let request = v1::ExecSyncRequest { container_id: container_id.clone(), cmd: late, timeout: 1 };
    assert_eq!(cri.exec_sync(Request::new(request)).await.expect_err("refused").code(), Code::DeadlineExceeded);
    let request = v1::ContainerStatsRequest { container_id: container_id.clone() };
    let stats = good(cri.container_stats(Request::new(request)).await).stats.expect("figures");
    assert!(stats.memory.and_then(|memory| memory.working_set_bytes).is_some_and(|bytes| bytes.value > 0));
    let linux = v1::LinuxContainerResources { memory_limit_in_bytes: 48 << 20, ..Default::default() };
    let request = v1::UpdateContainerResourcesRequest {
        container_id: container_id.clone(),
        linux: Some(linux),
        ..Default::default()
    };
    good(cri.update_container_resources(Request::new(request)).await);
    let limit = node.enter(&[
        "sh",
        "-c",
        "cat $(find /sys/fs/cgroup -path \"*$0*\" '(' -name memory.limit_in_bytes -o -name memory.max ')')",
        &container_id,
    ]);
    assert_eq!(limit.ok().trim(), (48 << 20).to_string());
    let request = v1::CheckpointContainerRequest {
        container_id: container_id.clone(),
        location: node.path().join("c.tar").to_string_lossy().into_owned(),
        timeout: 5,
    };
    let refused = cri.checkpoint_container(Request::new(request)).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unimplemented, "{refused:?}");
    assert!(refused.message().contains("runtime handler \"runc\""), "{refused:?}");

    good(
        cri.stop_container(Request::new(v1::StopContainerRequest { container_id: container_id.clone(), timeout: 20 }))
            .await,
    );
    let request = v1::ContainerStatusRequest { container_id: container_id.clone(), verbose: false };
    let status = good(cri.container_status(Request::new(request)).await).status.expect("a status");
    assert_eq!((status.exit_code, status.state), (6, v1::ContainerState::ContainerExited as i32));
    let log = std::fs::read_to_string(format!("{directory}/c.log")).expect("a log");
    assert!(log.ends_with(" stdout F hi\n"), "{log}");
    good(cri.remove_container(Request::new(v1::RemoveContainerRequest { container_id })).await);
    let pod_sandbox_id = sandbox;
    good(
        cri.stop_pod_sandbox(Request::new(v1::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() })).await,
    );
    good(cri.remove_pod_sandbox(Request::new(v1::RemovePodSandboxRequest { pod_sandbox_id })).await);
}

#[test]
fn what_another_runtime_mounts_is_what_a_manifest_says() {
    let node = node();
    let data = node.path().join("data");
    std::fs::create_dir_all(data.join("inner")).expect("a directory");
    std::fs::write(data.join("inner/file"), "content\n").expect("a file");
    let data = data.to_str().expect("a plain path");
    // The mounts of a test's node are private.
    node.enter(&["mount", "--bind", data, data]).ok();
    node.enter(&["mount", "--make-shared", data]).ok();
    let archive = podd_tests::image::of_files(node.path(), "models/small:1", &[("etc/model", "weights\n")]);
    node.podd(&["load", "-i", &archive.to_string_lossy()]).ok();
    let spec = format!(
        "  volumes: [{{name: host, hostPath: {{path: '{data}'}}}}, {{name: image, image: {{reference: 'models/small:1'}}}}]\n"
    );
    let container = |propagation: &str, more: &str| {
        format!(
            "command: [sleep, '100000'], volumeMounts: [{{name: host, mountPath: /host, mountPropagation: {propagation}}}, \
             {{name: host, mountPath: /part, subPath: inner}}, {{name: image, mountPath: /image}}, \
             {{name: host, mountPath: /shut, readOnly: true, recursiveReadOnly: Enabled}}]{more}"
        )
    };
    let containers = format!(
        "{}}}\n    - {{name: in, image: '{BUSYBOX}', {}}}\n    - {{name: none, image: '{BUSYBOX}', {}",
        container("Bidirectional", ", securityContext: {privileged: true}"),
        container("HostToContainer", ""),
        container("None", "")
    );
    node.enter(&["mount", "-t", "tmpfs", "tmpfs", &format!("{data}/inner")]).ok();
    node.enter(&["sh", "-c", &format!("echo content >{data}/inner/file")]).ok();
    node.apply_and_wait(&pod("p", "runc", &spec, &containers));
    let run = |container: &str, script: &str| node.podd(&["exec", "p", "-c", container, "--", "sh", "-c", script]);
    for name in ["c", "in", "none"] {
        assert_eq!(run(name, "cat /part/file /image/etc/model").ok(), "content\nweights\n", "{name}");
        for path in ["/shut/x", "/shut/inner/x", "/image/x"] {
            assert!(run(name, &format!("touch {path}")).stderr.contains("Read-only file system"), "{name}: {path}");
        }
    }
    run("c", "mkdir /host/m && mount -t tmpfs tmpfs /host/m && touch /host/m/seen").ok();
    let sees = |container: &str| run(container, "test -e /host/m/seen").code == 0;
    wait_for(SOON, "the mount travels", || if sees("in") { Ok(()) } else { Err(String::new()) });
    assert!(!sees("none"), "and no further than it is let");
    node.enter(&["test", "-e", &format!("{data}/m/seen")]).ok();
    // A privileged container has every device, and the filter of none.
    assert_eq!(run("c", "grep -c . /proc/devices >/dev/null; grep Seccomp: /proc/self/status").ok(), "Seccomp:\t0\n");
    node.podd(&["delete", "pod", "p"]).ok();
    nothing_is_left(&node);
}
