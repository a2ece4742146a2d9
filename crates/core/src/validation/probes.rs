//! Probes, the handlers that they share with lifecycle hooks, and readiness gates.

use k8s_openapi::{
    api::core::v1::{Container, ExecAction, GRPCAction, HTTPGetAction, PodSpec, Probe, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{check, container::in_range, one_of};
use crate::field::FieldError;
use crate::names;

const HEADER_RULE: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";

/// The probes of a container at `path`. One that runs `once` has none.
pub(super) fn container(one: &Container, once: bool, path: &str, errors: &mut Vec<FieldError>) {
    let all = [
        ("livenessProbe", &one.liveness_probe),
        ("readinessProbe", &one.readiness_probe),
        ("startupProbe", &one.startup_probe),
    ];
    for (name, probe) in all {
        let Some(wanted) = probe else { continue };
        let path = format!("{path}.{name}");
        if once {
            errors.push(FieldError::forbidden(path, "may not be set for init containers without restartPolicy=Always"));
            continue;
        }
        probe_of(wanted, &path, errors);
        if name == "readinessProbe" {
            if let Some(grace) = wanted.termination_grace_period_seconds {
                let detail = "must not be set for readinessProbes";
                errors.push(FieldError::invalid(format!("{path}.terminationGracePeriodSeconds"), grace, detail));
            }
        } else if let Some(threshold) = wanted.success_threshold.filter(|threshold| *threshold != 1) {
            errors.push(FieldError::invalid(format!("{path}.successThreshold"), threshold, "must be 1"));
        }
    }
}

/// Readiness gates.
pub(super) fn gates(spec: &PodSpec, path: &str, errors: &mut Vec<FieldError>) {
    for (n, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let path = format!("{path}.readinessGates[{n}].conditionType");
        check(names::qualified(&gate.condition_type), &gate.condition_type, &path, errors);
    }
}

fn probe_of(probe: &Probe, path: &str, errors: &mut Vec<FieldError>) {
    let handler = Handler {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
    };
    handler.check(path, errors);
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (name, number) in numbers {
        if let Some(number) = number.filter(|number| *number < 0) {
            errors.push(FieldError::invalid(format!("{path}.{name}"), number, "must be greater than or equal to 0"));
        }
    }
    if let Some(grace) = probe.termination_grace_period_seconds.filter(|grace| *grace <= 0) {
        let path = format!("{path}.terminationGracePeriodSeconds");
        errors.push(FieldError::invalid(path, grace, "must be greater than 0"));
    }
}

/// What a probe asks: one of these.
#[derive(Clone, Copy, Default)]
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
}

impl Handler<'_> {
    fn check(&self, path: &str, errors: &mut Vec<FieldError>) {
        let mut any = false;
        let mut is_only = |name: &str, errors: &mut Vec<FieldError>| {
            let path = format!("{path}.{name}");
            if any {
                errors.push(FieldError::forbidden(&*path, "may not specify more than 1 handler type"));
            }
            (!std::mem::replace(&mut any, true)).then_some(path)
        };
        if let Some(action) = self.exec
            && let Some(path) = is_only("exec", errors)
        {
            exec(action, &path, errors);
        }
        if let Some(action) = self.http_get
            && let Some(path) = is_only("httpGet", errors)
        {
            http_get(action, &path, errors);
        }
        if let Some(action) = self.tcp_socket
            && let Some(path) = is_only("tcpSocket", errors)
        {
            port(&action.port, &format!("{path}.port"), errors);
        }
        if let Some(action) = self.grpc
            && let Some(path) = is_only("grpc", errors)
        {
            in_range(action.port, &format!("{path}.port"), errors);
        }
        if !any {
            errors.push(FieldError::required(path, "must specify a handler type"));
        }
    }
}

/// A command.
pub(super) fn exec(action: &ExecAction, path: &str, errors: &mut Vec<FieldError>) {
    if action.command.as_ref().is_none_or(Vec::is_empty) {
        errors.push(FieldError::required(format!("{path}.command"), ""));
    }
}

/// A request.
pub(super) fn http_get(action: &HTTPGetAction, path: &str, errors: &mut Vec<FieldError>) {
    if action.path.as_deref().is_none_or(str::is_empty) {
        errors.push(FieldError::required(format!("{path}.path"), ""));
    }
    port(&action.port, &format!("{path}.port"), errors);
    one_of(action.scheme.as_deref().unwrap_or_default(), &["HTTP", "HTTPS"], &format!("{path}.scheme"), errors);
    for header in action.http_headers.iter().flatten() {
        let fits = !header.name.is_empty() && header.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !fits {
            errors.push(FieldError::invalid(format!("{path}.httpHeaders"), &*header.name, HEADER_RULE));
        }
    }
}

