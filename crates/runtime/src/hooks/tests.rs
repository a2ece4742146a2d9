//! Real programs as hooks on this host.

use std::fs;
use std::time::Instant;

use super::*;

fn shell(script: &str) -> Hook {
    let args = ["sh", "-c", script].map(str::to_owned).to_vec();
    Hook { path: "/bin/sh".into(), args, env: vec!["PATH=/usr/bin:/bin".into()], timeout: None }
}

async fn outcome(hooks: &[Hook], bundle: &Path) -> std::result::Result<(), String> {
    let annotations = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    let told = Told { id: "id", status: HookStatus::Created, pid: Some(5), bundle, annotations: &annotations };
    run("createRuntime", hooks, &told).await.map_err(|error| error.chain())
}

#[tokio::test]
async fn a_hook_gets_the_state_its_arguments_and_nothing_of_ours() {
    let directory = tempfile::tempdir().expect("a directory");
    let hook = shell("{ cat; echo; echo $0; pwd; env | grep -v -e ^PWD -e ^SHLVL -e ^_; } >told");
    outcome(&[hook], directory.path()).await.expect("the hook");
    let text = fs::read_to_string(directory.path().join("told")).expect("a file");
    let lines: Vec<&str> = text.lines().collect();
    let bundle = directory.path().to_str().expect("a plain path");
    let state = format!(
        r#"{{"ociVersion":"1.2.1","id":"id","status":"created","pid":5,"bundle":"{bundle}","annotations":{{"k":"v"}}}}"#
    );
    assert_eq!(lines, [state.as_str(), "sh", bundle, "PATH=/usr/bin:/bin"]);
}

#[tokio::test]
async fn the_first_hook_that_fails_ends_it_with_its_words() {
    let directory = tempfile::tempdir().expect("a directory");
    let error = outcome(&[shell("echo no >&2; exit 4"), shell("touch told")], directory.path()).await.expect_err("4");
    assert_eq!(error, "run createRuntime hook /bin/sh: exit status: 4: no");
    assert!(!directory.path().join("told").exists());
    let missing = Hook { path: "/no/such".into(), ..Hook::default() };
    let error = outcome(&[missing], directory.path()).await.expect_err("missing");
    assert!(error.contains("/no/such: No such file"), "{error}");
}

#[tokio::test]
async fn a_hook_that_says_too_much_or_leaves_something_behind_is_not_waited_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let began = Instant::now();
    let loud = shell("yes | head -c 1000000 >&2; exit 1");
    let error = outcome(&[loud], directory.path()).await.expect_err("1");
    assert!(error.len() < 5000, "{}", error.len());
    let daemon = shell("sleep 30 >/dev/null & echo $! >pid; exit 0");
    outcome(&[daemon], directory.path()).await.expect("the hook itself has ended");
    assert!(began.elapsed() < Duration::from_secs(20));
    let pid = fs::read_to_string(directory.path().join("pid")).expect("a file").trim().parse().expect("a pid");
    let pid = Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, Signal::KILL).expect("it was left alone");
}

#[tokio::test]
async fn a_hook_that_hangs_is_killed_with_what_it_started() {
    let directory = tempfile::tempdir().expect("a directory");
    let hook = Hook { timeout: Some(1), ..shell("echo waiting >&2; sleep 1000 & echo $! >pid; sleep 1000") };
    let error = outcome(&[hook], directory.path()).await.expect_err("killed");
    assert!(error.contains("killed after 1 s: waiting"), "{error}");
    let pid = fs::read_to_string(directory.path().join("pid")).expect("a file");
    for _ in 0..500 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("process {pid} is left");
}

#[test]
fn lists_are_appended_stage_by_stage() {
    let mut hooks = Hooks::default();
    for name in Hooks::STAGES {
        hooks.stage(name).expect("a stage").push(shell("1"));
    }
    let more = hooks.clone();
    hooks.append(more);
    for name in Hooks::STAGES {
        assert_eq!(hooks.stage(name).expect("a stage").len(), 2, "{name}");
    }
    assert!(hooks.stage("none").is_none());
    let text = serde_json::to_string(&Hooks::default()).expect("JSON");
    assert_eq!(text, "{}");
}
