//! Mistakes in what is brought into containers, in Kubernetes' words.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// What is wrong with a pod of this container and these volumes.
fn wrong(mut container: Value, volumes: Value) -> Vec<String> {
    container["name"] = json!("c");
    container["image"] = json!("i");
    let spec = json!({"containers": [container], "volumes": volumes});
    let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
    crate::defaults::pod(&mut pod);
    super::super::pod(&pod).iter().map(ToString::to_string).collect()
}

#[test]
fn mistakes_of_an_environment_are_told_as_kubernetes_would() {
    let from = |from: Value| json!({"env": [{"name": "A", "valueFrom": from}]});
    let table = [
        (from(json!({})), "env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`"),
        (
            from(json!({"fieldRef": {"fieldPath": "metadata.name"}, "secretKeyRef": {"name": "s", "key": "k"}})),
            "env[0].valueFrom: Invalid value: \"\": may not have more than one field specified at a time",
        ),
        (
            json!({"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
            "env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        ),
        (from(json!({"fieldRef": {"fieldPath": ""}})), "env[0].valueFrom.fieldRef.fieldPath: Required value"),
        (
            from(json!({"fieldRef": {"fieldPath": "metadata.labels"}})),
            "env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\"",
        ),
        (
            from(json!({"fieldRef": {"fieldPath": "metadata.labels['-']"}})),
            "env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.labels['-']\": name part",
        ),
        (
            from(json!({"resourceFieldRef": {"resource": "limits.gpu"}})),
            "env[0].valueFrom.resourceFieldRef.resource: Unsupported value: \"limits.gpu\"",
        ),
        (
            from(json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}})),
            "env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"2\": only divisor's values 1m and 1 are supported with the cpu resource",
        ),
        (
            from(json!({"resourceFieldRef": {"resource": "limits.memory", "divisor": "1m"}})),
            "env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"1m\": only divisor's values 1, 1k, 1M,",
        ),
        (from(json!({"configMapKeyRef": {"key": "k"}})), "env[0].valueFrom.configMapKeyRef.name: Required value"),
        (
            from(json!({"secretKeyRef": {"name": "s", "key": "a b"}})),
            "env[0].valueFrom.secretKeyRef.key: Invalid value: \"a b\": a valid config key must consist of",
        ),
        (
            from(json!({"fileKeyRef": {"key": "K", "path": "../f", "volumeName": "v"}})),
            "env[0].valueFrom.fileKeyRef.path: Invalid value: \"../f\": must not contain '..'",
        ),
        (
            from(json!({"fileKeyRef": {"key": "K", "path": "f", "volumeName": "w"}})),
            "env[0].valueFrom.fileKeyRef.volumeName: Not found: \"w\"",
        ),
        (
            from(json!({"fileKeyRef": {"key": "K", "path": "f", "volumeName": "h"}})),
            "env[0].valueFrom.fileKeyRef.volumeName: Invalid value: \"h\": referenced volume must be of type emptyDir",
        ),
        (
            json!({"envFrom": [{}]}),
            "envFrom[0]: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
        ),
        (json!({"envFrom": [{"secretRef": {"name": ""}}]}), "envFrom[0].secretRef.name: Required value"),
        (
            json!({"envFrom": [{"prefix": "a=", "secretRef": {"name": "s"}}]}),
            "envFrom[0].prefix: Invalid value: \"a=\"",
        ),
    ];
    let volumes = json!([{"name": "v", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/x"}}]);
    for (container, want) in table {
        let errors = wrong(container.clone(), volumes.clone());
        assert!(
            errors.len() == 1 && errors[0].starts_with(&format!("spec.containers[0].{want}")),
            "{container}\n{errors:?}\n{want}"
        );
    }
}

#[test]
fn mistakes_of_a_volume_are_told_as_kubernetes_would() {
    let table = [
        (json!({"configMap": {}}), "configMap.name: Required value"),
        (json!({"secret": {}}), "secret.secretName: Required value"),
        (
            json!({"secret": {"secretName": "s", "defaultMode": 512}}),
            "secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
        ),
        (
            json!({"configMap": {"name": "m", "items": [{"key": "", "path": "p"}]}}),
            "configMap.items[0].key: Required value",
        ),
        (
            json!({"configMap": {"name": "m", "items": [{"key": "k", "path": "..p"}]}}),
            "configMap.items[0].path: Invalid value: \"..p\": must not start with '..'",
        ),
        (
            json!({"configMap": {"name": "m", "items": [{"key": "k", "path": "/p"}]}}),
            "configMap.items[0].path: Invalid value: \"/p\": must be a relative path",
        ),
        (json!({"downwardAPI": {"items": [{"path": "p"}]}}), "downwardAPI.items[0]: Required value: one of fieldRef"),
        (
            json!({"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "status.podIP"}}]}}),
            "downwardAPI.items[0].fieldRef.fieldPath: Unsupported value: \"status.podIP\"",
        ),
        (
            json!({"downwardAPI": {"items": [{"path": "p", "resourceFieldRef": {"resource": "limits.cpu"}}]}}),
            "downwardAPI.items[0].resourceFieldRef.containerName: Required value",
        ),
        (json!({"projected": {"sources": [{}]}}), "projected.sources[0]: Required value"),
        (
            json!({"projected": {"sources": [{"secret": {"name": "s"}, "configMap": {"name": "m"}}]}}),
            "projected.sources[0]: Forbidden: may not specify more than 1 volume type per source",
        ),
        (
            json!({"projected": {"sources": [{"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}},
                {"configMap": {"name": "m", "items": [{"key": "k", "path": "p"}]}}]}}),
            "projected.sources[1].configMap.items[0].path: Invalid value: \"p\": conflicting duplicate paths",
        ),
        (
            json!({"secret": {"secretName": "s"}, "configMap": {"name": "m"}}),
            "secret: Forbidden: may not specify more than 1 volume type",
        ),
    ];
    for (mut volume, want) in table {
        volume["name"] = json!("v");
        let errors = wrong(json!({}), json!([volume]));
        assert!(
            errors.len() == 1 && errors[0].starts_with(&format!("spec.volumes[0].{want}")),
            "{volume}\n{errors:?}\n{want}"
        );
    }
}

#[test]
fn what_is_right_is_not_objected_to() {
    let volumes = json!([
        {"name": "m", "configMap": {"name": "m", "optional": true, "items": [{"key": "k", "path": "a/b", "mode": 0o400}]}},
        {"name": "e", "emptyDir": {}},
        {"name": "d", "downwardAPI": {"items": [
            {"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "a", "fieldRef": {"fieldPath": "metadata.annotations['Example.com/x']"}},
            {"path": "c", "resourceFieldRef": {"containerName": "c", "resource": "requests.memory", "divisor": "1Mi"}}]}},
    ]);
    let env = json!({"envFrom": [{"prefix": "P_", "secretRef": {"name": "s", "optional": true}}], "env": [
        {"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIPs"}}},
        {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
        {"name": "C", "valueFrom": {"fileKeyRef": {"key": "K", "path": "d/f", "volumeName": "e"}}}]});
    assert_eq!(wrong(env, volumes), [""; 0]);
}
