//! Which node is meant, and the arguments of its planes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::duration;

/// Which node is meant: where its configuration, state and sockets are.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Node")]
pub(crate) struct NodeArgs {
    /// Configuration file [default: /etc/podd/config.toml, if it exists]
    #[arg(long, global = true, env = "PODD_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Name from which bridge, tables, cgroups and directories of a second agent derive
    #[arg(long, global = true, env = "PODD_INSTANCE", value_name = "NAME")]
    pub(crate) instance: Option<String>,
    /// Directory of durable state [default: /var/lib/podd]
    #[arg(long, global = true, env = "PODD_ROOT", value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Directory of sockets and of state that a reboot ends [default: /run/podd]
    #[arg(long, global = true, env = "PODD_RUN", value_name = "DIR")]
    pub(crate) run: Option<PathBuf>,
    /// Directory of container logs [default: /var/log/pods]
    #[arg(long, global = true, env = "PODD_LOGS", value_name = "DIR")]
    pub(crate) logs: Option<PathBuf>,
    /// Directory of static manifests [default: /etc/podd/manifests]
    #[arg(long, global = true, env = "PODD_MANIFESTS", value_name = "DIR")]
    pub(crate) manifests: Option<PathBuf>,
    /// Control group under which everything runs [default: /]
    #[arg(long, global = true, env = "PODD_CGROUP_ROOT", value_name = "GROUP")]
    pub(crate) cgroup_root: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Agent {
    #[command(subcommand)]
    pub(crate) action: Option<AgentAction>,
    /// Detach from the terminal's session; what the command line uses when it starts the agent
    #[arg(long, hide = true)]
    pub(crate) background: bool,
    /// Use the API at this socket instead of the embedded one
    #[arg(long, value_name = "SOCKET")]
    pub(crate) api_socket: Option<PathBuf>,
    /// Use the CRI runtime at this socket instead of the embedded one
    #[arg(long, value_name = "SOCKET")]
    pub(crate) runtime_endpoint: Option<String>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum AgentAction {
    /// End the agent; pods go on running unless --pods is given
    Stop {
        /// Stop the pods too, and leave the machine as it was
        #[arg(long)]
        pods: bool,
        /// How long to wait for the agent to end
        #[arg(long, default_value = "2m", value_parser = duration)]
        timeout: std::time::Duration,
    },
    /// Tell whether the agent runs
    Status,
}

/// What the agent tells the name server that it starts.
#[derive(Args, Debug)]
pub(crate) struct Dns {
    /// The file of the names
    #[arg(long, value_name = "FILE")]
    pub(crate) table: PathBuf,
    /// The resolv.conf whose servers are asked for other names
    #[arg(long, value_name = "FILE")]
    pub(crate) upstream: PathBuf,
    /// The network namespace to listen in
    #[arg(long, value_name = "FILE")]
    pub(crate) network: PathBuf,
    /// The address to listen on; may be repeated
    #[arg(long, value_name = "ADDRESS", required = true)]
    pub(crate) listen: Vec<std::net::IpAddr>,
    /// The file that is held locked
    #[arg(long, value_name = "FILE")]
    pub(crate) lock: PathBuf,
    /// What is written into the lock
    #[arg(long, value_name = "TEXT")]
    pub(crate) started_for: String,
    /// The files through which a process joins the server's control group
    #[arg(long, value_name = "FILE")]
    pub(crate) join: Vec<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Cri {
    /// The socket to serve on [default: <run>/cri.sock]
    #[arg(long, value_name = "SOCKET")]
    pub(crate) listen: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Api {
    /// The socket to serve on [default: <run>/podd.sock]
    #[arg(long, value_name = "SOCKET")]
    pub(crate) listen: Option<PathBuf>,
    /// The socket of the agent's kubelet interface [default: <run>/kubelet.sock]
    #[arg(long, value_name = "SOCKET")]
    pub(crate) kubelet_socket: Option<PathBuf>,
}
