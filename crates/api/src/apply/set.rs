//! A set of field paths, and its JSON as it stands in `metadata.managedFields[].fieldsV1`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Element {
    /// A field of an object.
    Field(String),
    /// An item of a keyed list: a JSON object of its key fields, sorted.
    Key(String),
    /// A member of a set list: its JSON.
    Value(String),
}

impl Element {
    /// The element of a keyed item, by its key fields in any order.
    pub(super) fn key<'a>(fields: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Self {
        let sorted: BTreeMap<&str, &Value> = fields.into_iter().collect();
        let text: Vec<String> = sorted.iter().map(|(k, v)| format!("{}:{v}", Value::from(*k))).collect();
        Self::Key(format!("{{{}}}", text.join(",")))
    }

    fn to_json(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(key) => format!("k:{key}"),
            Self::Value(value) => format!("v:{value}"),
        }
    }

    fn from_json(text: &str) -> Option<Self> {
        let (prefix, rest) = text.split_once(':')?;
        match prefix {
            "f" => Some(Self::Field(rest.to_owned())),
            "k" => {
                let fields: Map<String, Value> = serde_json::from_str(rest).ok()?;
                Some(Self::key(fields.iter().map(|(k, v)| (k.as_str(), v))))
            }
            "v" => {
                let value: Value = serde_json::from_str(rest).ok()?;
                Some(Self::Value(value.to_string()))
            }
            // Items by index (`i:`) are never written by a current server.
            _ => None,
        }
    }
}

/// As upstream prints a path: `.spec.containers[name="a"].image`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Key(key) => {
                let fields: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
                let text: Vec<String> = fields.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "[{}]", text.join(","))
            }
        }
    }
}

/// A set of paths as a tree; a node is a member or not, whatever its children are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) member: bool,
    pub(super) children: BTreeMap<Element, Set>,
}

impl Set {
    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Adds a child unless it is empty.
    pub(super) fn add(&mut self, element: Element, child: Set) {
        if !child.is_empty() {
            self.children.entry(element).or_default().extend(child);
        }
    }

    /// Takes all paths of the other into this one.
    pub(super) fn extend(&mut self, other: Set) {
        self.member |= other.member;
        for (element, child) in other.children {
            self.children.entry(element).or_default().extend(child);
        }
    }

    pub(super) fn intersection(&self, other: &Set) -> Set {
        self.combine(other, |a, b| a && b)
    }

    /// The paths of this one that are not in the other.
    pub(super) fn difference(&self, other: &Set) -> Set {
        self.combine(other, |a, b| a && !b)
    }

    fn combine(&self, other: &Set, keep: fn(bool, bool) -> bool) -> Set {
        static EMPTY: Set = Set { member: false, children: BTreeMap::new() };
        let mut result = Set { member: keep(self.member, other.member), ..Set::default() };
        for (element, child) in &self.children {
            let theirs = other.children.get(element).unwrap_or(&EMPTY);
            result.add(element.clone(), child.combine(theirs, keep));
        }
        result
    }

    /// Every member, as upstream prints it.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, path: &str, paths: &mut Vec<String>) {
        if self.member {
            paths.push(path.to_owned());
        }
        for (element, child) in &self.children {
            child.collect(&format!("{path}{element}"), paths);
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let mut fields = Map::new();
        if self.member && !self.children.is_empty() {
            fields.insert(".".into(), Value::Object(Map::new()));
        }
        for (element, child) in &self.children {
            fields.insert(element.to_json(), child.to_json());
        }
        fields.into()
    }

    /// Reads `fieldsV1`; elements that no current server writes are left out.
    pub(super) fn from_json(json: &Value) -> Set {
        let mut set = Set::default();
        for (key, inner) in json.as_object().into_iter().flatten() {
            if key == "." {
                set.member = true;
                continue;
            }
            let Some(element) = Element::from_json(key) else {
                continue;
            };
            let mut child = Set::from_json(inner);
            child.member |= child.children.is_empty();
            set.add(element, child);
        }
        set
    }
}
