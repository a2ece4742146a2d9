//! A container's environment: `envFrom` first, then `env`, which replaces; each value may name what stands before it.
//! The order and the words are the kubelet's. A value never stands in an error: it may be a Secret's.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};
use podd_cri::v1;

use super::{env_file, expand::expand};
use crate::{
    downward::{self, DefaultLimits},
    references::Referenced,
    worker::services::Prepared,
};

/// All that an environment may be made of.
pub(super) struct Sources<'a> {
    pub(super) pod: &'a Pod,
    pub(super) objects: &'a Referenced,
    /// The sandbox's addresses.
    pub(super) pod_ips: &'a [IpAddr],
    pub(super) host_ips: &'a [IpAddr],
    pub(super) node: &'a str,
    pub(super) limits: &'a DefaultLimits,
    /// Where the pod's volumes are.
    pub(super) prepared: &'a Prepared,
}

/// Variables in order, and as what references see. They cannot be printed, for what is in them.
#[derive(Default)]
pub(super) struct Environment {
    names: Vec<String>,
    pub(super) known: BTreeMap<String, String>,
}

impl Environment {
    fn set(&mut self, name: &str, value: String) {
        if self.known.insert(name.to_owned(), value).is_none() {
            self.names.push(name.to_owned());
        }
    }

    /// As CRI wants them.
    pub(super) fn variables(&self) -> Vec<v1::KeyValue> {
        let value = |name: &String| self.known.get(name).cloned().unwrap_or_default().into_bytes();
        self.names.iter().map(|name| v1::KeyValue { key: name.clone(), value: value(name) }).collect()
    }
}

/// Makes a container's environment; the error is the kubelet's message. Reads the files that the container names.
pub(super) fn environment(container: &Container, sources: &Sources<'_>) -> Result<Environment, String> {
    let mut environment = Environment::default();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            let found = sources.objects.config_map(&reference.name, reference.optional == Some(true))?;
            for (key, value) in found.into_iter().flat_map(|object| object.data.iter().flatten()) {
                environment.set(&format!("{prefix}{key}"), value.clone());
            }
        }
        if let Some(reference) = &from.secret_ref {
            let found = sources.objects.secret(&reference.name, reference.optional == Some(true))?;
            for (key, value) in found.into_iter().flat_map(|object| object.data.iter().flatten()) {
                environment.set(&format!("{prefix}{key}"), text(&value.0));
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let literal = variable.value.as_deref().unwrap_or_default();
        let value = match &variable.value_from {
            Some(from) if literal.is_empty() => match resolve(container, from, sources)? {
                Some(value) => value,
                None => continue,
            },
            _ => expand(literal, &environment.known),
        };
        environment.set(&variable.name, value);
    }
    // No kernel can pass it on, and what is behind it would be lost in silence.
    match environment.known.iter().find(|(_, value)| value.contains('\0')) {
        Some((name, _)) => Err(format!("the value of environment variable {name} has a NUL byte; mount it as a file")),
        None => Ok(environment),
    }
}

/// A value from elsewhere; none if it is optional and not there.
fn resolve(container: &Container, from: &EnvVarSource, sources: &Sources<'_>) -> Result<Option<String>, String> {
    let namespace = sources.pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(selector) = &from.field_ref {
        return field(&selector.field_path, sources).map(Some);
    }
    if let Some(selector) = &from.resource_field_ref {
        return downward::resource(sources.pod, Some(container), selector, sources.limits).map(Some);
    }
    if let Some(selector) = &from.config_map_key_ref {
        let optional = selector.optional == Some(true);
        let Some(object) = sources.objects.config_map(&selector.name, optional)? else { return Ok(None) };
        return match object.data.as_ref().and_then(|data| data.get(&selector.key)) {
            None if !optional => {
                Err(format!("couldn't find key {} in ConfigMap {namespace}/{}", selector.key, selector.name))
            }
            found => Ok(found.cloned()),
        };
    }
    if let Some(selector) = &from.secret_key_ref {
        let optional = selector.optional == Some(true);
        let Some(object) = sources.objects.secret(&selector.name, optional)? else { return Ok(None) };
        return match object.data.as_ref().and_then(|data| data.get(&selector.key)) {
            None if !optional => {
                Err(format!("couldn't find key {} in Secret {namespace}/{}", selector.key, selector.name))
            }
            found => Ok(found.map(|value| text(&value.0))),
        };
    }
    if let Some(selector) = &from.file_key_ref {
        let volume =
            sources.prepared.volumes.get(&selector.volume_name).ok_or_else(|| {
                format!("cannot find the volume \"{}\" referenced by FileKeyRef", selector.volume_name)
            })?;
        let value = env_file::read(&volume.path, &selector.path, &selector.key)?;
        return match value {
            None if selector.optional != Some(true) => Err(format!(
                "environment variable key \"{}\" not found in file \"{}\" of volume \"{}\"",
                selector.key, selector.path, selector.volume_name
            )),
            value => Ok(value),
        };
    }
    Ok(Some(String::new()))
}

fn field(path: &str, sources: &Sources<'_>) -> Result<String, String> {
    let spec = sources.pod.spec.as_ref();
    let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string).unwrap_or_default();
    let all = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    // A pod in the node's network has the node's addresses.
    let in_hosts = spec.is_some_and(|spec| spec.host_network == Some(true));
    let pod_ips = if in_hosts { sources.host_ips } else { sources.pod_ips };
    Ok(match path {
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_else(|| sources.node.to_owned()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => first(sources.host_ips),
        "status.hostIPs" => all(sources.host_ips),
        "status.podIP" => first(pod_ips),
        "status.podIPs" => all(pod_ips),
        path => downward::metadata(sources.pod, path).ok_or_else(|| format!("unsupported fieldPath: {path}"))?,
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests;
