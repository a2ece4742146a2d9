//! What containers are told by ConfigMaps, Secrets and their own pod: variables and files, seen from inside.

use std::path::Path;

use podd_tests::{Node, SOON, image::BUSYBOX, wait_for};

/// A pod of one container that sleeps; `more` is its further fields, `volumes` the pod's.
fn pod(name: &str, more: &str, volumes: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{app: web}}\n  annotations: {{note: 'said \"so\"'}}\nspec:\n  \
         terminationGracePeriodSeconds: 0\n  volumes: [{volumes}]\n  containers:\n    - name: c\n      image: '{BUSYBOX}'\n      \
         command: [sleep, '100000']\n      {more}\n"
    )
}

const OBJECTS: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {color: blue, both: map, 1x: odd}\n\
    binaryData: {bytes: AAEC}\n---\n\
    apiVersion: v1\nkind: Secret\nmetadata: {name: login}\nstringData: {password: hunter2-secret, both: secret}\n";

/// A command's output in the pod.
fn run(node: &Node, pod: &str, script: &str) -> String {
    node.podd(&["exec", pod, "--", "sh", "-c", script]).ok().to_owned()
}

#[test]
fn variables_are_made_of_the_pod_and_of_what_it_names() {
    let node = Node::with_agent();
    node.apply(OBJECTS).ok();
    let env = "envFrom:\n        - {configMapRef: {name: settings}}\n        - {prefix: S_, secretRef: {name: login}}\n        \
        - {secretRef: {name: login}}\n        - {configMapRef: {name: none, optional: true}}\n      \
        resources: {limits: {memory: 100Mi}, requests: {cpu: 250m}}\n      env:\n        \
        - {name: color, value: red}\n        \
        - {name: LATE, value: '$(AFTER) $$(color) $(color) $(S_password)'}\n        - {name: AFTER, value: x}\n        \
        - {name: KEY, valueFrom: {configMapKeyRef: {name: settings, key: color}}}\n        \
        - {name: PASSWORD, valueFrom: {secretKeyRef: {name: login, key: password}}}\n        \
        - {name: NOT, valueFrom: {secretKeyRef: {name: login, key: none, optional: true}}}\n        \
        - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}\n        \
        - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}\n        \
        - {name: LABEL, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['app']\"}}}\n        \
        - {name: NOTE, valueFrom: {fieldRef: {fieldPath: \"metadata.annotations['note']\"}}}\n        \
        - {name: THE_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}\n        \
        - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}\n        \
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}\n        \
        - {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}\n        \
        - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}\n        \
        - {name: CPU, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}\n        \
        - {name: CPUS, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}\n        \
        - {name: DISK, valueFrom: {resourceFieldRef: {resource: limits.ephemeral-storage}}}";
    node.apply_and_wait(&pod("p", env, ""));
    let said = run(&node, "p", "cat /proc/1/environ | tr '\\0' '\\n'");
    let field = |pointer: &str| node.field("pod/p", pointer);
    let allocatable = node.field(&format!("node/{}", field("/spec/nodeName")), "/status/allocatable/cpu");
    let cpus: i64 = match allocatable.strip_suffix('m') {
        Some(milli) => milli.parse().expect("a number"),
        None => allocatable.parse::<i64>().expect("a number") * 1000,
    };
    let wanted = [
        "color=red".to_owned(),
        "1x=odd".into(),
        "both=secret".into(),
        "S_both=secret".into(),
        "S_password=hunter2-secret".into(),
        "LATE=$(AFTER) $(color) red hunter2-secret".into(),
        "KEY=blue".into(),
        "PASSWORD=hunter2-secret".into(),
        "NAME=p".into(),
        "NAMESPACE=default".into(),
        "LABEL=web".into(),
        "NOTE=said \"so\"".into(),
        format!("THE_UID={}", field("/metadata/uid")),
        format!("NODE={}", field("/spec/nodeName")),
        format!("POD_IP={}", field("/status/podIP")),
        format!("HOST_IP={}", field("/status/hostIP")),
        "MEMORY=100".into(),
        "CPU=250".into(),
        format!("CPUS={cpus}"),
    ];
    let lines: Vec<&str> = said.lines().collect();
    for line in &wanted {
        assert!(lines.contains(&line.as_str()), "{line}\n{said}");
    }
    assert_eq!(lines.iter().filter(|line| line.starts_with("color=")).count(), 1, "{said}");
    let disk = lines.iter().find_map(|line| line.strip_prefix("DISK=")).expect("a size");
    assert!(disk.parse::<i64>().expect("a number") > 1 << 20, "{disk}");
    assert!(!said.contains("NOT="), "{said}");
    // Variables stay as they were when their objects change.
    node.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {color: green}\n").ok();
    assert!(run(&node, "p", "cat /proc/1/environ | tr '\\0' '\\n'").contains("KEY=blue"));
}

