//! The manifests of `manifests/{course,postgres,proxy}`, applied unchanged, with images of Debian's and PyPI's packages.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use podd_tests::{Node, SOON, wait_for};

fn manifest(name: &str) -> String {
    let directory =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the workspace").join("manifests");
    directory.join(name).to_str().expect("a plain path").to_owned()
}

/// An agent that has these images, loaded by the script that a person would run.
fn with_images(images: &[&str]) -> Node {
    let mut node = Node::new();
    node.start_agent();
    // The script runs outside the node, which has no way to the world; its podd is the node's.
    let inside = node.command(podd_tests::program());
    let mut script = "#!/bin/sh\n".to_owned();
    for (name, value) in inside.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        script.push_str(&format!("export {}='{}'\n", name.display(), value.display()));
    }
    let words = [inside.get_program()].into_iter().chain(inside.get_args()).map(|word| format!("'{}'", word.display()));
    script.push_str(&format!("exec {} \"$@\"\n", words.collect::<Vec<_>>().join(" ")));
    let podd = node.file("podd", &script);
    std::fs::set_permissions(&podd, std::fs::Permissions::from_mode(0o755)).expect("the file is ours");
    // Downloads are kept for the next run.
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("example-images");
    let mut load = Command::new(manifest("images/load.sh"));
    let loaded = load.args(images).env("PODD", podd).env("PODD_IMAGE_CACHE", cache).output().expect("the script runs");
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    node
}

fn apply(node: &Node, name: &str) {
    node.podd(&["apply", "--wait", "--timeout=120s", "-f", &manifest(name)]).ok();
}

fn end(mut node: Node) {
    node.podd(&["delete", "pods", "--all", "--grace-period=1"]).ok();
    assert!(node.stop_agent(true).ok().contains("pods and network are gone"));
    assert_eq!(node.processes(), [] as [i32; 0]);
}

#[test]
fn a_course_has_its_api_its_notebook_and_its_model_by_name() {
    let node = with_images(&["model", "api", "notebook"]);
    apply(&node, "course/course.yaml");
    let curl = |arguments: &[&str]| node.enter(&[&["curl", "-fsS", "--max-time", "20"], arguments].concat());
    let body = r#"{"prompt": "one two three"}"#;
    let asked = curl(&["-H", "Content-Type: application/json", "-d", body, "http://127.0.0.1:15000/ask"]);
    assert_eq!(asked.ok().trim(), r#"{"answer":"three two one"}"#);
    assert_eq!(curl(&["http://127.0.0.1:15000/models"]).ok().trim(), r#"["tiny"]"#);
    assert!(curl(&["http://127.0.0.1:18888/lab"]).ok().contains("JupyterLab"));
    // The notebook's own process asks the model, and is answered piece by piece.
    let said = node.podd(&["exec", "notebook", "--", "python3", "/srv/ask.py", "over", "there"]);
    assert_eq!(said.ok(), "there over\n");
    let stream = curl(&["-d", r#"{"model": "tiny", "prompt": "a b"}"#, &model_url(&node)]).ok().to_owned();
    assert_eq!(stream.lines().count(), 3, "{stream}");
    // The model stays with its claim.
    let log = || node.podd(&["logs", "model", "--limit-bytes", "30"]).stdout;
    assert!(log().starts_with("the model is made"), "{}", log());
    node.podd(&["delete", "pod", "model", "--grace-period=1"]).ok();
    apply(&node, "course/course.yaml");
    assert!(log().starts_with("the model is there already"), "{}", log());
    wait_for(SOON, "the API finds the new pod by its name", || {
        let found = curl(&["http://127.0.0.1:15000/models"]);
        if found.code == 0 { Ok(()) } else { Err(found.stderr) }
    });
    end(node);
}

fn model_url(node: &Node) -> String {
    format!("http://{}:11434/api/generate", node.field("pod/model", "/status/podIP"))
}

#[test]
fn a_database_keeps_its_data_when_its_pod_goes() {
    let node = with_images(&["postgres"]);
    apply(&node, "postgres/postgres.yaml");
    let sql = |text: &str| {
        let login = "PGPASSWORD=$POSTGRES_PASSWORD psql -h 127.0.0.1 -U postgres -tAc \"$0\"";
        node.podd(&["exec", "postgres", "--", "sh", "-c", login, text])
    };
    sql("create table kept (n int); insert into kept values (42)").ok();
    node.podd(&["delete", "pod", "postgres"]).ok();
    apply(&node, "postgres/postgres.yaml");
    assert_eq!(sql("select n from kept").ok().trim(), "42");
    // The password is asked for, and stands in no event and no description.
    let refused =
        node.podd(&["exec", "postgres", "--", "sh", "-c", "PGPASSWORD=wrong psql -h 127.0.0.1 -U postgres -c ''"]);
    assert!(refused.code != 0 && refused.stderr.contains("password authentication failed"), "{}", refused.stderr);
    let told = node.podd(&["describe", "pod", "postgres"]).ok().to_owned();
    assert!(!told.contains("change-me"), "{told}");
    end(node);
}

#[test]
fn a_proxy_finds_its_backend_and_its_sidecar_hands_the_log_on() {
    let node = with_images(&["nginx", "busybox"]);
    apply(&node, "proxy/proxy.yaml");
    let page = || node.enter(&["curl", "-fsS", "--max-time", "5", "http://127.0.0.1:18081/"]);
    assert_eq!(page().ok(), "hello from the backend\n");
    wait_for(SOON, "the sidecar shows the request", || {
        let log = node.podd(&["logs", "proxy", "-c", "log"]).stdout;
        if log.contains("GET / HTTP/1.1\" 200") { Ok(()) } else { Err(log) }
    });
    // A backend that comes again has another address and the same name.
    node.podd(&["delete", "pod", "backend"]).ok();
    apply(&node, "proxy/proxy.yaml");
    wait_for(SOON, "the proxy finds the new backend", || {
        let found = page();
        if found.code == 0 { Ok(()) } else { Err(found.stderr) }
    });
    assert_eq!(node.field("pod/proxy", "/status/containerStatuses/0/restartCount"), "0");
    end(node);
}
