//! What a new Pod gets from the classes that it names: priority from its PriorityClass, overhead and scheduling from its
//! RuntimeClass. In Kubernetes these are the admission plugins `Priority` and `RuntimeClass` of the API server.
//!
//! Objects are JSON here, as the API has them. Errors say why the pod is forbidden, in the plugins' words.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value};

use crate::{pod::is_static, quantity::Quantity};

/// The class of what the node itself lives by.
pub const NODE_CRITICAL: &str = "system-node-critical";
/// The priority from which on a pod is critical.
const CRITICAL: i32 = 2_000_000_000;
/// The priority classes that are always there, with their values.
pub const SYSTEM_PRIORITIES: [(&str, i32); 2] = [("system-cluster-critical", CRITICAL), (NODE_CRITICAL, 2_000_001_000)];
/// The highest value of a class that somebody made.
pub const HIGHEST_PRIORITY: i32 = 1_000_000_000;
/// What a class, and a pod without one, is silent of.
pub const PREEMPTION: &str = "PreemptLowerPriority";

/// Gives a pod's `spec` its priority. `named` is the class that it names, if there is such a one, `default` the class
/// of pods that name none, if there is such a one.
///
/// # Errors
/// The class is not there, or the pod says something else than its class.
pub fn prioritise(spec: &mut Value, named: Option<&Value>, default: Option<&Value>) -> Result<(), String> {
    let name = text(&spec["priorityClassName"]).to_owned();
    let system = SYSTEM_PRIORITIES.iter().find(|(system, _)| *system == name).map(|(_, value)| i64::from(*value));
    let class = if name.is_empty() { default } else { named };
    if class.is_none() && system.is_none() && !name.is_empty() {
        return Err(format!("no PriorityClass with name {name} was found"));
    }
    let value = system.or_else(|| class?["value"].as_i64()).unwrap_or(0);
    let policy = class.map(|class| text(&class["preemptionPolicy"])).filter(|text| !text.is_empty());
    let policy = policy.unwrap_or(PREEMPTION);
    if let Some(asked) = spec["priority"].as_i64().filter(|asked| *asked != value) {
        return Err(format!(
            "the integer value of priority ({asked}) must not be provided in pod spec; priority admission controller \
             computed {value} from the given PriorityClass name"
        ));
    }
    let asked = text(&spec["preemptionPolicy"]);
    if !asked.is_empty() && asked != policy {
        return Err(format!(
            "the string value of PreemptionPolicy ({asked}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        ));
    }
    spec["priority"] = value.into();
    spec["preemptionPolicy"] = policy.into();
    if let Some(default) = class.filter(|_| name.is_empty()) {
        spec["priorityClassName"] = default["metadata"]["name"].clone();
    }
    Ok(())
}

/// Whether a pod's priority is that of what a cluster lives by.
#[must_use]
pub fn has_critical_priority(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.priority).is_some_and(|priority| priority >= CRITICAL)
}

/// Whether the node gives up others first: static pods, and those of a critical priority.
#[must_use]
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || has_critical_priority(pod)
}

/// Of several classes that are the default, the one with the lowest value.
#[must_use]
pub fn default_priority(classes: impl IntoIterator<Item = Value>) -> Option<Value> {
    let defaults = classes.into_iter().filter(|class| class["globalDefault"] == true);
    defaults.min_by_key(|class| class["value"].as_i64())
}

/// Gives a pod's `spec` what its runtime class asks for. `class` is the one that it names, if there is such a one.
///
/// # Errors
/// The class is not there, or the pod says something else than its class.
pub fn place(spec: &mut Value, class: Option<&Value>) -> Result<(), String> {
    let name = text(&spec["runtimeClassName"]);
    if class.is_none() && !name.is_empty() {
        return Err(format!("pod rejected: RuntimeClass \"{name}\" not found"));
    }
    let none = Value::Null;
    let class = class.unwrap_or(&none);
    match (&class["overhead"]["podFixed"], &spec["overhead"]) {
        (Value::Null, Value::Null) => {}
        (Value::Null, _) => {
            return Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into());
        }
        (fixed, asked) if asked.is_null() || same_amounts(fixed, asked) => spec["overhead"] = fixed.clone(),
        _ => return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into()),
    }
    select(spec, &class["scheduling"]["nodeSelector"])?;
    for toleration in class["scheduling"]["tolerations"].as_array().into_iter().flatten() {
        match spec.get_mut("tolerations").and_then(Value::as_array_mut) {
            Some(list) if list.contains(toleration) => {}
            Some(list) => list.push(toleration.clone()),
            None => spec["tolerations"] = Value::Array(vec![toleration.clone()]),
        }
    }
    Ok(())
}

