//! Lists: a consistent state, in pages if asked, at the newest or at an exact version.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::kinds::Kind;
use crate::query::Query;
use crate::selector::Selector;
use crate::store::{Cache, Key, Object};
use crate::target::Target;

/// What a list asks for.
#[derive(Debug)]
pub(crate) struct ListOptions {
    selector: Selector,
    /// The most items of one page; 0: no limit.
    limit: usize,
    /// The version whose state is wanted; none: the newest.
    exact: Option<u64>,
    /// A version that the state must have reached.
    at_least: u64,
    /// The last key of the page before.
    after: Option<Key>,
}

impl ListOptions {
    pub(crate) fn parse(kind: &Kind, query: &Query) -> Result<Self, Failure> {
        let selector = Selector::parse(kind, query.text("labelSelector"), query.text("fieldSelector"))?;
        let limit = query.number("limit")?.unwrap_or(0);
        let limit = usize::try_from(limit).map_err(|_| Failure::bad_request("limit: must not be negative"))?;
        let version = version(query)?;
        let (mut exact, mut at_least) = (None, 0);
        match (query.text("resourceVersionMatch"), version) {
            ("", version) | ("NotOlderThan", version @ Some(_)) => at_least = version.unwrap_or(0),
            ("Exact", Some(version)) if version > 0 => exact = Some(version),
            ("Exact" | "NotOlderThan", _) => {
                return Err(Failure::bad_request(
                    "resourceVersionMatch: Forbidden: needs a resourceVersion that fits it",
                ));
            }
            (other, _) => {
                return Err(Failure::bad_request(format!(
                    "resourceVersionMatch: Unsupported value: {other:?}: \
                     supported values: \"Exact\", \"NotOlderThan\""
                )));
            }
        }
        let mut after = None;
        let token = query.text("continue");
        if !token.is_empty() {
            let (revision, key) = read_token(token).ok_or_else(|| Failure::bad_request("continue key is not valid"))?;
            (exact, at_least, after) = (Some(revision), 0, Some(key));
        }
        Ok(Self { selector, limit, exact, at_least, after })
    }
}

/// `resourceVersion` of a list or watch.
pub(crate) fn version(query: &Query) -> Result<Option<u64>, Failure> {
    match query.text("resourceVersion") {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| Failure::bad_request(format!("resourceVersion: Invalid value: {text:?}: must be an integer"))),
    }
}

/// A page of a list, and what its metadata tells.
struct Page {
    revision: u64,
    items: Vec<Arc<Object>>,
    /// Items after this page; a part of them may not be selected.
    remaining: usize,
}

/// The answer to a list, as JSON.
pub(crate) fn list(
    cache: impl std::ops::Deref<Target = Cache>,
    target: &Target,
    options: &ListOptions,
) -> Result<Bytes, Failure> {
    let page = page(&cache, target, options)?;
    drop(cache);
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if page.remaining > 0
        && let Some(last) = page.items.last()
    {
        metadata["continue"] = token(page.revision, &last.key).into();
        if options.selector.is_empty() {
            metadata["remainingItemCount"] = page.remaining.into();
        }
    }
    Ok(render(target.kind, &metadata, &page.items))
}

fn page(cache: &Cache, target: &Target, options: &ListOptions) -> Result<Page, Failure> {
    if options.at_least > cache.revision {
        return Err(Failure::too_large_version(options.at_least, cache.revision));
    }
    let namespace = target.namespace.as_deref();
    let revision = options.exact.unwrap_or(cache.revision);
    if revision > cache.revision {
        return Err(Failure::too_large_version(revision, cache.revision));
    }
    let objects = cache.objects_at(target.kind, namespace, revision).map_err(|_| {
        Failure::expired(match options.after {
            Some(_) => {
                "The provided continue parameter is too old to display a consistent list result. \
                 You must start a new list without the continue parameter."
            }
            None => "The resourceVersion for the provided list is too old.",
        })
    })?;
    let selected = |object: &Arc<Object>| {
        options.after.as_ref().is_none_or(|after| object.key > *after) && options.selector.matches(object)
    };
    let mut items: Vec<Arc<Object>> = objects.into_iter().filter(selected).collect();
    let mut remaining = 0;
    if options.limit > 0 && items.len() > options.limit {
        remaining = items.len() - options.limit;
        items.truncate(options.limit);
    }
    Ok(Page { revision, items, remaining })
}

/// A list object around items that are JSON already.
pub(crate) fn render(kind: &Kind, metadata: &Value, items: &[Arc<Object>]) -> Bytes {
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
        kind.kind,
        kind.api_version(),
    );
    let size: usize = items.iter().map(|item| item.json.len() + 1).sum();
    let mut json = Vec::with_capacity(head.len() + size + 2);
    json.extend_from_slice(head.as_bytes());
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            json.push(b',');
        }
        json.extend_from_slice(&item.json);
    }
    json.extend_from_slice(b"]}");
    json.into()
}

fn token(revision: u64, last: &Key) -> String {
    let token = json!({"v": 1, "rv": revision, "ns": last.namespace, "name": last.name});
    URL_SAFE_NO_PAD.encode(token.to_string())
}

fn read_token(token: &str) -> Option<(u64, Key)> {
    let json = URL_SAFE_NO_PAD.decode(token).ok()?;
    let token: Value = serde_json::from_slice(&json).ok()?;
    let key = Key::new(token["ns"].as_str()?, token["name"].as_str()?);
    (token["v"] == 1).then_some((token["rv"].as_u64()?, key))
}
