//! What a sandbox will be, worked out from its configuration before anything is touched.

pub(crate) mod users;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use podd_cri::v1::{DnsConfig, PodSandboxConfig, Protocol};

use crate::config::{CgroupDriver, Handler};
use crate::error::{CriError, Result};
use crate::records::{NamespaceMode, Namespaces, Owner, PortMeta, SandboxMeta};
use crate::request::check_sandbox;
use crate::systemd::{own_slice, slice_path};

/// podd's own runtime handler; the empty name means it too, and the configuration may give it more.
pub(crate) const HANDLER: &str = "podd";
/// The longest name the kernel takes for a host.
const HOSTNAME_MAX: usize = 64;

/// What planning needs to know of the world.
pub(crate) struct Context<'a> {
    /// The new sandbox's id.
    pub(crate) id: &'a str,
    pub(crate) now: i64,
    /// The group that sandboxes without a `cgroup_parent` are put in.
    pub(crate) cgroup_root: &'a Path,
    pub(crate) cgroup_driver: CgroupDriver,
    /// The runtime handlers beside podd's own.
    pub(crate) handlers: &'a BTreeMap<String, Handler>,
}

/// Decides on a sandbox. Everything podd cannot honour is refused here, by its name.
pub(crate) fn plan(context: &Context<'_>, config: &PodSandboxConfig, handler: &str) -> Result<SandboxMeta> {
    check_sandbox(config)?;
    let metadata = config.metadata.clone().unwrap_or_default();
    if !["", HANDLER].contains(&handler) && !context.handlers.contains_key(handler) {
        let more: String = context.handlers.keys().map(|name| format!(", {name:?}")).collect();
        return Err(CriError::invalid(format!(
            "no runtime for {handler:?} is configured; podd has \"\", {HANDLER:?}{more}"
        )));
    }
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let namespaces = namespaces(&security.namespace_options.unwrap_or_default())?;
    if matches!(context.handlers.get(handler), Some(Handler::Program(_))) {
        check_external(handler, &namespaces, context.cgroup_driver)?;
    }
    if security.run_as_group.is_some() && security.run_as_user.is_none() {
        return Err(CriError::invalid("run_as_group of a sandbox needs run_as_user"));
    }
    let hostname = hostname(&config.hostname, &namespaces)?;
    let (cgroup_parent, owns_cgroup) = match (linux.cgroup_parent.as_str(), context.cgroup_driver) {
        ("", CgroupDriver::Cgroupfs) => (context.cgroup_root.join(context.id), true),
        ("", CgroupDriver::Systemd) => (slice_path(&own_slice(context.cgroup_root, context.id))?, true),
        (parent, CgroupDriver::Cgroupfs) => (cgroup_path(parent)?, false),
        (parent, CgroupDriver::Systemd) => (slice_path(parent)?, false),
    };
    Ok(SandboxMeta {
        id: context.id.to_owned(),
        owner: Owner {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            attempt: metadata.attempt,
        },
        created_at: context.now,
        hostname,
        log_directory: log_directory(&config.log_directory)?,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        privileged: security.privileged,
        runtime_handler: handler.to_owned(),
        sysctls: sysctls(&linux.sysctls, &namespaces)?,
        ports: ports(config, &namespaces)?,
        namespaces,
        cgroup_parent,
        owns_cgroup,
    })
}

/// What podd cannot have another OCI runtime do.
fn check_external(handler: &str, namespaces: &Namespaces, driver: CgroupDriver) -> Result<()> {
    let refuse = |what: &str| {
        Err(CriError::Precondition(format!(
            "runtime handler {handler:?} is a program of its own: {what}, use podd's own"
        )))
    };
    match (namespaces.user.is_some(), driver) {
        (true, _) => refuse("its pods cannot have user namespaces (hostUsers: false)"),
        (_, CgroupDriver::Systemd) => refuse("it cannot be used with the cgroup driver systemd"),
        _ => Ok(()),
    }
}

fn namespaces(option: &podd_cri::v1::NamespaceOption) -> Result<Namespaces> {
    let mode = |what: &str, number: i32, allowed: &[NamespaceMode]| {
        NamespaceMode::from_cri(number).filter(|mode| allowed.contains(mode)).ok_or_else(|| {
            CriError::invalid(format!("namespace mode {number} is not possible for {what} of a sandbox"))
        })
    };
    use NamespaceMode::{Container, Node, Pod};
    Ok(Namespaces {
        network: mode("network", option.network, &[Pod, Node])?,
        pid: mode("pid", option.pid, &[Pod, Container, Node])?,
        ipc: mode("ipc", option.ipc, &[Pod, Node])?,
        target: None,
        user: option.userns_options.as_ref().map(users::plan).transpose()?.flatten(),
    })
}

