//! The command line, as clap reads it. What a command does is in [`crate::commands`].

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs Kubernetes Pods on one machine.
#[derive(Parser, Debug)]
#[command(name = "podd", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

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

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make the objects of a manifest, or change them to match it
    Apply(Apply),
    /// Delete objects by manifest or by name
    Delete(Delete),
    /// Show objects
    Get(Get),
    /// Tell everything about objects
    Describe(Describe),
    /// Print the log of a container
    Logs(Logs),
    /// Run a command in a container
    Exec(Exec),
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
    /// Load images from an OCI or Docker archive
    Load(Load),
    /// Run the node agent, or stop it
    Agent(Agent),
    /// Serve only the container runtime, for a kubelet or crictl
    Cri(Cri),
    /// Serve only the API, for an agent in another process
    Api(Api),
    /// Print the versions of this program and of the agent
    Version(Version),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// The namespace of objects.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct Namespace {
    /// Namespace of the objects
    #[arg(short = 'n', long, default_value = "default", env = "PODD_NAMESPACE")]
    pub(crate) namespace: String,
}

#[derive(Args, Debug)]
pub(crate) struct Apply {
    /// Manifest: a file, a directory, a URL, or - for standard input; may be repeated
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE")]
    pub(crate) files: Vec<String>,
    /// Read directories with all that is below them
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// Check and show what would happen, change nothing
    #[arg(long, num_args = 0..=1, default_missing_value = "server", value_parser = ["server", "client", "none"])]
    pub(crate) dry_run: Option<String>,
    /// Wait until the pods are Ready (or have succeeded)
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait, in seconds or as 1m30s; 0 is for ever
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub(crate) timeout: std::time::Duration,
    /// Take over fields that another manager owns
    #[arg(long)]
    pub(crate) force_conflicts: bool,
    /// Output format
    #[arg(short = 'o', long, value_enum)]
    pub(crate) output: Option<Output>,
}

#[derive(Args, Debug)]
pub(crate) struct Delete {
    /// What to delete: KIND NAME..., or KIND/NAME...
    #[arg(value_name = "KIND NAME")]
    pub(crate) targets: Vec<String>,
    /// Manifest whose objects to delete
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub(crate) files: Vec<String>,
    /// Read directories with all that is below them
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// Seconds between the stop signal and the kill
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(crate) grace_period: Option<i64>,
    /// Kill at once (with --grace-period=0)
    #[arg(long)]
    pub(crate) force: bool,
    /// Delete every object of the kind
    #[arg(long)]
    pub(crate) all: bool,
    /// Delete the objects with these labels
    #[arg(short = 'l', long)]
    pub(crate) selector: Option<String>,
    /// Don't object to what is not there
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
    /// Return when the objects are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) wait: bool,
    /// How long to wait; 0 is for ever
    #[arg(long, default_value = "0", value_parser = duration)]
    pub(crate) timeout: std::time::Duration,
}

