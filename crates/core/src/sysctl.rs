//! Kernel parameters of a pod: which namespace each belongs to, and which ones a node allows.
//!
//! Sources: `pkg/kubelet/sysctl` and `k8s.io/component-helpers/node/util/sysctl`, Kubernetes 1.36.

/// The namespace that a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// System V and POSIX message queues, shared memory, semaphores.
    Ipc,
    /// The network.
    Net,
}

impl Namespace {
    /// The word of the kubelet's messages.
    fn word(self) -> &'static str {
        match self {
            Namespace::Ipc => "IPC",
            Namespace::Net => "Net",
        }
    }
}

/// What a name must be, as Kubernetes says it.
pub(crate) const RULE: &str = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
/// The longest name.
const NAME_MAX: usize = 253;

/// Parameters that every pod may set: they belong to the pod alone and have no influence on others.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Beginnings of names with their namespace, then whole names.
const PREFIXES: [(&str, Namespace); 4] = [
    ("kernel.shm", Namespace::Ipc),
    ("kernel.msg", Namespace::Ipc),
    ("fs.mqueue.", Namespace::Ipc),
    ("net.", Namespace::Net),
];
const NAMES: [(&str, Namespace); 1] = [("kernel.sem", Namespace::Ipc)];

/// Whether Kubernetes takes this for the name of a parameter.
pub(crate) fn is_name(name: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let segment = |part: &str| {
        let inside = |byte: u8| alphanumeric(byte) || byte == b'-' || byte == b'_';
        let ends = [part.as_bytes().first(), part.as_bytes().last()];
        part.bytes().all(inside) && ends.iter().all(|end| end.is_some_and(|byte| alphanumeric(*byte)))
    };
    name.len() <= NAME_MAX && name.split(['.', '/']).all(segment)
}

/// The namespace of a parameter; none if it is the whole machine's, as far as is known.
#[must_use]
pub fn namespace(name: &str) -> Option<Namespace> {
    let name = with_dots(name);
    let whole = NAMES.iter().find(|(known, _)| *known == name);
    whole.or_else(|| PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix))).map(|(_, namespace)| *namespace)
}

/// `net/ipv4/conf/eth0.1/x` is `net.ipv4.conf.eth0/1.x`: the first separator says which of the two spellings it is.
fn with_dots(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => {
            let swap = |c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            };
            name.chars().map(swap).collect()
        }
        _ => name.to_owned(),
    }
}

/// Which parameters pods may set on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Beyond the safe ones: names, or beginnings of names that end in `*` in the configuration.
    unsafe_ones: Vec<String>,
}

impl Allowed {
    /// The safe ones and these (`kernel.msg*`, `net.core.somaxconn`).
    ///
    /// # Errors
    /// What is wrong with an entry: it is no name, or no namespace of a pod is known to have it.
    pub fn new(unsafe_ones: &[String]) -> Result<Self, String> {
        let mut known = Vec::new();
        for entry in unsafe_ones {
            let bare = entry.trim_end_matches('*');
            let pattern = bare.len() + 1 == entry.len();
            let well_formed = match pattern {
                true => is_name(&format!("{bare}x")),
                false => is_name(entry),
            };
            if !well_formed {
                return Err(format!("sysctl {entry:?} is no name, or beginning of a name with a \"*\" behind it"));
            }
            if namespace(bare).is_none() {
                return Err(format!("the sysctl {entry:?} is not known to be namespaced"));
            }
            known.push(if pattern { format!("{}*", with_dots(bare)) } else { with_dots(bare) });
        }
        Ok(Self { unsafe_ones: known })
    }

    /// Whether a pod may set a parameter.
    ///
    /// # Errors
    /// Why not, in the kubelet's words.
    pub fn check(&self, name: &str, host_network: bool, host_ipc: bool) -> Result<(), String> {
        let name = with_dots(name);
        let matches = |entry: &String| match entry.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => *entry == name,
        };
        if !SAFE.contains(&name.as_str()) && !self.unsafe_ones.iter().any(matches) {
            return Err(format!("{name:?} not allowlisted"));
        }
        match namespace(&name) {
            Some(shared @ Namespace::Net) if host_network => Err(shared),
            Some(shared @ Namespace::Ipc) if host_ipc => Err(shared),
            _ => Ok(()),
        }
        .map_err(|shared| format!("{name:?} not allowed with host {} enabled", shared.word()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_what_is_none() {
        for name in ["a", "net.ipv4.tcp_rmem", "net/ipv4/conf/eth0.1/x", "kernel.a-b_c"] {
            assert!(is_name(name), "{name}");
        }
        let long = "a".repeat(254);
        for name in ["", "A", "a.", ".a", "a..b", "_a", "a_", "a*", "net.ipv4.*", "a b", &long] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn each_parameter_has_its_namespace() {
        let table = [
            ("net.core.somaxconn", Some(Namespace::Net)),
            ("net/ipv4/conf/eth0.1/forwarding", Some(Namespace::Net)),
            ("kernel.shmmax", Some(Namespace::Ipc)),
            ("kernel.sem", Some(Namespace::Ipc)),
            ("kernel.semaphores", None),
            ("fs.mqueue.msg_max", Some(Namespace::Ipc)),
            ("vm.swappiness", None),
        ];
        for (name, want) in table {
            assert_eq!(namespace(name), want, "{name}");
        }
    }

    #[test]
    fn safe_ones_are_allowed_and_others_by_configuration() {
        let allowed = Allowed::new(&["kernel.msg*".into(), "net/core/somaxconn".into()]).unwrap();
        for name in ["net.ipv4.tcp_rmem", "net/ipv4/tcp_rmem", "kernel.msgmax", "net.core.somaxconn"] {
            assert_eq!(allowed.check(name, false, false), Ok(()), "{name}");
        }
        let table = [
            ("net.core.somaxcon", false, "\"net.core.somaxcon\" not allowlisted"),
            ("kernel.shmmax", false, "\"kernel.shmmax\" not allowlisted"),
            ("kernel.msgmax", true, "\"kernel.msgmax\" not allowed with host IPC enabled"),
            ("net.ipv4.tcp_rmem", true, "\"net.ipv4.tcp_rmem\" not allowed with host Net enabled"),
        ];
        for (name, host, want) in table {
            assert_eq!(allowed.check(name, host, host), Err(want.to_owned()), "{name}");
        }
    }

    #[test]
    fn a_configuration_that_makes_no_sense_is_refused() {
        for entry in ["", "*", "vm.swappiness", "kernel.*x", "net.**", "Net.*", "kernel.semaphores"] {
            assert!(Allowed::new(&[entry.to_owned()]).is_err(), "{entry}");
        }
    }
}
