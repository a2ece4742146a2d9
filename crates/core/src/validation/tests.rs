//! What the rules object to, as tables of manifests.

use serde_json::{Value, json};

use super::*;
use crate::defaults;

fn manifest(spec: Value) -> Pod {
    let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
    defaults::pod(&mut pod);
    pod
}

/// A container with more fields.
fn with(more: Value) -> Value {
    let mut container = json!({"name": "c", "image": "i"});
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]})
}

/// A container that mounts the volume, with more fields.
fn mount(more: Value) -> Value {
    let mut mount = json!({"name": "v", "mountPath": "/v"});
    mount.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    with(json!({"volumeMounts": [mount]}))
}

#[test]
fn a_plain_pod_is_fine() {
    assert_eq!(pod(&manifest(with(json!({})))), []);
}

#[test]
fn each_mistake_is_told_with_its_path_as_kubernetes_would() {
    let table: Vec<(Value, &str)> = vec![
        (json!({"containers": []}), "spec.containers: Required value"),
        (json!({"containers": [{"name": "c"}]}), "spec.containers[0].image: Required value"),
        (json!({"containers": [{"image": "i"}]}), "spec.containers[0].name: Required value"),
        (
            json!({"containers": [{"name": "C", "image": "i"}]}),
            "spec.containers[0].name: Invalid value: \"C\": a lowercase RFC 1123 label",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]}),
            "spec.containers[1].name: Duplicate value: \"c\"",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "initContainers": [{"name": "c", "image": "i"}]}),
            "spec.initContainers[0].name: Duplicate value: \"c\"",
        ),
        (with(json!({"image": " i"})), "spec.containers[0].image: Invalid value: \" i\": must not have leading"),
        (
            with(json!({"imagePullPolicy": "Sometimes"})),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (with(json!({"env": [{"name": "a=b"}]})), "spec.containers[0].env[0].name: Invalid value: \"a=b\""),
        (
            with(json!({"ports": [{"containerPort": 70000}]})),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            with(json!({"ports": [{"containerPort": 80, "protocol": "tcp"}]})),
            "spec.containers[0].ports[0].protocol: Unsupported value: \"tcp\"",
        ),
        (
            with(json!({"ports": [{"containerPort": 80, "hostIP": "x"}]})),
            "spec.containers[0].ports[0].hostIP: Invalid value: \"x\"",
        ),
        (
            with(json!({"ports": [{"containerPort": 80, "hostPort": 1}, {"containerPort": 81, "hostPort": 1}]})),
            "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//1\"",
        ),
        (
            with(json!({"ports": [{"containerPort": 80, "name": "x"}, {"containerPort": 81, "name": "x"}]})),
            "spec.containers[0].ports[1].name: Duplicate value: \"x\"",
        ),
        (
            with(json!({"volumeMounts": [{"name": "nope", "mountPath": "/x"}]})),
            "spec.containers[0].volumeMounts[0].name: Not found: \"nope\"",
        ),
        (
            with(json!({"volumeMounts": [{"name": "v", "mountPath": ""}]})),
            "spec.containers[0].volumeMounts[0].mountPath: Required value",
        ),
        (
            with(json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}, {"name": "v", "mountPath": "/x"}]})),
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/x\": must be unique",
        ),
        (mount(json!({"subPath": "/a"})), "volumeMounts[0].subPath: Invalid value: \"/a\": must be a relative path"),
        (
            mount(json!({"subPath": "a/../b"})),
            "volumeMounts[0].subPath: Invalid value: \"a/../b\": must not contain '..'",
        ),
        (
            mount(json!({"subPath": "a", "subPathExpr": "b"})),
            "volumeMounts[0].subPathExpr: Invalid value: \"b\": subPathExpr and subPath are mutually exclusive",
        ),
        (mount(json!({"subPathExpr": "../$(A)"})), "volumeMounts[0].subPathExpr: Invalid value: \"../$(A)\": must not"),
        (
            mount(json!({"mountPropagation": "Both"})),
            "volumeMounts[0].mountPropagation: Unsupported value: \"Both\": supported values: \"Bidirectional\", \"HostToContainer\", \"None\"",
        ),
        (
            mount(json!({"mountPropagation": "Bidirectional"})),
            "volumeMounts[0].mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged",
        ),
        (
            mount(json!({"recursiveReadOnly": "Enabled"})),
            "volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
        ),
        (
            mount(json!({"recursiveReadOnly": "IfPossible", "readOnly": true, "mountPropagation": "HostToContainer"})),
            "volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or not",
        ),
        (mount(json!({"recursiveReadOnly": "Yes"})), "volumeMounts[0].recursiveReadOnly: Unsupported value: \"Yes\""),
        (
            with(json!({"resources": {"limits": {"cpu": "many"}}})),
            "spec.containers[0].resources.limits.cpu: Invalid value: \"many\": quantities must match",
        ),
        (
            with(json!({"resources": {"limits": {"memory": "-1"}}})),
            "spec.containers[0].resources.limits.memory: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            with(json!({"resources": {"limits": {"memory": "1Mi"}, "requests": {"memory": "2Mi"}}})),
            "spec.containers[0].resources.requests: Invalid value: \"2Mi\": must be less than or equal to memory limit of 1Mi",
        ),
        (
            with(json!({"securityContext": {"runAsUser": -1}})),
            "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            with(json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false}})),
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Maybe"}),
            "spec.restartPolicy: Unsupported value: \"Maybe\"",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": -1}),
            "spec.terminationGracePeriodSeconds: Invalid value: -1",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "hostname": "a_b"}),
            "spec.hostname: Invalid value: \"a_b\"",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "hostPath": {"path": "/a/../b"}}]}),
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "hostPath": {"path": "/a", "type": "Dir"}}]}),
            "spec.volumes[0].hostPath.type: Unsupported value: \"Dir\"",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v"}, {"name": "v"}]}),
            "spec.volumes[1].name: Duplicate value: \"v\"",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "emptyDir": {"medium": "Disk"}}]}),
            "spec.volumes[0].emptyDir.medium: Unsupported value: \"Disk\"",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "image": {"reference": ""}}]}),
            "spec.volumes[0].image.reference: Required value",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "image": {"reference": "i", "pullPolicy": "No"}}]}),
            "spec.volumes[0].image.pullPolicy: Unsupported value: \"No\"",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]}),
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "securityContext": {"fsGroup": -1}}),
            "spec.securityContext.fsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "-1Mi"}}]}),
            "spec.volumes[0].emptyDir.sizeLimit: Invalid value",
        ),
    ];
    for (spec, want) in table {
        let errors = pod(&manifest(spec.clone()));
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(texts.len() == 1 && texts[0].contains(want), "{spec}\nwant {want}\ngot  {texts:#?}");
    }
}

