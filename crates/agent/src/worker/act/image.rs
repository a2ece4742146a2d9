//! Looking for an image, and pulling it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use podd_core::{
    pod::{Failure, Outcome, PullPolicy},
    pull_secrets::{Keyring, Login},
};
use podd_cri::v1;
use tonic::{Code, Request, Status};

use super::{super::pulls::Pulls, failure};
use crate::{events::Severity, worker::Services};

/// The longest an image may take. The runtime gives up much earlier where nothing comes any more.
const PULL_DEADLINE: Duration = Duration::from_secs(3600);
const ERR_IMAGE_PULL: &str = "ErrImagePull";

/// Asks the runtime whether it has an image.
pub(super) async fn inspect(
    services: &Services,
    pod: &Pod,
    container: &str,
    image: &str,
    pull: PullPolicy,
) -> Result<Outcome, Failure> {
    let found = match status(services, image).await {
        Ok(found) => found,
        Err(failure) => {
            let message = format!("Failed to inspect image \"{image}\": {}", failure.message);
            services.recorder.container(pod, container, Severity::Warning, "InspectFailed", message);
            return Err(failure);
        }
    };
    match found {
        Some(found) => {
            let message = format!("Container image \"{image}\" already present on machine");
            services.recorder.container(pod, container, Severity::Normal, "Pulled", message);
            Ok(Outcome::ImagePresent { image_ref: found.id })
        }
        None => {
            if pull == PullPolicy::Never {
                let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                services.recorder.container(pod, container, Severity::Warning, "ErrImageNeverPull", message);
            }
            Ok(Outcome::ImageAbsent)
        }
    }
}

/// The runtime's record of an image, if it has it.
pub(super) async fn status(services: &Services, image: &str) -> Result<Option<v1::Image>, Failure> {
    let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
    let request = v1::ImageStatusRequest { image: Some(spec), verbose: false };
    let call = services.images.image_status(Request::new(request));
    match tokio::time::timeout(services.settings.call_deadline, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner().image),
        Ok(Err(status)) if status.code() == Code::InvalidArgument => Err(invalid_name(image, &status)),
        Ok(Err(status)) => Err(failure("ImageInspectError", &status)),
        Err(_) => {
            Err(Failure { reason: "ImageInspectError".into(), message: "the runtime did not answer in time".into() })
        }
    }
}

/// Pulls an image, together with whoever pulls it at the same time.
pub(super) async fn pull(
    services: &std::sync::Arc<Services>,
    pulls: &Pulls,
    pod: &Pod,
    container: &str,
    image: &str,
) -> Result<Outcome, Failure> {
    let tell = |severity, reason: &str, message: String| {
        services.recorder.container(pod, container, severity, reason, message);
    };
    tell(Severity::Normal, "Pulling", format!("Pulling image \"{image}\""));
    let logins = logins(services, pod, image).await;
    let asked = services.clock.now();
    match pulls.pull(services, image, logins).await {
        Ok(pulled) => {
            let whole = services.clock.now().duration_since(asked).as_millis();
            let message = format!(
                "Successfully pulled image \"{image}\" in {} ({} including waiting). Image size: {} bytes.",
                go_duration(pulled.took.as_millis()),
                go_duration(u128::try_from(whole).unwrap_or(0).max(pulled.took.as_millis())),
                pulled.size
            );
            tell(Severity::Normal, "Pulled", message);
            Ok(Outcome::ImagePresent { image_ref: pulled.image_ref })
        }
        Err(failure) => {
            let message = format!("Failed to pull image \"{image}\": {}", failure.message);
            tell(Severity::Warning, "Failed", message);
            tell(Severity::Warning, "Failed", format!("Error: {}", failure.reason));
            Err(failure)
        }
    }
}

/// What one pull brought.
#[derive(Clone, Debug)]
pub(in crate::worker) struct Pulled {
    image_ref: String,
    size: u64,
    took: Duration,
}

