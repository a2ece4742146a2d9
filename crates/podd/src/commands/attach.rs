//! `podd attach`: the streams of a container's first process.

use std::io::IsTerminal as _;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams};

use super::session::{RawTerminal, converse};
use super::{api_error, pod_name};
use crate::cli::Attach;
use crate::client;
use crate::config::Settings;

pub(crate) async fn run(args: Attach, settings: &Settings) -> anyhow::Result<()> {
    let client = client::connect(settings).await?;
    let pods: Api<Pod> = Api::namespaced(client, &args.namespace.namespace);
    let name = pod_name(&args.pod)?;
    let container = super::container_of(&pods, name, args.container).await?;
    let pod = pods.get(name).await.map_err(api_error)?;
    if let Some(phase) = super::ended(&pod) {
        anyhow::bail!("cannot attach a container in a completed pod; current phase is {phase}");
    }
    let of = container.as_deref().unwrap_or_default();
    // The container has a terminal or it has none; what the flag says is the keyboard's side.
    let tty = has_terminal(&pod, of);
    if args.tty && !tty {
        eprintln!("warning: container {of} has no terminal; going on without one");
    }
    let keyboard = tty && args.stdin && std::io::stdin().is_terminal();
    let params = AttachParams {
        container: container.clone(),
        stdin: args.stdin,
        stdout: true,
        stderr: !tty,
        tty,
        ..Default::default()
    };
    let process = pods.attach(name, &params).await.map_err(api_error)?;
    if args.stdin && !args.quiet {
        eprintln!("If you don't see a command prompt, try pressing enter.");
    }
    let raw = if keyboard { Some(RawTerminal::enter()?) } else { None };
    let status = converse(process, tty).await?;
    drop(raw);
    match status {
        Some(status) if status.status.as_deref() == Some("Success") => Ok(()),
        Some(status) => {
            anyhow::bail!("{}", status.message.unwrap_or_else(|| "the session ended with a failure".into()))
        }
        None => anyhow::bail!("the connection ended before the container did"),
    }
}

fn has_terminal(pod: &Pod, container: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
    all.any(|other| other.name == container && other.tty == Some(true))
}