#[test]
fn metadata_follows_the_rules_for_names() {
    let table = [
        (json!({}), "metadata.name: Required value: name or generateName is required"),
        (json!({"name": "A"}), "metadata.name: Invalid value: \"A\""),
        (json!({"name": "a", "namespace": "a.b"}), "metadata.namespace: Invalid value"),
        (json!({"name": "a", "labels": {"x y": "z"}}), "metadata.labels: Invalid value: \"x y\""),
        (json!({"name": "a", "labels": {"x": "-"}}), "metadata.labels: Invalid value: \"-\""),
    ];
    for (meta, want) in table {
        let errors = metadata(&serde_json::from_value(meta.clone()).unwrap(), Scope::Namespaced, names::dns_subdomain);
        assert!(errors.len() == 1 && errors[0].to_string().starts_with(want), "{meta}: {errors:?}");
    }
    let generated = serde_json::from_value(json!({"generateName": "web-"})).unwrap();
    assert_eq!(metadata(&generated, Scope::Namespaced, names::dns_subdomain), []);
}

#[test]
fn only_the_image_of_a_running_pod_may_change() {
    let old = manifest(with(json!({})));
    let image = manifest(with(json!({"image": "other"})));
    let mut image = image;
    image.spec.as_mut().unwrap().containers[0]
        .image_pull_policy
        .clone_from(&old.spec.as_ref().unwrap().containers[0].image_pull_policy);
    assert_eq!(pod_update(&image, &old), []);
    let errors = pod_update(&manifest(with(json!({"workingDir": "/x"}))), &old);
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().ends_with("this one changes spec.containers[0].workingDir"), "{}", errors[0]);
}