fn hostname(wanted: &str, namespaces: &Namespaces) -> Result<String> {
    if namespaces.network == NamespaceMode::Node {
        // The host's network goes with the host's name; naming it would rename the machine.
        return Ok(String::new());
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    if wanted.len() > HOSTNAME_MAX || !wanted.bytes().all(allowed) {
        return Err(CriError::invalid(format!(
            "hostname {wanted:?} must be of letters, digits, '-' and '.', at most {HOSTNAME_MAX}"
        )));
    }
    Ok(wanted.to_owned())
}

/// A cgroup path of the caller, relative and without anything that could lead out of the hierarchy.
pub(crate) fn cgroup_path(path: &str) -> Result<PathBuf> {
    if path.ends_with(".slice") {
        return Err(CriError::Unsupported(format!(
            "cgroup_parent {path:?} is systemd's; the cgroup driver is cgroupfs"
        )));
    }
    let mut clean = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::RootDir | Component::CurDir => {}
            _ => return Err(CriError::invalid(format!("cgroup_parent {path:?} must not contain \"..\""))),
        }
    }
    if clean.as_os_str().is_empty() {
        return Err(CriError::invalid(format!("cgroup_parent {path:?} names the root group")));
    }
    Ok(clean)
}

fn log_directory(path: &str) -> Result<Option<PathBuf>> {
    if path.is_empty() {
        return Ok(None);
    }
    let path = PathBuf::from(path);
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(CriError::invalid(format!("log_directory {} must be absolute and without \"..\"", path.display())));
    }
    Ok(Some(path))
}

/// Kernel parameters by file under /proc/sys, checked to belong to a namespace that the sandbox has of its own.
fn sysctls(wanted: &BTreeMap<String, String>, namespaces: &Namespaces) -> Result<BTreeMap<String, String>> {
    /// Beginnings of names, and the namespace that they live in.
    const NAMESPACED: [(&str, &str); 7] = [
        ("net/", "network"),
        ("kernel/shm", "ipc"),
        ("kernel/msg", "ipc"),
        ("kernel/sem", "ipc"),
        ("fs/mqueue/", "ipc"),
        ("kernel/domainname", "uts"),
        ("kernel/hostname", "refused: use hostname"),
    ];
    let mut found = BTreeMap::new();
    for (name, value) in wanted {
        // As sysctl(8) has it: "net.ipv4.x" and "net/ipv4/x" are both written, and where one of the two separates, the
        // other stands for a dot in the name of a file.
        let path: String = match name.find(['.', '/']) {
            Some(at) if name.as_bytes()[at] == b'/' => name.clone(),
            _ => name
                .chars()
                .map(|c| [('.', '/'), ('/', '.')].iter().find(|pair| pair.0 == c).map_or(c, |p| p.1))
                .collect(),
        };
        let well_formed = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        let kind = NAMESPACED.iter().find(|(prefix, _)| path.starts_with(prefix)).map(|row| row.1);
        let own = match kind {
            Some("network" | "uts") => namespaces.network == NamespaceMode::Pod,
            Some("ipc") => namespaces.ipc == NamespaceMode::Pod,
            _ => false,
        };
        if !well_formed || !own {
            return Err(CriError::invalid(format!("sysctl {name:?} does not belong to a namespace of this sandbox")));
        }
        found.insert(path, value.clone());
    }
    Ok(found)
}

fn ports(config: &PodSandboxConfig, namespaces: &Namespaces) -> Result<Vec<PortMeta>> {
    if namespaces.network == NamespaceMode::Node {
        // The containers bind the host's ports themselves.
        return Ok(Vec::new());
    }
    let number = |what: &str, number: i32| {
        u16::try_from(number).map_err(|_| CriError::invalid(format!("{what} {number} is not a port")))
    };
    let mut ports = Vec::new();
    for mapping in config.port_mappings.iter().filter(|mapping| mapping.host_port != 0) {
        let host_ip = match mapping.host_ip.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| CriError::invalid(format!("host_ip {text:?} is not an address")))?),
        };
        let protocol = match Protocol::try_from(mapping.protocol) {
            Ok(Protocol::Tcp) => "tcp",
            Ok(Protocol::Udp) => "udp",
            Ok(Protocol::Sctp) => "sctp",
            Err(_) => return Err(CriError::invalid(format!("protocol {} of a port is not known", mapping.protocol))),
        };
        ports.push(PortMeta {
            protocol: protocol.to_owned(),
            container_port: number("container_port", mapping.container_port)?,
            host_port: number("host_port", mapping.host_port)?,
            host_ip,
        });
    }
    Ok(ports)
}

/// The pod's resolv.conf; without a configuration it is the host's text.
pub(crate) fn resolv_conf(dns: Option<&DnsConfig>, host: &str) -> String {
    let Some(dns) = dns.filter(|dns| !(dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty()))
    else {
        return host.to_owned();
    };
    let mut text = String::new();
    for (keyword, values) in [("search", &dns.searches), ("options", &dns.options)] {
        if !values.is_empty() {
            let _infallible = writeln!(text, "{keyword} {}", values.join(" "));
        }
    }
    for server in &dns.servers {
        let _infallible = writeln!(text, "nameserver {server}");
    }
    text
}

/// The pod's /etc/hosts, for callers that do not mount one of their own.
pub(crate) fn hosts(hostname: &str, ips: &[IpAddr]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips.iter().filter(|_| !hostname.is_empty()) {
        let _infallible = writeln!(text, "{ip}\t{hostname}");
    }
    text
}

#[cfg(test)]
mod tests;
