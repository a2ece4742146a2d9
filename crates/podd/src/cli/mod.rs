//! The command line, as clap reads it. What a command does is in [`crate::commands`].

mod containers;
mod duration;
mod images;
mod node;
mod objects;
mod play;
#[cfg(test)]
mod tests;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use containers::{Attach, Debug, Exec, Logs, PortForward};
pub(crate) use duration::duration;
pub(crate) use images::{Image, ImagePrune, ImageWhat, Images, Load, Pull, Rmi};
pub(crate) use node::{Agent, AgentAction, Api, Cri, Dns, NodeArgs};
pub(crate) use objects::{Apply, Delete, Describe, Diff, Explain, Get, Manifests, Wait, Why};
pub(crate) use play::{Kube, KubeWhat, Play, PlayKube, PlayWhat};

/// Runs Kubernetes Pods on one machine.
#[derive(Parser, Debug)]
#[command(
    name = "podd",
    version,
    propagate_version = true,
    max_term_width = 100,
    args_override_self = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make the objects of a manifest, or change them to match it
    Apply(Apply),
    /// Show what an apply would change
    Diff(Diff),
    /// Delete objects by manifest or by name
    Delete(Delete),
    /// Show objects
    Get(Get),
    /// Tell everything about objects
    Describe(Describe),
    /// Tell why a pod is as it is: one story from all that is known of it
    Why(Why),
    /// Tell what podd does with a field of a Pod
    Explain(Explain),
    /// Print the log of a container
    Logs(Logs),
    /// Run a command in a container
    Exec(Exec),
    /// Join the streams of a container's first process
    Attach(Attach),
    /// Look into a pod that runs, from a container that is added to it
    Debug(Debug),
    /// Make ports of a pod reachable on this machine
    PortForward(PortForward),
    /// Wait until objects meet a condition
    Wait(Wait),
    /// Play a manifest as podman does (`podd play kube FILE`)
    Play(Play),
    /// Kubernetes manifests as podman handles them (`podd kube play|down FILE`)
    Kube(Kube),
    /// Pull an image
    Pull(Pull),
    /// List images
    Images(Images),
    /// Remove images
    Rmi(Rmi),
    /// Look after images
    Image(Image),
    /// Load images from an OCI or Docker archive
    Load(Load),
    /// Run the node agent, or stop it
    Agent(Agent),
    /// Serve only the container runtime, for a kubelet or crictl
    Cri(Cri),
    /// Serve only the API, for an agent in another process
    Api(Api),
    /// Serve the names of pods; what the agent starts
    #[command(hide = true)]
    Dns(Dns),
    /// Print the versions of this program and of the agent
    Version(Version),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// The exit code of the command when it fails.
    pub(crate) fn failure(&self) -> u8 {
        match self {
            // 1 says that something differs.
            Command::Diff(_) => 2,
            _ => 1,
        }
    }
}

/// The namespace of objects.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct Namespace {
    /// Namespace of the objects
    #[arg(short = 'n', long, default_value = DEFAULT_NAMESPACE, env = "PODD_NAMESPACE", value_parser = namespace)]
    pub(crate) namespace: String,
}

/// The namespace of objects when nobody names one.
const DEFAULT_NAMESPACE: &str = "default";

/// An empty name is no name.
#[expect(clippy::unnecessary_wraps, reason = "clap wants a result")]
fn namespace(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(if text.is_empty() { DEFAULT_NAMESPACE } else { text }.to_owned())
}

#[derive(Args, Debug)]
pub(crate) struct Version {
    /// The version of this program only
    #[arg(long)]
    pub(crate) client: bool,
    /// Output format
    #[arg(short = 'o', long, value_enum)]
    pub(crate) output: Option<Output>,
}

/// How objects are printed.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// A table with more columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// kind/name
    Name,
}
