//! `podd apply`: server-side apply of every object of the manifests.
//!
//! All objects are checked before the first one is sent, so that a bad manifest leaves nothing
//! behind. The check is the API server's own, called here, where the lines are known.
//!
//! What the files do not name any more goes with [`prune`]; sets of objects with a parent are [`set`]'s.

mod prune;
mod set;

use std::time::Duration;

use anyhow::{Context as _, bail};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::api::DeleteParams;
use kube::client::Body;
use podd_core::verdict::Verdict;
use serde_json::Value;
use tokio::time::Instant;

use super::{api_error, objects, wait};
use crate::cli::{Apply, Manifests, Output};
use crate::config::Settings;
use crate::manifests::{self, Item};
use crate::print::say;
use crate::{client, print};

/// The name under which the command line owns fields.
pub(super) const MANAGER: &str = "podd";

/// What an apply did to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Created,
    Configured,
    Unchanged,
    /// Deleted and made anew.
    Replaced,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Outcome::Created => "created",
            Outcome::Configured => "configured",
            Outcome::Unchanged => "unchanged",
            Outcome::Replaced => "replaced",
        }
    }
}

/// How objects are sent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct How {
    pub(super) dry_run: bool,
    pub(super) force: bool,
    pub(super) immutable: Immutable,
}

/// What is done about a change that Kubernetes does not let an object have.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Immutable {
    /// It is refused, with nothing to advise: the command has no remedy of its own.
    #[default]
    Refuse,
    /// It is refused, and `--replace` advised.
    Advise,
    /// The object is deleted, and made anew when it is gone; by the deadline, if there is one.
    Replace(Option<Instant>),
}

/// Kinds whose objects hold more than they say: data, or other objects. They are never replaced.
const KEPT: &[(&str, &str)] = &[
    ("PersistentVolumeClaim", "its data would go with it"),
    ("PersistentVolume", "its data would go with it"),
    ("Namespace", "all that is in it would go with it"),
    ("Node", "the agent owns it"),
];

pub(crate) async fn run(args: Apply, settings: &Settings) -> anyhow::Result<()> {
    let prune = prune::Prune::of(&args)?;
    let (mut items, named) = read(&args.manifests).await?;
    let dry_run = args.dry_run.as_deref().filter(|kind| *kind != "none");
    if dry_run == Some("client") {
        for item in &items {
            say!("{}/{} valid (dry run)", item.kind.singular(), item.name());
            show_verdicts(item);
        }
        return Ok(());
    }
    let client = client::connect(settings).await?;
    let deadline = (!args.timeout.is_zero()).then(|| Instant::now() + args.timeout);
    let immutable = if args.replace { Immutable::Replace(deadline) } else { Immutable::Advise };
    let how = How { dry_run: dry_run.is_some(), force: args.manifests.force_conflicts, immutable };
    let set = match &prune {
        Some(prune::Prune::Set(parent)) => Some(set::Set::enter(&client, parent, &mut items, how.dry_run).await?),
        _ => None,
    };
    let mut applied = Vec::new();
    for item in &items {
        let (outcome, object) = send(&client, item, how).await?;
        match args.output {
            None | Some(Output::Wide) => {
                let suffix = if how.dry_run { " (server dry run)" } else { "" };
                say!("{}/{} {}{suffix}", item.kind.singular(), item.name(), outcome.word());
                if how.dry_run {
                    show_verdicts(item);
                }
            }
            Some(output) => print::object(&object, item.kind, output, applied.is_empty())?,
        }
        applied.push(object);
    }
    match (&prune, &set) {
        (Some(prune::Prune::Labelled(selector)), _) => {
            prune::labelled(&client, &named, selector, how.dry_run, args.output).await?;
        }
        (_, Some(set)) => set.leave(&client, &named, how.dry_run, args.output).await?,
        (_, None) => {}
    }
    if args.wait && !how.dry_run {
        for (item, object) in items.iter().zip(&applied).filter(|(item, _)| item.kind.kind == "Pod") {
            wait::until_ready(&client, item.namespace().unwrap_or("default"), object, deadline).await?;
        }
    }
    Ok(())
}

/// The objects that the files hold and the labels select, all of them right; and what the files name beside those.
pub(super) async fn read(args: &Manifests) -> anyhow::Result<(Vec<Item>, prune::Named)> {
    let mut items = manifests::read(&args.files, args.recursive).await?;
    set_namespaces(&mut items, &args.namespace.namespace);
    check(&items)?;
    let named = prune::Named::of(&items);
    if let Some(selector) = &args.selector {
        items = prune::selected(items, selector)?;
    }
    Ok((items, named))
}

