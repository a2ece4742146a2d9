//! What a node is called and where it lives: defaults, then the configuration file, then flags.

mod eviction;
mod images;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use podd_core::{swap::Behavior, sysctl};
use serde::Deserialize;

use crate::cli::NodeArgs;

/// Where the configuration is looked for.
const DEFAULT_FILE: &str = "/etc/podd/config.toml";
/// The pods' network where nobody says otherwise.
pub(crate) const DEFAULT_SUBNET: &str = "10.85.0.0/16";
/// The instance that has the plain names.
const DEFAULT_INSTANCE: &str = "podd";
/// The runtime handler that is always there.
const EMBEDDED: &str = "podd";
/// The longest instance name: a network interface's name is built from it.
const INSTANCE_MAX: usize = 10;

/// The configuration file. What it does not know it refuses.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    instance: Option<String>,
    node_name: Option<String>,
    root: Option<PathBuf>,
    run: Option<PathBuf>,
    logs: Option<PathBuf>,
    manifests: Option<PathBuf>,
    cgroup_root: Option<String>,
    network: NetworkFile,
    cni: CniFile,
    registries: RegistriesFile,
    images: images::File,
    runtime: RuntimeFile,
    agent: AgentFile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct NetworkFile {
    bridge: Option<String>,
    subnet: Option<String>,
    mtu: Option<u32>,
}

/// Plugins that wire pods instead of podd.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct CniFile {
    /// Where network configurations lie.
    config_dir: Option<PathBuf>,
    /// Where plugins lie; an earlier one wins.
    bin_dirs: Option<Vec<PathBuf>>,
    network: Option<NetworkChoice>,
}

/// Who wires pods.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NetworkChoice {
    /// Plugins when there is a configuration, else podd; what `podd cri` does unless told.
    Auto,
    /// podd; what the agent's own runtime does unless told.
    Podd,
    Cni,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RegistriesFile {
    /// Registries spoken to over plain HTTP though they are not on loopback.
    insecure: Vec<String>,
    /// Registry name → addresses to try before it.
    mirrors: BTreeMap<String, Vec<String>>,
    /// Credentials in docker's form, for pulls that bring none and for mirrors.
    auth_file: Option<PathBuf>,
    /// `host[:port]` → how HTTPS differs there.
    tls: BTreeMap<String, TlsFile>,
}

/// How HTTPS to one registry differs.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct TlsFile {
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) insecure_skip_verify: bool,
}

/// Who makes the groups of `podd cri`'s pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CgroupDriver {
    #[default]
    Cgroupfs,
    Systemd,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RuntimeFile {
    cgroup_driver: CgroupDriver,
    /// Where CDI files lie, of rising priority.
    cdi_dirs: Option<Vec<PathBuf>>,
    /// Where files lie that give containers OCI hooks, of rising priority.
    hooks_dirs: Vec<PathBuf>,
    /// Where NRI plugins connect to `podd cri`.
    nri_socket: Option<PathBuf>,
    /// The program that makes checkpoints, if not the `criu` of `PATH`.
    criu: Option<PathBuf>,
    /// Runtime handlers by name.
    handlers: BTreeMap<String, HandlerFile>,
}

/// What a runtime handler is, as the file says it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "must be \"embedded\", or a table with the path of a program")]
enum HandlerFile {
    Named(Embedded),
    Table(ProgramFile),
}

/// podd's own runtime.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Embedded {
    Embedded,
}

/// Another OCI runtime.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ProgramFile {
    path: PathBuf,
}

