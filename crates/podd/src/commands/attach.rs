//! `podd attach`: the streams of a container's first process.

use std::io::IsTerminal as _;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, AttachedProcess};

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
    let of = container.as_deref().unwrap_or_default();
    let asked = Streams { stdin: args.stdin, tty: args.tty, quiet: args.quiet };
    join(&pods, name, of, asked).await?.stay().await
}

/// What of a container's streams is asked for.
#[derive(Clone, Copy)]
pub(super) struct Streams {
    pub(super) stdin: bool,
    pub(super) tty: bool,
    pub(super) quiet: bool,
}

/// The streams of a container's first process.
pub(super) struct Joined {
    process: AttachedProcess,
    tty: bool,
    asked: Streams,
}

/// Opens the streams of a container's first process.
pub(super) async fn join(pods: &Api<Pod>, name: &str, of: &str, asked: Streams) -> anyhow::Result<Joined> {
    let pod = pods.get(name).await.map_err(api_error)?;
    if let Some(phase) = super::ended(&pod) {
        anyhow::bail!("cannot attach a container in a completed pod; current phase is {phase}");
    }
    // The container has a terminal or it has none; what the flag says is the keyboard's side.
    let tty = has_terminal(&pod, of);
    if asked.tty && !tty {
        eprintln!("warning: container {of} has no terminal; going on without one");
    }
    let params = AttachParams {
        container: Some(of.to_owned()),
        stdin: asked.stdin,
        stdout: true,
        stderr: !tty,
        tty,
        ..Default::default()
    };
    let process = pods.attach(name, &params).await.map_err(api_error)?;
    Ok(Joined { process, tty, asked })
}

impl Joined {
    /// Copies to and from this process's own streams until the session ends.
    pub(super) async fn stay(self) -> anyhow::Result<()> {
        let Self { process, tty, asked } = self;
        if asked.stdin && !asked.quiet {
            eprintln!("If you don't see a command prompt, try pressing enter.");
        }
        let keyboard = tty && asked.stdin && std::io::stdin().is_terminal();
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
}

fn has_terminal(pod: &Pod, container: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut ephemeral = spec.ephemeral_containers.iter().flatten();
    all.any(|other| other.name == container && other.tty == Some(true))
        || ephemeral.any(|other| other.name == container && other.tty == Some(true))
}
