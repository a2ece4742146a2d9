//! What each command does. A command is a client of the API (or of CRI); it keeps no state.

mod agent;
mod apply;
mod attach;
mod debug;
mod delete;
mod describe;
mod diff;
mod exec;
mod explain;
mod get;
mod images;
mod load;
mod logs;
mod play;
mod port_forward;
mod prune;
mod pull;
mod session;
mod version;
mod wait;
mod why;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject};

use crate::cli::{AgentAction, Cli, Command, ImageWhat, KubeWhat, PlayWhat};
use crate::config::{self, Settings};
use crate::daemon;
use crate::kinds::Kind;

/// Runs the command; the exit code is the command's own (`exec` passes on the container's).
pub(crate) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        // These need no node, and so no configuration.
        Command::Dns(args) => done(daemon::dns(args)),
        Command::Explain(args) => done(explain::run(&args)),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "podd", &mut script);
            crate::print::text(&String::from_utf8_lossy(&script));
            Ok(ExitCode::SUCCESS)
        }
        command => of_node(command, config::load(&cli.node)?),
    }
}

/// A command that needs to know its node.
fn of_node(command: Command, settings: Settings) -> anyhow::Result<ExitCode> {
    match command {
        Command::Agent(args) if args.action.is_none() => done(daemon::agent(args, settings)),
        Command::Cri(args) => done(daemon::cri(args, settings)),
        Command::Api(args) => done(daemon::api(args, settings)),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.context("start the async runtime")?;
            let result = runtime.block_on(client_command(command, settings));
            // A thread may be reading a terminal, which cannot be cancelled; nobody waits for what it reads.
            runtime.shutdown_background();
            result
        }
    }
}

async fn client_command(command: Command, settings: Settings) -> anyhow::Result<ExitCode> {
    match command {
        Command::Exec(args) => return exec::run(args, &settings).await,
        Command::Attach(args) => attach::run(args, &settings).await?,
        Command::Debug(args) => debug::run(args, &settings).await?,
        Command::PortForward(args) => port_forward::run(args, &settings).await?,
        Command::Diff(args) => return diff::run(args, &settings).await,
        Command::Apply(args) => apply::run(args, &settings).await?,
        Command::Delete(args) => delete::run(args, &settings).await?,
        Command::Get(args) => get::run(args, &settings).await?,
        Command::Describe(args) => describe::run(args, &settings).await?,
        Command::Why(args) => why::run(args, &settings).await?,
        Command::Logs(args) => logs::run(args, &settings).await?,
        Command::Wait(args) => wait::run(args, &settings).await?,
        Command::Play(args) => match args.what {
            PlayWhat::Kube(args) => play::run(args, &settings).await?,
        },
        Command::Kube(args) => match args.what {
            KubeWhat::Play(args) => play::run(args, &settings).await?,
            KubeWhat::Down(args) => play::down(&args.files, &args.namespace.namespace, &settings).await?,
        },
        Command::Pull(args) => pull::run(args, &settings).await?,
        Command::Images(args) => images::list(args, &settings).await?,
        Command::Rmi(args) => images::remove(args, &settings).await?,
        Command::Image(args) => match args.what {
            ImageWhat::Prune(args) => prune::run(&args, &settings).await?,
        },
        Command::Load(args) => load::run(args, &settings).await?,
        Command::Version(args) => version::run(args, &settings).await?,
        Command::Agent(args) => match args.action {
            Some(AgentAction::Stop { pods, timeout }) => agent::stop(pods, timeout, &settings).await?,
            Some(AgentAction::Status) => return agent::status(&settings).await,
            None => unreachable!("running the agent was dispatched before"),
        },
        Command::Cri(_) | Command::Api(_) | Command::Completion { .. } | Command::Explain(_) | Command::Dns(_) => {
            unreachable!("commands without a client were dispatched before")
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn done(result: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    result.map(|()| ExitCode::SUCCESS)
}

/// The objects of a kind, in a namespace where the kind has one.
fn objects(client: &kube::Client, kind: &Kind, namespace: &str) -> Api<DynamicObject> {
    if kind.namespaced {
        Api::namespaced_with(client.clone(), namespace, &kind.resource())
    } else {
        Api::all_with(client.clone(), &kind.resource())
    }
}

/// The name of a pod given as `NAME` or `pod/NAME`.
fn pod_name(text: &str) -> anyhow::Result<&str> {
    match text.split_once('/') {
        None => Ok(text),
        Some(("pod" | "pods" | "po", name)) => Ok(name),
        Some((other, _)) => anyhow::bail!("\"{other}\" has no containers of its own; name a pod"),
    }
}

/// The annotation that names the container meant when none is named, as kubectl has it.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The container that is meant: the one named, else the annotation's, else the first of several, which is said.
async fn container_of(pods: &Api<Pod>, pod: &str, named: Option<String>) -> anyhow::Result<Option<String>> {
    if named.is_some() {
        return Ok(named);
    }
    let pod = pods.get(pod).await.map_err(api_error)?;
    if let Some(name) = pod.metadata.annotations.as_ref().and_then(|all| all.get(DEFAULT_CONTAINER)) {
        return Ok(Some(name.clone()));
    }
    let names: Vec<String> =
        pod.spec.map(|spec| spec.containers.into_iter().map(|c| c.name).collect()).unwrap_or_default();
    if let [first, _, ..] = names.as_slice() {
        eprintln!("Defaulted container \"{first}\" out of: {}", names.join(", "));
    }
    Ok(names.into_iter().next())
}

/// What the API answered, in its own words.
fn api_error(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => anyhow::anyhow!("{}", status.message),
        other => anyhow::Error::new(other).context("ask the agent"),
    }
}

/// The phase of a pod that will not run again.
fn ended(pod: &Pod) -> Option<&str> {
    let phase = pod.status.as_ref()?.phase.as_deref()?;
    matches!(phase, "Succeeded" | "Failed").then_some(phase)
}