fn select(spec: &mut Value, wanted: &Value) -> Result<(), String> {
    for (key, value) in wanted.as_object().into_iter().flatten() {
        if !spec["nodeSelector"].is_object() {
            spec["nodeSelector"] = Value::Object(Map::new());
        }
        let own = &mut spec["nodeSelector"][key.as_str()];
        if !own.is_null() && own != value {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                text(value),
                text(own)
            ));
        }
        own.clone_from(value);
    }
    Ok(())
}

fn same_amounts(one: &Value, other: &Value) -> bool {
    let amounts = |list: &Value| -> Vec<(String, Option<Quantity>)> {
        let pairs = list.as_object().into_iter().flatten();
        pairs.map(|(name, amount)| (name.clone(), Quantity::parse(text(amount)).ok())).collect()
    };
    amounts(one) == amounts(other)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn prioritised(mut spec: Value, named: Option<Value>, default: Option<Value>) -> Result<Value, String> {
        prioritise(&mut spec, named.as_ref(), default.as_ref()).map(|()| spec)
    }

    #[test]
    fn a_pod_has_the_priority_of_its_class() {
        let high = json!({"metadata": {"name": "high"}, "value": 7, "preemptionPolicy": "Never"});
        let named = json!({"priorityClassName": "high"});
        let given = json!({"priorityClassName": "high", "priority": 7, "preemptionPolicy": "Never"});
        assert_eq!(prioritised(named.clone(), Some(high.clone()), None), Ok(given.clone()));
        assert_eq!(prioritised(given.clone(), Some(high.clone()), None), Ok(given.clone()));
        assert_eq!(prioritised(json!({}), None, Some(high)), Ok(given));
        let plain = json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"});
        assert_eq!(prioritised(json!({}), None, None), Ok(plain));
        for (name, value) in SYSTEM_PRIORITIES {
            let spec = prioritised(json!({"priorityClassName": name}), None, None).unwrap();
            assert_eq!(spec["priority"], value);
        }
        let missing = prioritised(named, None, None).unwrap_err();
        assert_eq!(missing, "no PriorityClass with name high was found");
        for (spec, word) in [
            (json!({"priority": 5}), "the integer value of priority (5) must not be provided"),
            (json!({"preemptionPolicy": "Never"}), "the string value of PreemptionPolicy (Never) must not"),
        ] {
            let error = prioritised(spec, None, None).unwrap_err();
            assert!(error.starts_with(word), "{error}");
        }
    }

    #[test]
    fn the_lowest_of_several_defaults_counts() {
        let class = |name: &str, value: i64, default: bool| json!({"metadata": {"name": name}, "value": value, "globalDefault": default});
        let classes = [class("a", 9, true), class("b", 5, true), class("c", 1, false)];
        assert_eq!(default_priority(classes).unwrap()["metadata"]["name"], "b");
        assert_eq!(default_priority([class("c", 1, false)]), None);
    }

    fn placed(mut spec: Value, class: Option<Value>) -> Result<Value, String> {
        place(&mut spec, class.as_ref()).map(|()| spec)
    }

    #[test]
    fn a_pod_has_the_overhead_and_the_place_of_its_class() {
        let class = json!({"handler": "h", "overhead": {"podFixed": {"cpu": "250m"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k"}, {"key": "l"}]}});
        let spec = json!({"runtimeClassName": "c", "tolerations": [{"key": "l"}]});
        let want = json!({"runtimeClassName": "c", "overhead": {"cpu": "250m"}, "nodeSelector": {"a": "b"},
            "tolerations": [{"key": "l"}, {"key": "k"}]});
        assert_eq!(placed(spec, Some(class.clone())), Ok(want));
        let same = placed(json!({"runtimeClassName": "c", "overhead": {"cpu": "0.25"}}), Some(class.clone()));
        assert_eq!(same.unwrap()["overhead"], json!({"cpu": "250m"}));
        assert_eq!(placed(json!({}), None), Ok(json!({})));
        let table = [
            (json!({"runtimeClassName": "x"}), None, "pod rejected: RuntimeClass \"x\" not found"),
            (
                json!({"runtimeClassName": "c", "overhead": {"cpu": "1"}}),
                Some(class.clone()),
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
            ),
            (
                json!({"overhead": {"cpu": "1"}}),
                None,
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ),
            (
                json!({"runtimeClassName": "c", "nodeSelector": {"a": "c"}}),
                Some(class),
                "conflict: runtimeClass.scheduling.nodeSelector[a] = b; pod.spec.nodeSelector[a] = c",
            ),
        ];
        for (spec, class, want) in table {
            assert_eq!(placed(spec, class), Err(want.to_owned()));
        }
    }
}