/// What becomes of each field that a Pod sets. What is refused has ended the command before.
fn show_verdicts(item: &Item) {
    if item.kind.kind != "Pod" {
        return;
    }
    let mut sent = item.value.clone();
    strip_server_fields(&mut sent);
    for (path, verdict) in podd_core::verdict::of_manifest(&sent) {
        let text = match verdict {
            Verdict::Honoured(_) => "honoured".to_owned(),
            Verdict::NoEffect(why) => format!("no effect: {why}"),
            Verdict::Refused(why) => format!("refused: {why}"),
        };
        say!("  {}  {path}: {text}", item.place(&path));
    }
}

/// Objects that name no namespace get the one of the command.
pub(super) fn set_namespaces(items: &mut [Item], namespace: &str) {
    for item in items.iter_mut().filter(|item| item.kind.namespaced) {
        if let Some(meta) = item.value.get_mut("metadata").and_then(Value::as_object_mut) {
            let field = meta.entry("namespace").or_insert(Value::Null);
            if field.as_str().is_none_or(str::is_empty) {
                *field = namespace.into();
            }
        }
    }
}

/// Refuses the manifests whole when anything is wrong with one of them.
pub(super) fn check(items: &[Item]) -> anyhow::Result<()> {
    let mut objections = Vec::new();
    for item in items {
        let mut sent = item.value.clone();
        strip_server_fields(&mut sent);
        for podd_api::Objection { path, message } in podd_api::check(&sent) {
            let fix = if message.ends_with("expected a string") { "; write it in quotes" } else { "" };
            objections.push(item.objection(&path, &format!("{message}{fix}")));
        }
    }
    if objections.is_empty() {
        return Ok(());
    }
    bail!("{}", objections.join("\n"));
}

/// Applies one object and tells what that did.
pub(super) async fn send(client: &kube::Client, item: &Item, how: How) -> anyhow::Result<(Outcome, Value)> {
    let before = existing(client, &object_path(item)).await?;
    let (status, body) = patch(client, item, how.dry_run, how.force).await?;
    let Some(before) = before else {
        if !status.is_success() {
            bail!("{}", refusal(item, &body));
        }
        return Ok((Outcome::Created, body));
    };
    if status.is_success() {
        // Not by resourceVersion: an apply that only takes part in the ownership of fields gives the object a new one.
        let unchanged = same_apart_from_bookkeeping(&before, &body);
        return Ok((if unchanged { Outcome::Unchanged } else { Outcome::Configured }, body));
    }
    // The object would be valid if it were new: that was checked before anything was sent.
    let immutable = status == StatusCode::UNPROCESSABLE_ENTITY;
    match (how.immutable, KEPT.iter().find(|(kind, _)| *kind == item.kind.kind)) {
        (Immutable::Refuse, _) => bail!("{}", refusal(item, &body)),
        _ if !immutable => bail!("{}", refusal(item, &body)),
        (_, Some((kind, why))) => bail!("{}\n  a {kind} is not replaced: {why}", refusal(item, &body)),
        (Immutable::Advise, None) => {
            bail!("{}\n  `podd apply --replace` deletes the {} and makes it anew", refusal(item, &body), item.kind.kind)
        }
        (Immutable::Replace(_), None) if how.dry_run => Ok((Outcome::Replaced, item.value.clone())),
        (Immutable::Replace(deadline), None) => {
            could_be_made(client, item).await?;
            replace(client, item, &before, deadline, how.force).await
        }
    }
}

/// Asks the server whether it would make the object anew, under a name that nobody has: what it refuses must not cost the
/// object that there is.
async fn could_be_made(client: &kube::Client, item: &Item) -> anyhow::Result<()> {
    let mut trial = item.clone();
    let name = format!("podd-trial-{}", std::process::id());
    trial.value["metadata"]["name"] = name.clone().into();
    let (status, mut body) = patch(client, &trial, true, true).await?;
    if !status.is_success() {
        body["message"] = body["message"].as_str().unwrap_or_default().replace(&name, item.name()).into();
        bail!(
            "{}
  the {} is left as it is",
            refusal(item, &body),
            item.kind.kind
        );
    }
    Ok(())
}