/// What a runtime handler is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Handler {
    /// podd's own runtime.
    Embedded,
    /// Another OCI runtime: an absolute path, or a name to look for in `PATH`.
    Program(PathBuf),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct AgentFile {
    /// Kernel parameters that pods may set beyond the safe ones: names, or beginnings that end in `*`.
    allowed_unsafe_sysctls: Vec<String>,
    /// Where seccomp profiles of type `Localhost` lie.
    seccomp_profiles: Option<PathBuf>,
    /// Name servers for pods, instead of podd's own.
    cluster_dns: Vec<std::net::IpAddr>,
    /// The domain of the pods' names.
    cluster_domain: Option<String>,
    /// What pods may do with swap, in the kubelet's words.
    swap_behavior: Option<String>,
    /// How long the machine waits for pods when it goes down, and for critical ones at the end of that.
    shutdown_grace_period: Option<String>,
    shutdown_grace_period_critical_pods: Option<String>,
    /// When the node is short of something.
    eviction: eviction::File,
}

/// Everything the composition root needs to know of a node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// The configuration file that was named, if one was.
    pub(crate) config: Option<PathBuf>,
    pub(crate) instance: String,
    pub(crate) node_name: String,
    pub(crate) root: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) logs: PathBuf,
    pub(crate) manifests: PathBuf,
    pub(crate) cgroup_root: String,
    pub(crate) bridge: String,
    pub(crate) subnet: String,
    pub(crate) mtu: Option<u32>,
    pub(crate) cni_config_dir: Option<PathBuf>,
    pub(crate) cni_bin_dirs: Option<Vec<PathBuf>>,
    pub(crate) cni_network: Option<NetworkChoice>,
    pub(crate) insecure_registries: Vec<String>,
    pub(crate) mirrors: BTreeMap<String, Vec<String>>,
    pub(crate) auth_file: Option<PathBuf>,
    pub(crate) tls: BTreeMap<String, TlsFile>,
    pub(crate) pinned_images: Vec<String>,
    pub(crate) cdi_dirs: Option<Vec<PathBuf>>,
    pub(crate) hooks_dirs: Vec<PathBuf>,
    pub(crate) nri_socket: Option<PathBuf>,
    pub(crate) criu: Option<PathBuf>,
    pub(crate) cgroup_driver: CgroupDriver,
    /// Runtime handlers by name.
    pub(crate) handlers: BTreeMap<String, Handler>,
    pub(crate) sysctls: sysctl::Allowed,
    pub(crate) eviction: podd_core::eviction::Settings,
    pub(crate) shutdown: podd_core::shutdown::Periods,
    pub(crate) swap: Behavior,
    /// When images go, and how often that is asked.
    pub(crate) image_collection: (podd_core::collection::Settings, Duration),
    /// Name servers for pods; none is podd's own.
    pub(crate) cluster_dns: Vec<std::net::IpAddr>,
    pub(crate) cluster_domain: String,
    pub(crate) seccomp_profiles: Option<PathBuf>,
}

impl Settings {
    /// The socket of the Kubernetes API and of podd's own routes.
    pub(crate) fn api_socket(&self) -> PathBuf {
        self.run.join("podd.sock")
    }

    /// The CRI socket.
    pub(crate) fn cri_socket(&self) -> PathBuf {
        self.run.join("cri.sock")
    }

    /// The socket of the agent's kubelet interface, when the API is another process.
    pub(crate) fn kubelet_socket(&self) -> PathBuf {
        self.run.join("kubelet.sock")
    }

    /// Where an agent that the command line started writes its own log.
    pub(crate) fn agent_log(&self) -> PathBuf {
        self.run.join("agent.log")
    }
}

/// The settings of the node that the arguments name.
pub(crate) fn load(args: &NodeArgs) -> anyhow::Result<Settings> {
    let file = match &args.config {
        Some(path) => read(path)?,
        None if Path::new(DEFAULT_FILE).exists() => read(Path::new(DEFAULT_FILE))?,
        None => File::default(),
    };
    settings(args.clone(), file, &host_name())
}

fn read(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{}", path.display()))
}

