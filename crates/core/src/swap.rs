//! How much of the node's swap a container may use, as a kubelet's `memorySwap.swapBehavior` says it.

use std::str::FromStr;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::classes::is_critical;
use crate::qos::{self, Class};

/// What pods may do with swap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behavior {
    /// Nothing.
    #[default]
    NoSwap,
    /// Containers of Burstable pods get a part of it.
    LimitedSwap,
}

impl FromStr for Behavior {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "NoSwap" => Ok(Self::NoSwap),
            "LimitedSwap" => Ok(Self::LimitedSwap),
            other => Err(format!("{other:?} is none of NoSwap and LimitedSwap")),
        }
    }
}

/// What a node has, and how it shares it out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeSwap {
    /// What pods may do.
    pub behavior: Behavior,
    /// The node's memory, in bytes.
    pub memory: i64,
    /// The node's swap, in bytes.
    pub swap: i64,
}

/// The bytes of swap that a container may use. Under `LimitedSwap` those of Burstable pods that are not critical get as
/// much of the swap as they request of the memory, unless they are limited to what they request.
#[must_use]
pub fn limit(pod: &Pod, container: &Container, node: NodeSwap) -> i64 {
    if node.behavior == Behavior::NoSwap || is_critical(pod) || qos::class(pod) != Class::Burstable {
        return 0;
    }
    let request = qos::request(container, "memory").unwrap_or_default();
    if request == qos::limit(container, "memory").unwrap_or_default() || node.memory <= 0 {
        return 0;
    }
    let share = i128::from(request.value()) * i128::from(node.swap) / i128::from(node.memory);
    i64::try_from(share).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_burstable_container_gets_as_much_of_the_swap_as_it_requests_of_the_memory() {
        let node = NodeSwap { behavior: Behavior::LimitedSwap, memory: 8 << 30, swap: 2 << 30 };
        let of = |resources: Value, more: Value, node| {
            let mut spec = json!({"containers": [{"name": "c", "resources": resources}]});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            let container = pod.spec.as_ref().unwrap().containers[0].clone();
            limit(&pod, &container, node)
        };
        let burstable = json!({"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi"}});
        assert_eq!(of(burstable.clone(), json!({}), node), 256 << 20);
        assert_eq!(of(json!({"requests": {"memory": "1Gi"}}), json!({}), node), 256 << 20);
        let none = NodeSwap { behavior: Behavior::NoSwap, ..node };
        assert_eq!(of(burstable.clone(), json!({}), none), 0);
        assert_eq!(of(burstable, json!({"priority": 2_000_000_000}), node), 0, "critical");
        assert_eq!(of(json!({}), json!({}), node), 0, "best effort");
        let cpu = json!({"requests": {"cpu": "1"}});
        assert_eq!(of(cpu, json!({}), node), 0, "no memory requested");
        let held = json!({"requests": {"memory": "1Gi", "cpu": "1"}, "limits": {"memory": "1024Mi"}});
        assert_eq!(of(held, json!({}), node), 0, "limited to its request");
    }

    #[test]
    fn behaviors_have_the_kubelets_names() {
        assert_eq!("LimitedSwap".parse(), Ok(Behavior::LimitedSwap));
        assert_eq!("NoSwap".parse(), Ok(Behavior::NoSwap));
        assert!("UnlimitedSwap".parse::<Behavior>().is_err());
    }
}
