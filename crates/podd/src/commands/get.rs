//! `podd get`.

use std::pin::pin;

use anyhow::bail;
use futures::TryStreamExt as _;
use kube::api::{DynamicObject, ListParams};
use kube::runtime::watcher;
use serde_json::{Value, json};

use super::{api_error, objects, wait};
use crate::cli::{Get, Output};
use crate::client;
use crate::config::Settings;
use crate::kinds::{Kind, Target, targets};
use crate::print::say;
use crate::print::{self, Columns};

pub(crate) async fn run(args: Get, settings: &Settings) -> anyhow::Result<()> {
    let targets = targets(&args.targets)?;
    if args.all_namespaces && targets.iter().any(|target| target.name.is_some()) {
        bail!("a resource cannot be retrieved by name across all namespaces");
    }
    let client = client::connect(settings).await?;
    if args.watch {
        let [target] = targets.as_slice() else { bail!("watch one kind, or one object, at a time") };
        return watch(&client, target, &args).await;
    }
    let mut failures = Vec::new();
    let mut found: Vec<(&'static Kind, Vec<Value>)> = Vec::new();
    for target in &targets {
        match fetch(&client, target, &args).await {
            Ok(mut list) => match found.last_mut() {
                Some((kind, all)) if *kind == target.kind => all.append(&mut list),
                _ => found.push((target.kind, list)),
            },
            Err(kube::Error::Api(status)) if status.code == 404 && args.ignore_not_found => {}
            Err(error) => failures.push(api_error(error).to_string()),
        }
    }
    let one_by_name = targets.len() == 1 && targets[0].name.is_some();
    show(&found, &args, one_by_name)?;
    if failures.is_empty() {
        return Ok(());
    }
    bail!("{}", failures.join("\n"));
}

async fn fetch(client: &kube::Client, target: &Target, args: &Get) -> Result<Vec<Value>, kube::Error> {
    let api = if args.all_namespaces {
        kube::Api::<DynamicObject>::all_with(client.clone(), &target.kind.resource())
    } else {
        objects(client, target.kind, &args.namespace.namespace)
    };
    let found = match &target.name {
        Some(name) => vec![api.get(name).await?],
        None => {
            let list = ListParams {
                label_selector: args.selector.clone(),
                field_selector: args.field_selector.clone(),
                ..Default::default()
            };
            let mut items = api.list(&list).await?.items;
            for item in &mut items {
                // Lists leave these out of their items.
                item.types.get_or_insert_with(|| kube::core::TypeMeta {
                    api_version: target.kind.api_version(),
                    kind: target.kind.kind.into(),
                });
            }
            items
        }
    };
    found.into_iter().map(|object| serde_json::to_value(object).map_err(kube::Error::SerdeError)).collect()
}

fn show(found: &[(&'static Kind, Vec<Value>)], args: &Get, one_by_name: bool) -> anyhow::Result<()> {
    let count: usize = found.iter().map(|(_, list)| list.len()).sum();
    match args.output {
        Some(Output::Json | Output::Yaml) => {
            let all: Vec<Value> = found.iter().flat_map(|(_, list)| list.iter().cloned()).collect();
            let value = match all.as_slice() {
                [one] if one_by_name => one.clone(),
                [] if one_by_name => return Ok(()),
                _ => {
                    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": all})
                }
            };
            print::value(&value, args.output == Some(Output::Json))
        }
        Some(Output::Name) => {
            for (kind, list) in found {
                for object in list {
                    say!("{}/{}", kind.singular(), object["metadata"]["name"].as_str().unwrap_or(""));
                }
            }
            Ok(())
        }
        None | Some(Output::Wide) => {
            if count == 0 && !found.is_empty() {
                let namespaced = !args.all_namespaces && found.iter().any(|(kind, _)| kind.namespaced);
                eprintln!("{}", print::nothing_found(namespaced.then_some(args.namespace.namespace.as_str())));
            }
            let several = found.iter().filter(|(_, list)| !list.is_empty()).count() > 1;
            let tables = found.iter().filter(|(_, list)| !list.is_empty()).map(|(kind, list)| {
                print::table(kind, list, &columns(kind, args, several || args.all_kinds()), !args.no_headers)
            });
            print::text(&tables.collect::<Vec<_>>().join("\n"));
            Ok(())
        }
    }
}

fn columns(kind: &Kind, args: &Get, kind_prefix: bool) -> Columns {
    Columns {
        wide: args.output == Some(Output::Wide),
        namespace: args.all_namespaces && kind.namespaced,
        labels: args.show_labels,
        kind_prefix,
        now: print::now(),
    }
}

/// Prints each change as a row, as `kubectl get -w` does; ends with Ctrl-C.
async fn watch(client: &kube::Client, target: &Target, args: &Get) -> anyhow::Result<()> {
    let api = if args.all_namespaces {
        kube::Api::<DynamicObject>::all_with(client.clone(), &target.kind.resource())
    } else {
        objects(client, target.kind, &args.namespace.namespace)
    };
    let mut config = watcher::Config::default();
    if let Some(name) = &target.name {
        // What is not there is a mistake; what is created later is for `podd wait --for=create`.
        api.get(name).await.map_err(api_error)?;
        config = config.fields(&format!("metadata.name={name}"));
    } else if let Some(fields) = &args.field_selector {
        config = config.fields(fields);
    }
    if let Some(labels) = &args.selector {
        config = config.labels(labels);
    }
    let mut events = pin!(wait::changes(api, config));
    let (mut header, mut first) = (!args.no_headers, true);
    let mut widths = Vec::new();
    while let Some(event) = events.try_next().await.map_err(wait::watch_error)? {
        let (watcher::Event::InitApply(object) | watcher::Event::Apply(object) | watcher::Event::Delete(object)) =
            event
        else {
            continue;
        };
        let object = serde_json::to_value(object)?;
        match args.output {
            Some(Output::Json | Output::Yaml | Output::Name) => {
                print::object(&object, target.kind, args.output.unwrap_or(Output::Yaml), first)?;
                first = false;
            }
            None | Some(Output::Wide) => {
                let rows =
                    print::rows(target.kind, std::slice::from_ref(&object), &columns(target.kind, args, false), header);
                print::text(&print::aligned(&rows, &mut widths));
                header = false;
            }
        }
    }
    Ok(())
}
