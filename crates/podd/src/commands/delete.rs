//! `podd delete`.

use anyhow::bail;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams};
use tokio::time::Instant;

use super::{api_error, objects, wait};
use crate::cli::Delete;
use crate::config::Settings;
use crate::kinds::{Kind, targets};
use crate::print::say;
use crate::{client, manifests};

/// One object to delete.
struct Doomed {
    kind: &'static Kind,
    namespace: String,
    name: String,
}

pub(crate) async fn run(args: Delete, settings: &Settings) -> anyhow::Result<()> {
    let grace = grace_seconds(&args)?;
    let items = if args.files.is_empty() { Vec::new() } else { manifests::read(&args.files, args.recursive).await? };
    let targets = targets(&args.targets)?;
    if items.is_empty() && targets.is_empty() {
        bail!("name what to delete, or give manifests with -f");
    }
    let client = client::connect(settings).await?;
    let mut doomed: Vec<Doomed> = items
        .iter()
        .rev()
        .map(|item| Doomed {
            kind: item.kind,
            namespace: item.namespace().unwrap_or(&args.namespace.namespace).into(),
            name: item.name().into(),
        })
        .collect();
    for target in targets {
        let names = match target.name {
            Some(name) => vec![name],
            None if args.all || args.selector.is_some() => {
                let list = ListParams { label_selector: args.selector.clone(), ..Default::default() };
                let found =
                    objects(&client, target.kind, &args.namespace.namespace).list(&list).await.map_err(api_error)?;
                found.items.into_iter().filter_map(|o| o.metadata.name).collect()
            }
            None => bail!("name the {} to delete, or say --all or --selector", target.kind.plural),
        };
        let namespace = &args.namespace.namespace;
        doomed.extend(names.into_iter().map(|name| Doomed { kind: target.kind, namespace: namespace.clone(), name }));
    }
    if doomed.is_empty() {
        say!("No resources found");
        return Ok(());
    }
    let deadline = (!args.timeout.is_zero()).then(|| Instant::now() + args.timeout);
    delete(&client, &doomed, grace, args.ignore_not_found, args.force, args.wait.then_some(deadline)).await
}

/// Deletes everything first and waits then, so that grace periods run side by side.
async fn delete(
    client: &kube::Client,
    doomed: &[Doomed],
    grace: Option<u32>,
    ignore_missing: bool,
    force: bool,
    wait: Option<Option<Instant>>,
) -> anyhow::Result<()> {
    let mut failures = Vec::new();
    let mut going = Vec::new();
    for one in doomed {
        let api = objects(client, one.kind, &one.namespace);
        match request(&api, &one.name, grace).await {
            Ok(uid) => {
                let how = if force { "force deleted" } else { "deleted" };
                say!("{} \"{}\" {how}", one.kind.singular(), one.name);
                going.push((one, uid));
            }
            Err(kube::Error::Api(status)) if status.code == 404 && ignore_missing => {}
            Err(error) => failures.push(api_error(error).to_string()),
        }
    }
    if let Some(deadline) = wait {
        for (one, uid) in going {
            if let Some(uid) = uid {
                wait::until_gone(client, one.kind, &one.namespace, &one.name, &uid, deadline).await?;
            }
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    bail!("{}", failures.join("\n"));
}

/// Asks for the deletion; the uid of the object, where it goes on existing for a while.
async fn request(api: &Api<DynamicObject>, name: &str, grace: Option<u32>) -> Result<Option<String>, kube::Error> {
    let params = DeleteParams { grace_period_seconds: grace, ..Default::default() };
    let answer = api.delete(name, &params).await?;
    Ok(answer.left().and_then(|object| object.metadata.uid))
}

fn grace_seconds(args: &Delete) -> anyhow::Result<Option<u32>> {
    match (args.grace_period, args.force) {
        // As kubectl has it: a kill without a word needs --force.
        (Some(0), false) => Ok(Some(1)),
        (None | Some(-1), true) => Ok(Some(0)),
        (None | Some(-1), false) => Ok(None),
        (Some(seconds), true) if seconds != 0 => {
            bail!("--force and --grace-period greater than 0 cannot be specified together, and this is {seconds}")
        }
        (Some(seconds), _) => match u32::try_from(seconds) {
            Ok(seconds) => Ok(Some(seconds)),
            Err(_) => {
                bail!("--grace-period={seconds}: give 0 or more seconds, or -1 for the pod's own")
            }
        },
    }
}
