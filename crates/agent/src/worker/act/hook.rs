//! Lifecycle hooks: a command in the container, a request to its server, or a pause. None has a deadline of its own: a
//! postStart hook is given up with its container, a preStop hook with the grace.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, Lifecycle, LifecycleHandler, Pod};
use podd_core::pod::{Failure, members};
use podd_cri::v1;
use tonic::Request;

use super::super::{machine::Order, services::Services};
use crate::{
    events::Severity,
    probes::{http::Get, reach},
    worker::names::identity,
};

/// How much of what a hook's command wrote is told.
const OUTPUT: usize = 1024;

/// Runs the postStart hook of a container.
pub(super) async fn post_start(services: &Services, order: &Order, id: &str, name: &str) -> Result<(), Failure> {
    let pod = &*order.pod;
    let outcome = match of(pod, name, |l| l.post_start.as_ref()) {
        Some((container, hook)) => run(services, order, id, &container, &hook).await,
        None => Ok(()),
    };
    outcome.map_err(|message| {
        services.recorder.container(pod, name, Severity::Warning, "FailedPostStartHook", "PostStartHook failed");
        Failure { reason: "PostStartHookError".to_owned(), message }
    })
}

/// Runs the preStop hook of a container.
pub(super) async fn pre_stop(services: &Services, order: &Order, id: &str, name: &str) -> Result<(), Failure> {
    let pod = &*order.pod;
    let outcome = match of(pod, name, |l| l.pre_stop.as_ref()) {
        Some((container, hook)) => run(services, order, id, &container, &hook).await,
        None => Ok(()),
    };
    outcome.map_err(|message| {
        services.recorder.container(pod, name, Severity::Warning, "FailedPreStopHook", "PreStopHook failed");
        Failure { reason: "FailedPreStopHook".to_owned(), message }
    })
}

fn of(
    pod: &Pod,
    name: &str,
    which: impl Fn(&Lifecycle) -> Option<&LifecycleHandler>,
) -> Option<(Container, LifecycleHandler)> {
    let container = members(pod).into_iter().find(|m| m.name() == name)?.spec.into_owned();
    let hook = which(container.lifecycle.as_ref()?)?.clone();
    Some((container, hook))
}

/// Runs a hook; an error is a sentence, as the kubelet words it.
async fn run(
    services: &Services,
    order: &Order,
    id: &str,
    container: &Container,
    hook: &LifecycleHandler,
) -> Result<(), String> {
    if let Some(command) = &hook.exec {
        return exec(services, &order.pod, id, container, command).await;
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    if let Some(action) = &hook.http_get {
        return http_get(services, order, id, container, action).await;
    }
    Err("Cannot run handler: it is none of exec, httpGet and sleep".to_owned())
}

/// Any answer will do: a hook's server is told, not asked.
async fn http_get(
    services: &Services,
    order: &Order,
    id: &str,
    container: &Container,
    action: &HTTPGetAction,
) -> Result<(), String> {
    let pod = &*order.pod;
    let asked = async {
        let host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        let own = if host_network { services.node.host_ips.first() } else { order.ips.first() };
        let host = reach::host(action.host.as_deref(), own.copied())?;
        let reach = reach::Inside::new(host_network).reach(services, id, &host).await?;
        let get = Get::of(action, &host, container, "kube-lifecycle/1.36", reach)?;
        let server = get.url.authority().to_owned();
        if get.knock().await? {
            let told = format!("request to HTTPS lifecycle hook {server} got HTTP response, retry with HTTP succeeded");
            services.recorder.pod(pod, Severity::Warning, "LifecycleHTTPFallback", told);
        }
        Ok(())
    };
    asked.await.map_err(|error: String| {
        format!(
            "HTTP lifecycle hook ({}) for Container {:?} in Pod {:?} failed - error: {error}",
            action.path.as_deref().unwrap_or_default(),
            container.name,
            pod_word(pod),
        )
    })
}

async fn exec(
    services: &Services,
    pod: &Pod,
    id: &str,
    container: &Container,
    action: &ExecAction,
) -> Result<(), String> {
    let cmd = action.command.clone().unwrap_or_default();
    // Without a timeout of its own: whoever waits for the hook gives it up.
    let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: 0 };
    let (error, output) = match services.runtime.exec_sync(Request::new(request)).await {
        Ok(answer) => match answer.into_inner() {
            answer if answer.exit_code == 0 => return Ok(()),
            answer => {
                let output = [answer.stdout, answer.stderr].concat();
                let output = String::from_utf8_lossy(&output[..output.len().min(OUTPUT)]).into_owned();
                (format!("command exited with {}", answer.exit_code), output)
            }
        },
        Err(status) => (status.message().to_owned(), String::new()),
    };
    Err(format!(
        "Exec lifecycle hook ({:?}) for Container {:?} in Pod {:?} failed - error: {error}, message: {output:?}",
        action.command.as_deref().unwrap_or_default(),
        container.name,
        pod_word(pod),
    ))
}

/// A pod as the kubelet's messages name it: `name_namespace(uid)`.
fn pod_word(pod: &Pod) -> String {
    let identity = identity(pod);
    format!("{}_{}({})", identity.name, identity.namespace, identity.uid)
}