#[derive(Args, Debug)]
pub(crate) struct Get {
    /// What to show: KIND, KIND NAME..., or KIND/NAME...
    #[arg(required = true, value_name = "KIND [NAME]")]
    pub(crate) targets: Vec<String>,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// All namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Only objects with these labels
    #[arg(short = 'l', long)]
    pub(crate) selector: Option<String>,
    /// Only objects with these field values
    #[arg(long)]
    pub(crate) field_selector: Option<String>,
    /// Output format
    #[arg(short = 'o', long, value_enum)]
    pub(crate) output: Option<Output>,
    /// Go on showing changes
    #[arg(short = 'w', long)]
    pub(crate) watch: bool,
    /// Leave out the column titles
    #[arg(long)]
    pub(crate) no_headers: bool,
    /// Show the labels in a column
    #[arg(long)]
    pub(crate) show_labels: bool,
    /// Don't object to what is not there
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Describe {
    /// What to describe: KIND, KIND NAME..., or KIND/NAME...
    #[arg(required = true, value_name = "KIND [NAME]")]
    pub(crate) targets: Vec<String>,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// Only objects with these labels
    #[arg(short = 'l', long)]
    pub(crate) selector: Option<String>,
}

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
pub(crate) struct Wait {
    /// What to wait for: KIND NAME..., or KIND/NAME...
    #[arg(value_name = "KIND NAME")]
    pub(crate) targets: Vec<String>,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// condition=NAME[=VALUE], delete, create, or jsonpath={.path}[=VALUE]
    #[arg(long = "for", value_name = "WHAT")]
    pub(crate) condition: String,
    /// How long to wait; 0 asks once
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub(crate) timeout: std::time::Duration,
    /// The objects with these labels
    #[arg(short = 'l', long)]
    pub(crate) selector: Option<String>,
    /// Every object of the kind
    #[arg(long)]
    pub(crate) all: bool,
}

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
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
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

#[derive(Args, Debug)]
pub(crate) struct Pull {
    /// The image
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
    /// USER:PASSWORD for the registry
    #[arg(long, value_name = "USER:PASSWORD")]
    pub(crate) creds: Option<String>,
    /// Print the image id only
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Images {
    /// Only images of this name
    pub(crate) filter: Option<String>,
    /// Output format
    #[arg(short = 'o', long, value_enum)]
    pub(crate) output: Option<Output>,
    /// Image ids only
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Rmi {
    /// Names or ids
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Load {
    /// The archive, or - for standard input, which is the default
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<String>,
    /// The archive, or - for standard input
    #[arg(short = 'i', long = "input", value_name = "FILE", conflicts_with = "file")]
    pub(crate) input: Option<String>,
    /// Don't show progress
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
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

/// `90`, `90s`, `1m30s`, `2h`.
pub(crate) fn duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("\"{text}\" is no duration; write it as 90s, 1m30s or 2h");
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(std::time::Duration::from_secs(seconds));
    }
    let mut total = std::time::Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|n| *n > 0).ok_or_else(wrong)?;
        let amount: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |n| n + digits);
        let millis = match &rest[digits..unit_end] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        total += std::time::Duration::from_millis(amount.checked_mul(millis).ok_or_else(wrong)?);
        rest = &rest[unit_end..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_read_as_kubectl_writes_them() {
        let table = [("90", 90_000), ("90s", 90_000), ("1m30s", 90_000), ("2h", 7_200_000), ("100ms", 100), ("0", 0)];
        for (text, millis) in table {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "x", "5x", "s", "1m30", "-1s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    /// Reads a command line written with spaces.
    fn read(line: &str) -> Result<Command, String> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command).map_err(|error| error.to_string())
    }

    #[test]
    fn what_people_type_is_understood() {
        let table = [
            "podd apply -f a.yaml -f b -R --wait --timeout 90s --dry-run=client -n x",
            "podd apply -f - --dry-run",
            "podd delete -f a.yaml --grace-period=0 --force --ignore-not-found",
            "podd delete pod a b --grace-period -1 --wait=false",
            "podd delete pods --all -l a=b",
            "podd get po -A -o wide -w --show-labels",
            "podd get pod/a node/b -o json",
            "podd describe pod a",
            "podd logs a -f -c main --previous --tail -1 --timestamps --since 5m",
            "podd logs pod/a main",
            "podd exec -it a -c main -- ls -l",
            "podd exec a ls -l",
            "podd wait pod/a --for=condition=Ready --timeout=1m",
            "podd play kube a.yaml --replace --start=false --publish 8080:80 -w -q",
            "podd kube play --down a.yaml",
            "podd kube down a.yaml",
            "podd pull --creds u:p -q a b",
            "podd images -q",
            "podd rmi a",
            "podd load -i a.tar",
            "podd load -q a.tar",
            "podd load -",
            "podd agent --instance x --root /a --run /b --cgroup-root /c",
            "podd agent stop --pods --timeout 5s",
            "podd agent --api-socket /a --runtime-endpoint unix:///b",
            "podd cri --listen /a",
            "podd api --kubelet-socket /a",
            "podd version --client -o yaml",
            "podd completion zsh",
        ];
        for line in table {
            assert!(read(line).is_ok(), "{line}: {:?}", read(line));
        }
        let Ok(Command::Exec(exec)) = read("podd exec a -- ls -l -t") else { panic!("no exec") };
        assert_eq!((exec.command.join(" ").as_str(), exec.tty), ("ls -l -t", false));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_name() {
        let table = [
            ("podd apply", "--filename"),
            ("podd apply -f a --dry-run=maybe", "maybe"),
            ("podd apply -f a --wait --timeout 5x", "5x"),
            ("podd apply -f a --prune", "--prune"),
            ("podd get", "KIND"),
            ("podd get pods -o foo", "foo"),
            ("podd exec a", "COMMAND"),
            ("podd logs a main -c main", "--container"),
            ("podd wait pod/a", "--for"),
            ("podd stop a", "stop"),
        ];
        for (line, name) in table {
            let error = read(line).unwrap_err();
            assert!(error.contains(name), "{line}: {error}");
        }
    }

    #[test]
    fn every_flag_of_podman_that_podd_lacks_is_refused_by_name() {
        let flags = [
            "--annotation=a=b",
            "--authfile=a",
            "--build",
            "--cert-dir=a",
            "--configmap=a",
            "--context-dir=a",
            "--creds=a",
            "--force",
            "--ip=1.2.3.4",
            "--log-driver=a",
            "--log-opt=a",
            "--mac-address=a",
            "--network=a",
            "--no-hosts",
            "--no-hostname",
            "--no-pod-prefix",
            "--publish-all",
            "--seccomp-profile-root=a",
            "--service-container",
            "--tls-verify",
            "--userns=auto",
        ];
        for flag in flags {
            for command in ["podd play kube", "podd kube play"] {
                let error = read(&format!("{command} {flag} x.yaml")).unwrap_err();
                let name = flag.split('=').next().unwrap();
                assert!(error.contains(&format!("'{name}'")), "{command} {flag}: {error}");
            }
        }
    }
}
