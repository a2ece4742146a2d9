//! How a pod is called, and how it finds others: host name, aliases, resolver configuration.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

use super::{check, one_of};
use crate::field::FieldError;
use crate::names;

const POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const MOST_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const LONGEST_SEARCH_LIST: usize = 2048;
const LONGEST_OVERRIDE: usize = 64;
const NO_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// Appends everything wrong with the names of the spec at `path`.
pub(super) fn pod(spec: &PodSpec, path: &str, errors: &mut Vec<FieldError>) {
    for (name, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            check(names::dns_label(value), value, &format!("{path}.{name}"), errors);
        }
    }
    if let Some(name) = spec.hostname_override.as_deref() {
        let at = format!("{path}.hostnameOverride");
        if name.len() > LONGEST_OVERRIDE {
            errors.push(FieldError::invalid(&*at, name, format!("must be no more than {LONGEST_OVERRIDE} characters")));
        }
        check(names::dns_subdomain(name), name, &at, errors);
        if spec.set_hostname_as_fqdn == Some(true) {
            errors.push(FieldError::forbidden(&*at, "may not be used together with setHostnameAsFQDN"));
        }
        if spec.host_network == Some(true) {
            errors.push(FieldError::forbidden(at, "may not be used together with hostNetwork"));
        }
    }
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = format!("{path}.hostAliases[{index}]");
        address(&alias.ip, &format!("{path}.ip"), errors);
        for (number, name) in alias.hostnames.iter().flatten().enumerate() {
            check(names::dns_subdomain(name), name, &format!("{path}.hostnames[{number}]"), errors);
        }
    }
    let policy = spec.dns_policy.as_deref();
    if let Some(policy) = policy {
        one_of(policy, &POLICIES, &format!("{path}.dnsPolicy"), errors);
    }
    resolver(spec.dns_config.as_ref(), policy == Some("None"), &format!("{path}.dnsConfig"), errors);
}

fn resolver(config: Option<&PodDNSConfig>, alone: bool, path: &str, errors: &mut Vec<FieldError>) {
    let servers = config.and_then(|config| config.nameservers.as_deref()).unwrap_or_default();
    if alone && servers.is_empty() {
        let place = if config.is_some() { format!("{path}.nameservers") } else { path.to_owned() };
        errors.push(FieldError::required(place, "must provide at least one DNS nameserver when `dnsPolicy` is None"));
    }
    let Some(config) = config else { return };
    if servers.len() > MOST_SERVERS {
        let detail = format!("must not have more than {MOST_SERVERS} nameservers");
        errors.push(FieldError::invalid(format!("{path}.nameservers"), servers.join(","), detail));
    }
    for (index, server) in servers.iter().enumerate() {
        address(server, &format!("{path}.nameservers[{index}]"), errors);
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    if searches.len() > MOST_SEARCHES {
        let detail = format!("must not have more than {MOST_SEARCHES} search paths");
        errors.push(FieldError::invalid(format!("{path}.searches"), searches.join(","), detail));
    }
    if searches.join(" ").len() > LONGEST_SEARCH_LIST {
        let detail =
            format!("must not have more than {LONGEST_SEARCH_LIST} characters (including spaces) in the search list");
        errors.push(FieldError::invalid(format!("{path}.searches"), searches.join(","), detail));
    }
    for (index, search) in searches.iter().enumerate() {
        // A search of "." is the root; a name may end in a dot.
        let name = search.strip_suffix('.').unwrap_or(search);
        if search != "." {
            check(names::dns_subdomain(name), search, &format!("{path}.searches[{index}]"), errors);
        }
    }
    for (index, option) in config.options.iter().flatten().enumerate() {
        if option.name.as_deref().is_none_or(str::is_empty) {
            errors.push(FieldError::required(format!("{path}.options[{index}]"), "must not be empty"));
        }
    }
}

fn address(text: &str, path: &str, errors: &mut Vec<FieldError>) {
    if text.parse::<IpAddr>().is_err() {
        errors.push(FieldError::invalid(path, text, NO_ADDRESS));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wrong(spec: Value) -> Vec<String> {
        let mut all = json!({"containers": []});
        all.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
        let mut errors = Vec::new();
        pod(&serde_json::from_value(all).expect("a spec"), "spec", &mut errors);
        errors.into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn names_are_checked_as_kubernetes_does() {
        let many: Vec<String> = (0..33).map(|n| format!("a{n}.test")).collect();
        let table = [
            (json!({"hostname": "a", "subdomain": "b", "dnsPolicy": "Default"}), vec![]),
            (json!({"hostname": "A", "subdomain": "b.c"}), vec!["spec.hostname", "spec.subdomain"]),
            (json!({"hostnameOverride": "a.b"}), vec![]),
            (
                json!({"hostnameOverride": "A", "setHostnameAsFQDN": true, "hostNetwork": true}),
                vec!["spec.hostnameOverride"; 3],
            ),
            (
                json!({"hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a.b"]}, {"ip": "x", "hostnames": ["_"]}]}),
                vec!["spec.hostAliases[1].ip", "spec.hostAliases[1].hostnames[0]"],
            ),
            (json!({"dnsPolicy": "Never"}), vec!["spec.dnsPolicy"]),
            (json!({"dnsPolicy": "None"}), vec!["spec.dnsConfig"]),
            (json!({"dnsPolicy": "None", "dnsConfig": {"searches": ["a."]}}), vec!["spec.dnsConfig.nameservers"]),
            (json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1", "fd00::1"]}}), vec![]),
            (
                json!({"dnsConfig": {"nameservers": ["1.1.1.1", "a", "3.3.3.3", "4.4.4.4"]}}),
                vec!["spec.dnsConfig.nameservers", "spec.dnsConfig.nameservers[1]"],
            ),
            (json!({"dnsConfig": {"searches": many}}), vec!["spec.dnsConfig.searches"]),
            (json!({"dnsConfig": {"searches": [".", "a..b"]}}), vec!["spec.dnsConfig.searches[1]"]),
            (json!({"dnsConfig": {"options": [{"value": "1"}]}}), vec!["spec.dnsConfig.options[0]"]),
        ];
        for (spec, paths) in table {
            assert_eq!(wrong(spec.clone()), paths, "{spec}");
        }
    }
}
