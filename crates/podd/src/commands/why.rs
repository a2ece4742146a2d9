//! `podd why`: asks for everything that is known of a pod; the story is [`crate::print::why`]'s.

use anyhow::bail;
use futures::AsyncReadExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, LogParams};

use super::{api_error, describe, objects, pod_name};
use crate::cli::Why;
use crate::config::Settings;
use crate::kinds::Kind;
use crate::print::why::{self, Log};
use crate::{client, print};

/// The most that is read of one log, in bytes.
const LOG_LIMIT: i64 = 16 << 10;

pub(crate) async fn run(args: Why, settings: &Settings) -> anyhow::Result<()> {
    let client = client::connect(settings).await?;
    let namespace = &args.namespace.namespace;
    let name = pod_name(&args.pod)?;
    let kind = Kind::by_name("pod")?;
    let Some(pod) = objects(&client, kind, namespace).get_opt(name).await.map_err(api_error)? else {
        return gone(&client, namespace, name).await;
    };
    let pod = serde_json::to_value(pod)?;
    let events = describe::events_of(&client, &pod, kind, namespace).await?;
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    let mut logs = Vec::new();
    for container in why::troubled(&pod) {
        for previous in [false, true] {
            // A log that there is not is no part of the story.
            if let Some(text) = tail(&pods, name, &container, previous, args.tail).await {
                logs.push(Log { container: container.clone(), previous, text });
            }
        }
    }
    print::text(&why::story(&pod, &events, &logs, print::now()));
    Ok(())
}

/// The last lines of a log, if it has any.
async fn tail(pods: &Api<Pod>, pod: &str, container: &str, previous: bool, lines: u16) -> Option<String> {
    let params = LogParams {
        container: Some(container.to_owned()),
        previous,
        tail_lines: Some(lines.into()),
        limit_bytes: Some(LOG_LIMIT),
        ..Default::default()
    };
    let mut stream = std::pin::pin!(pods.log_stream(pod, &params).await.ok()?);
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|text| !text.trim().is_empty())
}

/// What is still known of a pod that is no more: its events outlive it.
async fn gone(client: &kube::Client, namespace: &str, name: &str) -> anyhow::Result<()> {
    let list = objects(client, Kind::by_name("events")?, namespace).list(&ListParams::default()).await;
    let mut events = Vec::new();
    for event in list.map_err(api_error)?.items {
        let event = serde_json::to_value(event)?;
        let about = &event["involvedObject"];
        if about["kind"] == "Pod" && about["name"] == name {
            events.push(event);
        }
    }
    print::text(&why::events(&events, print::now()));
    bail!(
        "there is no pod \"{name}\" in the namespace {namespace}{}",
        if events.is_empty() { "" } else { " any more" }
    );
}
