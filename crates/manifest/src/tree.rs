//! From YAML events to a JSON value and its positions, without recursion: a document nested sixty
//! thousand deep costs an error, not a stack.

use std::collections::{BTreeMap, HashMap};

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Value};

use crate::position::{Children, Position, Positions};
use crate::{MAX_ALIASED_NODES, MAX_BYTES, MAX_DEPTH, Problem, scalar};

/// One document of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its value; never null, since empty documents are skipped.
    pub value: Value,
    /// Where everything in it stands.
    pub positions: Positions,
}

/// Reads all documents of a manifest; JSON is read as the YAML that it is.
///
/// # Errors
/// The first thing wrong with the text: too large, not UTF-8, malformed, a duplicate key, nested
/// too deep, an alias bomb.
pub fn parse(bytes: &[u8]) -> Result<Vec<Document>, Problem> {
    if bytes.len() > MAX_BYTES {
        return Err(problem(
            Position { line: 1, column: 1 },
            format!("{} bytes are more than the {} MiB that a manifest may have", bytes.len(), MAX_BYTES >> 20),
        ));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        problem(end_of(before), "not valid UTF-8".into())
    })?;
    let mut options = Options::default();
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| {
            let at = position(error.marker());
            problem(at, format!("malformed YAML: {}", error.info()))
        })?;
        builder.take(event, span)?;
    }
    Ok(builder.documents)
}

fn problem(at: Position, message: String) -> Problem {
    Problem { at, path: String::new(), message }
}

fn position(mark: &granit_parser::Marker) -> Position {
    Position { line: mark.line(), column: mark.col() + 1 }
}

/// Where valid text ends.
fn end_of(valid: &[u8]) -> Position {
    let text = String::from_utf8_lossy(valid);
    let line = text.matches('\n').count() + 1;
    let column = text.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    Position { line, column }
}

/// A value that is finished, with its positions and the number of nodes in it.
#[derive(Clone)]
struct Node {
    value: Value,
    positions: Positions,
    weight: usize,
}

/// A collection that is still open.
enum Open {
    Sequence {
        items: Vec<Value>,
        positions: Vec<Positions>,
        start: Position,
        anchor: usize,
        weight: usize,
    },
    Mapping {
        fields: Map<String, Value>,
        positions: BTreeMap<String, Positions>,
        key: Option<(String, Position)>,
        merges: Vec<(Node, Position)>,
        start: Position,
        anchor: usize,
        weight: usize,
    },
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    aliased: usize,
    documents: Vec<Document>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let at = position(&span.start);
        match event {
            Event::DocumentStart(..) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = self.scalar(&text, style, tag.as_deref(), at)?;
                self.finish(Node { value, positions: at_only(at), weight: 1 }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_collection(tag.as_deref(), "seq", at)?;
                self.push(Open::Sequence { items: Vec::new(), positions: Vec::new(), start: at, anchor, weight: 1 }, at)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_collection(tag.as_deref(), "map", at)?;
                self.push(
                    Open::Mapping {
                        fields: Map::new(),
                        positions: BTreeMap::new(),
                        key: None,
                        merges: Vec::new(),
                        start: at,
                        anchor,
                        weight: 1,
                    },
                    at,
                )
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(id) => self.alias(id, at),
            _ => Ok(()),
        }
    }

    fn scalar(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Position) -> Result<Value, Problem> {
        let resolved = match tag {
            Some(tag) => match tag.core_suffix() {
                Some(suffix) => scalar::resolve_tagged(suffix, text),
                None if tag.suffix().is_empty() || tag.suffix() == "!" => Ok(Value::String(text.into())),
                None => Err(format!("the tag {} has no meaning in a manifest", tag.original())),
            },
            None if style == ScalarStyle::Plain => scalar::resolve(text),
            None => Ok(Value::String(text.into())),
        };
        resolved.map_err(|message| self.problem_here(at, message))
    }

    fn check_collection(&self, tag: Option<&Tag>, expected: &str, at: Position) -> Result<(), Problem> {
        match tag {
            Some(tag) if !tag.is_yaml_core_schema_tag(expected) => {
                Err(self.problem_here(at, format!("the tag {} has no meaning in a manifest", tag.original())))
            }
            _ => Ok(()),
        }
    }

    fn push(&mut self, open: Open, at: Position) -> Result<(), Problem> {
        if let Some(Open::Mapping { key: None, .. }) = self.open.last() {
            return Err(self.problem_here(at, "a key must be a plain value, not a list or a mapping".into()));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(problem(at, format!("nested more than {MAX_DEPTH} deep")));
        }
        self.open.push(open);
        Ok(())
    }

