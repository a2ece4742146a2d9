//! What podd does with each field of a Pod: honoured, without effect on one node, or refused.
//!
//! The table below is the whole truth: a field that it does not name is refused by name. A field
//! at its Kubernetes default, null or empty is never refused, so that what `get -o yaml` prints
//! can be applied again.

use serde_json::{Value, json};

use crate::field::FieldError;

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// podd does what the field says.
    Honoured,
    /// Accepted and reported: on one node it has nothing to decide. The text says why.
    NoEffect(&'static str),
}

/// The verdicts on a manifest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Findings {
    /// Fields that podd does not implement.
    pub refused: Vec<FieldError>,
    /// Fields that are accepted without effect, with the reason.
    pub without_effect: Vec<(String, &'static str)>,
}

use Verdict::{Honoured, NoEffect};

const ONE_NODE: &str = "there is one node only, so nothing is left to schedule";

/// Patterns: `[]` stands for any item of a list; a trailing `.*` takes the whole subtree.
const POD: &[(&str, Verdict)] = &[
    ("apiVersion", Honoured),
    ("kind", Honoured),
    ("metadata.*", Honoured),
    ("status.*", Honoured),
    ("spec.containers[].args.*", Honoured),
    ("spec.containers[].command.*", Honoured),
    ("spec.containers[].env[].name", Honoured),
    ("spec.containers[].env[].value", Honoured),
    ("spec.containers[].image", Honoured),
    ("spec.containers[].imagePullPolicy", Honoured),
    ("spec.containers[].name", Honoured),
    ("spec.containers[].ports[].*", Honoured),
    ("spec.containers[].resources.limits.cpu", Honoured),
    ("spec.containers[].resources.limits.memory", Honoured),
    ("spec.containers[].resources.requests.cpu", Honoured),
    ("spec.containers[].resources.requests.memory", Honoured),
    ("spec.containers[].securityContext.allowPrivilegeEscalation", Honoured),
    ("spec.containers[].securityContext.capabilities.add.*", Honoured),
    ("spec.containers[].securityContext.capabilities.drop.*", Honoured),
    ("spec.containers[].securityContext.privileged", Honoured),
    ("spec.containers[].securityContext.readOnlyRootFilesystem", Honoured),
    ("spec.containers[].securityContext.runAsGroup", Honoured),
    ("spec.containers[].securityContext.runAsUser", Honoured),
    ("spec.containers[].volumeMounts[].mountPath", Honoured),
    ("spec.containers[].volumeMounts[].name", Honoured),
    ("spec.containers[].volumeMounts[].readOnly", Honoured),
    ("spec.containers[].workingDir", Honoured),
    ("spec.hostNetwork", Honoured),
    ("spec.hostname", Honoured),
    ("spec.nodeName", Honoured),
    ("spec.restartPolicy", Honoured),
    ("spec.securityContext.runAsGroup", Honoured),
    ("spec.securityContext.runAsUser", Honoured),
    ("spec.shareProcessNamespace", Honoured),
    ("spec.terminationGracePeriodSeconds", Honoured),
    ("spec.volumes[].emptyDir", Honoured),
    ("spec.volumes[].emptyDir.medium", Honoured),
    ("spec.volumes[].emptyDir.sizeLimit", Honoured),
    ("spec.volumes[].hostPath.path", Honoured),
    ("spec.volumes[].hostPath.type", Honoured),
    ("spec.volumes[].name", Honoured),
    ("spec.affinity.*", NoEffect(ONE_NODE)),
    ("spec.nodeSelector.*", NoEffect(ONE_NODE)),
    ("spec.os.name", NoEffect("podd runs Linux pods")),
    ("spec.schedulerName", NoEffect(ONE_NODE)),
    ("spec.tolerations.*", NoEffect(ONE_NODE)),
    ("spec.topologySpreadConstraints.*", NoEffect(ONE_NODE)),
];

