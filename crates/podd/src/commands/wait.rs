//! `podd wait`, and the waits of other commands: a watch until a condition holds.

use std::pin::pin;

use anyhow::{Context as _, bail};
use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::{Api, DynamicObject, ListParams, WatchEvent, WatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::Value;
use tokio::time::Instant;

use super::{api_error, apply::remaining, objects};
use crate::cli::Wait;
use crate::config::Settings;
use crate::kinds::{Kind, targets};
use crate::print::say;
use crate::{client, print::jsonpath};

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Goal {
    Condition { name: String, value: String },
    Path { path: String, value: Option<String> },
    Deleted,
    Created,
}

impl Goal {
    fn parse(text: &str) -> anyhow::Result<Self> {
        if let Some(condition) = text.strip_prefix("condition=") {
            let (name, value) = condition.split_once('=').unwrap_or((condition, "True"));
            return Ok(Goal::Condition { name: name.into(), value: value.into() });
        }
        if let Some(path) = text.strip_prefix("jsonpath=") {
            let path = path.trim_matches('\'');
            let (path, value) = match path.split_once("}=") {
                Some((path, value)) => (format!("{path}}}"), Some(value.to_owned())),
                None => (path.to_owned(), None),
            };
            return Ok(Goal::Path { path: path.trim_matches(['{', '}']).into(), value });
        }
        match text {
            "delete" => Ok(Goal::Deleted),
            "create" => Ok(Goal::Created),
            _ => bail!("--for={text}: wait for condition=NAME, jsonpath={{.path}}=VALUE, delete or create"),
        }
    }

    fn met(&self, object: Option<&Value>) -> bool {
        match (self, object) {
            (Goal::Deleted, object) => object.is_none(),
            (_, None) => false,
            (Goal::Created, Some(_)) => true,
            (Goal::Condition { name, value }, Some(object)) => conditions(object).any(|c| {
                c["type"].as_str().is_some_and(|t| t.eq_ignore_ascii_case(name))
                    && c["status"].as_str().is_some_and(|s| s.eq_ignore_ascii_case(value))
            }),
            (Goal::Path { path, value }, Some(object)) => match (jsonpath::find(object, path), value) {
                (Some(found), Some(want)) => jsonpath::text(found) == *want,
                (found, None) => found.is_some_and(|v| !v.is_null()),
                (None, Some(_)) => false,
            },
        }
    }
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["conditions"].as_array().into_iter().flatten()
}

pub(crate) async fn run(args: Wait, settings: &Settings) -> anyhow::Result<()> {
    let goal = Goal::parse(&args.condition)?;
    let client = client::connect(settings).await?;
    let deadline = Some(Instant::now() + args.timeout);
    let mut waited = 0;
    for target in targets(&args.targets)? {
        let api = objects(&client, target.kind, &args.namespace.namespace);
        let names = match target.name {
            Some(name) => vec![name],
            None if args.all || args.selector.is_some() => {
                let list = ListParams { label_selector: args.selector.clone(), ..Default::default() };
                let found = api.list(&list).await.map_err(api_error)?;
                found.items.into_iter().filter_map(|o| o.metadata.name).collect()
            }
            None => bail!("name the {} to wait for, or say --all or --selector", target.kind.plural),
        };
        for name in names {
            waited += 1;
            until(&api, target.kind, &name, &goal, deadline).await?;
            say!("{}/{name} condition met", target.kind.singular());
        }
    }
    if waited == 0 && goal != Goal::Deleted {
        bail!("no matching resources found");
    }
    Ok(())
}

/// Waits for a pod to be Ready or to have succeeded; says why when it can't any more.
pub(super) async fn until_ready(
    client: &kube::Client,
    namespace: &str,
    pod: &Value,
    deadline: Option<Instant>,
) -> anyhow::Result<()> {
    let name = pod["metadata"]["name"].as_str().context("a pod without a name")?;
    let kind = Kind::by_name("pod")?;
    let api = objects(client, kind, namespace);
    let ready = Goal::Condition { name: "Ready".into(), value: "True".into() };
    let phase = |object: &Value| object["status"]["phase"].as_str().unwrap_or("").to_owned();
    let result = watch_from(&api, name, pod.clone(), deadline, |object| match object {
        None => Some(Err("was deleted".into())),
        Some(o) if ready.met(Some(o)) || phase(o) == "Succeeded" => Some(Ok(())),
        Some(o) if phase(o) == "Failed" => Some(Err(format!("failed: {}", why(o)))),
        Some(_) => None,
    })
    .await?;
    match result {
        Seen::Done(Ok(())) => Ok(()),
        Seen::Done(Err(message)) => bail!("pod/{name} {message}"),
        Seen::TimedOut(last) => {
            bail!("pod/{name} is not ready in time: {}", last.as_ref().map_or("not seen".into(), why))
        }
    }
}

/// Waits until a pod has ended, well or not, or is gone.
pub(super) async fn until_ended(client: &kube::Client, namespace: &str, name: &str) -> anyhow::Result<()> {
    let api = objects(client, Kind::by_name("pod")?, namespace);
    watch(&api, name, None, |object| {
        let ended = object.is_none_or(|o| matches!(o["status"]["phase"].as_str(), Some("Succeeded" | "Failed")));
        ended.then_some(())
    })
    .await?;
    Ok(())
}

/// Waits until an object is gone.
pub(super) async fn until_gone(
    client: &kube::Client,
    kind: &Kind,
    namespace: &str,
    name: &str,
    uid: &str,
    deadline: Option<Instant>,
) -> anyhow::Result<()> {
    let api = objects(client, kind, namespace);
    let seen = watch(&api, name, deadline, |object| match object {
        None => Some(()),
        // Another object of the same name: the one that was meant is gone.
        Some(o) if o["metadata"]["uid"].as_str() != Some(uid) => Some(()),
        Some(_) => None,
    })
    .await?;
    match seen {
        Seen::Done(()) => Ok(()),
        Seen::TimedOut(_) => bail!("{}/{name} is still there; it goes on being deleted", kind.singular()),
    }
}

async fn until(
    api: &Api<DynamicObject>,
    kind: &Kind,
    name: &str,
    goal: &Goal,
    deadline: Option<Instant>,
) -> anyhow::Result<()> {
    if !matches!(goal, Goal::Created | Goal::Deleted) {
        // An object that does not exist is a mistake, not something to wait for.
        api.get(name).await.map_err(api_error)?;
    }
    match watch(api, name, deadline, |object| goal.met(object).then_some(())).await? {
        Seen::Done(()) => Ok(()),
        Seen::TimedOut(last) => bail!(
            "timed out waiting for the condition on {}/{name}{}",
            kind.plural,
            last.as_ref().map_or(String::new(), |o| format!(" ({})", why(o)))
        ),
    }
}

/// How a watch ended.
enum Seen<T> {
    Done(T),
    TimedOut(Option<Value>),
}

/// Follows one object from a state that the server has just answered: no list, no poll, and on the connection that is
/// open already. A watch that ends without an answer is taken up by [`watch`].
async fn watch_from<T>(
    api: &Api<DynamicObject>,
    name: &str,
    object: Value,
    deadline: Option<Instant>,
    decide: impl Fn(Option<&Value>) -> Option<T>,
) -> anyhow::Result<Seen<T>> {
    if let Some(answer) = decide(Some(&object)) {
        return Ok(Seen::Done(answer));
    }
    let version = object["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
    let params = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut last = Some(object);
    let Ok(Ok(events)) = tokio::time::timeout(remaining(deadline), api.watch(&params, &version)).await else {
        return watch(api, name, deadline, decide).await;
    };
    let mut events = pin!(events);
    loop {
        let event = match tokio::time::timeout(remaining(deadline), events.try_next()).await {
            Err(_) => return Ok(Seen::TimedOut(last)),
            Ok(event) => event,
        };
        last = match event {
            Ok(Some(WatchEvent::Added(object) | WatchEvent::Modified(object))) => Some(serde_json::to_value(&object)?),
            Ok(Some(WatchEvent::Deleted(_))) => None,
            Ok(Some(WatchEvent::Bookmark(_))) => continue,
            Ok(Some(WatchEvent::Error(_)) | None) | Err(_) => return watch(api, name, deadline, decide).await,
        };
        if let Some(answer) = decide(last.as_ref()) {
            return Ok(Seen::Done(answer));
        }
    }
}

/// Follows one object until `decide` has an answer or the deadline passes.
async fn watch<T>(
    api: &Api<DynamicObject>,
    name: &str,
    deadline: Option<Instant>,
    decide: impl Fn(Option<&Value>) -> Option<T>,
) -> anyhow::Result<Seen<T>> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = pin!(watcher(api.clone(), config).default_backoff());
    let mut last: Option<Value> = None;
    let mut listed = None;
    loop {
        let event = match tokio::time::timeout(remaining(deadline), events.try_next()).await {
            Err(_) => return Ok(Seen::TimedOut(last)),
            Ok(event) => event,
        };
        match event {
            Ok(Some(watcher::Event::Init)) => listed = Some(None),
            Ok(Some(watcher::Event::InitApply(object))) => listed = Some(Some(serde_json::to_value(&object)?)),
            Ok(Some(watcher::Event::InitDone)) => last = listed.take().flatten(),
            Ok(Some(watcher::Event::Apply(object))) => last = Some(serde_json::to_value(&object)?),
            Ok(Some(watcher::Event::Delete(_))) => last = None,
            Ok(None) => bail!("the watch ended"),
            // The watcher comes back by itself; an agent that is gone is told at the deadline.
            Err(error) => {
                if deadline.is_none() {
                    return Err(watch_error(error));
                }
                continue;
            }
        }
        if listed.is_none()
            && let Some(answer) = decide(last.as_ref())
        {
            return Ok(Seen::Done(answer));
        }
    }
}

/// Why a watch cannot go on: what the API answered, or that it is gone.
pub(super) fn watch_error(error: watcher::Error) -> anyhow::Error {
    match error {
        watcher::Error::InitialListFailed(error @ kube::Error::Api(_))
        | watcher::Error::WatchStartFailed(error @ kube::Error::Api(_)) => api_error(error),
        watcher::Error::WatchError(status) => anyhow::anyhow!("{}", status.message),
        _ => anyhow::anyhow!("the agent has gone away; what is watched may go on"),
    }
}

/// What holds a pod up, in one line.
fn why(object: &Value) -> String {
    let status = &object["status"];
    let mut reasons: Vec<String> = ["initContainerStatuses", "containerStatuses"]
        .iter()
        .flat_map(|list| status[*list].as_array().into_iter().flatten())
        .filter_map(|c| {
            let state = &c["state"];
            let waiting = state.get("waiting").or_else(|| state.get("terminated").filter(|t| t["exitCode"] != 0))?;
            let reason = waiting["reason"].as_str().unwrap_or("not running");
            let message = waiting["message"].as_str().map_or(String::new(), |m| format!(": {m}"));
            Some(format!("container {}: {reason}{message}", c["name"].as_str().unwrap_or("?")))
        })
        .collect();
    if let Some(message) = status["message"].as_str() {
        let reason = status["reason"].as_str().map_or(String::new(), |r| format!("{r}: "));
        reasons.insert(0, format!("{reason}{message}"));
    }
    if reasons.is_empty() {
        format!("phase {}", status["phase"].as_str().unwrap_or("unknown"))
    } else {
        reasons.join("; ")
    }
}

/// Events as kube's stream gives them, kept here for `get -w`.
pub(super) fn changes(
    api: Api<DynamicObject>,
    config: watcher::Config,
) -> impl futures::Stream<Item = Result<watcher::Event<DynamicObject>, watcher::Error>> {
    watcher(api, config).default_backoff().boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn goals_are_read_and_met() {
        let pod = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        let table = [
            ("condition=Ready", true),
            ("condition=ready=true", true),
            ("condition=Ready=False", false),
            ("condition=Other", false),
            ("jsonpath={.status.phase}=Running", true),
            ("jsonpath={.status.phase}=Failed", false),
            ("jsonpath={.status.phase}", true),
            ("jsonpath={.status.nope}", false),
            ("delete", false),
            ("create", true),
        ];
        for (text, met) in table {
            assert_eq!(Goal::parse(text).unwrap().met(Some(&pod)), met, "{text}");
        }
        assert!(Goal::Deleted.met(None));
        assert!(Goal::parse("ready").is_err());
    }

    #[test]
    fn what_holds_a_pod_up_is_told() {
        let pod = json!({"status": {"phase": "Pending", "containerStatuses": [
            {"name": "a", "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}},
            {"name": "b", "state": {"running": {}}}]}});
        assert_eq!(why(&pod), "container a: ErrImagePull: no such image");
    }
}
