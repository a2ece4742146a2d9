//! `podd describe`: an object with its events.

use kube::api::ListParams;
use serde_json::Value;

use super::{api_error, objects};
use crate::cli::Describe;
use crate::config::Settings;
use crate::kinds::{Kind, targets};
use crate::{client, print};

pub(crate) async fn run(args: Describe, settings: &Settings) -> anyhow::Result<()> {
    let client = client::connect(settings).await?;
    let mut blocks = Vec::new();
    for target in targets(&args.targets)? {
        let api = objects(&client, target.kind, &args.namespace.namespace);
        let found = match &target.name {
            Some(name) => vec![api.get(name).await.map_err(api_error)?],
            None => {
                let list = ListParams { label_selector: args.selector.clone(), ..Default::default() };
                api.list(&list).await.map_err(api_error)?.items
            }
        };
        for object in found {
            let object = serde_json::to_value(object)?;
            let events = events_of(&client, &object, target.kind, &args.namespace.namespace).await?;
            blocks.push(print::describe(target.kind, &object, &events, print::now()));
        }
    }
    if blocks.is_empty() {
        let kinds = args.targets.first().map(|words| targets(std::slice::from_ref(words))).transpose()?;
        let namespaced = kinds.unwrap_or_default().iter().any(|target| target.kind.namespaced);
        eprintln!("{}", print::nothing_found(namespaced.then_some(&args.namespace.namespace)));
        return Ok(());
    }
    print::text(&blocks.join("\n\n"));
    Ok(())
}

pub(super) async fn events_of(
    client: &kube::Client,
    object: &Value,
    kind: &Kind,
    namespace: &str,
) -> anyhow::Result<Vec<Value>> {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let namespace = if kind.namespaced { namespace } else { "default" };
    let list = ListParams::default();
    let all = objects(client, Kind::by_name("events")?, namespace).list(&list).await.map_err(api_error)?;
    let mut events = Vec::new();
    for event in all.items {
        let event = serde_json::to_value(event)?;
        if event["involvedObject"]["uid"].as_str() == Some(uid) {
            events.push(event);
        }
    }
    events.sort_by_key(|e| e["lastTimestamp"].as_str().unwrap_or_default().to_owned());
    Ok(events)
}