#[test]
fn what_a_variable_lacks_is_told_and_the_pod_runs_as_soon_as_it_is_there() {
    let node = Node::with_agent();
    let from = |from: &str| format!("env: [{{name: X, valueFrom: {from}}}]");
    node.apply(&pod("a", &from("{configMapKeyRef: {name: settings, key: k}}"), "")).ok();
    node.apply(&pod("b", &from("{secretKeyRef: {name: login, key: k}}"), "")).ok();
    let waiting = "/status/containerStatuses/0/state/waiting";
    for (name, message) in [("a", "configmap \"settings\" not found"), ("b", "secret \"login\" not found")] {
        let object = format!("pod/{name}");
        node.wait_field(&object, &format!("{waiting}/message"), message);
        assert_eq!(node.field(&object, &format!("{waiting}/reason")), "CreateContainerConfigError");
        wait_for(SOON, "an event", || {
            let said = node.podd(&["describe", "pod", name]).stdout;
            if said.contains(&format!("Error: {message}")) { Ok(()) } else { Err(said) }
        });
    }
    node.apply(OBJECTS).ok();
    let wanted = [
        ("a", "couldn't find key k in ConfigMap default/settings"),
        ("b", "couldn't find key k in Secret default/login"),
    ];
    for (name, message) in wanted {
        node.wait_field(&format!("pod/{name}"), &format!("{waiting}/message"), message);
    }
    let more = OBJECTS.replace("color: blue", "k: blue").replace("password:", "k:");
    node.apply(&more).ok();
    for (name, value) in [("a", "blue"), ("b", "hunter2-secret")] {
        node.wait_field(&format!("pod/{name}"), "/status/phase", "Running");
        assert_eq!(run(&node, name, "echo -n $X"), value);
    }
}

#[test]
fn a_config_map_is_a_directory_that_follows_it() {
    let node = Node::with_agent();
    node.apply(OBJECTS).ok();
    let volumes = "{name: whole, configMap: {name: settings}}, \
        {name: some, configMap: {name: settings, defaultMode: 0440, items: [{key: color, path: a/b/color}, \
        {key: bytes, path: bytes, mode: 0755}]}}, {name: none, configMap: {name: none, optional: true}}";
    let mounts = "volumeMounts: [{name: whole, mountPath: /whole}, {name: some, mountPath: /some}, {name: none, mountPath: /none}]";
    node.apply_and_wait(&pod("p", mounts, volumes));
    assert_eq!(run(&node, "p", "ls /whole /none; cat /whole/color"), "/none:\n\n/whole:\n1x\nboth\nbytes\ncolor\nblue");
    let modes = run(&node, "p", "stat -L -c '%a %n' /whole/color /some/a/b/color /some/bytes; od -An -tx1 /some/bytes");
    assert_eq!(modes, "644 /whole/color\n440 /some/a/b/color\n755 /some/bytes\n 00 01 02\n");
    assert_eq!(run(&node, "p", "readlink /whole/color; readlink /some/a"), "..data/color\n..data/a\n");
    let refused = node.podd(&["exec", "p", "--", "sh", "-c", "echo x >/whole/color"]);
    assert!(refused.stderr.contains("Read-only file system"), "{}", refused.stderr);
    let old = run(&node, "p", "readlink /whole/..data");

    node.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {color: green, new: '1'}\nbinaryData: {bytes: AAEC}\n").ok();
    wait_for(SOON, "the files follow", || {
        let seen = run(&node, "p", "ls /whole; cat /whole/color /some/a/b/color");
        if seen == "bytes\ncolor\nnew\ngreengreen" { Ok(()) } else { Err(seen) }
    });
    assert_ne!(run(&node, "p", "readlink /whole/..data"), old, "the link is what changed");
    assert_eq!(
        run(&node, "p", "ls -A /whole").lines().filter(|name| name.starts_with("..2")).count(),
        1,
        "nothing old is left"
    );
    node.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: none}\ndata: {late: 'yes'}\n").ok();
    wait_for(SOON, "an optional one comes", || {
        let seen = run(&node, "p", "cat /none/late 2>&1 || true");
        if seen == "yes" { Ok(()) } else { Err(seen) }
    });
}

