//! Lists and plugins, with a plugin that is a script.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;

/// Long enough for any machine.
const SOON: Duration = Duration::from_secs(30);

/// Notes what it was asked in `log`, fails at `ADD` when its configuration says so.
const SCRIPT: &str = r#"#!/bin/sh
input=$(cat)
printf '%s %s %s\n' "$CNI_COMMAND" "$CNI_NETNS" "$input" >> DIR/log
case "$input" in
*'"wait":true'*) sleep 600 & echo $! > DIR/helper; wait ;;
*'"daemon":true'*) sleep 600 & echo $! > DIR/helper ;;
*'"fail":true'*) echo '{"code": 7, "msg": "no room", "details": "all taken"}'; exit 1 ;;
esac
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"}]}'
"#;

fn runner(directory: &Path) -> Runner {
    let program = directory.join("fake");
    fs::write(&program, SCRIPT.replace("DIR", &directory.display().to_string())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    Runner { bin_dirs: vec!["/nonexistent".into(), directory.to_owned()], deadline: Duration::from_secs(10) }
}

fn attachment() -> Attachment {
    let capabilities = json!({"portMappings": [{"hostPort": 80}], "bandwidth": {"ingressRate": 1}});
    Attachment {
        container_id: "abc".into(),
        netns: "/ns".into(),
        interface: "eth0".into(),
        args: "IgnoreUnknown=1".into(),
        capabilities: capabilities.as_object().unwrap().clone(),
    }
}

fn list(plugins: Value) -> NetworkList {
    NetworkList::parse(json!({"name": "net", "cniVersion": "1.0.0", "plugins": plugins}).to_string().as_bytes())
        .unwrap()
}

/// What the plugin was asked: command, namespace, configuration.
fn log(directory: &Path) -> Vec<(String, String, Value)> {
    let text = fs::read_to_string(directory.join("log")).unwrap();
    let line = |line: &str| {
        let mut parts = line.splitn(3, ' ').map(str::to_owned);
        let mut next = || parts.next().unwrap();
        (next(), next(), serde_json::from_str(&next()).unwrap())
    };
    text.lines().map(line).collect()
}

#[tokio::test]
async fn results_are_chained_and_del_goes_backwards() {
    let directory = tempfile::tempdir().unwrap();
    let runner = runner(directory.path());
    let list =
        list(json!([{"type": "fake", "n": 1}, {"type": "fake", "n": 2, "capabilities": {"portMappings": true}}]));
    let result = add(&runner, &list, &attachment()).await.unwrap();
    assert_eq!(addresses(&result).unwrap(), ["10.1.2.3".parse::<std::net::IpAddr>().unwrap()]);
    check(&runner, &list, &attachment(), &result).await.unwrap();
    let gone = Attachment { netns: String::new(), ..attachment() };
    assert!(del(&runner, &list, &gone, Some(&result)).await.unwrap().is_empty());
    let log = log(directory.path());
    let order: Vec<_> =
        log.iter().map(|(command, _, input)| (command.as_str(), input["n"].as_u64().unwrap())).collect();
    assert_eq!(order, [("ADD", 1), ("ADD", 2), ("CHECK", 1), ("CHECK", 2), ("DEL", 2), ("DEL", 1)]);
    assert_eq!(log[0].2, json!({"name": "net", "cniVersion": "1.0.0", "type": "fake", "n": 1}));
    assert_eq!(log[1].2["prevResult"], result);
    assert_eq!(log[1].2["runtimeConfig"], json!({"portMappings": [{"hostPort": 80}]}));
    assert_eq!((log[1].1.as_str(), log[4].1.as_str()), ("/ns", ""));
    assert_eq!(log[5].2["prevResult"], result);
}

#[tokio::test]
async fn a_plugin_that_fails_says_why_and_del_goes_on_behind_it() {
    let directory = tempfile::tempdir().unwrap();
    let runner = runner(directory.path());
    let failing = list(json!([{"type": "fake", "n": 1}, {"type": "fake", "fail": true}]));
    let error = add(&runner, &failing, &attachment()).await.unwrap_err().to_string();
    assert_eq!(error, "CNI plugin fake ADD: no room; all taken (code 7)");
    assert!(del(&runner, &failing, &attachment(), None).await.is_err());
    assert_eq!(log(directory.path()).last().unwrap().2["n"], 1, "the plugin before it is asked to take away");
}

#[tokio::test]
async fn a_plugin_that_is_not_there_is_named_before_and_passed_over_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let runner = runner(directory.path());
    fs::write(directory.path().join("data"), "no program").unwrap();
    let lacking = list(json!([{"type": "fake", "n": 1, "ipam": {"type": "pool"}}, {"type": "data", "ipam": {}}]));
    let told = runner.have_all(&lacking).unwrap_err().to_string();
    assert_eq!(told, format!("CNI plugin pool, data not found in /nonexistent:{}", directory.path().display()));
    runner.have_all(&list(json!([{"type": "fake", "ipam": {"type": "fake"}}]))).unwrap();
    let refused = add(&runner, &lacking, &attachment()).await.unwrap_err();
    assert!(matches!(&refused, Error::Missing { plugins, .. } if plugins == "data"), "{refused}");
    let passed_over = del(&runner, &lacking, &attachment(), None).await.unwrap();
    assert!(matches!(&passed_over[..], [Error::Missing { plugins, .. }] if plugins == "data"), "{passed_over:?}");
    assert_eq!(log(directory.path()).last().unwrap().0, "DEL", "the others do their part");
}

