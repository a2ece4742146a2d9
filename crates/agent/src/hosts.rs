//! `/etc/hosts` of a pod, in the kubelet's words: a managed file with the pod's addresses and aliases, or the node's own
//! with the aliases for pods on the host network.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostAlias, Pod};

const MANAGED: &str = "# Kubernetes-managed hosts file.\n\
    127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    fe00::0\tip6-mcastprefix\n\
    fe00::1\tip6-allnodes\n\
    fe00::2\tip6-allrouters\n";
const OF_HOST: &str = "# Kubernetes-managed hosts file (host network).\n";
const ALIASES: &str = "\n# Entries added by HostAliases.\n";
/// Longest name of a host (POSIX' HOST_NAME_MAX is 64 with its end).
const LONGEST_NAME: usize = 63;
/// Longest name that the kernel takes.
const LONGEST_FULL_NAME: usize = 64;

/// The file's content. `node` is the node's own file, used with the host's network.
pub(crate) fn render(pod: &Pod, ips: &[IpAddr], domain: &str, node: &str) -> String {
    let spec = pod.spec.as_ref();
    let aliases = spec.and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
    if spec.and_then(|spec| spec.host_network) == Some(true) {
        return format!("{OF_HOST}{node}{}", render_aliases(aliases));
    }
    let names = host_names(pod, domain);
    let lines: String = ips.iter().map(|ip| format!("{ip}\t{names}\n")).collect();
    format!("{MANAGED}{lines}{}", render_aliases(aliases))
}

/// What the pod's `hostname` prints: its host name, or its full one where it is to be so (`setHostnameAsFQDN`).
///
/// # Errors
/// In the kubelet's words, when the full one is longer than the kernel lets it be.
pub(crate) fn kernel_name(pod: &Pod, domain: &str) -> Result<String, String> {
    let wants_all = pod.spec.as_ref().and_then(|spec| spec.set_hostname_as_fqdn) == Some(true);
    let Some(full) = full_name(pod, domain).filter(|_| wants_all) else { return Ok(host_name(pod)) };
    match full.len() {
        0..=LONGEST_FULL_NAME => Ok(full),
        length => Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long ({LONGEST_FULL_NAME} \
             characters is the max, {length} characters requested)"
        )),
    }
}

/// The pod's host name: the one given, or its name, as long as a host name may be.
pub(crate) fn host_name(pod: &Pod) -> String {
    if let Some(name) = overriding(pod) {
        return name.to_owned();
    }
    let given = pod.spec.as_ref().and_then(|spec| spec.hostname.as_deref()).filter(|name| !name.is_empty());
    let name = given.or(pod.metadata.name.as_deref()).unwrap_or_default();
    let cut: String = name.chars().take(LONGEST_NAME).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// With a subdomain, the full name before the short one.
fn host_names(pod: &Pod, domain: &str) -> String {
    let name = host_name(pod);
    match full_name(pod, domain) {
        Some(full) => format!("{full}\t{name}"),
        None => name,
    }
}

/// The host name with the domain of the pod's subdomain, where it has one.
fn full_name(pod: &Pod, domain: &str) -> Option<String> {
    let spec = pod.spec.as_ref().filter(|_| overriding(pod).is_none())?;
    let sub = spec.subdomain.as_deref().filter(|sub| !sub.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    Some(format!("{}.{sub}.{namespace}.svc.{domain}", host_name(pod)))
}

/// `hostnameOverride`, which goes before host name and subdomain; names for others do not follow it.
fn overriding(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.hostname_override.as_deref().filter(|name| !name.is_empty())
}

fn render_aliases(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let line =
        |alias: &HostAlias| format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"));
    ALIASES.to_owned() + &aliases.iter().map(line).collect::<String>()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        let metadata = json!({"name": "web", "namespace": "shop"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a pod")
    }

    fn ips() -> Vec<IpAddr> {
        ["10.85.0.2", "fd00::2"].iter().map(|ip| ip.parse().expect("an address")).collect()
    }

    #[test]
    fn a_pod_has_a_line_for_each_of_its_addresses() {
        let text = render(&pod(json!({"containers": []})), &ips(), "cluster.local", "");
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost "));
        assert!(text.ends_with("ip6-allrouters\n10.85.0.2\tweb\nfd00::2\tweb\n"));
    }

    #[test]
    fn hostname_subdomain_and_aliases_show() {
        let aliases = json!([{"ip": "1.2.3.4", "hostnames": ["a", "b.c"]}]);
        let spec = json!({"containers": [], "hostname": "h", "subdomain": "s", "hostAliases": aliases});
        let text = render(&pod(spec), &ips()[..1], "cluster.local", "");
        let end = "10.85.0.2\th.s.shop.svc.cluster.local\th\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb.c\n";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn on_the_host_network_it_is_the_nodes_file() {
        let text = render(&pod(json!({"containers": [], "hostNetwork": true})), &[], "cluster.local", "127.0.0.1 me\n");
        assert_eq!(text, "# Kubernetes-managed hosts file (host network).\n127.0.0.1 me\n");
    }

    #[test]
    fn a_full_name_is_the_kernels_where_it_is_asked_for() {
        let table = [
            (json!({"subdomain": "s"}), Ok("web")),
            (json!({"subdomain": "s", "setHostnameAsFQDN": true}), Ok("web.s.shop.svc.cluster.local")),
            (json!({"setHostnameAsFQDN": true}), Ok("web")),
            (json!({"hostname": "h", "subdomain": "s", "hostnameOverride": "other.example"}), Ok("other.example")),
            (
                json!({"hostname": "h".repeat(41), "subdomain": "s", "setHostnameAsFQDN": true}),
                Err("(64 characters is the max, 66 characters requested)"),
            ),
        ];
        for (mut spec, want) in table {
            spec["containers"] = json!([]);
            let found = kernel_name(&pod(spec.clone()), "cluster.local");
            match (&found, want) {
                (Ok(name), Ok(want)) => assert_eq!(name, want, "{spec}"),
                (Err(why), Err(want)) => assert!(why.ends_with(want), "{spec}: {why}"),
                _ => panic!("{spec}: {found:?}"),
            }
        }
        let text = render(
            &pod(json!({"containers": [], "subdomain": "s", "hostnameOverride": "o.example"})),
            &ips()[..1],
            "d",
            "",
        );
        assert!(text.ends_with("10.85.0.2\to.example\n"), "{text}");
    }

    #[test]
    fn a_long_name_is_cut_where_a_host_name_may_end() {
        let mut pod = pod(json!({"containers": []}));
        pod.metadata.name = Some(format!("{}--.tail", "a".repeat(61)));
        assert_eq!(host_name(&pod), "a".repeat(61));
    }
}
