//! Containers and init containers.

use std::collections::HashSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ContainerPort, PodSpec};

use super::{check, data, distinct, one_of, probes, resources, security, volume};
use crate::field::FieldError;
use crate::names;

pub(super) fn containers(spec: &PodSpec, path: &str, volumes: &HashSet<&str>, errors: &mut Vec<FieldError>) {
    if spec.containers.is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let host_network = spec.host_network == Some(true);
    for (at, one) in each(spec, path) {
        container(one, &at, volumes, host_network, errors);
        data::environment(one, &at, spec.volumes.as_deref().unwrap_or_default(), errors);
        let once = at.contains(".initContainers[") && !crate::pod::is_sidecar(one);
        probes::container(one, once, &at, errors);
        security::container(one, spec, &at, errors);
    }
    distinct(each(spec, path).map(|(at, one)| (format!("{at}.name"), one.name.as_str())), errors);
}

/// The containers with their paths, in the order in which names must be distinct.
fn each<'a>(spec: &'a PodSpec, path: &'a str) -> impl Iterator<Item = (String, &'a Container)> {
    let list = |name: &'static str, items: &'a [Container]| {
        items.iter().enumerate().map(move |(n, c)| (format!("{path}.{name}[{n}]"), c))
    };
    list("containers", &spec.containers).chain(list("initContainers", spec.init_containers.as_deref().unwrap_or(&[])))
}

pub(super) fn container(
    one: &Container,
    path: &str,
    volumes: &HashSet<&str>,
    host_network: bool,
    errors: &mut Vec<FieldError>,
) {
    if one.name.is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    } else {
        check(names::dns_label(&one.name), &one.name, &format!("{path}.name"), errors);
    }
    let image = one.image.as_deref().unwrap_or("");
    if image.is_empty() {
        errors.push(FieldError::required(format!("{path}.image"), ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid(
            format!("{path}.image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
    if let Some(policy) = &one.image_pull_policy {
        one_of(policy, &["Always", "IfNotPresent", "Never"], &format!("{path}.imagePullPolicy"), errors);
    }
    for (n, variable) in one.env.iter().flatten().enumerate() {
        let at = format!("{path}.env[{n}].name");
        if variable.name.is_empty() {
            errors.push(FieldError::required(at, ""));
        } else {
            check(names::env_var(&variable.name), &variable.name, &at, errors);
        }
    }
    ports(one.ports.as_deref().unwrap_or(&[]), &format!("{path}.ports"), host_network, errors);
    volume::mounts(one, path, volumes, errors);
    if let Some(wanted) = &one.resources {
        resources::resources(wanted, &format!("{path}.resources"), errors);
    }
}

fn ports(ports: &[ContainerPort], path: &str, host_network: bool, errors: &mut Vec<FieldError>) {
    for (n, port) in ports.iter().enumerate() {
        let path = format!("{path}[{n}]");
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            check(names::port_name(name), name, &format!("{path}.name"), errors);
        }
        if port.container_port == 0 {
            errors.push(FieldError::required(format!("{path}.containerPort"), ""));
        } else {
            in_range(port.container_port, &format!("{path}.containerPort"), errors);
        }
        if let Some(host) = port.host_port.filter(|p| *p != 0) {
            in_range(host, &format!("{path}.hostPort"), errors);
            if host_network && host != port.container_port {
                errors.push(FieldError::invalid(
                    format!("{path}.hostPort"),
                    host,
                    "must match `containerPort` when `hostNetwork` is true",
                ));
            }
        }
        if let Some(protocol) = &port.protocol {
            one_of(protocol, &["TCP", "UDP"], &format!("{path}.protocol"), errors);
        }
        if let Some(address) = port.host_ip.as_deref().filter(|a| !a.is_empty())
            && address.parse::<IpAddr>().is_err()
        {
            errors.push(FieldError::invalid(
                format!("{path}.hostIP"),
                address,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ));
        }
    }
    distinct(
        ports.iter().enumerate().filter_map(|(n, p)| Some((format!("{path}[{n}].name"), p.name.as_deref()?))),
        errors,
    );
}

pub(super) fn in_range(port: i32, path: &str, errors: &mut Vec<FieldError>) {
    if !(1..=65_535).contains(&port) {
        errors.push(FieldError::invalid(path, port, "must be between 1 and 65535, inclusive"));
    }
}

/// Two containers of a pod can't have one host port.
pub(super) fn host_ports_are_distinct(spec: &PodSpec, path: &str, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (n, one) in spec.containers.iter().enumerate() {
        for (m, port) in one.ports.iter().flatten().enumerate() {
            let Some(host) = port.host_port.filter(|p| *p != 0) else {
                continue;
            };
            let key = format!(
                "{}/{}/{host}",
                port.protocol.as_deref().unwrap_or("TCP"),
                port.host_ip.as_deref().unwrap_or(""),
            );
            if !seen.insert(key.clone()) {
                errors.push(FieldError::duplicate(format!("{path}.containers[{n}].ports[{m}].hostPort"), key));
            }
        }
    }
}