#[test]
fn a_volume_that_lacks_its_object_holds_its_pod_until_it_is_there() {
    let node = Node::with_agent();
    let mounts = "volumeMounts: [{name: v, mountPath: /v}]";
    node.apply(&pod("a", mounts, "{name: v, configMap: {name: settings}}")).ok();
    node.apply(&pod("b", mounts, "{name: v, secret: {secretName: login, items: [{key: none, path: x}]}}")).ok();
    for (name, message) in [("a", "configmap \"settings\" not found"), ("b", "secret \"login\" not found")] {
        let message = format!("MountVolume.SetUp failed for volume \"v\" : {message}");
        wait_for(SOON, "an event", || {
            let said = node.podd(&["describe", "pod", name]).stdout;
            if said.contains("FailedMount") && said.contains(&message) { Ok(()) } else { Err(said) }
        });
        let reason = node.field(&format!("pod/{name}"), "/status/containerStatuses/0/state/waiting/reason");
        assert_eq!(reason, "ContainerCreating");
    }
    node.apply(OBJECTS).ok();
    node.wait_field("pod/a", "/status/phase", "Running");
    wait_for(SOON, "an event", || {
        let said = node.podd(&["describe", "pod", "b"]).stdout;
        if said.contains("references non-existent secret key: none") { Ok(()) } else { Err(said) }
    });
}

#[test]
fn a_secret_is_files_in_memory_and_stands_nowhere_else() {
    let mut node = Node::new();
    node.start_agent_with(&[("RUST_LOG", "debug")]);
    node.load_busybox();
    node.apply(OBJECTS).ok();
    let volumes = "{name: v, secret: {secretName: login, defaultMode: 0400}}, \
        {name: w, secret: {secretName: login, items: [{key: none, path: x}]}}";
    let env = "env: [{name: X, valueFrom: {secretKeyRef: {name: login, key: password}}}]\n      \
        volumeMounts: [{name: v, mountPath: /v}]";
    node.apply_and_wait(&pod("p", env, volumes.split_once(", {name: w").expect("two").0));
    let seen =
        run(&node, "p", "stat -L -c %a /v/password; grep ' /v ' /proc/self/mounts | cut -d' ' -f3; cat /v/password");
    assert_eq!(seen, "400\ntmpfs\nhunter2-secret");
    // Pods that fail in every way that a Secret can be part of.
    node.apply(&pod("q", env, volumes)).ok();
    let bad = "env: [{name: X, valueFrom: {secretKeyRef: {name: login, key: none}}}]";
    node.apply(&pod("r", bad, "")).ok();
    let nul = "apiVersion: v1\nkind: Secret\nmetadata: {name: nul}\ndata: {nul: aHVudGVyMi1zZWNyZXQAeA==}\n";
    node.apply(nul).ok();
    node.apply(&pod("s", "env: [{name: X, valueFrom: {secretKeyRef: {name: nul, key: nul}}}]", "")).ok();
    for (name, message) in [
        ("q", "references non-existent secret key: none"),
        ("r", "couldn't find key none in Secret default/login"),
        ("s", "the value of environment variable X has a NUL byte"),
    ] {
        wait_for(SOON, message, || {
            let said = node.podd(&["describe", "pod", name]).stdout;
            if said.contains(message) { Ok(()) } else { Err(said) }
        });
    }
    node.apply(&OBJECTS.replace("hunter2-secret", "hunter3-secret")).ok();
    wait_for(SOON, "the file follows", || {
        let seen = run(&node, "p", "cat /v/password");
        if seen == "hunter3-secret" { Ok(()) } else { Err(seen) }
    });
    let wrong = node.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: bad}\ndata: {k: 'hunter2-secret!'}\n");
    assert_ne!(wrong.code, 0);
    let told = [
        node.agent_log(),
        node.podd(&["get", "events", "-o", "json"]).ok().to_owned(),
        node.podd(&["get", "pods", "-o", "json"]).ok().to_owned(),
        node.podd(&["describe", "pod", "p"]).ok().to_owned(),
        node.podd(&["describe", "secret", "login"]).stdout.clone(),
        node.podd(&["get", "secrets", "-o", "wide"]).ok().to_owned(),
    ];
    for text in &told {
        for value in ["hunter2", "hunter3", "aHVudGVy"] {
            let at = text.find(value).map(|at| &text[at.saturating_sub(200)..(at + 40).min(text.len())]);
            assert_eq!(at, None, "a secret value leaked");
        }
    }
    assert!(told[0].contains("decided"), "the log is the detailed one");
}

