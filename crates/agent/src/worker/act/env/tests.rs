//! The environment that follows from a spec and the objects that it names.

use serde_json::{Value, json};

use super::*;

fn objects() -> Referenced {
    let config_map = json!({"data": {"color": "blue", "both": "map", "1x": "y"}, "binaryData": {"bin": "AAE="}});
    let secret = json!({"data": {"password": "aHVudGVyMg==", "both": "c2VjcmV0"}});
    let nul = json!({"data": {"nul": "YQBi"}});
    Referenced {
        config_maps: [("settings".to_owned(), serde_json::from_value(config_map).expect("a config map"))].into(),
        secrets: [
            ("login".to_owned(), serde_json::from_value(secret).expect("a secret")),
            ("nul".to_owned(), serde_json::from_value(nul).expect("a secret")),
        ]
        .into(),
    }
}

fn made(container: Value) -> Result<Vec<String>, String> {
    with_spec(container, json!({}))
}

fn with_spec(mut container: Value, mut spec: Value) -> Result<Vec<String>, String> {
    container["name"] = json!("c");
    spec["containers"] = json!([container]);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "web"}},
        "spec": spec,
    }))
    .expect("a pod");
    let sources = Sources {
        pod: &pod,
        objects: &objects(),
        pod_ips: &["10.0.0.2".parse().expect("an address"), "fd00::2".parse().expect("an address")],
        host_ips: &["192.0.2.1".parse().expect("an address")],
        node: "here",
        limits: &DefaultLimits { milli_cpu: 2000, ..Default::default() },
        prepared: &Prepared::default(),
    };
    let environment = environment(&pod.spec.as_ref().expect("a spec").containers[0], &sources)?;
    let text = |value: Vec<u8>| String::from_utf8(value).expect("text");
    Ok(environment.variables().into_iter().map(|one| format!("{}={}", one.key, text(one.value))).collect())
}

fn from(source: Value) -> Result<Vec<String>, String> {
    made(json!({"env": [{"name": "X", "valueFrom": source}]}))
}

#[test]
fn variables_stand_in_order_and_the_last_one_of_a_name_counts() {
    let container = json!({
        "envFrom": [{"configMapRef": {"name": "settings"}}, {"prefix": "S_", "secretRef": {"name": "login"}},
            {"secretRef": {"name": "login"}}, {"configMapRef": {"name": "none", "optional": true}}],
        "env": [{"name": "color", "value": "red"}, {"name": "Y", "value": "$(S_password) $(color) $(later) $$(color)"},
            {"name": "later", "value": "z"}],
    });
    let want = [
        "1x=y",
        "both=secret",
        "color=red",
        "S_both=secret",
        "S_password=hunter2",
        "password=hunter2",
        "Y=hunter2 red $(later) $(color)",
        "later=z",
    ];
    assert_eq!(made(container).expect("made"), want);
}

#[test]
fn a_value_comes_from_wherever_it_is_said_to() {
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let table = [
        (field("metadata.name"), "X=p"),
        (field("metadata.labels['app']"), "X=web"),
        (field("spec.nodeName"), "X=here"),
        (field("status.podIP"), "X=10.0.0.2"),
        (field("status.podIPs"), "X=10.0.0.2,fd00::2"),
        (field("status.hostIP"), "X=192.0.2.1"),
        (json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}), "X=2000"),
        (json!({"configMapKeyRef": {"name": "settings", "key": "color"}}), "X=blue"),
        (json!({"secretKeyRef": {"name": "login", "key": "password"}}), "X=hunter2"),
    ];
    for (source, want) in table {
        assert_eq!(from(source.clone()).expect("made"), [want], "{source}");
    }
    let env = json!({"env": [{"name": "X", "valueFrom": field("status.podIPs")}]});
    assert_eq!(with_spec(env, json!({"hostNetwork": true})).expect("made"), ["X=192.0.2.1"]);
}

#[test]
fn what_is_missing_is_told_in_the_kubelets_words_unless_it_is_optional() {
    let table = [
        (json!({"configMapKeyRef": {"name": "none", "key": "k"}}), "configmap \"none\" not found"),
        (json!({"configMapKeyRef": {"name": "settings", "key": "k"}}), "couldn't find key k in ConfigMap n/settings"),
        (
            json!({"configMapKeyRef": {"name": "settings", "key": "bin"}}),
            "couldn't find key bin in ConfigMap n/settings",
        ),
        (json!({"secretKeyRef": {"name": "none", "key": "k"}}), "secret \"none\" not found"),
        (json!({"secretKeyRef": {"name": "login", "key": "k"}}), "couldn't find key k in Secret n/login"),
        (
            json!({"fileKeyRef": {"volumeName": "v", "path": "f", "key": "k"}}),
            "cannot find the volume \"v\" referenced by FileKeyRef",
        ),
    ];
    for (mut source, want) in table {
        assert_eq!(from(source.clone()), Err(want.to_owned()), "{source}");
        let inner = source.as_object_mut().and_then(|source| source.values_mut().next()).expect("a source");
        inner["optional"] = json!(true);
        if source.get("fileKeyRef").is_none() {
            assert_eq!(from(source.clone()), Ok(Vec::new()), "{source}");
        }
    }
    let missing = json!({"envFrom": [{"secretRef": {"name": "none"}}]});
    assert_eq!(made(missing), Err("secret \"none\" not found".to_owned()));
}

#[test]
fn a_value_that_no_process_can_be_given_is_named_and_not_shown() {
    let error = from(json!({"secretKeyRef": {"name": "nul", "key": "nul"}})).expect_err("no variable has a NUL");
    assert_eq!(error, "the value of environment variable X has a NUL byte; mount it as a file");
}