/// What the pod's Secrets hold for an image. Those that give nothing are told, and the pull is tried without them.
async fn logins(services: &Services, pod: &Pod, image: &str) -> Vec<Login> {
    let secrets = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let (mut keyring, mut missing) = (Keyring::default(), Vec::new());
    // An empty name is no Secret's; the kubelet skips it, too.
    for name in secrets.map(|secret| secret.name.as_str()).filter(|name| !name.is_empty()) {
        match services.objects.secret(namespace, name).await {
            Ok(Some(secret)) => {
                if let Err(unusable) = keyring.add(&secret) {
                    missing.push(format!("{name}: {unusable}"));
                }
            }
            Ok(None) => missing.push(name.to_owned()),
            Err(error) => {
                tracing::warn!(secret = name, error = %error.source, "a secret for pulls could not be read");
                missing.push(name.to_owned());
            }
        }
    }
    if !missing.is_empty() {
        let message = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            missing.join(", ")
        );
        services.recorder.pod(pod, Severity::Warning, "FailedToRetrieveImagePullSecret", message);
    }
    keyring.of_image(image)
}

/// One pull, alone: with each of the credentials in turn, or without any.
pub(in crate::worker) async fn pull_once(
    services: &Services,
    image: &str,
    logins: &[Login],
) -> Result<Pulled, Failure> {
    let Some((last, others)) = logins.split_last() else { return pull_as(services, image, None).await };
    let mut refusals: Vec<String> = Vec::new();
    for login in others {
        match pull_as(services, image, Some(login)).await {
            Err(failure) if failure.reason == ERR_IMAGE_PULL => refusals.push(failure.message),
            ended => return ended,
        }
    }
    pull_as(services, image, Some(last)).await.map_err(|failure| {
        if refusals.is_empty() || failure.reason != ERR_IMAGE_PULL {
            return failure;
        }
        refusals.push(failure.message);
        Failure { reason: failure.reason, message: format!("[{}]", refusals.join(", ")) }
    })
}

async fn pull_as(services: &Services, image: &str, login: Option<&Login>) -> Result<Pulled, Failure> {
    let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
    let auth = login.map(|login| v1::AuthConfig {
        username: login.username.clone(),
        password: login.password.clone(),
        ..Default::default()
    });
    let request = v1::PullImageRequest { image: Some(spec), auth, ..Default::default() };
    let began = tokio::time::Instant::now();
    let answer = match tokio::time::timeout(PULL_DEADLINE, services.images.pull_image(Request::new(request))).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) if status.code() == Code::InvalidArgument => return Err(invalid_name(image, &status)),
        Ok(Err(status)) => return Err(failure(ERR_IMAGE_PULL, &status)),
        Err(_) => return Err(Failure { reason: ERR_IMAGE_PULL.into(), message: "the pull took too long".into() }),
    };
    let took = began.elapsed();
    // Only for the event: without it the size reads 0.
    let size = status(services, &answer.image_ref).await.ok().flatten().map_or(0, |image| image.size);
    Ok(Pulled { image_ref: answer.image_ref, size, took })
}

fn invalid_name(image: &str, status: &Status) -> Failure {
    Failure {
        reason: "InvalidImageName".into(),
        message: format!("Failed to apply default image tag \"{image}\": {}", status.message()),
    }
}

/// Milliseconds as Go prints a duration: `850ms`, `1.204s`, `2m3.5s`.
fn go_duration(milliseconds: u128) -> String {
    if milliseconds < 1000 {
        return format!("{milliseconds}ms");
    }
    let (minutes, rest) = (milliseconds / 60_000, milliseconds % 60_000);
    let fraction = format!("{:03}", rest % 1000);
    let fraction = fraction.trim_end_matches('0');
    let seconds =
        if fraction.is_empty() { format!("{}s", rest / 1000) } else { format!("{}.{fraction}s", rest / 1000) };
    if minutes == 0 { seconds } else { format!("{minutes}m{seconds}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_the_kubelets() {
        let table = [(0, "0ms"), (850, "850ms"), (1000, "1s"), (1204, "1.204s"), (60_500, "1m0.5s")];
        for (milliseconds, want) in table {
            assert_eq!(go_duration(milliseconds), want);
        }
    }
}