#[tokio::test]
async fn a_plugin_that_takes_too_long_goes_with_all_that_it_has_started() {
    let directory = tempfile::tempdir().unwrap();
    let runner = Runner { deadline: Duration::from_millis(700), ..runner(directory.path()) };
    let slow = add(&runner, &list(json!([{"type": "fake", "wait": true}])), &attachment()).await.unwrap_err();
    assert!(slow.to_string().contains("did not end within 700ms"), "{slow}");
    let helper = helper(directory.path());
    let gone = async {
        while alive(&helper) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, gone).await.expect("the helper ends with the plugin");
}

#[tokio::test]
async fn a_daemon_that_a_plugin_leaves_holds_nobody_up_and_lives_on() {
    let directory = tempfile::tempdir().unwrap();
    let runner = runner(directory.path());
    let result = add(&runner, &list(json!([{"type": "fake", "daemon": true}])), &attachment()).await;
    let helper = helper(directory.path());
    let lived = alive(&helper);
    let _cleared = std::process::Command::new("kill").args(["-9", &helper]).status();
    assert_eq!(addresses(&result.unwrap()).unwrap().len(), 1);
    assert!(lived);
}

fn helper(directory: &Path) -> String {
    fs::read_to_string(directory.join("helper")).unwrap().trim().to_owned()
}

/// Whether a process runs: one that has ended and is not waited for does not.
fn alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

#[test]
fn the_first_file_counts_and_a_broken_one_is_named() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(load(&directory.path().join("none")).unwrap(), None);
    fs::write(directory.path().join("05-readme.txt"), "no").unwrap();
    assert_eq!(load(directory.path()).unwrap(), None);
    let one = r#"{"name": "one", "cniVersion": "0.3.1", "type": "bridge", "x": 1}"#;
    fs::write(directory.path().join("20-one.conf"), one).unwrap();
    let found = load(directory.path()).unwrap().unwrap();
    assert_eq!((found.name.as_str(), found.plugins.len(), &found.plugins[0]["x"]), ("one", 1, &json!(1)));
    fs::write(directory.path().join("10-two.conflist"), "{").unwrap();
    let error = load(directory.path()).unwrap_err().to_string();
    assert!(error.contains("10-two.conflist: EOF"), "{error}");
}

#[test]
fn a_list_without_name_version_or_plugins_is_refused_by_what_it_lacks() {
    for (text, wrong) in [
        (r#"{"cniVersion": "1.0.0", "type": "x"}"#, "name"),
        (r#"{"name": "../x", "cniVersion": "1.0.0", "type": "x"}"#, "name"),
        (r#"{"name": "n", "cniVersion": "0.2.0", "type": "x"}"#, "cniVersion is 0.2.0; spoken are 0.3.0, 0.3.1, 0.4.0"),
        (r#"{"name": "n", "type": "x"}"#, "cniVersion is not given"),
        (r#"{"name": "n", "cniVersions": ["2.0.0"], "type": "x"}"#, "cniVersion is 2.0.0"),
        (r#"{"name": "n", "cniVersion": "1.0.0"}"#, "type"),
        (r#"{"name": "n", "cniVersion": "1.0.0", "type": "../x"}"#, "type"),
        (r#"{"name": "n", "cniVersion": "1.0.0", "plugins": []}"#, "empty"),
        (r#"{"name": "n", "cniVersion": "1.0.0", "plugins": [1]}"#, "plugins"),
        (r#"{"name": "n", "cniVersion": "1.0.0", "type": "x", "disableCheck": 1}"#, "disableCheck"),
    ] {
        let error = NetworkList::parse(text.as_bytes()).unwrap_err();
        assert!(error.contains(wrong), "{text}: {error}");
    }
}

#[test]
fn of_several_versions_the_newest_that_is_spoken_counts() {
    let text = r#"{"name": "n", "cniVersion": "0.3.1", "cniVersions": ["0.4.0", "1.0.0", "9.0.0"], "type": "x"}"#;
    assert_eq!(NetworkList::parse(text.as_bytes()).unwrap().cni_version, "1.0.0");
}
