//! Everything about a runtime that can be set. Nothing here is looked up, but for the boot id's default.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use podd_shim::wire::LogLimits;

/// How a runtime is set up. [`Config::new`] derives all of it from an instance's name and directories.
#[derive(Clone, Debug)]
pub struct Config {
    /// The instance, `podd` by default; two that run side by side differ in it.
    pub instance: String,
    /// What outlives a boot: records, images, writable layers.
    pub root: PathBuf,
    /// What a boot invalidates: sockets of the shims, shared memory.
    pub run: PathBuf,
    /// The control group, from the top of each hierarchy, that holds the shims (`shims`) and the sandboxes whose caller
    /// names no `cgroup_parent`.
    pub cgroup_root: PathBuf,
    /// Who makes the groups of pods and containers.
    pub cgroup_driver: CgroupDriver,
    /// The pods' network.
    pub network: podd_net::Config,
    /// CNI, and when it counts instead.
    pub cni: CniConfig,
    /// How images are pulled and kept.
    pub images: podd_image::Config,
    /// When a container's log is rotated by its shim. Zeroes, the default, leave it to the caller, as a kubelet wants.
    pub log_limits: LogLimits,
    /// Where CDI files lie, of rising priority.
    pub cdi_dirs: Vec<PathBuf>,
    /// Where files lie that say which containers get which OCI hooks (oci-hooks(5)), of rising priority.
    pub hooks_dirs: Vec<PathBuf>,
    /// Where NRI plugins connect; none may without it.
    pub nri_socket: Option<PathBuf>,
    /// The program that writes containers down (CRIU): an absolute path, or a name to look for in `PATH`.
    pub criu: PathBuf,
    /// Runtime handlers beside podd's own, by name. The name of one that is a program has to be one of a directory, too.
    pub handlers: BTreeMap<String, Handler>,
    /// Which boot this is. Anything else than the recorded one means that no process of then is left.
    pub boot_id: String,
}

/// What a runtime handler is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handler {
    /// podd itself, under a further name, for RuntimeClasses that were written for another node.
    Embedded,
    /// Another OCI runtime, with the command line of runc: an absolute path, or a name to look for in `PATH`.
    Program(PathBuf),
}

/// Who makes the groups of pods and containers; a kubelet asks for it and must agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    /// podd, with files alone; v1 and v2.
    #[default]
    Cgroupfs,
    /// systemd, as slices and scopes; v2 only.
    Systemd,
}

/// Where CNI's files lie, and whether they count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniConfig {
    /// Where network configurations are looked for; read anew for every pod and every status.
    pub config_dir: PathBuf,
    /// Where plugins are looked for, in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// Who wires pods.
    pub network: NetworkChoice,
}

/// Who wires pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkChoice {
    /// The plugins when there is a configuration, else podd.
    Auto,
    /// podd.
    #[default]
    Podd,
    /// The plugins; without a configuration the network is not ready.
    Cni,
}

impl Default for CniConfig {
    fn default() -> Self {
        Self {
            config_dir: "/etc/cni/net.d".into(),
            bin_dirs: ["/opt/cni/bin", "/usr/lib/cni"].map(PathBuf::from).to_vec(),
            network: NetworkChoice::Podd,
        }
    }
}

impl Config {
    /// The usual setup of an instance.
    ///
    /// # Errors
    /// When the kernel does not tell its boot id (procfs is missing).
    pub fn new(instance: &str, root: &Path, run: &Path) -> std::io::Result<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self {
            instance: instance.to_owned(),
            root: root.to_owned(),
            run: run.to_owned(),
            cgroup_root: PathBuf::from("/").join(instance),
            cgroup_driver: CgroupDriver::Cgroupfs,
            network: crate::network::config(instance, root, &boot_id),
            cni: CniConfig::default(),
            images: podd_image::Config::default(),
            log_limits: LogLimits::default(),
            cdi_dirs: ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).to_vec(),
            hooks_dirs: Vec::new(),
            nri_socket: None,
            criu: "criu".into(),
            handlers: BTreeMap::new(),
            boot_id,
        })
    }
}
