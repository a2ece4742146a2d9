//! Request bodies: size, format, and the fields that stand in them twice.

use std::cell::RefCell;
use std::fmt;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::failure::Failure;

/// The largest body, in bytes (upstream's limit).
pub(crate) const MAX_BODY: usize = 3 << 20;
/// Duplicate fields told of one body (upstream's limit).
const MAX_DUPLICATES: usize = 100;
/// Bytes of the path of a duplicate field; keys are the client's, and one may be as long as the body.
const MAX_PATH: usize = 1024;

/// A body as a value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Document {
    pub(crate) value: Value,
    /// The paths of fields that stand there more than once; the last one counts.
    pub(crate) duplicates: Vec<String>,
}

/// The media type of a body, without its parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim()
}

/// The whole body, up to [`MAX_BODY`].
pub(crate) async fn read(body: Body) -> Result<Bytes, Failure> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::too_large(format!("limit is {MAX_BODY}"))),
        Err(error) => Err(Failure::bad_request(format!("read the body: {error}"))),
    }
}

/// Parses an object sent as JSON (also when no type is given) or YAML.
pub(crate) fn parse(media_type: &str, bytes: &[u8]) -> Result<Document, Failure> {
    match media_type {
        "" | "application/json" => json(bytes),
        "application/yaml" | "application/x-yaml" | "text/yaml" => yaml(bytes),
        other => Err(Failure::unsupported_media_type(format!(
            "the body of the request was in an unknown format - \
             accepted media types include: application/json, application/yaml (it was {other})"
        ))),
    }
}

/// Parses JSON.
pub(crate) fn json(bytes: &[u8]) -> Result<Document, Failure> {
    let duplicates = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let seed = Node { path: &|| String::new(), duplicates: &duplicates };
    let value = seed
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|e| Failure::bad_request(format!("the body is not JSON: {e}")))?;
    Ok(Document { value, duplicates: duplicates.into_inner() })
}

/// Parses one YAML document; podd's reader refuses duplicates by itself.
pub(crate) fn yaml(bytes: &[u8]) -> Result<Document, Failure> {
    let mut documents = podd_manifest::parse(bytes)
        .map_err(|problem| Failure::bad_request(format!("the body is not YAML: {problem}")))?;
    match (documents.pop(), documents.is_empty()) {
        (Some(document), true) => Ok(Document { value: document.value, duplicates: Vec::new() }),
        (None, _) => Err(Failure::bad_request("the body holds no object")),
        (Some(_), false) => Err(Failure::bad_request("the body holds several documents, one is expected")),
    }
}

/// Builds a value and notes duplicate keys. The path is a closure, since it is rarely asked for.
struct Node<'a> {
    path: &'a dyn Fn() -> String,
    duplicates: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("not a finite number"))?;
        Ok(number.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let path = || format!("{}[{}]", (self.path)(), list.len());
            let seed = Node { path: &path, duplicates: self.duplicates };
            let Some(item) = items.next_element_seed(seed)? else {
                break;
            };
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = || match (self.path)() {
                top if top.is_empty() => key.clone(),
                parent => format!("{parent}.{key}"),
            };
            let seed = Node { path: &path, duplicates: self.duplicates };
            let value = entries.next_value_seed(seed)?;
            if map.contains_key(&key) {
                let mut duplicates = self.duplicates.borrow_mut();
                if duplicates.len() < MAX_DUPLICATES {
                    duplicates.push(shortened(path()));
                }
            }
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

fn shortened(mut path: String) -> String {
    path.truncate(path.floor_char_boundary(MAX_PATH));
    path
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_reads_as_it_is_and_duplicates_are_told_by_path() {
        let text = br#"{"a": {"b": 1, "b": 2, "c": [{"d": null, "d": -1.5}]}, "e": "x", "f": true}"#;
        let document = json(text).unwrap();
        assert_eq!(document.value, json!({"a": {"b": 2, "c": [{"d": -1.5}]}, "e": "x", "f": true}));
        assert_eq!(document.duplicates, ["a.b", "a.c[0].d"]);
    }

    #[test]
    fn a_hundred_duplicates_are_told_and_their_paths_cut_short() {
        let key = "é".repeat(1000);
        let text = format!("{{\"{key}\": {{{} \"a\": 1}}, \"b\": 2}}", "\"a\": 0, ".repeat(200));
        let document = json(text.as_bytes()).unwrap();
        assert_eq!((document.value[&key]["a"].as_i64(), document.duplicates.len()), (Some(1), 100));
        assert_eq!(document.duplicates[0], "é".repeat(512));
    }

    #[test]
    fn deep_nesting_is_refused_and_does_not_overflow_the_stack() {
        let deep = "[".repeat(60_000);
        assert_eq!(json(deep.as_bytes()).unwrap_err().code(), 400);
        assert_eq!(yaml(deep.as_bytes()).unwrap_err().code(), 400);
    }

    #[test]
    fn yaml_must_hold_one_object() {
        assert_eq!(yaml(b"a: yes").unwrap().value, json!({"a": true}));
        for bad in ["", "a: 1\n---\nb: 2", "a: 1\na: 2", "a: ["] {
            assert_eq!(yaml(bad.as_bytes()).unwrap_err().code(), 400, "{bad}");
        }
    }
}
