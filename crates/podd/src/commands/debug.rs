//! `podd debug`: an ephemeral container in a pod that runs, and its streams.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Mutex;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::api::{Api, LogParams, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};

use super::apply::MANAGER;
use super::attach::{self, Streams};
use super::{api_error, logs, pod_name};
use crate::cli::Debug;
use crate::client;
use crate::config::Settings;

/// The letters and digits of generated names, as Kubernetes has them: none that look alike, and no vowels.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

pub(crate) async fn run(args: Debug, settings: &Settings) -> anyhow::Result<()> {
    let client = client::connect(settings).await?;
    let pods: Api<Pod> = Api::namespaced(client, &args.namespace.namespace);
    let name = pod_name(&args.pod)?;
    let pod = pods.get(name).await.map_err(api_error)?;
    if let Some(phase) = super::ended(&pod) {
        anyhow::bail!("cannot debug a completed pod; current phase is {phase}");
    }
    let container = args.container.clone().unwrap_or_else(|| {
        let generated = generated_name();
        if !args.quiet {
            eprintln!("Defaulting debug container name to {generated}.");
        }
        generated
    });
    let patch = json!({"spec": {"ephemeralContainers": [ephemeral(&args, &container)?]}});
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..Default::default() };
    pods.patch_ephemeral_containers(name, &params, &Patch::Strategic(patch)).await.map_err(api_error)?;
    if !args.attach.unwrap_or(args.stdin) {
        return Ok(());
    }
    let state = begun(&pods, name, &container, args.quiet).await?;
    if state.running.is_some() {
        let streams = Streams { stdin: args.stdin, tty: args.tty, quiet: args.quiet };
        match attach::join(&pods, name, &container, streams).await {
            Ok(joined) => return joined.stay().await,
            Err(error) if args.quiet => drop(error),
            Err(error) => eprintln!("warning: not attached, here is its log: {error:#}"),
        }
    }
    // It was quicker than we: what it had to say is in its log.
    let log = LogParams { container: Some(container), follow: true, ..Default::default() };
    logs::print(&pods, name, &log).await
}

/// The container as the arguments have it.
fn ephemeral(args: &Debug, name: &str) -> anyhow::Result<Value> {
    let mut container = json!({"name": name, "image": args.image, "stdin": args.stdin, "tty": args.tty});
    if let Some(policy) = &args.image_pull_policy {
        container["imagePullPolicy"] = policy.as_str().into();
    }
    if let Some(target) = &args.target {
        container["targetContainerName"] = target.as_str().into();
    }
    if !args.command.is_empty() {
        container[if args.arguments_only { "args" } else { "command" }] = json!(args.command);
    }
    let mut variables = Vec::new();
    for text in &args.env {
        let (name, value) = text.split_once('=').with_context(|| format!("invalid env: {text:?}; it is NAME=VALUE"))?;
        variables.push(json!({"name": name, "value": value}));
    }
    if !variables.is_empty() {
        container["env"] = variables.into();
    }
    Ok(container)
}

fn generated_name() -> String {
    let mut random = RandomState::new().build_hasher().finish();
    let mut letter = || {
        let count = LETTERS.len() as u64;
        let letter = LETTERS[usize::try_from(random % count).unwrap_or(0)];
        random /= count;
        char::from(letter)
    };
    format!("debugger-{}", (0..5).map(|_| letter()).collect::<String>())
}

/// Waits until the container runs, or has run. What it waits for is told when it changes.
async fn begun(pods: &Api<Pod>, pod: &str, container: &str, quiet: bool) -> anyhow::Result<ContainerState> {
    let told = Mutex::new(String::new());
    let condition = |pod: Option<&Pod>| {
        let Some(pod) = pod else { return true };
        let state = state(pod, container).unwrap_or_default();
        if let Some(message) = state.waiting.and_then(|waiting| waiting.message)
            && let Ok(mut told) = told.lock()
            && *told != message
        {
            if !quiet {
                eprintln!("warning: container {container}: {message}");
            }
            *told = message;
        }
        state.running.is_some() || state.terminated.is_some() || super::ended(pod).is_some()
    };
    let seen = await_condition(pods.clone(), pod, condition).await.context("wait for the container")?;
    let seen = seen.with_context(|| format!("pod {pod} is gone"))?;
    let state = state(&seen, container).filter(|state| state.running.is_some() || state.terminated.is_some());
    state.with_context(|| format!("pod {pod} has ended before container {container} began"))
}

fn state(pod: &Pod, container: &str) -> Option<ContainerState> {
    let statuses = pod.status.as_ref()?.ephemeral_container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == container)?.state.clone()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn debug(words: &[&str]) -> Debug {
        let cli = Cli::try_parse_from([&["podd", "debug"], words].concat()).expect("arguments");
        match cli.command {
            Command::Debug(args) => args,
            _ => panic!("another command"),
        }
    }

    #[test]
    fn the_arguments_say_what_the_container_is() {
        let args = debug(&["p", "--image", "i", "--target", "a", "-it", "--env", "A=b=c", "--", "sh", "-c", "x"]);
        assert_eq!(
            ephemeral(&args, "e").unwrap(),
            json!({"name": "e", "image": "i", "stdin": true, "tty": true, "targetContainerName": "a",
                "command": ["sh", "-c", "x"], "env": [{"name": "A", "value": "b=c"}]})
        );
        let args = debug(&["pod/p", "--image=i", "--arguments-only", "--image-pull-policy=Never", "--", "x"]);
        assert_eq!(
            ephemeral(&args, "e").unwrap(),
            json!({"name": "e", "image": "i", "stdin": false, "tty": false, "imagePullPolicy": "Never", "args": ["x"]})
        );
        assert!(ephemeral(&debug(&["p", "--image=i", "--env=A"]), "e").is_err());
    }

    #[test]
    fn generated_names_are_like_kubernetes() {
        let name = generated_name();
        let suffix = name.strip_prefix("debugger-").expect("the prefix");
        assert!(suffix.len() == 5 && suffix.bytes().all(|letter| LETTERS.contains(&letter)), "{name}");
    }
}