#[test]
fn labels_and_annotations_are_files_that_follow_them() {
    let node = Node::with_agent();
    let volumes = "{name: v, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, \
        {path: a/notes, fieldRef: {fieldPath: metadata.annotations}}, {path: name, mode: 0400, fieldRef: {fieldPath: metadata.name}}, \
        {path: memory, resourceFieldRef: {containerName: c, resource: limits.memory, divisor: 1Mi}}]}}";
    let more = "volumeMounts: [{name: v, mountPath: /v}]\n      resources: {limits: {memory: 64Mi}}";
    let manifest = pod("p", more, volumes);
    node.apply_and_wait(&manifest);
    assert_eq!(
        run(&node, "p", "cat /v/labels; echo; cat /v/memory; echo; stat -L -c %a /v/name"),
        "app=\"web\"\n64\n400\n"
    );
    let notes = run(&node, "p", "cat /v/a/notes");
    assert!(notes.contains("note=\"said \\\"so\\\"\""), "{notes}");
    node.apply(&manifest.replace("app: web", "app: api, tier: back")).ok();
    wait_for(SOON, "the labels follow", || {
        let seen = run(&node, "p", "cat /v/labels");
        if seen == "app=\"api\"\ntier=\"back\"" { Ok(()) } else { Err(seen) }
    });
}

#[test]
fn several_sources_are_one_directory() {
    let node = Node::with_agent();
    node.apply(OBJECTS).ok();
    let volume = "{name: v, projected: {defaultMode: 0440, sources: [{configMap: {name: settings, items: [{key: color, path: color}]}}, \
        {secret: {name: login, items: [{key: password, path: private/password, mode: 0400}]}}, {secret: {name: none, optional: true}}, \
        {downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}]}}";
    node.apply_and_wait(&pod("p", "volumeMounts: [{name: v, mountPath: /v}]", volume));
    let seen =
        run(&node, "p", "cd /v; stat -L -c '%a %n' color private/password labels; cat color private/password labels");
    assert_eq!(seen, "440 color\n400 private/password\n440 labels\nbluehunter2-secretapp=\"web\"");
    node.apply(&OBJECTS.replace("blue", "green").replace("hunter2", "hunter3")).ok();
    wait_for(SOON, "both follow", || {
        let seen = run(&node, "p", "cat /v/color /v/private/password");
        if seen == "greenhunter3-secret" { Ok(()) } else { Err(seen) }
    });
    for source in ["serviceAccountToken: {path: t}", "clusterTrustBundle: {name: b, path: t}"] {
        let refused = node.apply(&pod("q", "", &format!("{{name: v, projected: {{sources: [{{{source}}}]}}}}")));
        let field = source.split_once(':').expect("a field").0;
        let wanted = format!("spec.volumes[0].projected.sources[0].{field}: Forbidden");
        assert!(refused.refused().contains(&wanted), "{}", refused.stderr);
    }
}

#[test]
fn a_variable_is_read_from_a_file_that_an_init_container_wrote() {
    let node = Node::with_agent();
    let manifest = |name: &str, key: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
             volumes: [{{name: v, emptyDir: {{}}}}]\n  initContainers:\n    - name: i\n      image: '{BUSYBOX}'\n      \
             command: [sh, -c, \"echo \\\"KEY='from a file' # so\\\" >/v/env\"]\n      volumeMounts: [{{name: v, mountPath: /v}}]\n  \
             containers:\n    - name: c\n      image: '{BUSYBOX}'\n      command: [sleep, '100000']\n      \
             env: [{{name: X, valueFrom: {{fileKeyRef: {{volumeName: v, path: env, key: {key}}}}}}}]\n"
        )
    };
    node.apply_and_wait(&manifest("p", "KEY"));
    assert_eq!(run(&node, "p", "echo -n $X"), "from a file");
    node.apply(&manifest("q", "OTHER")).ok();
    let message = "environment variable key \"OTHER\" not found in file \"env\" of volume \"v\"";
    node.wait_field("pod/q", "/status/containerStatuses/0/state/waiting/message", message);
}

#[test]
fn what_changed_while_no_agent_ran_shows_when_one_runs_again() {
    let mut node = Node::with_agent();
    node.apply(OBJECTS).ok();
    node.apply_and_wait(&pod(
        "p",
        "volumeMounts: [{name: v, mountPath: /v}]",
        "{name: v, configMap: {name: settings}}",
    ));
    let uid = node.field("pod/p", "/metadata/uid");
    let volume = node.path().join(format!("root/pods/{uid}/volumes/config-map/v"));
    node.kill_agent();
    // As if the object had changed and the agent had not come to write it.
    let data = std::fs::read_dir(&volume).expect("a volume").filter_map(Result::ok);
    let data = data.map(|entry| entry.path()).find(|path| is_dated(path)).expect("a directory of files");
    std::fs::write(data.join("color"), "old").expect("written");
    node.start_agent();
    wait_for(SOON, "the file is right again", || {
        let seen = run(&node, "p", "cat /v/color");
        if seen == "blue" { Ok(()) } else { Err(seen) }
    });
}

fn is_dated(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("..2"))
}
