//! What a pod's `resolv.conf` says: the node's, or the cluster's name servers, by `dnsPolicy`; then `dnsConfig` on top.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use podd_cri::v1::DnsConfig;

/// Name servers that a resolver looks at (`resolv.conf(5)`, MAXNS), and Kubernetes' bounds on the search list.
const MOST_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const LONGEST_SEARCH_LIST: usize = 2048;

/// The cluster's side of name resolution.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) servers: Vec<IpAddr>,
    pub(crate) domain: String,
}

/// Whether the pod's resolver configuration names the cluster's servers.
pub(crate) fn asks_cluster(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|spec| spec.host_network).unwrap_or_default();
    match spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst") {
        "ClusterFirst" => !host_network,
        policy => policy == "ClusterFirstWithHostNet",
    }
}

/// The resolver configuration of a pod on a node whose own is `node`.
pub(crate) fn config(pod: &Pod, cluster: &Cluster, node: &str) -> DnsConfig {
    let spec = pod.spec.as_ref();
    let of_node = parse(node);
    let mut config = match spec.and_then(|spec| spec.dns_policy.as_deref()) {
        Some("None") => DnsConfig::default(),
        _ if asks_cluster(pod) && !cluster.servers.is_empty() => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
            let domain = &cluster.domain;
            let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            searches.extend(of_node.searches);
            let servers = cluster.servers.iter().map(IpAddr::to_string).collect();
            DnsConfig { servers, searches, options: vec!["ndots:5".into()] }
        }
        _ => of_node,
    };
    if let Some(own) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            // An option of the pod replaces the one of the same name.
            config.options.retain(|set| set.split(':').next() != Some(name.as_str()));
            config.options.push(option.value.as_ref().map_or(name.clone(), |value| format!("{name}:{value}")));
        }
    }
    bound(config)
}

fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let owned = |words: std::str::SplitWhitespace<'_>| words.map(str::to_owned).collect::<Vec<_>>();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            // The last of the two wins; a search of "." alone is the root, as good as none.
            Some("search" | "domain") => {
                config.searches = owned(words).into_iter().filter(|name| name != ".").collect()
            }
            Some("options") => config.options = owned(words),
            _ => {}
        }
    }
    config
}

fn bound(mut config: DnsConfig) -> DnsConfig {
    let mut seen = std::collections::BTreeSet::new();
    config.servers.retain(|server| seen.insert(server.clone()));
    config.servers.truncate(MOST_SERVERS);
    seen.clear();
    let mut length = 0;
    config.searches.retain(|name| {
        length += name.len() + 1;
        seen.insert(name.clone()) && seen.len() <= MOST_SEARCHES && length <= LONGEST_SEARCH_LIST + 1
    });
    config
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NODE: &str =
        "# made by hand\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch example.com lan\noptions edns0\n";

    fn dns(spec: Value, servers: &[&str]) -> (Vec<String>, Vec<String>, Vec<String>) {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "shop"}, "spec": spec})).expect("a pod");
        let servers = servers.iter().map(|ip| ip.parse().expect("an address")).collect();
        let config = config(&pod, &Cluster { servers, domain: "cluster.local".into() }, NODE);
        (config.servers, config.searches, config.options)
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn policies_choose_between_cluster_and_node() {
        let of_node = (words("192.0.2.1 192.0.2.2"), words("example.com lan"), words("edns0"));
        let searches = words("shop.svc.cluster.local svc.cluster.local cluster.local example.com lan");
        let of_cluster = (words("10.96.0.10"), searches, words("ndots:5"));
        let table = [
            (json!({"containers": []}), true),
            (json!({"containers": [], "hostNetwork": true}), false),
            (json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), true),
            (json!({"containers": [], "dnsPolicy": "Default"}), false),
        ];
        for (spec, cluster) in table {
            assert_eq!(
                dns(spec.clone(), &["10.96.0.10"]),
                if cluster { of_cluster.clone() } else { of_node.clone() },
                "{spec}"
            );
            assert_eq!(dns(spec.clone(), &[]), of_node, "without a cluster's: {spec}");
        }
    }

    #[test]
    fn the_pods_own_configuration_comes_on_top_within_bounds() {
        let own = json!({"nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"], "searches": ["a.b"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}]});
        let found = dns(json!({"containers": [], "dnsPolicy": "None", "dnsConfig": own}), &["10.96.0.10"]);
        assert_eq!(found, (words("1.1.1.1 2.2.2.2 3.3.3.3"), words("a.b"), words("ndots:2 rotate")));
        let merged = dns(json!({"containers": [], "dnsConfig": own}), &["10.96.0.10"]);
        assert_eq!(merged.0, words("10.96.0.10 1.1.1.1 2.2.2.2"));
        assert_eq!(merged.2, words("ndots:2 rotate"));
    }
}