/// Deletes an object, waits until it is gone, and makes it as the manifest has it.
async fn replace(
    client: &kube::Client,
    item: &Item,
    before: &Value,
    deadline: Option<Instant>,
    force: bool,
) -> anyhow::Result<(Outcome, Value)> {
    let namespace = item.namespace().unwrap_or("default");
    let uid = before["metadata"]["uid"].as_str().unwrap_or_default();
    // Only the object that was seen: one that somebody else has made meanwhile is not ours to delete.
    let params = DeleteParams::default()
        .preconditions(kube::api::Preconditions { uid: Some(uid.into()), resource_version: None });
    match objects(client, item.kind, namespace).delete(item.name(), &params).await {
        Ok(_) => wait::until_gone(client, item.kind, namespace, item.name(), uid, deadline).await?,
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(api_error(error)),
    }
    let (status, body) = patch(client, item, false, force).await?;
    if !status.is_success() {
        bail!("{}\n  the old {} is deleted", refusal(item, &body), item.kind.kind);
    }
    Ok((Outcome::Replaced, body))
}

/// Sends one object, whatever is answered; warnings are passed on.
pub(super) async fn patch(
    client: &kube::Client,
    item: &Item,
    dry_run: bool,
    force: bool,
) -> anyhow::Result<(StatusCode, Value)> {
    let query = format!(
        "fieldManager={MANAGER}&fieldValidation=Strict&force={force}{}",
        if dry_run { "&dryRun=All" } else { "" }
    );
    let mut sent = item.value.clone();
    strip_server_fields(&mut sent);
    let request = Request::patch(format!("{}?{query}", object_path(item)))
        .header("content-type", "application/apply-patch+yaml")
        .body(Body::from(serde_json::to_vec(&sent)?))
        .context("build the request")?;
    let response = client.send(request).await.map_err(api_error)?;
    for warning in response.headers().get_all("warning") {
        if let Some(text) = warning.to_str().ok().and_then(warning_text) {
            eprintln!("warning: {}/{}: {text}", item.kind.singular(), item.name());
        }
    }
    let status = response.status();
    let bytes = response.into_body().collect().await.context("read the answer")?.to_bytes();
    Ok((status, serde_json::from_slice(&bytes).context("read the answer")?))
}

/// An object as it is, if it is.
pub(super) async fn existing(client: &kube::Client, path: &str) -> anyhow::Result<Option<Value>> {
    let request = Request::get(path).body(Body::empty()).context("build the request")?;
    let response = client.send(request).await.map_err(api_error)?;
    match response.status() {
        StatusCode::NOT_FOUND => Ok(None),
        status => {
            let bytes = response.into_body().collect().await.context("read the answer")?.to_bytes();
            let value: Value = serde_json::from_slice(&bytes).context("read the answer")?;
            if !status.is_success() {
                bail!("{}", value["message"].as_str().unwrap_or("the agent refused"));
            }
            Ok(Some(value))
        }
    }
}

/// Where the API has an object.
pub(super) fn object_path(item: &Item) -> String {
    let kind = item.kind;
    let root = if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    };
    match item.namespace().filter(|_| kind.namespaced) {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{}/{}", kind.plural, item.name()),
        None => format!("{root}/{}/{}", kind.plural, item.name()),
    }
}

/// What `get -o yaml` prints and only the server writes is not part of what a person asks for.
pub(super) fn strip_server_fields(object: &mut Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"] {
            meta.remove(field);
        }
    }
}

/// Whether two versions of an object ask for the same.
fn same_apart_from_bookkeeping(a: &Value, b: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        strip_server_fields(&mut object);
        object
    };
    bare(a) == bare(b)
}

/// The objections of the server, each at its line.
pub(super) fn refusal(item: &Item, status: &Value) -> String {
    let message = status["message"].as_str().unwrap_or("the agent refused");
    let causes = status["details"]["causes"].as_array().cloned().unwrap_or_default();
    let lines: Vec<String> = causes
        .iter()
        .filter_map(|cause| Some(item.objection(cause["field"].as_str()?, cause["message"].as_str()?)))
        .collect();
    if lines.is_empty() { item.objection("", message) } else { lines.join("\n") }
}

/// The text of `299 - "text"`.
fn warning_text(header: &str) -> Option<String> {
    let quoted = header.split_once('"')?.1;
    let end = quoted.rfind('"')?;
    Some(quoted[..end].replace("\\\"", "\"").replace("\\\\", "\\"))
}

/// The time that a command still has, or none for ever.
pub(super) fn remaining(deadline: Option<Instant>) -> Duration {
    deadline.map_or(Duration::from_secs(u64::from(u32::MAX)), |at| at.saturating_duration_since(Instant::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_warning_is_unquoted() {
        assert_eq!(warning_text(r#"299 - "a \"b\" c""#).as_deref(), Some(r#"a "b" c"#));
        assert_eq!(warning_text("nothing"), None);
    }
}
