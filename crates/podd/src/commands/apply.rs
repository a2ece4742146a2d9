//! `podd apply`: server-side apply of every object of the manifests.
//!
//! All objects are checked before the first one is sent, so that a bad manifest leaves nothing
//! behind. The check is the API server's own, called here, where the lines are known.

use std::time::Duration;

use anyhow::{Context as _, bail};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use podd_core::verdict::Verdict;
use serde_json::Value;

use super::wait;
use crate::cli::{Apply, Output};
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
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Outcome::Created => "created",
            Outcome::Configured => "configured",
            Outcome::Unchanged => "unchanged",
        }
    }
}

/// How objects are sent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct How {
    pub(super) dry_run: bool,
    pub(super) force: bool,
}

pub(crate) async fn run(args: Apply, settings: &Settings) -> anyhow::Result<()> {
    let mut items = manifests::read(&args.files, args.recursive).await?;
    set_namespaces(&mut items, &args.namespace.namespace);
    check(&items)?;
    let dry_run = args.dry_run.as_deref().filter(|kind| *kind != "none");
    if dry_run == Some("client") {
        for item in &items {
            say!("{}/{} valid (dry run)", item.kind.singular(), item.name());
            show_verdicts(item);
        }
        return Ok(());
    }
    let client = client::connect(settings).await?;
    let how = How { dry_run: dry_run.is_some(), force: args.force_conflicts };
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
    if args.wait && !how.dry_run {
        let deadline = (!args.timeout.is_zero()).then(|| tokio::time::Instant::now() + args.timeout);
        for (item, object) in items.iter().zip(&applied).filter(|(item, _)| item.kind.kind == "Pod") {
            wait::until_ready(&client, item.namespace().unwrap_or("default"), object, deadline).await?;
        }
    }
    Ok(())
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
    let path = object_path(item);
    let before = existing(client, &path).await?;
    let query = format!(
        "fieldManager={MANAGER}&fieldValidation=Strict&force={}{}",
        how.force,
        if how.dry_run { "&dryRun=All" } else { "" }
    );
    let mut sent = item.value.clone();
    strip_server_fields(&mut sent);
    let request = Request::patch(format!("{path}?{query}"))
        .header("content-type", "application/apply-patch+yaml")
        .body(Body::from(serde_json::to_vec(&sent)?))
        .context("build the request")?;
    let response = client.send(request).await.map_err(super::api_error)?;
    for warning in response.headers().get_all("warning") {
        if let Some(text) = warning.to_str().ok().and_then(warning_text) {
            eprintln!("warning: {}/{}: {text}", item.kind.singular(), item.name());
        }
    }
    let status = response.status();
    let body: Value =
        serde_json::from_slice(&response.into_body().collect().await.context("read the answer")?.to_bytes())
            .context("read the answer")?;
    if !status.is_success() {
        bail!("{}", refusal(item, &body));
    }
    // Not by resourceVersion: an apply that only takes part in the ownership of fields gives the object a new one.
    let outcome = match before {
        None => Outcome::Created,
        Some(before) if same_apart_from_bookkeeping(&before, &body) => Outcome::Unchanged,
        Some(_) => Outcome::Configured,
    };
    Ok((outcome, body))
}

async fn existing(client: &kube::Client, path: &str) -> anyhow::Result<Option<Value>> {
    let request = Request::get(path).body(Body::empty()).context("build the request")?;
    let response = client.send(request).await.map_err(super::api_error)?;
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

fn object_path(item: &Item) -> String {
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
fn strip_server_fields(object: &mut Value) {
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
fn refusal(item: &Item, status: &Value) -> String {
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
pub(super) fn remaining(deadline: Option<tokio::time::Instant>) -> Duration {
    deadline.map_or(Duration::from_secs(u64::from(u32::MAX)), |at| {
        at.saturating_duration_since(tokio::time::Instant::now())
    })
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
