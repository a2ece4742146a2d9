//! Ephemeral containers: `podd debug`, and the part of the API that `kubectl debug` uses.

use std::io::Write as _;
use std::process::Stdio;

use podd_tests::{Node, Output, SOON, image::BUSYBOX, program, wait_for};
use serde_json::{Value, json};

/// A pod of one container that sleeps; `spec` are further fields of its spec.
fn pod(spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  terminationGracePeriodSeconds: 1\n{spec}  containers:\n    \
         - {{name: main, image: '{BUSYBOX}', command: [sleep, '100000']}}\n"
    )
}

const STATE: &str = "/status/ephemeralContainerStatuses/0/state";

/// Asks the API for `pods/p/PART` as `kubectl debug` does: the answer, be it good or not.
fn ask(node: &Node, method: &str, part: &str, kind: &str, body: &Value) -> Value {
    let socket = node.path().join("run/podd.sock").display().to_string();
    let (header, body) = (format!("Content-Type: {kind}"), body.to_string());
    let address = format!("http://localhost/api/v1/namespaces/default/pods/p{part}");
    let mut words = vec!["curl", "-sS", "--unix-socket", &socket, "-X", method, "-H", &header, &address];
    if method != "GET" {
        words.extend(["-d", &body]);
    }
    serde_json::from_str(node.enter(&words).ok()).expect("JSON")
}

/// The patch of `kubectl debug`.
fn add(node: &Node, before: &[&str], containers: Value) -> Value {
    let new = containers.as_array().expect("a list").iter().map(|one| json!({"name": one["name"]}));
    let order: Vec<Value> = before.iter().map(|name| json!({"name": name})).chain(new).collect();
    let patch = json!({"spec": {"$setElementOrder/ephemeralContainers": order, "ephemeralContainers": containers}});
    ask(node, "PATCH", "/ephemeralcontainers", "application/strategic-merge-patch+json", &patch)
}

/// Runs podd with something to read.
fn typed(node: &Node, args: &[&str], input: &str) -> String {
    let mut command = node.command("timeout");
    command.args(["-k", "5", "60"]).arg(program()).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it is written");
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_container_that_is_added_sees_the_processes_of_its_target() {
    let node = Node::with_agent();
    node.apply_and_wait(&pod(""));
    let debug = |name: &'static str| ["debug", "p", "-i", "-q", "--image", BUSYBOX, "-c", name];
    let look = "tr '\\0' ' ' </proc/1/cmdline; echo; hostname; exit\n";
    let seen = typed(&node, &[&debug("e")[..], &["--target", "main", "--", "sh"]].concat(), look);
    assert_eq!(seen, "sleep 100000 \np\n");
    let ask = "read x; echo $x $WHO $$$$";
    let alone = typed(&node, &[&debug("f")[..], &["--env", "WHO=me", "--", "sh", "-c", ask]].concat(), "x\n");
    assert_eq!(alone, "x me 1\n", "its own processes and nobody else's");

    // It ran once, and the pod is as it was.
    node.wait_field("pod/p", &format!("{STATE}/terminated/exitCode"), "0");
    let status = |pointer: &str| node.field("pod/p", &format!("/status/{pointer}"));
    assert_eq!(status("ephemeralContainerStatuses/0/restartCount"), "0");
    assert_eq!((status("phase"), status("containerStatuses/0/restartCount")), ("Running".into(), "0".into()));
    assert_eq!(node.podd(&["logs", "p", "-c", "f"]).ok(), "x me 1\n");
    let told = node.podd(&["describe", "pod", "p"]).ok().to_owned();
    assert!(told.contains("Ephemeral Containers:"), "{told}");
}

#[test]
fn an_added_container_has_streams_and_goes_with_its_pod() {
    let node = Node::with_agent();
    node.apply_and_wait(&pod(""));
    let deaf = "trap '' TERM; echo here; while true; do sleep 0.1; done";
    for (name, more) in [("e", &["--target", "main"][..]), ("f", &[])] {
        let args = [&["debug", "p", "-c", name, "--image", BUSYBOX], more, &["--", "sh", "-c", deaf]].concat();
        node.podd(&args).ok();
        wait_for(SOON, "it writes", || match node.podd(&["logs", "p", "-c", name]).stdout.as_str() {
            "here\n" => Ok(()),
            other => Err(other.to_owned()),
        });
        assert_eq!(node.podd(&["exec", "p", "-c", name, "--", "echo", "inside"]).ok(), "inside\n");
    }
    let log = node.podd(&["describe", "pod", "p"]).ok().to_owned();
    assert!(log.contains("spec.ephemeralContainers{e}") || log.contains("Started"), "{log}");
    node.podd(&["delete", "pod", "p"]).ok();
    assert!(node.pod_processes().is_empty(), "nothing of it runs when the command has ended");
}

#[test]
fn an_added_container_does_not_wait_for_init_containers_and_nothing_waits_for_it() {
    let node = Node::with_agent();
    let init = format!("  initContainers: [{{name: i, image: '{BUSYBOX}', command: [sleep, '100000']}}]\n");
    node.apply(&pod(&init)).ok();
    wait_for(SOON, "the init container runs", || {
        let at = node.field("pod/p", "/status/initContainerStatuses/0/state/running/startedAt");
        if at.is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
    });
    let said =
        typed(&node, &["debug", "p", "-i", "-q", "--image", BUSYBOX, "--", "sh", "-c", "read x; echo $x"], "early\n");
    assert_eq!(said, "early\n");
    // One that is over before anybody can join it leaves its log.
    let said = node.podd(&["debug", "p", "-c", "quick", "--image", BUSYBOX, "--attach", "--", "false"]);
    assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{}", said.stderr);
    assert_eq!(node.field("pod/p", "/status/phase"), "Pending");

    // A target that does not run is waited for, and said.
    node.podd(&["debug", "p", "--image", BUSYBOX, "-c", "a", "--target", "main", "--", "sleep", "100000"]).ok();
    let waiting = "/status/ephemeralContainerStatuses/0/state/waiting";
    node.wait_field("pod/p", &format!("{waiting}/reason"), "CreateContainerConfigError");
    let message = node.field("pod/p", &format!("{waiting}/message"));
    assert_eq!(message, "unable to find target container \"main\"");
}

#[test]
fn an_added_container_gets_what_its_environment_names() {
    let node = Node::with_agent();
    let objects = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {color: blue}\n---\n\
        apiVersion: v1\nkind: Secret\nmetadata: {name: login}\nstringData: {password: hunter2}\n";
    node.apply(objects).ok();
    node.apply_and_wait(&pod("  volumes: [{name: v, emptyDir: {}}]\n"));
    let script = "echo $color $PASSWORD $NAME; touch /v/x && ls /v; exit 7";
    let answer = add(
        &node,
        &[],
        json!([{
            "name": "e", "image": BUSYBOX, "command": ["sh", "-c", script],
            "envFrom": [{"configMapRef": {"name": "settings"}}],
            "env": [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}},
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        }]),
    );
    assert_eq!(answer["kind"], "Pod", "{answer}");
    node.wait_field("pod/p", &format!("{STATE}/terminated/exitCode"), "7");
    assert_eq!(node.podd(&["logs", "p", "-c", "e"]).ok(), "blue hunter2 p\nx\n");
    assert_eq!(node.field("pod/p", "/status/containerStatuses/0/ready"), "true");
}

fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

#[test]
fn containers_are_only_ever_added_and_only_to_a_pod_that_is_there() {
    let node = Node::with_agent();
    let manifest = pod(&format!("  ephemeralContainers: [{{name: e, image: '{BUSYBOX}'}}]\n"));
    let refused: Output = node.apply(&manifest);
    assert!(
        refused.refused().contains("spec.ephemeralContainers: Forbidden: cannot be set on create"),
        "{}",
        refused.stderr
    );
    assert_eq!(node.podd(&["get", "pods", "-o", "name"]).ok(), "");

    node.apply_and_wait(&pod(""));
    let one = json!({"name": "e", "image": BUSYBOX, "command": ["sleep", "100000"]});
    assert_eq!(add(&node, &[], json!([one]))["spec"]["ephemeralContainers"][0]["name"], "e");
    let whole = ask(&node, "GET", "/ephemeralcontainers", "application/json", &Value::Null);
    assert_eq!((&whole["kind"], &whole["metadata"]["name"]), (&json!("Pod"), &json!("p")));

    let with = |list: Value| {
        let mut changed = whole.clone();
        changed["spec"]["ephemeralContainers"] = list;
        changed["metadata"].as_object_mut().expect("an object").remove("resourceVersion");
        changed
    };
    let table = [
        (json!([]), "existing ephemeral containers \"e\" may not be removed"),
        (json!([{"name": "e", "image": "other"}]), "existing ephemeral containers \"e\" may not be changed"),
    ];
    for (list, why) in table {
        let answer = ask(&node, "PUT", "/ephemeralcontainers", "application/json", &with(list.clone()));
        assert!(answer["code"] == 422 && message(&answer).contains(why), "{list}: {answer}");
    }
    let table = [
        (json!({"name": "main"}), "name: Duplicate value: \"main\""),
        (json!({"targetContainerName": "none"}), "targetContainerName: Not found: \"none\""),
        (
            json!({"resources": {"limits": {"cpu": "1"}}}),
            "resources: Forbidden: cannot be set for an Ephemeral Container",
        ),
        (json!({"ports": [{"containerPort": 80}]}), "ports: Forbidden: cannot be set for an Ephemeral Container"),
        (
            json!({"livenessProbe": {"exec": {"command": ["true"]}}}),
            "livenessProbe: Forbidden: cannot be set for an Ephemeral Container",
        ),
        (
            json!({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}),
            "lifecycle: Forbidden: cannot be set for an Ephemeral Container",
        ),
        (json!({"restartPolicy": "Always"}), "restartPolicy: Forbidden: cannot be set for an Ephemeral Container"),
    ];
    for (more, why) in table {
        let mut one = json!({"name": "f", "image": BUSYBOX});
        one.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let answer = add(&node, &["e"], json!([one]));
        let why = format!("spec.ephemeralContainers[1].{why}");
        assert!(answer["code"] == 422 && message(&answer).contains(&why), "{more}: {answer}");
    }
    // The pod itself, and the rest of its spec, are not changed this way, nor the list the other way.
    let mut other = with(whole["spec"]["ephemeralContainers"].clone());
    other["spec"]["containers"][0]["image"] = "other".into();
    let answer = ask(&node, "PUT", "/ephemeralcontainers", "application/json", &other);
    assert_eq!(answer["spec"]["containers"][0]["image"], BUSYBOX);
    let answer = ask(&node, "PUT", "", "application/json", &with(json!([])));
    assert!(message(&answer).contains("pod updates may not change fields"), "{answer}");
    assert_eq!(node.podd(&["get", "pod", "p", "-o", "name"]).ok(), "pod/p\n");
}
