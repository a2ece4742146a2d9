//! The whole loop (dispatcher, workers, core) against the fake runtime on a virtual clock: single stories, and lives drawn
//! from seeds with failures, lost events and crashes, watched by checkers that share no code with what they check.

mod probes;
mod seeds;
mod stories;
mod world;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

/// A pod of containers with these names.
fn pod(name: &str, policy: &str, inits: &[&str], regulars: &[&str]) -> Pod {
    let list = |names: &[&str]| names.iter().map(|n| json!({"name": n, "image": format!("{n}:1")})).collect::<Vec<_>>();
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1},
        "spec": {"restartPolicy": policy, "terminationGracePeriodSeconds": 30,
            "initContainers": list(inits), "containers": list(regulars)},
    }))
    .expect("a pod")
}