/// Values that Kubernetes writes itself where a manifest is silent; they ask for nothing.
fn is_default(pattern: &str, value: &Value) -> bool {
    let default = match pattern {
        "spec.dnsPolicy" => json!("ClusterFirst"),
        "spec.schedulerName" => json!("default-scheduler"),
        "spec.enableServiceLinks" | "spec.hostUsers" => json!(true),
        "spec.hostPID" | "spec.hostIPC" | "spec.automountServiceAccountToken" | "spec.setHostnameAsFQDN" => {
            json!(false)
        }
        "spec.priority" => json!(0),
        "spec.preemptionPolicy" => json!("PreemptLowerPriority"),
        "spec.serviceAccount" | "spec.serviceAccountName" => json!("default"),
        "spec.containers[].stdin"
        | "spec.containers[].stdinOnce"
        | "spec.containers[].tty"
        | "spec.containers[].securityContext.runAsNonRoot"
        | "spec.securityContext.runAsNonRoot" => json!(false),
        "spec.containers[].terminationMessagePath" => json!("/dev/termination-log"),
        "spec.containers[].terminationMessagePolicy" => json!("File"),
        "spec.containers[].securityContext.procMount" => json!("Default"),
        "spec.containers[].volumeMounts[].recursiveReadOnly" => json!("Disabled"),
        "spec.containers[].volumeMounts[].mountPropagation" => json!("None"),
        _ => return false,
    };
    *value == default
}

/// The verdicts on every field that a Pod sets.
#[must_use]
pub fn pod(manifest: &Value) -> Findings {
    let mut findings = Findings::default();
    walk(manifest, "", "", &mut findings);
    findings
}

fn walk(value: &Value, path: &str, pattern: &str, findings: &mut Findings) {
    if is_empty(value) || (!pattern.is_empty() && is_default(pattern, value)) {
        return;
    }
    match verdict(pattern) {
        Some(Honoured) => return,
        Some(NoEffect(why)) => {
            findings.without_effect.push((path.into(), why));
            return;
        }
        None if !leads_somewhere(pattern) => {
            findings.refused.push(FieldError::forbidden(path, "podd does not implement this field yet; remove it"));
            return;
        }
        None => {}
    }
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let join = |prefix: &str| {
                    if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") }
                };
                // Init containers follow the rows of containers.
                let generic = match join(pattern).as_str() {
                    "spec.initContainers" => "spec.containers".into(),
                    other => other.to_owned(),
                };
                walk(inner, &join(path), &generic, findings);
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                walk(inner, &format!("{path}[{index}]"), &format!("{pattern}[]"), findings);
            }
        }
        // The wrong type; validation says so.
        _ => {}
    }
}

fn verdict(pattern: &str) -> Option<Verdict> {
    POD.iter()
        .find(|(row, _)| row.strip_suffix(".*").map_or(*row == pattern, |top| pattern == top))
        .map(|(_, verdict)| *verdict)
        // An object that has rows of its own is walked, though it may have a row itself.
        .filter(|_| !has_rows_below(pattern))
}

/// Whether the table has rows below this field.
fn leads_somewhere(pattern: &str) -> bool {
    pattern.is_empty() || has_rows_below(pattern)
}

