//! What the table says, on manifests.

use super::*;

fn refused(spec: Value) -> Vec<String> {
    let findings = pod(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}));
    findings.refused.into_iter().map(|e| e.path).collect()
}

#[test]
fn what_the_table_lacks_is_refused_by_name() {
    let table = [
        (
            json!({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
            vec!["spec.volumes[0].projected.sources[0].serviceAccountToken"],
        ),
        (
            json!({"containers": [{"resources": {"limits": {"hugepages-2Mi": "2Mi", "cpu": "1"}}}]}),
            vec!["spec.containers[0].resources.limits.hugepages-2Mi"],
        ),
        (json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]}), vec![]),
        (json!({"hostPID": true, "schedulingGates": [{"name": "g"}]}), vec!["spec.schedulingGates"]),
        (json!({"serviceAccountName": "other", "setHostnameAsFQDN": true}), vec![]),
        (json!({"volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}, {"name": "w", "emptyDir": {}}]}), vec![]),
    ];
    for (spec, want) in table {
        assert_eq!(refused(spec.clone()), want, "{spec}");
    }
}

#[test]
fn every_field_of_the_slice_is_honoured() {
    let container = json!({
        "name": "a", "image": "i", "imagePullPolicy": "Never", "command": ["x"], "args": ["$(A)"], "workingDir": "/w",
        "env": [{"name": "A", "value": "1"}],
        "ports": [{"name": "p", "containerPort": 80, "hostPort": 81, "hostIP": "127.0.0.1", "protocol": "UDP"}],
        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}},
        "volumeMounts": [{"name": "e", "mountPath": "/e", "readOnly": true}],
        "securityContext": {"runAsUser": 1, "runAsGroup": 2, "privileged": true, "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": true, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}},
    });
    let findings = pod(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}, "annotations": {"a": "b"}},
        "spec": {
            "containers": [container], "initContainers": [container], "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1, "hostname": "h", "hostNetwork": true, "shareProcessNamespace": true,
            "volumes": [{"name": "e", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                {"name": "h", "hostPath": {"path": "/h", "type": "Directory"}}],
        },
    }));
    assert_eq!(findings, Findings::default());
}

#[test]
fn the_rest_of_the_pod_api_is_refused_by_name() {
    let of_container = |more: Value| {
        let mut container = json!({"name": "a"});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"containers": [container]})
    };
    let in_container = [
        (json!({"lifecycle": {"preStop": {"tcpSocket": {"port": 1}}}}), "lifecycle.preStop.tcpSocket"),
        (json!({"volumeDevices": [{"name": "v", "devicePath": "/d"}]}), "volumeDevices"),
        (json!({"resizePolicy": [{"resourceName": "cpu"}]}), "resizePolicy"),
    ];
    for (more, field) in in_container {
        assert_eq!(refused(of_container(more)), [format!("spec.containers[0].{field}")]);
    }
    let in_spec = [
        (
            json!({"ephemeralContainers": [{"name": "e", "ports": [{"containerPort": 1}]}]}),
            "ephemeralContainers[0].ports",
        ),
        (json!({"resources": {"limits": {"nvidia.com/gpu": "1"}}}), "resources.limits.nvidia.com/gpu"),
    ];
    for (spec, field) in in_spec {
        assert_eq!(refused(spec), [format!("spec.{field}")]);
    }
}

#[test]
fn defaults_nulls_and_empty_values_ask_for_nothing() {
    let spec = json!({
        "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "schedulerName": "default-scheduler",
        "hostPID": false, "priority": 0, "securityContext": {}, "imagePullSecrets": [], "readinessGates": null,
        "containers": [{"name": "a", "image": "b", "livenessProbe": null, "lifecycle": {}, "tty": false,
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "resources": {}}],
    });
    let findings = pod(&json!({"spec": spec, "status": {"phase": "Running"}}));
    assert_eq!(findings, Findings::default());
}

#[test]
fn scheduling_fields_are_reported_as_without_effect() {
    let findings = pod(&json!({"spec": {"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]}}));
    assert_eq!(findings.refused, []);
    let fields: Vec<&str> = findings.without_effect.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(fields, ["spec.nodeSelector", "spec.tolerations"]);
}

#[test]
fn the_table_has_no_doubles() {
    let mut rows: Vec<&str> = POD.iter().map(|(row, _)| *row).collect();
    rows.sort_unstable();
    rows.dedup();
    assert_eq!(rows.len(), POD.len());
}

#[test]
fn the_longest_row_counts_and_containers_of_all_kinds_share_rows() {
    let table = [
        ("spec.containers[].args", "honoured"),
        ("spec.initContainers[].args", "honoured"),
        ("spec.containers[].resources.limits", "honoured"),
        ("spec.containers[].resources.limits.cpu", "honoured"),
        ("spec.containers[].resources.limits.vendor/dev", "refused"),
        ("spec.affinity.nodeAffinity", "without effect"),
        ("spec.volumes[].nfs.path", "refused"),
        ("spec.nothing", "none"),
        ("spec.containersX", "none"),
    ];
    for (pattern, wanted) in table {
        let found = match of(pattern) {
            Some(Honoured(_)) => "honoured",
            Some(NoEffect(_)) => "without effect",
            Some(Refused(_)) => "refused",
            None => "none",
        };
        assert_eq!(found, wanted, "{pattern}");
    }
}
