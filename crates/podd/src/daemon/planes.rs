//! The planes, each made from the settings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use podd_cri::{ImageService, RuntimeService};
use podd_runtime::{LogLimits, Runtime};

use super::routes;
use crate::config::{CgroupDriver, DEFAULT_SUBNET, Handler, NetworkChoice, Settings, TlsFile};

/// A container's log is rotated at this size (the kubelet's `containerLogMaxSize`).
const LOG_SIZE: u64 = 10 << 20;
/// How many files of a log are kept (`containerLogMaxFiles`).
const LOG_FILES: u32 = 5;
/// The pods' network of `podd cri` where the configuration names none: not the agent's.
const CRI_SUBNET: &str = "10.86.0.0/16";

/// The runtime that an agent works with.
pub(super) struct RuntimePlane {
    pub(super) runtime: Arc<dyn RuntimeService>,
    pub(super) images: Arc<dyn ImageService>,
    /// podd's own routes for its images.
    pub(super) routes: Router,
    /// Whether the agent has to serve it on the node's CRI socket.
    pub(super) serve_cri: bool,
    /// The one in this process, which has to be closed.
    pub(super) embedded: Option<Arc<Runtime>>,
}

impl RuntimePlane {
    /// A runtime in this process.
    pub(super) async fn embedded(settings: &Settings) -> anyhow::Result<Self> {
        // The agent makes its pods' groups by itself, with files.
        let runtime =
            runtime(&Settings { cgroup_driver: CgroupDriver::Cgroupfs, nri_socket: None, ..settings.clone() }).await?;
        Ok(Self {
            routes: routes::images(runtime.clone()),
            runtime: runtime.clone(),
            images: runtime.clone(),
            serve_cri: true,
            embedded: Some(runtime),
        })
    }

    /// A runtime in another process, podd's or not. What comes to the node's CRI socket is passed on to it, unless it
    /// listens there itself.
    pub(super) async fn remote(endpoint: &str, settings: &Settings) -> anyhow::Result<Self> {
        let path = podd_cri::client::socket_path(endpoint)?;
        let remote = Arc::new(podd_cri::client::connect(&path).await?);
        Ok(Self {
            routes: routes::remote_images(remote.clone(), routes::images_socket(&path)),
            runtime: remote.clone(),
            images: remote,
            serve_cri: path != settings.cri_socket(),
            embedded: None,
        })
    }
}

/// The runtime of the agent, or of `podd cri`.
pub(super) async fn runtime(settings: &Settings) -> anyhow::Result<Arc<Runtime>> {
    let mut config =
        podd_runtime::Config::new(&settings.instance, &settings.root, &settings.run).context("read the boot's id")?;
    config.cgroup_root = Path::new(&settings.cgroup_root).join(&settings.instance);
    config.cgroup_driver = match settings.cgroup_driver {
        CgroupDriver::Cgroupfs => podd_runtime::CgroupDriver::Cgroupfs,
        CgroupDriver::Systemd => podd_runtime::CgroupDriver::Systemd,
    };
    config.network.bridge = settings.bridge.clone();
    let subnet = settings.subnet.parse().with_context(|| format!("network.subnet {:?}", settings.subnet))?;
    config.network.subnets = vec![subnet];
    config.network.mtu = settings.mtu;
    if let Some(directory) = &settings.cni_config_dir {
        config.cni.config_dir.clone_from(directory);
    }
    if let Some(directories) = &settings.cni_bin_dirs {
        config.cni.bin_dirs.clone_from(directories);
    }
    config.cni.network = match settings.cni_network {
        None | Some(NetworkChoice::Podd) => podd_runtime::NetworkChoice::Podd,
        Some(NetworkChoice::Auto) => podd_runtime::NetworkChoice::Auto,
        Some(NetworkChoice::Cni) => podd_runtime::NetworkChoice::Cni,
    };
    config.images.insecure_registries = settings.insecure_registries.iter().cloned().collect();
    config.images.mirrors = mirrors(&settings.mirrors)?;
    config.images.auth_file = settings.auth_file.clone();
    config.images.tls = settings.tls.iter().map(|(host, tls)| (host.clone(), tls_of(tls))).collect();
    config.images.pinned = pinned(&settings.pinned_images)?;
    if let Some(directories) = &settings.cdi_dirs {
        config.cdi_dirs.clone_from(directories);
    }
    config.hooks_dirs.clone_from(&settings.hooks_dirs);
    config.nri_socket.clone_from(&settings.nri_socket);
    if let Some(program) = &settings.criu {
        config.criu.clone_from(program);
    }
    config.handlers = settings.handlers.iter().map(|(name, handler)| (name.clone(), handler_of(handler))).collect();
    config.log_limits = LogLimits { max_size: LOG_SIZE, max_files: LOG_FILES };
    Runtime::open(config).await.context("open the runtime")
}

fn handler_of(handler: &Handler) -> podd_runtime::Handler {
    match handler {
        Handler::Embedded => podd_runtime::Handler::Embedded,
        Handler::Program(path) => podd_runtime::Handler::Program(path.clone()),
    }
}

