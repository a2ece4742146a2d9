//! Arguments of podman's way with manifests.

use clap::{Args, Subcommand};

use super::Namespace;

#[derive(Args, Debug)]
pub(crate) struct Play {
    #[command(subcommand)]
    pub(crate) what: PlayWhat,
}

#[derive(Subcommand, Debug)]
pub(crate) enum PlayWhat {
    /// Play a manifest
    Kube(PlayKube),
}

#[derive(Args, Debug)]
pub(crate) struct Kube {
    #[command(subcommand)]
    pub(crate) what: KubeWhat,
}

#[derive(Subcommand, Debug)]
pub(crate) enum KubeWhat {
    /// Play a manifest
    Play(PlayKube),
    /// Take down what a manifest made
    Down(KubeDown),
}

#[derive(Args, Debug)]
pub(crate) struct PlayKube {
    /// Manifest: a file, a URL, or -
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<String>,
    /// Take down what the manifest made
    #[arg(long)]
    pub(crate) down: bool,
    /// Delete and make again what is there already
    #[arg(long)]
    pub(crate) replace: bool,
    /// Start the pods
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) start: bool,
    /// Publish a port: [[IP:]HOSTPORT:]CONTAINERPORT[/PROTOCOL]; may be repeated
    #[arg(long, value_name = "PORT")]
    pub(crate) publish: Vec<String>,
    /// Stay until the pods end, then take them down
    #[arg(short = 'w', long)]
    pub(crate) wait: bool,
    /// Print less
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
}

#[derive(Args, Debug)]
pub(crate) struct KubeDown {
    /// Manifest: a file, a URL, or -
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<String>,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
}
