//! What plugins are told of a pod: arguments, and the values of capabilities, by the names that containerd has for them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::error::{CriError, Result, excerpt};
use crate::records::SandboxMeta;

/// The annotations that name a pod's bandwidth, in bits per second, and the words of the capability `bandwidth`.
const BANDWIDTH: [(&str, &str, &str); 2] = [
    ("kubernetes.io/ingress-bandwidth", "ingressRate", "ingressBurst"),
    ("kubernetes.io/egress-bandwidth", "egressRate", "egressBurst"),
];
/// What a kubelet takes for a bandwidth: 1k to 1P.
const RATES: std::ops::RangeInclusive<u128> = 1_000..=1_000_000_000_000_000;
const DECIMAL: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// `CNI_ARGS`.
pub(super) fn args(meta: &SandboxMeta) -> Result<String> {
    let owner = &meta.owner;
    let mut args = "IgnoreUnknown=1".to_owned();
    for (key, value) in [
        ("K8S_POD_NAMESPACE", &owner.namespace),
        ("K8S_POD_NAME", &owner.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &meta.id),
        ("K8S_POD_UID", &owner.uid),
    ] {
        if value.contains(|c: char| c == ';' || c == '=' || c.is_control()) {
            // It would be another argument than this.
            return Err(CriError::invalid(format!(
                "{} cannot be an argument of CNI plugins ({key}): it has a semicolon, an equals sign or a control character",
                excerpt(value)
            )));
        }
        args += &format!(";{key}={value}");
    }
    Ok(args)
}

/// The values of capabilities. `pod_cidr` is the node's range, or ranges with commas between them.
pub(super) fn capabilities(meta: &SandboxMeta, pod_cidr: &str) -> Result<Map<String, Value>> {
    let mut all = Map::new();
    let ports: Vec<Value> = meta.ports.iter().filter(|port| port.host_port != 0).map(port).collect();
    if !ports.is_empty() {
        all.insert("portMappings".into(), ports.into());
    }
    if let Some(bandwidth) = bandwidth(&meta.annotations)? {
        all.insert("bandwidth".into(), bandwidth.into());
    }
    let ranges = pod_cidr.split(',').map(str::trim).filter(|range| !range.is_empty());
    let ranges: Vec<Value> = ranges.map(|range| json!([{ "subnet": range }])).collect();
    if !ranges.is_empty() {
        all.insert("ipRanges".into(), ranges.into());
    }
    all.insert("io.kubernetes.cri.pod-annotations".into(), json!(meta.annotations));
    Ok(all)
}

fn port(port: &crate::records::PortMeta) -> Value {
    let mut told = json!({
        "hostPort": port.host_port, "containerPort": port.container_port, "protocol": port.protocol,
    });
    if let Some(address) = port.host_ip {
        told["hostIP"] = address.to_string().into();
    }
    told
}

fn bandwidth(annotations: &BTreeMap<String, String>) -> Result<Option<Map<String, Value>>> {
    let mut told = Map::new();
    for (annotation, rate, burst) in BANDWIDTH {
        let Some(text) = annotations.get(annotation) else { continue };
        let bits = quantity(text).filter(|bits| RATES.contains(bits)).and_then(|bits| u64::try_from(bits).ok());
        let Some(bits) = bits else {
            let text = excerpt(text);
            return Err(CriError::invalid(format!("annotation {annotation} {text} is no quantity from 1k to 1P")));
        };
        told.insert(rate.into(), bits.into());
        // As containerd does it: only the rate is limited.
        told.insert(burst.into(), u32::MAX.into());
    }
    Ok((!told.is_empty()).then_some(told))
}

/// A quantity of Kubernetes (`10M`, `1.5G`, `64Ki`, `1e6`) that is at least one, rounded up.
fn quantity(text: &str) -> Option<u128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // Longer ones have no need to be exact, and the product has to fit.
    if whole.len() + fraction.len() > 18 {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let place = |suffixes: &[&str]| suffixes.iter().position(|known| *known == suffix);
    let power = |base: u128, place: usize| base.pow(u32::try_from(place).unwrap_or_default() + 1);
    let times = if suffix.is_empty() {
        1
    } else if let Some(place) = place(&DECIMAL) {
        power(1000, place)
    } else if let Some(place) = place(&BINARY) {
        power(1024, place)
    } else {
        let exponent: u32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
        10_u128.pow(Some(exponent).filter(|exponent| *exponent <= 18)?)
    };
    Some((digits * times).div_ceil(10_u128.pow(u32::try_from(fraction.len()).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, value) in [
            ("1000", Some(1000)),
            ("10M", Some(10_000_000)),
            ("1.5G", Some(1_500_000_000)),
            ("64Ki", Some(65536)),
            ("1e6", Some(1_000_000)),
            ("0.0001k", Some(1)),
            (".5k", Some(500)),
            ("1.1.1", None),
            ("", None),
            ("k", None),
            ("-1k", None),
            ("1kk", None),
            ("1e99", None),
            ("1234567890123456789", None),
        ] {
            assert_eq!(quantity(text), value, "{text}");
        }
    }

    #[test]
    fn bandwidth_is_of_the_annotations_and_within_what_a_kubelet_takes() {
        let of = |pairs: &[(&str, &str)]| {
            bandwidth(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(of(&[]).unwrap(), None);
        let told = of(&[("kubernetes.io/ingress-bandwidth", "10M")]).unwrap().unwrap();
        assert_eq!(Value::from(told), json!({"ingressRate": 10_000_000, "ingressBurst": u32::MAX}));
        let told = of(&[("kubernetes.io/egress-bandwidth", "1P")]).unwrap().unwrap();
        assert_eq!(told["egressRate"], 1_000_000_000_000_000_u64);
        for wrong in ["999", "1.1P", "fast"] {
            let refused = of(&[("kubernetes.io/egress-bandwidth", wrong)]).unwrap_err();
            assert!(matches!(&refused, CriError::Invalid(text) if text.contains(wrong)), "{refused}");
        }
    }
}