fn port(port: &IntOrString, path: &str, errors: &mut Vec<FieldError>) {
    match port {
        IntOrString::Int(number) => in_range(*number, path, errors),
        IntOrString::String(name) => check(names::port_name(name), name, path, errors),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    fn objections(list: &str, fields: Value) -> Vec<String> {
        let mut container = json!({"name": "c", "image": "i"});
        container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let mut spec = json!({"containers": [{"name": "d", "image": "i"}]});
        spec[list] = json!([container]);
        let mut pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        crate::defaults::pod(&mut pod);
        crate::validation::pod(&pod).iter().map(ToString::to_string).collect()
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn each_mistake_in_a_probe_is_told_as_kubernetes_would() {
        let exec = json!({"command": ["x"]});
        let table = [
            (json!({"exec": exec}), ""),
            (json!({"httpGet": {"port": 80, "httpHeaders": [{"name": "X-A", "value": "b"}]}}), ""),
            (json!({"tcpSocket": {"port": "http"}, "terminationGracePeriodSeconds": 1}), ""),
            (json!({"grpc": {"port": 80}}), ""),
            (json!({"periodSeconds": 1}), "livenessProbe: Required value: must specify a handler type"),
            (
                json!({"exec": exec, "tcpSocket": {"port": 1}}),
                "livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            ),
            (json!({"exec": {}}), "livenessProbe.exec.command: Required value"),
            (
                json!({"tcpSocket": {"port": 0}}),
                "livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"tcpSocket": {"port": "8080"}}),
                "livenessProbe.tcpSocket.port: Invalid value: \"8080\": must contain at least one letter (a-z)",
            ),
            (
                json!({"grpc": {"port": 65536}}),
                "livenessProbe.grpc.port: Invalid value: 65536: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"httpGet": {"port": 1, "scheme": "FTP"}}),
                "livenessProbe.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\"",
            ),
            (
                json!({"httpGet": {"port": 1, "httpHeaders": [{"name": "X A", "value": "b"}]}}),
                "livenessProbe.httpGet.httpHeaders: Invalid value: \"X A\": a valid HTTP header must consist of",
            ),
            (
                json!({"exec": exec, "initialDelaySeconds": -1}),
                "livenessProbe.initialDelaySeconds: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                json!({"exec": exec, "successThreshold": 2}),
                "livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ),
            (
                json!({"exec": exec, "terminationGracePeriodSeconds": 0}),
                "livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
            ),
        ];
        for (probe, wanted) in table {
            let told = objections("containers", json!({"livenessProbe": probe}));
            match wanted {
                "" => assert_eq!(told, NONE, "{probe}"),
                wanted => {
                    assert_eq!(told.len(), 1, "{probe}: {told:?}");
                    assert!(told[0].starts_with(&format!("spec.containers[0].{wanted}")), "{probe}: {told:?}");
                }
            }
        }
    }

    #[test]
    fn each_kind_of_probe_has_rules_of_its_own() {
        let probe = |more: Value| {
            let mut probe = json!({"exec": {"command": ["x"]}});
            probe.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            probe
        };
        let two = probe(json!({"successThreshold": 2}));
        assert_eq!(objections("containers", json!({"readinessProbe": two})), NONE);
        let told = objections("containers", json!({"startupProbe": two}));
        assert_eq!(told, ["spec.containers[0].startupProbe.successThreshold: Invalid value: 2: must be 1"]);
        let grace = probe(json!({"terminationGracePeriodSeconds": 5}));
        assert_eq!(objections("containers", json!({"startupProbe": grace})), NONE);
        let told = objections("containers", json!({"readinessProbe": grace}));
        let wanted = "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 5: must not be set for readinessProbes";
        assert_eq!(told, [wanted]);
        let told = objections("initContainers", json!({"livenessProbe": probe(json!({}))}));
        assert_eq!(
            told,
            [
                "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"
            ]
        );
        let sidecar = json!({"restartPolicy": "Always", "livenessProbe": probe(json!({}))});
        assert_eq!(objections("initContainers", sidecar), NONE);
    }

    #[test]
    fn a_gate_is_a_qualified_name() {
        let told = |kind: &str| {
            let spec =
                json!({"containers": [{"name": "c", "image": "i"}], "readinessGates": [{"conditionType": kind}]});
            let mut pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
            crate::defaults::pod(&mut pod);
            crate::validation::pod(&pod).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(told("example.com/ok"), NONE);
        assert!(told("a b")[0].starts_with("spec.readinessGates[0].conditionType: Invalid value: \"a b\": name part"));
    }
}
