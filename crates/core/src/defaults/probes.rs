//! The defaults of probes and hooks, and of what they ask.

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};

/// Fills in what a container's probes and hooks left out.
pub(super) fn container(container: &mut Container) {
    let all = [&mut container.startup_probe, &mut container.liveness_probe, &mut container.readiness_probe];
    all.into_iter().flatten().for_each(fill);
    let hooks = container.lifecycle.iter_mut().flat_map(|l| [&mut l.post_start, &mut l.pre_stop]).flatten();
    hooks.filter_map(|hook| hook.http_get.as_mut()).for_each(http_get);
}

fn fill(probe: &mut Probe) {
    let numbers = [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ];
    for (field, default) in numbers {
        // Zero is silence, too.
        if field.is_none_or(|seconds| seconds == 0) {
            *field = Some(default);
        }
    }
    if let Some(action) = &mut probe.http_get {
        http_get(action);
    }
    if let Some(action) = &mut probe.grpc {
        action.service.get_or_insert_default();
    }
}

/// Fills in path and scheme of a request.
pub(super) fn http_get(action: &mut HTTPGetAction) {
    super::set(&mut action.path, "/");
    super::set(&mut action.scheme, "HTTP");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bare_probe_gets_what_kubernetes_would_write() {
        let mut bare: Container = serde_json::from_value(json!({
            "name": "c",
            "startupProbe": {"grpc": {"port": 1}, "periodSeconds": 0, "timeoutSeconds": 7},
            "livenessProbe": {"httpGet": {"port": "http"}},
            "readinessProbe": {"exec": {"command": ["x"]}, "successThreshold": 2},
            "lifecycle": {"preStop": {"httpGet": {"port": 1}}},
        }))
        .unwrap();
        container(&mut bare);
        let probes = serde_json::to_value(&bare).unwrap();
        assert_eq!(
            probes,
            json!({
                "name": "c",
                "startupProbe": {"grpc": {"port": 1, "service": ""}, "timeoutSeconds": 7, "periodSeconds": 10,
                    "successThreshold": 1, "failureThreshold": 3},
                "livenessProbe": {"httpGet": {"port": "http", "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "readinessProbe": {"exec": {"command": ["x"]}, "timeoutSeconds": 1, "periodSeconds": 10,
                    "successThreshold": 2, "failureThreshold": 3},
                "lifecycle": {"preStop": {"httpGet": {"path": "/", "port": 1, "scheme": "HTTP"}}},
            })
        );
    }
}
