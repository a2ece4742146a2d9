//! From what `-f` names to single objects, each with its place in its file.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, anyhow, bail};
use podd_manifest::{Position, Positions, Report};
use serde_json::Value;

use crate::kinds::Kind;

/// The names that files of a directory must have to be read.
const EXTENSIONS: &[&str] = &["yaml", "yml", "json"];

/// One file as it was read.
#[derive(Debug)]
pub(crate) struct Source {
    name: String,
    text: String,
}

/// One object of a manifest.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    source: Rc<Source>,
    positions: Positions,
    /// Where the object stands in its document: empty, or `items[2]`.
    prefix: String,
    pub(crate) kind: &'static Kind,
    pub(crate) value: Value,
}

impl Item {
    pub(crate) fn name(&self) -> &str {
        self.value["metadata"]["name"].as_str().unwrap_or_default()
    }

    pub(crate) fn namespace(&self) -> Option<&str> {
        self.value["metadata"]["namespace"].as_str()
    }

    /// An objection to one of the object's fields, shown at its line.
    pub(crate) fn objection(&self, path: &str, message: &str) -> String {
        Report::new(&self.source.name, &self.source.text, self.position(path), path, message).to_string()
    }

    /// Where one of the object's fields stands: `pod.yaml:8`.
    pub(crate) fn place(&self, path: &str) -> String {
        format!("{}:{}", self.source.name, self.position(path).line)
    }

    fn position(&self, path: &str) -> Position {
        let full = match (self.prefix.is_empty(), path.is_empty()) {
            (true, _) => path.to_owned(),
            (false, true) => self.prefix.clone(),
            (false, false) => format!("{}.{path}", self.prefix),
        };
        self.positions.find_key(&full).0
    }
}

/// Reads everything that the `-f` arguments name; objects that others need come first.
///
/// # Errors
/// One text with every objection to the form of the manifests.
pub(crate) async fn read(files: &[String], recursive: bool) -> anyhow::Result<Vec<Item>> {
    let mut items = Vec::new();
    let mut objections = String::new();
    for file in files {
        for source in sources(file, recursive).await? {
            match objects(source) {
                Ok(found) => items.extend(found),
                Err(text) => {
                    let _ = writeln!(objections, "{text}");
                }
            }
        }
    }
    if !objections.is_empty() {
        bail!("{}", objections.trim_end());
    }
    if items.is_empty() {
        bail!("no objects in {}", files.join(", "));
    }
    items.sort_by_key(|item| item.kind.rank);
    Ok(items)
}

async fn sources(file: &str, recursive: bool) -> anyhow::Result<Vec<Source>> {
    if file == "-" {
        let mut bytes = Vec::new();
        std::io::stdin()
            .take(podd_manifest::MAX_BYTES as u64 + 1)
            .read_to_end(&mut bytes)
            .context("read standard input")?;
        return Ok(vec![Source::new("-".into(), bytes)?]);
    }
    if file.starts_with("http://") || file.starts_with("https://") {
        return Ok(vec![Source::new(file.into(), download(file).await?)?]);
    }
    let path = Path::new(file);
    let kind = std::fs::metadata(path).with_context(|| format!("read {file}"))?;
    if !kind.is_dir() {
        return Ok(vec![from_file(path)?]);
    }
    let mut found = Vec::new();
    directory(path, recursive, &mut found)?;
    if found.is_empty() {
        bail!("no .yaml, .yml or .json file in {file}{}", if recursive { "" } else { "; -R looks below it too" });
    }
    found.iter().map(|path| from_file(path)).collect()
}

fn directory(path: &Path, recursive: bool, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let read = |path: &Path| -> std::io::Result<Vec<PathBuf>> {
        let mut list = std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        list.sort();
        Ok(list)
    };
    for entry in read(path).with_context(|| format!("read {}", path.display()))? {
        let extension = entry.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if entry.is_dir() {
            // A link to a directory is not followed, as kubectl does not: it may lead round in a circle.
            if recursive && !entry.is_symlink() {
                directory(&entry, true, found)?;
            }
        } else if EXTENSIONS.contains(&extension) {
            found.push(entry);
        }
    }
    Ok(())
}

fn from_file(path: &Path) -> anyhow::Result<Source> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).with_context(|| format!("open {name}"))?;
    let mut bytes = Vec::new();
    // One byte more than may be: the parser then says what is wrong.
    file.take(podd_manifest::MAX_BYTES as u64 + 1).read_to_end(&mut bytes).with_context(|| format!("read {name}"))?;
    Source::new(name, bytes)
}

async fn download(url: &str) -> anyhow::Result<Vec<u8>> {
    let what = || format!("download {url}");
    // Only here: the way to the agent is a unix socket, and needs none.
    let _there_already = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(std::time::Duration::from_secs(60)).build().with_context(what)?;
    // The address is in our words already.
    let response = client.get(url).send().await.and_then(reqwest::Response::error_for_status);
    let mut response = response.map_err(reqwest::Error::without_url).with_context(what)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.with_context(what)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > podd_manifest::MAX_BYTES {
            break;
        }
    }
    Ok(bytes)
}

