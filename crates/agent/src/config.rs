//! What the agent is told at start: names, directories, limits. Everything below the composition root gets its values
//! from here or as arguments; nothing looks at the environment.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Duration,
};

/// Configuration of one agent. `Config::new` gives the defaults of the default instance; the composition root changes
/// what differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of the Node object; pods with this `spec.nodeName` are ours.
    pub node_name: String,
    /// Durable state (`/var/lib/podd`): `pods/<uid>` below it is the agent's.
    pub root: PathBuf,
    /// State of one boot (`/run/podd`).
    pub run: PathBuf,
    /// Container logs (`/var/log/pods`): `<ns>_<name>_<uid>/<container>/<n>.log`.
    pub log_root: PathBuf,
    /// Directory of static manifests; none watches nothing.
    pub manifests: Option<PathBuf>,
    /// Where the kernel's cgroup file systems are mounted (`/sys/fs/cgroup`).
    pub cgroup_mount: PathBuf,
    /// Cgroup under which `kubepods` is made, as an absolute path within each hierarchy (`/`).
    pub cgroup_root: String,
    /// Name servers given to pods with `dnsPolicy: ClusterFirst`; none falls back to the node's.
    pub cluster_dns: Vec<IpAddr>,
    /// The node's own name server, for pods, where `cluster_dns` names none.
    pub name_server: Option<crate::NameServer>,
    /// Domain of the cluster, for the pods' search list.
    pub cluster_domain: String,
    /// The host's resolver configuration, read at every sandbox creation.
    pub resolv_conf: PathBuf,
    /// The host's own hosts file, copied for pods on the host network.
    pub hosts_file: PathBuf,
    /// Address of the node, also the pod address of hostNetwork pods; none finds it by the default route.
    pub node_ip: Option<IpAddr>,
    /// How many pods this node takes.
    pub max_pods: u32,
    /// Processor kept back from allocatable, in millicores.
    pub reserved_milli_cpu: i64,
    /// How long the machine waits for its pods when it goes down.
    pub shutdown: podd_core::shutdown::Periods,
    /// What pods may do with swap.
    pub swap: podd_core::swap::Behavior,
    /// When images go.
    pub images: podd_core::collection::Settings,
    /// How often images are looked after.
    pub image_period: Duration,
    /// When the node is short of something, and what then.
    pub eviction: podd_core::eviction::Settings,
    /// Memory kept back from allocatable, in bytes; the hard eviction threshold is added.
    pub reserved_memory: i64,
    /// Limit of processes per pod; none is the node's.
    pub pod_pids_limit: Option<i64>,
    /// RuntimeDefault seccomp where a manifest is silent (the kubelet's `seccompDefault`).
    pub seccomp_default: bool,
    /// Kernel parameters that pods may set.
    pub sysctls: podd_core::sysctl::Allowed,
    /// Where seccomp profiles of type `Localhost` lie; none is `<root>/seccomp`, as the kubelet has it.
    pub seccomp_profiles: Option<PathBuf>,
    /// How often the directory of static manifests is listed in full.
    pub manifest_period: Duration,
    /// How often node status is computed.
    pub node_status_period: Duration,
    /// How often leftovers of gone pods are looked for when no pod has gone (then it is at once).
    pub housekeeping_period: Duration,
}

impl Config {
    /// The defaults of the default instance for a node of this name.
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            node_name: node_name.into(),
            root: "/var/lib/podd".into(),
            run: "/run/podd".into(),
            log_root: "/var/log/pods".into(),
            manifests: Some("/etc/podd/manifests".into()),
            cgroup_mount: "/sys/fs/cgroup".into(),
            cgroup_root: "/".into(),
            cluster_dns: Vec::new(),
            name_server: None,
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            hosts_file: "/etc/hosts".into(),
            node_ip: None,
            max_pods: 110,
            shutdown: podd_core::shutdown::Periods::default(),
            swap: podd_core::swap::Behavior::default(),
            images: podd_core::collection::Settings::default(),
            image_period: Duration::from_secs(300),
            eviction: podd_core::eviction::Settings::default(),
            reserved_milli_cpu: 0,
            reserved_memory: 0,
            pod_pids_limit: None,
            seccomp_default: true,
            seccomp_profiles: None,
            sysctls: podd_core::sysctl::Allowed::default(),
            manifest_period: Duration::from_secs(20),
            node_status_period: Duration::from_secs(10),
            housekeeping_period: Duration::from_secs(60),
        }
    }

    /// Directory of everything the agent keeps for pods.
    pub fn pods_dir(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// Directory of seccomp profiles of type `Localhost`.
    pub fn seccomp_profiles(&self) -> PathBuf {
        self.seccomp_profiles.clone().unwrap_or_else(|| self.root.join("seccomp"))
    }

    /// Directory of one pod.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.pods_dir().join(uid)
    }

    /// Log directory of a pod, in the kubelet's form.
    pub fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.log_root.join(format!("{namespace}_{name}_{uid}"))
    }

    /// Log directory of one container of a pod.
    pub fn container_log_dir(&self, namespace: &str, name: &str, uid: &str, container: &str) -> PathBuf {
        self.pod_log_dir(namespace, name, uid).join(container)
    }
}

/// Address that the node would use to reach the world: the one of the interface with the default route, found by asking
/// the kernel for the source address of an unsent datagram. Loopback where there is no route.
pub(crate) fn default_node_ip() -> IpAddr {
    let ask = || -> std::io::Result<IpAddr> {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        // TEST-NET-1: connect on a datagram socket only picks a route, it sends nothing.
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        Ok(socket.local_addr()?.ip())
    };
    ask().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Whether a name may stand as one component of a path of ours.
pub(crate) fn is_path_component(name: &str) -> bool {
    !name.is_empty()
        && name != "."
        && name != ".."
        && !name.contains(['/', '\0'])
        && Path::new(name).components().count() == 1
}
