//! Tests of the decisions: tables of single turns, and properties of whole lives in a small world.

mod endings;
mod ephemeral;
mod health;
mod hooks;
mod properties;
mod sidecars;
mod statuses;
mod turns;
mod world;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::*;

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).expect("a small offset")
}

/// A pod of containers `a`, `b`, … with the given policy, init containers `i`, `j`, … and sidecars `s`, `t`, ….
pub(super) fn pod(policy: &str, inits: &[&str], regulars: &[&str]) -> Pod {
    let one = |n: &&str| match *n {
        "s" | "t" => json!({"name": n, "image": format!("{n}:1"), "restartPolicy": "Always"}),
        n => json!({"name": n, "image": format!("{n}:1")}),
    };
    let list = |names: &[&str]| names.iter().map(one).collect::<Vec<_>>();
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 1},
        "spec": {"restartPolicy": policy, "initContainers": list(inits), "containers": list(regulars)},
    }))
    .expect("a pod")
}

pub(super) fn node() -> NodeFacts {
    NodeFacts {
        name: "here".into(),
        host_ips: vec!["192.0.2.1".parse().expect("an address")],
        runtime: "podd".into(),
        max_restart_period: std::time::Duration::from_secs(300),
        recursive_read_only: true,
    }
}

pub(super) fn sandbox(id: &str, attempt: u32, state: SandboxState) -> SandboxSeen {
    SandboxSeen {
        id: id.into(),
        attempt,
        state,
        created_at: at(i64::from(attempt)),
        ips: vec!["10.85.0.2".parse().expect("an address")],
        host_network: false,
    }
}

pub(super) fn container(name: &str, sandbox: &str, count: u32, state: ContainerState) -> ContainerSeen {
    ContainerSeen {
        id: format!("{name}{count}"),
        name: name.into(),
        sandbox_id: sandbox.into(),
        restart_count: count,
        hash: Some(container_hash(&k8s_openapi::api::core::v1::Container {
            name: name.into(),
            image: Some(format!("{name}:1")),
            ..Default::default()
        })),
        state,
        created_at: at(10 + i64::from(count)),
        image: format!("docker.io/library/{name}:1"),
        image_id: "sha256:1".into(),
    }
}

pub(super) fn running() -> ContainerState {
    ContainerState::Running { started_at: at(10) }
}

pub(super) fn exited(code: i32, finished: i64) -> ContainerState {
    ContainerState::Exited(Exit {
        code,
        reason: if code == 0 { "Completed" } else { "Error" }.into(),
        message: String::new(),
        started_at: at(10),
        finished_at: at(finished),
    })
}

/// What was seen of a pod with one sandbox that serves.
pub(super) fn in_sandbox(containers: Vec<ContainerSeen>) -> Observation {
    Observation {
        sandboxes: vec![sandbox("s0", 0, SandboxState::Ready)],
        containers,
        resources: Resources::Prepared,
        ..Default::default()
    }
}

/// A memory in which the images of these containers are present.
pub(super) fn images(names: &[&str]) -> Memory {
    let known = |n: &&str| (n.to_string(), (format!("{n}:1"), ImageKnown::Present(format!("sha256:{n}"))));
    Memory { images: names.iter().map(known).collect(), ..Default::default() }
}
