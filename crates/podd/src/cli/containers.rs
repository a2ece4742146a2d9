//! Arguments of the commands about a container that runs.

use clap::Args;

use super::{Namespace, duration};

#[derive(Args, Debug)]
pub(crate) struct Logs {
    /// The pod: NAME or pod/NAME
    pub(crate) pod: String,
    /// The container, where the pod has several
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: Option<String>,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// The container, where the pod has several
    #[arg(short = 'c', long = "container", conflicts_with = "container", value_name = "CONTAINER")]
    pub(crate) container_flag: Option<String>,
    /// Go on as the log grows
    #[arg(short = 'f', long)]
    pub(crate) follow: bool,
    /// The log of the instance before this one
    #[arg(short = 'p', long)]
    pub(crate) previous: bool,
    /// Only the last lines; -1 is all
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub(crate) tail: i64,
    /// The time before each line
    #[arg(long)]
    pub(crate) timestamps: bool,
    /// Only lines newer than this (5s, 2m, 3h)
    #[arg(long, value_parser = duration)]
    pub(crate) since: Option<std::time::Duration>,
    /// At most so many bytes
    #[arg(long)]
    pub(crate) limit_bytes: Option<i64>,
}

#[derive(Args, Debug)]
pub(crate) struct Exec {
    /// The pod: NAME or pod/NAME
    pub(crate) pod: String,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// The container, where the pod has several
    #[arg(short = 'c', long)]
    pub(crate) container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    pub(crate) tty: bool,
    /// The command and its arguments, after --
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Attach {
    /// The pod: NAME or pod/NAME
    pub(crate) pod: String,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// The container, where the pod has several
    #[arg(short = 'c', long)]
    pub(crate) container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
    /// Standard input is a terminal, as that of the container is
    #[arg(short = 't', long)]
    pub(crate) tty: bool,
    /// Print only what the container does
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Debug {
    /// The pod: NAME or pod/NAME
    pub(crate) pod: String,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// What the new container is called; a name is made where none is given
    #[arg(short = 'c', long)]
    pub(crate) container: Option<String>,
    /// Its image
    #[arg(long)]
    pub(crate) image: String,
    /// When the image is pulled: Always, IfNotPresent or Never
    #[arg(long, value_name = "POLICY")]
    pub(crate) image_pull_policy: Option<String>,
    /// The container whose processes it sees
    #[arg(long, value_name = "CONTAINER")]
    pub(crate) target: Option<String>,
    /// A variable of its environment; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Pass standard input on, and stay with it
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
    /// Give it a terminal
    #[arg(short = 't', long)]
    pub(crate) tty: bool,
    /// Wait for it and join its streams, also without -i
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) attach: Option<bool>,
    /// Print only what the container does
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
    /// What follows -- are arguments for the image's own command
    #[arg(long)]
    pub(crate) arguments_only: bool,
    /// The command and its arguments, after --; else the image's own
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct PortForward {
    /// The pod: NAME or pod/NAME
    pub(crate) pod: String,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// Ports, by number or name: PORT, LOCAL:PORT, or :PORT for any free local one
    #[arg(required = true, value_name = "[LOCAL:]PORT")]
    pub(crate) ports: Vec<String>,
    /// Where to listen: addresses of this machine, or localhost
    #[arg(long, value_delimiter = ',', default_value = "localhost")]
    pub(crate) address: Vec<String>,
}