fn has_rows_below(pattern: &str) -> bool {
    POD.iter().any(|(row, _)| {
        row.strip_prefix(pattern).is_some_and(|rest| (rest.starts_with('.') && rest != ".*") || rest.starts_with("[]"))
    })
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(spec: Value) -> Vec<String> {
        let findings = pod(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}));
        findings.refused.into_iter().map(|e| e.path).collect()
    }

    #[test]
    fn what_the_table_lacks_is_refused_by_name() {
        let table = [
            (
                json!({"containers": [{"name": "a", "livenessProbe": {"exec": {"command": ["x"]}}}]}),
                vec!["spec.containers[0].livenessProbe"],
            ),
            (
                json!({"containers": [{"name": "a", "env": [{"name": "x", "valueFrom": {"fieldRef": {"fieldPath": "a"}}}]}]}),
                vec!["spec.containers[0].env[0].valueFrom"],
            ),
            (
                json!({"initContainers": [{"name": "a", "restartPolicy": "Always"}]}),
                vec!["spec.initContainers[0].restartPolicy"],
            ),
            (
                json!({"containers": [{"volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "y"}]}]}),
                vec!["spec.containers[0].volumeMounts[0].subPath"],
            ),
            (
                json!({"containers": [{"resources": {"limits": {"hugepages-2Mi": "2Mi", "cpu": "1"}}}]}),
                vec!["spec.containers[0].resources.limits.hugepages-2Mi"],
            ),
            (json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]}), vec!["spec.volumes[0].configMap"]),
            (json!({"hostPID": true, "dnsPolicy": "None"}), vec!["spec.dnsPolicy", "spec.hostPID"]),
            (
                json!({"volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}, {"name": "w", "emptyDir": {}}]}),
                vec![],
            ),
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
            (json!({"envFrom": [{"secretRef": {"name": "s"}}]}), "envFrom"),
            (json!({"readinessProbe": {"periodSeconds": 1}}), "readinessProbe"),
            (json!({"startupProbe": {"periodSeconds": 1}}), "startupProbe"),
            (json!({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}), "lifecycle"),
            (json!({"stdin": true}), "stdin"),
            (json!({"tty": true}), "tty"),
            (json!({"terminationMessagePath": "/other"}), "terminationMessagePath"),
            (json!({"terminationMessagePolicy": "FallbackToLogsOnError"}), "terminationMessagePolicy"),
            (json!({"volumeDevices": [{"name": "v", "devicePath": "/d"}]}), "volumeDevices"),
            (json!({"resizePolicy": [{"resourceName": "cpu"}]}), "resizePolicy"),
            (json!({"securityContext": {"runAsNonRoot": true}}), "securityContext.runAsNonRoot"),
            (json!({"securityContext": {"procMount": "Unmasked"}}), "securityContext.procMount"),
            (json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}), "securityContext.seccompProfile"),
            (json!({"securityContext": {"seLinuxOptions": {"level": "s0"}}}), "securityContext.seLinuxOptions"),
        ];
        for (more, field) in in_container {
            assert_eq!(refused(of_container(more)), [format!("spec.containers[0].{field}")]);
        }
        let in_spec = [
            (json!({"activeDeadlineSeconds": 1}), "activeDeadlineSeconds"),
            (json!({"dnsConfig": {"nameservers": ["1.1.1.1"]}}), "dnsConfig"),
            (json!({"ephemeralContainers": [{"name": "e"}]}), "ephemeralContainers"),
            (json!({"hostAliases": [{"ip": "1.1.1.1"}]}), "hostAliases"),
            (json!({"hostIPC": true}), "hostIPC"),
            (json!({"hostUsers": false}), "hostUsers"),
            (json!({"imagePullSecrets": [{"name": "s"}]}), "imagePullSecrets"),
            (json!({"overhead": {"cpu": "1"}}), "overhead"),
            (json!({"priorityClassName": "high"}), "priorityClassName"),
            (json!({"readinessGates": [{"conditionType": "x"}]}), "readinessGates"),
            (json!({"resources": {"limits": {"cpu": "1"}}}), "resources"),
            (json!({"runtimeClassName": "gvisor"}), "runtimeClassName"),
            (json!({"securityContext": {"fsGroup": 1}}), "securityContext.fsGroup"),
            (json!({"securityContext": {"sysctls": [{"name": "a", "value": "b"}]}}), "securityContext.sysctls"),
            (json!({"serviceAccountName": "other"}), "serviceAccountName"),
            (json!({"setHostnameAsFQDN": true}), "setHostnameAsFQDN"),
            (json!({"subdomain": "s"}), "subdomain"),
            (json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}), "volumes[0].secret"),
            (json!({"volumes": [{"name": "v", "image": {"reference": "i"}}]}), "volumes[0].image"),
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
    fn the_table_is_sorted_by_verdict_without_doubles() {
        let mut rows: Vec<&str> = POD.iter().map(|(row, _)| *row).collect();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), POD.len());
    }
}