    fn close(&mut self) -> Result<(), Problem> {
        let (node, anchor) = match self.open.pop() {
            Some(Open::Sequence { items, positions, start, anchor, weight }) => (
                Node {
                    value: Value::Array(items),
                    positions: Positions { key: None, value: start, children: Children::Items(positions) },
                    weight,
                },
                anchor,
            ),
            Some(Open::Mapping { mut fields, mut positions, merges, start, anchor, mut weight, .. }) => {
                for (merged, at) in merges {
                    weight += merged.weight;
                    self.merge(merged, at, &mut fields, &mut positions)?;
                }
                let children = Children::Fields(positions);
                (
                    Node {
                        value: Value::Object(fields),
                        positions: Positions { key: None, value: start, children },
                        weight,
                    },
                    anchor,
                )
            }
            None => return Ok(()),
        };
        self.finish(node, anchor)
    }

    /// `<<: *defaults`: fields that the mapping does not have itself.
    fn merge(
        &self,
        merged: Node,
        at: Position,
        fields: &mut Map<String, Value>,
        positions: &mut BTreeMap<String, Positions>,
    ) -> Result<(), Problem> {
        let sources = match (merged.value, merged.positions.children) {
            (Value::Object(more), Children::Fields(places)) => vec![(more, places)],
            (Value::Array(list), Children::Items(places)) => {
                let mut sources = Vec::new();
                for pair in list.into_iter().zip(places) {
                    match pair {
                        (Value::Object(more), Positions { children: Children::Fields(inner), .. }) => {
                            sources.push((more, inner))
                        }
                        _ => return Err(self.problem_here(at, "<< takes mappings only".into())),
                    }
                }
                sources
            }
            _ => {
                return Err(self.problem_here(at, "<< takes a mapping or a list of mappings".into()));
            }
        };
        for (more, places) in sources {
            for (name, value) in more {
                if !fields.contains_key(&name) {
                    if let Some(place) = places.get(&name) {
                        positions.insert(name.clone(), place.clone());
                    }
                    fields.insert(name, value);
                }
            }
        }
        Ok(())
    }

    fn alias(&mut self, id: usize, at: Position) -> Result<(), Problem> {
        let Some(node) = self.anchors.get(&id) else {
            return Err(self.problem_here(at, "an alias inside the value that it names".into()));
        };
        self.aliased += node.weight;
        if self.aliased > MAX_ALIASED_NODES {
            return Err(problem(at, format!("aliases unfold to more than {MAX_ALIASED_NODES} values")));
        }
        let node = node.clone();
        self.finish(node, 0)
    }

    /// Puts a finished node where it belongs: into the open collection, or as a document.
    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let at = node.positions.value;
        match self.open.last_mut() {
            None => {
                if !node.value.is_null() {
                    self.documents.push(Document { value: node.value, positions: node.positions });
                }
            }
            Some(Open::Sequence { items, positions, weight, .. }) => {
                *weight += node.weight;
                items.push(node.value);
                positions.push(node.positions);
            }
            Some(Open::Mapping { fields, key: key @ None, .. }) => match key_text(&node.value) {
                Some(name) if fields.contains_key(&name) => {
                    *key = Some((name, at));
                    return Err(self.problem_here(at, "this key stands here a second time; remove one of them".into()));
                }
                Some(name) => *key = Some((name, at)),
                None => {
                    return Err(self.problem_here(at, "a key must be a plain value, not a list or a mapping".into()));
                }
            },
            Some(Open::Mapping { fields, positions, key, merges, weight, .. }) => {
                let (name, key_at) = key.take().expect("the arm above took the mappings without a key");
                if name == "<<" {
                    merges.push((node, key_at));
                    return Ok(());
                }
                *weight += node.weight;
                let mut places = node.positions;
                places.key = Some(key_at);
                positions.insert(name.clone(), places);
                fields.insert(name, node.value);
            }
        }
        Ok(())
    }

    fn problem_here(&self, at: Position, message: String) -> Problem {
        Problem { at, path: self.path(), message }
    }

    /// The path of the value that is being read.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match open {
                Open::Sequence { items, .. } => path.push_str(&format!("[{}]", items.len())),
                Open::Mapping { key: Some((name, _)), .. } => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                }
                Open::Mapping { .. } => {}
            }
        }
        path
    }
}

fn at_only(at: Position) -> Positions {
    Positions { key: None, value: at, children: Children::None }
}

/// Keys become strings, as in JSON.
fn key_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null => Some("null".into()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests;