/// `podd cri` keeps its own state: its client removes pods that it does not know, and the agent's are none of its.
pub(super) fn of_cri(settings: Settings) -> Settings {
    let bridge = format!("{}-cri0", settings.instance);
    let subnet = if settings.subnet == DEFAULT_SUBNET { CRI_SUBNET.to_owned() } else { settings.subnet.clone() };
    Settings {
        root: settings.root.join("cri"),
        run: settings.run.join("cri"),
        instance: format!("{}-cri", settings.instance),
        bridge,
        subnet,
        cni_network: settings.cni_network.or(Some(NetworkChoice::Auto)),
        ..settings
    }
}

/// The embedded API.
pub(super) async fn api(settings: &Settings) -> anyhow::Result<podd_api::Api> {
    let config = podd_api::Config::new(settings.root.join("api.redb"), &settings.node_name);
    podd_api::Api::open(config).await.context("open the API")
}

/// The agent's view of the settings.
pub(super) fn agent_config(settings: &Settings) -> podd_agent::Config {
    let mut config = podd_agent::Config::new(&settings.node_name);
    config.root = settings.root.clone();
    config.run = settings.run.clone();
    config.log_root = settings.logs.clone();
    config.manifests = Some(settings.manifests.clone());
    config.cgroup_root = settings.cgroup_root.clone();
    config.shutdown = settings.shutdown;
    config.swap = settings.swap;
    (config.images, config.image_period) = settings.image_collection;
    config.eviction = settings.eviction.clone();
    config.sysctls = settings.sysctls.clone();
    config.seccomp_profiles = settings.seccomp_profiles.clone();
    config.cluster_dns.clone_from(&settings.cluster_dns);
    config.cluster_domain.clone_from(&settings.cluster_domain);
    config.name_server = std::env::current_exe().ok().map(|program| podd_agent::NameServer {
        program,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        group: Path::new(&settings.instance).join("names"),
    });
    config
}

/// Takes bridge, rules, sysctls and control groups away when no pod is left; otherwise they stay for the pods. A group
/// that `--cgroup-root` names goes too when nothing is in it.
pub(super) async fn shut_down(runtime: &Runtime, settings: &Settings) {
    if let Err(error) = runtime.shut_down().await {
        tracing::info!(reason = error.chain(), "the pods' network stays");
        return;
    }
    let root = podd_cgroup::Hierarchy::detect("/")
        .and_then(|groups| groups.group(settings.cgroup_root.trim_start_matches('/')));
    if let Err(error) = root.and_then(|group| group.remove_if_empty()) {
        tracing::debug!(%error, "the control group stays");
    }
}

fn tls_of(tls: &TlsFile) -> podd_image::Tls {
    podd_image::Tls { ca_file: tls.ca_file.clone(), insecure_skip_verify: tls.insecure_skip_verify }
}

/// The complete names.
fn pinned(names: &[String]) -> anyhow::Result<BTreeSet<String>> {
    let complete = |name: &String| podd_image::Reference::parse(name).map(|name| name.to_string());
    names.iter().map(complete).collect::<Result<_, _>>().context("images.pinned")
}

fn mirrors(of: &BTreeMap<String, Vec<String>>) -> anyhow::Result<BTreeMap<String, Vec<podd_image::Mirror>>> {
    let mut mirrors = BTreeMap::new();
    for (registry, addresses) in of {
        let parsed: Vec<podd_image::Mirror> =
            addresses.iter().map(|address| mirror(address)).collect::<anyhow::Result<_>>()?;
        mirrors.insert(registry.clone(), parsed);
    }
    Ok(mirrors)
}

/// `host[:port][/prefix]`, with or without a scheme: loopback and `insecure` decide on TLS.
fn mirror(address: &str) -> anyhow::Result<podd_image::Mirror> {
    let plain = address.trim_start_matches("http://").trim_start_matches("https://").trim_end_matches('/');
    let (host, prefix) = plain.split_once('/').unwrap_or((plain, ""));
    anyhow::ensure!(!host.is_empty(), "registries.mirrors: {address:?} names no host");
    Ok(podd_image::Mirror { host: host.to_owned(), prefix: prefix.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_images_are_known_by_their_complete_names() {
        let names = pinned(&["pause:3".into(), "r.io/a".into()]).unwrap();
        assert!(names.contains("docker.io/library/pause:3") && names.contains("r.io/a:latest"), "{names:?}");
        assert!(pinned(&["No Image".into()]).is_err());
    }

    #[test]
    fn a_mirror_is_a_host_and_perhaps_a_prefix() {
        let table = [
            ("http://127.0.0.1:5000", "127.0.0.1:5000", ""),
            ("https://cache.lan/docker/", "cache.lan", "docker"),
            ("cache.lan", "cache.lan", ""),
        ];
        for (address, host, prefix) in table {
            let mirror = mirror(address).unwrap();
            assert_eq!((mirror.host.as_str(), mirror.prefix.as_str()), (host, prefix), "{address}");
        }
        assert!(mirror("http://").is_err());
    }
}
