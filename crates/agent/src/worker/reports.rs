//! The events that follow from a change of status: what a container waits for, and why a pod was ended. Those about actions are recorded by the
//! actions themselves. Pure.

use k8s_openapi::api::core::v1::{ContainerStateWaiting, ContainerStatus, Pod, PodStatus};

use crate::events::Severity;

/// An event about a pod or one of its containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// None: the pod itself.
    pub(crate) container: Option<String>,
    pub(crate) severity: Severity,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What is worth an event between two statuses of a pod.
pub(crate) fn reports(pod: &Pod, old: &PodStatus, new: &PodStatus) -> Vec<Report> {
    let before = |name: &str| all(old).find(|s| s.name == name).and_then(waiting);
    let waits = all(new).filter_map(|status| {
        let waits = waiting(status)?;
        (before(&status.name) != Some(waits)).then(|| report(pod, &status.name, waits)).flatten()
    });
    waits.chain(deadline(old, new)).collect()
}

fn deadline(old: &PodStatus, new: &PodStatus) -> Option<Report> {
    let exceeded = |status: &PodStatus| status.reason.as_deref() == Some("DeadlineExceeded");
    let message = new.message.clone().filter(|_| exceeded(new) && !exceeded(old))?;
    Some(Report { container: None, severity: Severity::Normal, reason: "DeadlineExceeded", message })
}

fn report(pod: &Pod, container: &str, waits: &ContainerStateWaiting) -> Option<Report> {
    let message = waits.message.clone().unwrap_or_default();
    let identity = super::names::identity(pod);
    let (severity, message) = match waits.reason.as_deref()? {
        "CrashLoopBackOff" => (
            Severity::Warning,
            format!(
                "Back-off restarting failed container {container} in pod {}_{}({})",
                identity.name, identity.namespace, identity.uid
            ),
        ),
        "ImagePullBackOff" => (Severity::Normal, message),
        _ => return None,
    };
    Some(Report { container: Some(container.to_owned()), severity, reason: "BackOff", message })
}

fn waiting(status: &ContainerStatus) -> Option<&ContainerStateWaiting> {
    status.state.as_ref()?.waiting.as_ref()
}

fn all(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(waiting: Value) -> PodStatus {
        let state = json!({"waiting": waiting});
        let container =
            json!({"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        serde_json::from_value(json!({"containerStatuses": [container]})).expect("a status")
    }

    #[test]
    fn a_back_off_is_told_once_per_wait() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}})).expect("a pod");
        let plain = status(json!({"reason": "ContainerCreating"}));
        let first = status(json!({"reason": "CrashLoopBackOff", "message": "back-off 10s restarting"}));
        let second = status(json!({"reason": "CrashLoopBackOff", "message": "back-off 20s restarting"}));
        assert_eq!(reports(&pod, &plain, &plain), []);
        let told = reports(&pod, &plain, &first);
        assert_eq!(told[0].message, "Back-off restarting failed container a in pod p_n(u)");
        assert_eq!(reports(&pod, &first, &first), []);
        assert_eq!(reports(&pod, &first, &second).len(), 1);
    }
}
