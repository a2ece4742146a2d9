//! `podd diff`: what an apply would change, as kubectl shows it: the objects as they are beside what the server would make
//! of them, a unified diff of YAML. What only the server writes (status, versions, owners of fields) is left out.
//!
//! Exit code 0 when nothing differs, 1 when something does, 2 when it cannot be told.

use std::process::ExitCode;

use anyhow::bail;
use serde_json::{Map, Value};
use similar::TextDiff;

use super::apply::{self, How};
use crate::cli::Diff;
use crate::config::Settings;
use crate::manifests::Item;
use crate::{client, print, yaml};

/// The code of differences; that of errors is [`crate::cli::Command::failure`]'s.
const DIFFERENT: u8 = 1;
/// Lines around a change, as `diff -u` has them.
const CONTEXT: usize = 3;
/// Where `kubectl apply` keeps a whole manifest in an object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub(crate) async fn run(args: Diff, settings: &Settings) -> anyhow::Result<ExitCode> {
    let (items, _) = apply::read(&args.manifests).await?;
    let client = client::connect(settings).await?;
    let how = How { dry_run: true, force: args.manifests.force_conflicts, immutable: apply::Immutable::Advise };
    let mut different = false;
    let mut objections = Vec::new();
    for item in &items {
        let live = apply::existing(&client, &apply::object_path(item)).await?;
        // One object that would be refused does not hide the others.
        match apply::send(&client, item, how).await {
            Ok((_, merged)) => {
                let text = difference(item, live, merged)?;
                different |= !text.is_empty();
                print::text(&text);
            }
            Err(refusal) => objections.push(format!("{refusal:#}")),
        }
    }
    if !objections.is_empty() {
        bail!("{}", objections.join("\n"));
    }
    Ok(if different { ExitCode::from(DIFFERENT) } else { ExitCode::SUCCESS })
}

/// The diff of one object; empty when there is none.
fn difference(item: &Item, live: Option<Value>, mut merged: Value) -> anyhow::Result<String> {
    let mut live = live.unwrap_or(Value::Null);
    if item.kind.kind == "Secret" {
        mask(&mut live, &mut merged);
    }
    let text = |mut object: Value| {
        apply::strip_server_fields(&mut object);
        if object.is_null() { Ok(String::new()) } else { yaml::to_string(&object) }
    };
    let (live, merged) = (text(live)?, text(merged)?);
    if live == merged {
        return Ok(String::new());
    }
    let api_version = item.kind.api_version().replace('/', ".");
    let name = [&api_version, item.kind.kind, item.namespace().unwrap_or_default(), item.name()].join(".");
    let (left, right) = (format!("LIVE/{name}"), format!("MERGED/{name}"));
    let diff = TextDiff::from_lines(&live, &merged);
    let body = diff.unified_diff().context_radius(CONTEXT).header(&left, &right).to_string();
    Ok(format!("diff -u -N {left} {right}\n{body}"))
}

/// Hides the values of a secret, as kubectl does: that one changes is shown, not from what to what.
fn mask(live: &mut Value, merged: &mut Value) {
    for part in ["/data", "/stringData"] {
        let before = live.pointer(part).and_then(Value::as_object).cloned().unwrap_or_default();
        let after = merged.pointer(part).and_then(Value::as_object).cloned().unwrap_or_default();
        hide(live, part, &after, " (before)");
        hide(merged, part, &before, " (after)");
    }
    for object in [live, merged] {
        if let Some(text) = object.pointer_mut("/metadata/annotations").and_then(|all| all.get_mut(LAST_APPLIED)) {
            *text = "***".into();
        }
    }
}

/// Hides the values of one side; those that the other side has differently get a mark.
fn hide(object: &mut Value, part: &str, other: &Map<String, Value>, mark: &str) {
    for (key, value) in object.pointer_mut(part).and_then(Value::as_object_mut).into_iter().flatten() {
        let changed = other.get(key).is_some_and(|other| other != value);
        *value = format!("***{}", if changed { mark } else { "" }).into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_values_of_a_secret_are_hidden_and_their_changes_told() {
        let mut live = json!({"data": {"same": "c2FtZQ==", "changed": "b2xk", "gone": "Z29uZQ=="},
            "metadata": {"annotations": {LAST_APPLIED: "{\"data\":{\"changed\":\"b2xk\"}}"}}});
        let mut merged = json!({"data": {"same": "c2FtZQ==", "changed": "bmV3", "fresh": "ZnJlc2g="}});
        mask(&mut live, &mut merged);
        assert_eq!(live["data"], json!({"same": "***", "changed": "*** (before)", "gone": "***"}));
        assert_eq!(merged["data"], json!({"same": "***", "changed": "*** (after)", "fresh": "***"}));
        assert!(!live.to_string().contains("b2xk"), "{live}");
    }
}