/// Flags win over the file, the file over what the instance's name gives.
fn settings(args: NodeArgs, file: File, host_name: &str) -> anyhow::Result<Settings> {
    let instance = args.instance.or(file.instance).unwrap_or_else(|| DEFAULT_INSTANCE.into());
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if instance.is_empty() || instance.len() > INSTANCE_MAX || !instance.bytes().all(fits) {
        bail!("the instance name {instance:?} must be 1 to {INSTANCE_MAX} lower case letters, digits or dashes");
    }
    let plain = instance == DEFAULT_INSTANCE;
    let place = |base: &str| PathBuf::from(base).join(&instance);
    let cgroup_root = args
        .cgroup_root
        .or(file.cgroup_root)
        .unwrap_or_else(|| if plain { "/".into() } else { format!("/{instance}") });
    if !cgroup_root.starts_with('/') || cgroup_root.split('/').any(|part| part == "..") {
        bail!("the cgroup root {cgroup_root:?} must be an absolute path within the hierarchy, like /{instance}");
    }
    let cluster_domain = file.agent.cluster_domain.unwrap_or_else(|| "cluster.local".into());
    if let Some(why) = podd_core::names::dns_subdomain(&cluster_domain) {
        bail!("agent.cluster-domain {cluster_domain:?}: {why}");
    }
    let time = |key: &str, text: Option<&String>| match text {
        Some(text) => crate::cli::duration(text).map_err(|why| anyhow!("agent.{key}: {why}")),
        None => Ok(Duration::ZERO),
    };
    let shutdown = podd_core::shutdown::Periods {
        total: time("shutdown-grace-period", file.agent.shutdown_grace_period.as_ref())?,
        critical: time("shutdown-grace-period-critical-pods", file.agent.shutdown_grace_period_critical_pods.as_ref())?,
    };
    if shutdown.critical > shutdown.total {
        bail!("agent.shutdown-grace-period-critical-pods must not be longer than agent.shutdown-grace-period");
    }
    let sysctls = sysctl::Allowed::new(&file.agent.allowed_unsafe_sysctls);
    let sysctls = sysctls.map_err(|why| anyhow!("agent.allowed-unsafe-sysctls: {why}"))?;
    let swap = file.agent.swap_behavior.as_deref().map(str::parse).transpose();
    let swap = swap.map_err(|why: String| anyhow!("agent.swap-behavior: {why}"))?.unwrap_or_default();
    let image_collection = file.images.settings()?;
    Ok(Settings {
        config: args.config,
        node_name: file.node_name.unwrap_or_else(|| host_name.to_ascii_lowercase()),
        root: args.root.or(file.root).unwrap_or_else(|| place("/var/lib")),
        run: args.run.or(file.run).unwrap_or_else(|| place("/run")),
        logs: args
            .logs
            .or(file.logs)
            .unwrap_or_else(|| if plain { "/var/log/pods".into() } else { place("/var/log/pods") }),
        manifests: args.manifests.or(file.manifests).unwrap_or_else(|| place("/etc").join("manifests")),
        cgroup_root,
        bridge: file.network.bridge.unwrap_or_else(|| format!("{instance}0")),
        subnet: file.network.subnet.unwrap_or_else(|| DEFAULT_SUBNET.into()),
        mtu: file.network.mtu,
        cni_config_dir: file.cni.config_dir,
        cni_bin_dirs: file.cni.bin_dirs,
        cni_network: file.cni.network,
        insecure_registries: file.registries.insecure,
        mirrors: file.registries.mirrors,
        auth_file: file.registries.auth_file,
        tls: file.registries.tls,
        pinned_images: file.images.pinned,
        cdi_dirs: file.runtime.cdi_dirs,
        hooks_dirs: file.runtime.hooks_dirs,
        nri_socket: file.runtime.nri_socket,
        criu: file.runtime.criu,
        cgroup_driver: file.runtime.cgroup_driver,
        handlers: handlers(file.runtime.handlers)?,
        sysctls,
        eviction: file.agent.eviction.settings()?,
        shutdown,
        swap,
        image_collection,
        seccomp_profiles: file.agent.seccomp_profiles,
        cluster_dns: file.agent.cluster_dns,
        cluster_domain,
        instance,
    })
}

