//! What a container may be told of its own pod: fields of the object, and what its resources are. Pure; the words are the
//! kubelet's, in environment variables and in files alike.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceFieldSelector},
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};
use podd_core::{qos, quantity::Quantity};

/// What the node has for pods: a container without a limit of its own is told this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DefaultLimits {
    /// Thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of the disk that pods write to.
    pub ephemeral_storage: i64,
}

/// A field of the pod's metadata; none if there is no such field.
pub(crate) fn metadata(pod: &Pod, path: &str) -> Option<String> {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Some(match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        _ => {
            let (map, key) = path.strip_suffix("']")?.split_once("['")?;
            let map = match map {
                "metadata.labels" => &meta.labels,
                "metadata.annotations" => &meta.annotations,
                _ => return None,
            };
            map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
        }
    })
}

/// `key="value"` per line, sorted.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let rows: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quoted(value))).collect();
    rows.join("\n")
}

/// As Go's `%q` writes a string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A container's limit or request in units of the divisor, rounded up. The selector names a container, or means `own`.
pub(crate) fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    defaults: &DefaultLimits,
) -> Result<String, String> {
    let name = selector.container_name.as_deref().unwrap_or_default();
    let named = || {
        let spec = pod.spec.as_ref()?;
        spec.init_containers.iter().flatten().chain(&spec.containers).find(|container| container.name == name)
    };
    let container = match own {
        Some(own) if name.is_empty() || own.name == name => own,
        _ => named().ok_or_else(|| format!("container {name} not found"))?,
    };
    let (list, kind) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let resources = container.resources.as_ref();
    let set = match list {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()),
        "requests" => resources.and_then(|resources| resources.requests.as_ref()),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let set = parse(set.and_then(|set| set.get(kind)));
    let divisor = parse(selector.divisor.as_ref()).filter(|divisor| *divisor != Quantity::ZERO);
    let divisor = divisor.unwrap_or_else(|| Quantity::of(1));
    let is_limit = list == "limits";
    let set = set.filter(|quantity| *quantity != Quantity::ZERO);
    // A container without a limit of its own has the pod's.
    let of_pod = || pod.spec.as_ref().filter(|_| is_limit).and_then(|spec| qos::own_limit(spec, kind));
    let set = set.or_else(of_pod);
    let unset = set.is_none();
    // Cores are counted in thousandths, all else in units: what is finer than that is rounded up first.
    let (amount, unit) = if kind == "cpu" {
        let amount = if unset && is_limit { defaults.milli_cpu } else { set.map_or(0, Quantity::milli) };
        (amount, divisor.milli())
    } else {
        let default = match kind {
            "memory" => defaults.memory,
            "ephemeral-storage" => defaults.ephemeral_storage,
            _ => 0,
        };
        (if unset && is_limit { default } else { set.map_or(0, Quantity::value) }, divisor.value())
    };
    let unit = i128::from(unit.max(1));
    let amount = i128::from(amount);
    Ok((amount.div_euclid(unit) + i128::from(amount.rem_euclid(unit) != 0)).to_string())
}

fn parse(quantity: Option<&ApiQuantity>) -> Option<Quantity> {
    Quantity::parse(&quantity?.0).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DEFAULTS: DefaultLimits = DefaultLimits { milli_cpu: 3500, memory: 1 << 30, ephemeral_storage: 5000 };

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"b": "2", "a": "1"},
                "annotations": {"x/y": "two\nlines \"quoted\" \\ ü"}},
            "spec": {
                "containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "100Mi"},
                    "requests": {"cpu": "250m", "memory": "33554433"}}}, {"name": "bare"}],
                "initContainers": [{"name": "init", "resources": {"limits": {"cpu": "2"}}}],
            },
        }))
        .expect("a pod")
    }

    #[test]
    fn fields_read_as_the_kubelets() {
        let table = [
            ("metadata.name", Some("p")),
            ("metadata.namespace", Some("n")),
            ("metadata.uid", Some("u")),
            ("metadata.labels", Some("a=\"1\"\nb=\"2\"")),
            ("metadata.annotations", Some("x/y=\"two\\nlines \\\"quoted\\\" \\\\ ü\"")),
            ("metadata.labels['a']", Some("1")),
            ("metadata.labels['none']", Some("")),
            ("metadata.annotations['x/y']", Some("two\nlines \"quoted\" \\ ü")),
            ("metadata.generation", None),
            ("spec.x['a']", None),
        ];
        for (path, want) in table {
            assert_eq!(metadata(&pod(), path).as_deref(), want, "{path}");
        }
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        // container, resource, divisor, value
        let table = [
            ("c", "limits.cpu", "", "2"),
            ("c", "limits.cpu", "0", "2"),
            ("c", "limits.cpu", "1m", "1500"),
            ("c", "requests.cpu", "1", "1"),
            ("c", "requests.cpu", "1m", "250"),
            ("c", "limits.memory", "", "104857600"),
            ("c", "limits.memory", "1Mi", "100"),
            ("c", "limits.memory", "1G", "1"),
            ("c", "requests.memory", "1Mi", "33"),
            ("c", "limits.ephemeral-storage", "1k", "5"),
            ("c", "requests.ephemeral-storage", "1", "0"),
            ("bare", "limits.cpu", "1", "4"),
            ("bare", "limits.cpu", "1m", "3500"),
            ("bare", "limits.memory", "1Mi", "1024"),
            ("bare", "requests.cpu", "1m", "0"),
            ("init", "limits.cpu", "1", "2"),
        ];
        let pod = pod();
        for (container, resource_name, divisor, want) in table {
            let selector = ResourceFieldSelector {
                container_name: Some(container.into()),
                resource: resource_name.into(),
                divisor: (!divisor.is_empty()).then(|| ApiQuantity(divisor.into())),
            };
            let found = resource(&pod, None, &selector, &DEFAULTS);
            assert_eq!(found.as_deref(), Ok(want), "{container} {resource_name} {divisor}");
        }
        let selector = ResourceFieldSelector { resource: "limits.cpu".into(), ..Default::default() };
        let own = &pod.spec.as_ref().expect("a spec").containers[0];
        assert_eq!(resource(&pod, Some(own), &selector, &DEFAULTS).as_deref(), Ok("2"));
        let selector = ResourceFieldSelector { container_name: Some("x".into()), ..selector };
        assert_eq!(resource(&pod, None, &selector, &DEFAULTS), Err("container x not found".into()));
    }
}
