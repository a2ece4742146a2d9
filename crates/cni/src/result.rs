//! Results of `ADD`, as versions 0.3.0 to 1.1.0 have them.

use std::net::IpAddr;

use serde_json::Value;

/// The addresses of the pod in a result, in its order: those of interfaces in the pod, or of none that is named. A
/// loopback address is nothing to reach a pod by, and one that is listed twice counts once.
///
/// # Errors
/// The text that is no address.
pub fn addresses(result: &Value) -> Result<Vec<IpAddr>, String> {
    let mut found: Vec<IpAddr> = Vec::new();
    let listed = result.get("ips").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for ip in listed.iter().filter(|ip| in_pod(result, ip)) {
        let text = ip.get("address").and_then(Value::as_str).unwrap_or_default();
        let bare = text.split_once('/').map_or(text, |(address, _)| address);
        let address: IpAddr = bare.parse().map_err(|_| format!("{text:?} is no address of a pod"))?;
        if !address.is_loopback() && !address.is_unspecified() && !found.contains(&address) {
            found.push(address);
        }
    }
    Ok(found)
}

/// Whether an address is on an interface that is in a sandbox.
fn in_pod(result: &Value, ip: &Value) -> bool {
    let index = match ip.get("interface") {
        None | Some(Value::Null) => return true,
        Some(index) => index.as_u64().and_then(|index| usize::try_from(index).ok()),
    };
    let interface = index.and_then(|index| result.get("interfaces")?.get(index));
    interface.and_then(|interface| interface.get("sandbox")?.as_str()).is_some_and(|sandbox| !sandbox.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(result: &Value) -> Vec<String> {
        addresses(result).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_are_all_those_of_interfaces_in_the_pod() {
        let result = json!({
            "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/ns"}, {"name": "lo", "sandbox": "/ns"}],
            "ips": [
                {"address": "10.0.0.1/8", "interface": 0},
                {"address": "10.0.0.2/8", "interface": 1},
                {"address": "fd00::2/64"},
                {"address": "10.0.0.2/8", "interface": 1},
                {"address": "127.0.0.1/8", "interface": 2},
                {"address": "10.0.0.3/8", "interface": -1},
                {"address": "10.0.0.4/8", "interface": 9}
            ]
        });
        assert_eq!(texts(&result), ["10.0.0.2", "fd00::2"]);
        assert!(addresses(&json!({"ips": [{"address": "x"}]})).unwrap_err().contains("\"x\""));
        assert!(addresses(&json!({"ips": [{}]})).is_err());
        assert!(texts(&json!({})).is_empty());
    }

    #[test]
    fn results_of_each_version_are_read() {
        // 0.3.x and 0.4.0 say the family beside each address; 1.x does not.
        let old = json!({
            "cniVersion": "0.3.1", "interfaces": [{"name": "eth0", "sandbox": "/ns"}],
            "ips": [{"version": "4", "address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 0}]
        });
        assert_eq!(texts(&old), ["10.1.0.5"]);
        let new = json!({
            "cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/ns", "mtu": 1500}],
            "ips": [{"address": "10.1.0.5/16", "interface": 0}, {"address": "fd00::5/64", "interface": 0}]
        });
        assert_eq!(texts(&new), ["10.1.0.5", "fd00::5"]);
    }

    #[test]
    fn no_answer_of_a_plugin_makes_an_address_that_is_not_in_it() {
        podd_fuzz::run("cni_result", |input| {
            let Ok(result) = serde_json::from_slice::<Value>(input) else { return };
            let Ok(found) = addresses(&result) else { return };
            let listed = result.get("ips").and_then(Value::as_array).map_or(0, Vec::len);
            assert!(found.len() <= listed);
            for (at, address) in found.iter().enumerate() {
                assert!(!address.is_loopback() && !address.is_unspecified() && !found[..at].contains(address));
            }
        });
    }

    #[test]
    fn a_configuration_that_is_taken_has_all_that_its_plugins_are_run_by() {
        podd_fuzz::run("cni_config", |input| {
            let Ok(list) = crate::NetworkList::parse(input) else { return };
            assert!(!list.name.is_empty() && !list.name.contains(['/', '\0', '\n']) && !list.plugins.is_empty());
            for plugin in &list.plugins {
                let kind = plugin["type"].as_str().unwrap();
                assert!(!kind.is_empty() && !kind.contains(['/', '\0']) && kind != "." && kind != "..");
            }
            let again = serde_json::to_vec(&list).unwrap();
            assert_eq!(crate::NetworkList::parse(&again).unwrap(), list, "what is kept is what was read");
        });
    }
}