/// The handlers of the file; a RuntimeClass can name no other than these.
fn handlers(file: BTreeMap<String, HandlerFile>) -> anyhow::Result<BTreeMap<String, Handler>> {
    let handler = |(name, handler): (String, HandlerFile)| {
        let key = format!("runtime.handlers.{name}");
        let handler = match handler {
            HandlerFile::Named(Embedded::Embedded) => Handler::Embedded,
            HandlerFile::Table(_) if name == EMBEDDED => {
                bail!("{key}: this name is podd's own runtime's; give the program another one");
            }
            HandlerFile::Table(ProgramFile { path }) => {
                // It becomes the name of a directory.
                if let Some(why) = podd_core::names::dns_label(&name) {
                    bail!("{key}: {why}");
                }
                let is_name = path.components().count() == 1 && path.file_name().is_some();
                if !path.is_absolute() && !is_name {
                    bail!("{key}.path {path:?} must be an absolute path, or a name to look for in PATH");
                }
                Handler::Program(path)
            }
        };
        Ok((name, handler))
    };
    file.into_iter().map(handler).collect()
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "localhost".into(), |name| name.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_derives_from_the_instance() {
        let plain = settings(NodeArgs::default(), File::default(), "Host").unwrap();
        assert_eq!(plain.root, Path::new("/var/lib/podd"));
        assert_eq!(plain.api_socket(), Path::new("/run/podd/podd.sock"));
        assert_eq!(
            (plain.bridge.as_str(), plain.cgroup_root.as_str(), plain.node_name.as_str()),
            ("podd0", "/", "host")
        );
        let second =
            settings(NodeArgs { instance: Some("two".into()), ..Default::default() }, File::default(), "h").unwrap();
        assert_eq!(second.root, Path::new("/var/lib/two"));
        assert_eq!(second.logs, Path::new("/var/log/pods/two"));
        assert_eq!((second.bridge.as_str(), second.cgroup_root.as_str()), ("two0", "/two"));
    }

    #[test]
    fn flags_win_over_the_file() {
        let file: File = toml::from_str("root = \"/a\"\nrun = \"/b\"\n[network]\nsubnet = \"10.9.0.0/24\"\n").unwrap();
        let args = NodeArgs { root: Some("/c".into()), ..Default::default() };
        let settings = settings(args, file, "h").unwrap();
        assert_eq!((settings.root, settings.run, settings.subnet), ("/c".into(), "/b".into(), "10.9.0.0/24".into()));
    }

    #[test]
    fn who_wires_pods_is_the_files() {
        let text = "[cni]\nconfig-dir = \"/n\"\nbin-dirs = [\"/b\"]\nnetwork = \"cni\"\n";
        let settings = settings(NodeArgs::default(), toml::from_str(text).unwrap(), "h").unwrap();
        assert_eq!((settings.cni_config_dir, settings.cni_bin_dirs), (Some("/n".into()), Some(vec!["/b".into()])));
        assert_eq!(settings.cni_network, Some(NetworkChoice::Cni));
        assert!(toml::from_str::<File>("[cni]\nnetwork = \"else\"\n").is_err());
    }

    #[test]
    fn directories_of_devices_and_hooks_and_the_program_for_checkpoints_are_the_files() {
        let text = "[runtime]\ncdi-dirs = [\"/a\"]\nhooks-dirs = [\"/b\", \"/c\"]\ncriu = \"/d\"\n";
        let settings = settings(NodeArgs::default(), toml::from_str(text).unwrap(), "h").unwrap();
        assert_eq!(settings.cdi_dirs, Some(vec!["/a".into()]));
        assert_eq!(settings.hooks_dirs, [Path::new("/b"), Path::new("/c")]);
        assert_eq!(settings.criu, Some("/d".into()));
        let plain = super::settings(NodeArgs::default(), File::default(), "h").unwrap();
        assert_eq!((plain.cdi_dirs, plain.hooks_dirs, plain.criu), (None, vec![], None));
    }

    #[test]
    fn a_handler_is_podds_own_runtime_or_a_program() {
        let load = |text: &str| {
            let file: File = toml::from_str(text).map_err(anyhow::Error::from)?;
            settings(NodeArgs::default(), file, "h").map(|settings| settings.handlers)
        };
        let text = "[runtime.handlers]\na = \"embedded\"\nb = { path = \"crun\" }\n[runtime.handlers.c]\npath = \"/sbin/runc\"\n";
        let expected = [
            ("a", Handler::Embedded),
            ("b", Handler::Program("crun".into())),
            ("c", Handler::Program("/sbin/runc".into())),
        ];
        assert_eq!(load(text).unwrap(), expected.map(|(name, handler)| (name.to_owned(), handler)).into());
        for (text, says) in [
            ("a = \"other\"", "must be \"embedded\", or a table with the path of a program"),
            ("a = { path = \"/a\", more = 1 }", "must be \"embedded\""),
            ("a = { path = \"bin/runc\" }", "runtime.handlers.a.path \"bin/runc\" must be an absolute path"),
            ("a = { path = \"\" }", "runtime.handlers.a.path"),
            ("a = { path = \"..\" }", "runtime.handlers.a.path"),
            ("podd = { path = \"/a\" }", "runtime.handlers.podd: this name"),
            ("\"a/b\" = { path = \"/a\" }", "runtime.handlers.a/b: "),
        ] {
            let error = format!("{:#}", load(&format!("[runtime.handlers]\n{text}\n")).unwrap_err());
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_parameter_that_no_pod_can_have_alone_is_not_allowed() {
        let load = |text: &str| settings(NodeArgs::default(), toml::from_str(text).unwrap(), "h");
        assert!(load("[agent]\nallowed-unsafe-sysctls = [\"kernel.msg*\"]\n").is_ok());
        let error = load("[agent]\nallowed-unsafe-sysctls = [\"vm.swappiness\"]\n").unwrap_err().to_string();
        assert!(error.contains("agent.allowed-unsafe-sysctls") && error.contains("vm.swappiness"), "{error}");
    }

    #[test]
    fn pods_get_swap_only_in_the_kubelets_words() {
        let load = |text: &str| settings(NodeArgs::default(), toml::from_str(text).unwrap(), "h");
        assert_eq!(load("").unwrap().swap, Behavior::NoSwap);
        assert_eq!(load("[agent]\nswap-behavior = \"LimitedSwap\"\n").unwrap().swap, Behavior::LimitedSwap);
        let error = load("[agent]\nswap-behavior = \"UnlimitedSwap\"\n").unwrap_err().to_string();
        assert!(error.contains("agent.swap-behavior: \"UnlimitedSwap\""), "{error}");
    }

    #[test]
    fn critical_pods_have_a_part_of_what_all_have() {
        let load =
            |text: &str| settings(NodeArgs::default(), toml::from_str(&format!("[agent]\n{text}")).unwrap(), "h");
        let good = load("shutdown-grace-period = \"30s\"\nshutdown-grace-period-critical-pods = \"10s\"\n").unwrap();
        assert_eq!((good.shutdown.total.as_secs(), good.shutdown.critical.as_secs()), (30, 10));
        assert!(load("").unwrap().shutdown.total.is_zero());
        let error = load("shutdown-grace-period-critical-pods = \"10s\"\n").unwrap_err().to_string();
        assert!(error.contains("must not be longer"), "{error}");
        let error = load("shutdown-grace-period = \"soon\"\n").unwrap_err().to_string();
        assert!(error.contains("agent.shutdown-grace-period: \"soon\""), "{error}");
    }

    #[test]
    fn what_the_file_does_not_know_is_refused() {
        let error = toml::from_str::<File>("rooot = \"/a\"").unwrap_err().to_string();
        assert!(error.contains("rooot"), "{error}");
        for bad in ["", "A", "way-too-long-a-name"] {
            let args = NodeArgs { instance: Some(bad.into()), ..Default::default() };
            assert!(settings(args, File::default(), "h").is_err(), "{bad}");
        }
    }
}