impl Source {
    /// Keeps the text for reports; what is not UTF-8 or too large is refused here, with its place.
    fn new(name: String, bytes: Vec<u8>) -> anyhow::Result<Self> {
        if bytes.len() > podd_manifest::MAX_BYTES || std::str::from_utf8(&bytes).is_err() {
            let problem = podd_manifest::parse(&bytes).err().ok_or_else(|| anyhow!("{name}: unreadable"))?;
            bail!("{}", Report::of_problem(&name, "", &problem));
        }
        Ok(Source { name, text: String::from_utf8(bytes)? })
    }
}

/// The objects of one file, lists unfolded.
fn objects(source: Source) -> Result<Vec<Item>, String> {
    let source = Rc::new(source);
    let documents = podd_manifest::parse(source.text.as_bytes())
        .map_err(|problem| Report::of_problem(&source.name, &source.text, &problem).to_string())?;
    let mut items = Vec::new();
    let mut objections = Vec::new();
    for document in documents {
        let is_list = document.value["kind"].as_str().is_some_and(|kind| kind == "List" || kind.ends_with("List"));
        let values = match document.value.get("items") {
            Some(Value::Array(list)) if is_list => {
                list.iter().enumerate().map(|(n, value)| (format!("items[{n}]"), value.clone())).collect()
            }
            _ => vec![(String::new(), document.value.clone())],
        };
        for (prefix, value) in values {
            match object(&source, &document.positions, prefix, value) {
                Ok(item) => items.push(item),
                Err(text) => objections.push(text),
            }
        }
    }
    if objections.is_empty() { Ok(items) } else { Err(objections.join("\n")) }
}

fn object(source: &Rc<Source>, positions: &Positions, prefix: String, value: Value) -> Result<Item, String> {
    // A stand-in kind lets the objections below use the same drawing.
    let mut item =
        Item { source: Rc::clone(source), positions: positions.clone(), prefix, kind: &crate::kinds::KINDS[0], value };
    if !item.value.is_object() {
        return Err(item.objection("", "a manifest must be a mapping with apiVersion, kind and metadata"));
    }
    for field in ["apiVersion", "kind"] {
        match item.value.get(field) {
            Some(Value::String(text)) if !text.is_empty() => {}
            None | Some(Value::Null | Value::String(_)) => {
                return Err(item.objection(field, &missing(field)));
            }
            Some(other) => {
                return Err(item.objection(field, &format!("must be a string, not {other}")));
            }
        }
    }
    let (version, kind) = (item.value["apiVersion"].as_str().unwrap_or(""), item.value["kind"].as_str().unwrap_or(""));
    item.kind = Kind::of_manifest(version, kind).ok_or_else(|| {
        let all: Vec<String> = crate::kinds::KINDS.iter().map(|k| format!("{} {}", k.api_version(), k.kind)).collect();
        item.objection("kind", &format!("podd has no kind {version} {kind}; it has {}", all.join(", ")))
    })?;
    Ok(item)
}

fn missing(field: &str) -> String {
    let example = if field == "kind" { "kind: Pod" } else { "apiVersion: v1" };
    format!("Required value: write for instance `{example}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<Item>, String> {
        objects(Source { name: "f.yaml".into(), text: text.into() })
    }

    #[test]
    fn lists_are_unfolded_and_keep_their_places() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a}\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: b}\n";
        let items = read_text(text).unwrap();
        assert_eq!(items.iter().map(Item::name).collect::<Vec<_>>(), ["a", "b"]);
        assert!(
            items[1].objection("metadata.name", "no").starts_with("f.yaml:9:14: metadata.name: no"),
            "{}",
            items[1].objection("metadata.name", "no")
        );
    }

    #[test]
    fn directories_are_read_in_order_and_links_to_them_not() {
        let top = std::env::temp_dir().join(format!("podd-manifests-{}", std::process::id()));
        std::fs::create_dir_all(top.join("sub")).unwrap();
        for name in ["b.yaml", "a.json", "readme.txt", "sub/c.yml"] {
            std::fs::write(top.join(name), "").unwrap();
        }
        std::os::unix::fs::symlink(".", top.join("sub/round")).unwrap();
        let names = |recursive| {
            let mut found = Vec::new();
            directory(&top, recursive, &mut found).unwrap();
            found.iter().map(|path| path.strip_prefix(&top).unwrap().display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(false), ["a.json", "b.yaml"]);
        assert_eq!(names(true), ["a.json", "b.yaml", "sub/c.yml"]);
        std::fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn what_is_no_object_is_refused_at_its_line() {
        let table = [
            ("- a\n", "f.yaml:1:1: a manifest must be a mapping"),
            ("kind: Pod\n", "f.yaml:1:1: apiVersion: Required value"),
            ("apiVersion: v1\nkind: 7\n", "f.yaml:2:1: kind: must be a string, not 7"),
            ("apiVersion: apps/v1\nkind: Deployment\n", "f.yaml:2:1: kind: podd has no kind apps/v1 Deployment"),
            ("a: b\nx: [\n", "f.yaml:"),
        ];
        for (text, want) in table {
            let error = read_text(text).unwrap_err();
            assert!(error.starts_with(want), "{text:?}: {error}");
        }
    }
}
