//! Walks over objects along their schema: the paths of a value, the merge of two, what changed, what goes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::schema::Schema;
use super::set::{Element, Set};

/// A value as the schema sees it.
enum View<'a> {
    Fields(&'a Map<String, Value>),
    Items(Vec<(Element, &'a Value)>),
    Leaf,
}

fn view<'a>(schema: &Schema, value: &'a Value) -> View<'a> {
    match (schema, value) {
        (Schema::Fields(_), Value::Object(fields)) => View::Fields(fields),
        (Schema::Keyed(..) | Schema::Set, Value::Array(items)) => {
            elements(schema, items).map_or(View::Leaf, View::Items)
        }
        _ => View::Leaf,
    }
}

/// The identities of a list's items; none when one has no identity or two have the same (validation will say
/// so), which makes the list a leaf.
fn elements<'a>(schema: &Schema, items: &'a [Value]) -> Option<Vec<(Element, &'a Value)>> {
    let mut seen = BTreeSet::new();
    let mut list = Vec::with_capacity(items.len());
    for item in items {
        let element = element(schema, item)?;
        if !seen.insert(element.clone()) {
            return None;
        }
        list.push((element, item));
    }
    Some(list)
}

fn element(schema: &Schema, item: &Value) -> Option<Element> {
    match schema {
        Schema::Set => (!item.is_object() && !item.is_array()).then(|| Element::Value(item.to_string())),
        Schema::Keyed(keys, _) => {
            let mut fields = Vec::with_capacity(keys.len());
            for (name, default) in *keys {
                let value = match (item.get(name), default) {
                    (Some(value), _) => value.clone(),
                    (None, Some(default)) => Value::from(*default),
                    (None, None) => return None,
                };
                fields.push((*name, value));
            }
            Some(Element::key(fields.iter().map(|(name, value)| (*name, value))))
        }
        _ => None,
    }
}

/// The paths that an applied configuration claims.
pub(super) fn field_set(schema: &Schema, value: &Value) -> Set {
    let mut set = Set::default();
    match view(schema, value) {
        View::Fields(fields) if fields.is_empty() => set.member = true,
        View::Fields(fields) => {
            for (name, inner) in fields {
                set.add(Element::Field(name.clone()), field_set(schema.field(name), inner));
            }
        }
        View::Items(items) => {
            for (element, item) in items {
                let mut inner = field_set(schema.item(), item);
                inner.member = true;
                set.add(element, inner);
            }
        }
        View::Leaf => set.member = true,
    }
    set
}

/// The live value with the configuration laid over it.
pub(super) fn merge(schema: &Schema, live: &Value, config: &Value) -> Value {
    match (view(schema, live), view(schema, config)) {
        (View::Fields(live), View::Fields(config)) => {
            let mut merged = live.clone();
            for (name, inner) in config {
                let value = match live.get(name) {
                    Some(old) => merge(schema.field(name), old, inner),
                    None => inner.clone(),
                };
                merged.insert(name.clone(), value);
            }
            merged.into()
        }
        (View::Items(live), View::Items(config)) => merge_items(schema.item(), live, config),
        _ => config.clone(),
    }
}

/// The configuration's order counts; an item that only the live list has stays before the item that it stood
/// before.
fn merge_items(item: &Schema, live: Vec<(Element, &Value)>, config: Vec<(Element, &Value)>) -> Value {
    let wanted: BTreeSet<&Element> = config.iter().map(|(element, _)| element).collect();
    let place: BTreeMap<&Element, usize> = live.iter().enumerate().map(|(n, (element, _))| (element, n)).collect();
    let mut merged = Vec::new();
    let mut passed = 0;
    for (element, new) in &config {
        let Some(&at) = place.get(element) else {
            merged.push((*new).clone());
            continue;
        };
        while passed <= at {
            let (other, old) = &live[passed];
            if !wanted.contains(other) {
                merged.push((*old).clone());
            }
            passed += 1;
        }
        merged.push(merge(item, live[at].1, new));
    }
    let rest = live[passed..].iter().filter(|(element, _)| !wanted.contains(element));
    merged.extend(rest.map(|(_, old)| (*old).clone()));
    merged.into()
}

/// The paths at which two values differ.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Added or with another value.
    pub(super) set: Set,
    pub(super) removed: Set,
}

impl Changes {
    fn add(&mut self, element: Element, inner: Changes) {
        self.set.add(element.clone(), inner.set);
        self.removed.add(element, inner.removed);
    }
}

pub(super) fn changes(schema: &Schema, old: Option<&Value>, new: Option<&Value>) -> Changes {
    let mut changes = Changes::default();
    let (one, both) = match (old, new) {
        (None, None) => return changes,
        (Some(one), None) | (None, Some(one)) => (one, None),
        (Some(old), Some(new)) => (new, Some(old)),
    };
    match (view(schema, one), both.map(|old| view(schema, old))) {
        (View::Leaf, None) => changes.mark(old, new),
        (View::Fields(fields), None) => {
            for name in fields.keys() {
                changes.field(schema, name, old, new);
            }
            changes.mark(old, new);
        }
        (View::Items(items), None) => {
            for (element, item) in items {
                let (a, b) = (old.map(|_| item), new.map(|_| item));
                changes.add(element, self::changes(schema.item(), a, b));
            }
            changes.mark(old, new);
        }
        (View::Fields(fields), Some(View::Fields(before))) => {
            let names: BTreeSet<&String> = fields.keys().chain(before.keys()).collect();
            for name in names {
                changes.field(schema, name, old, new);
            }
        }
        (View::Items(items), Some(View::Items(before))) => {
            let items: BTreeMap<Element, &Value> = items.into_iter().collect();
            let before: BTreeMap<Element, &Value> = before.into_iter().collect();
            let all: BTreeSet<&Element> = items.keys().chain(before.keys()).collect();
            for element in all {
                let (a, b) = (before.get(element).copied(), items.get(element).copied());
                changes.add(element.clone(), self::changes(schema.item(), a, b));
            }
        }
        _ if old != new => changes.set.member = true,
        _ => {}
    }
    changes
}

impl Changes {
    fn field(&mut self, schema: &Schema, name: &str, old: Option<&Value>, new: Option<&Value>) {
        let (a, b) = (old.and_then(|v| v.get(name)), new.and_then(|v| v.get(name)));
        self.add(Element::Field(name.to_owned()), changes(schema.field(name), a, b));
    }

    fn mark(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, Some(_)) => self.set.member = true,
            (Some(_), None) => self.removed.member = true,
            _ => {}
        }
    }
}

/// Takes out of a value what is in `dropped` and owned by nobody (`owned`); whether nothing is left of it.
pub(super) fn prune(schema: &Schema, value: &mut Value, dropped: &Set, owned: &Set) -> bool {
    match (schema, &mut *value) {
        (Schema::Fields(_), Value::Object(fields)) => {
            let before = fields.len();
            for (element, dropped) in &dropped.children {
                let Element::Field(name) = element else {
                    continue;
                };
                let Some(inner) = fields.get_mut(name) else {
                    continue;
                };
                if prune_child(schema.field(name), inner, dropped, owned.children.get(element)) {
                    fields.remove(name);
                }
            }
            before > 0 && fields.is_empty()
        }
        (Schema::Keyed(..) | Schema::Set, Value::Array(items)) => {
            let before = items.len();
            items.retain_mut(|item| {
                let Some(element) = element(schema, item) else {
                    return true;
                };
                let Some(dropped) = dropped.children.get(&element) else {
                    return true;
                };
                !prune_child(schema.item(), item, dropped, owned.children.get(&element))
            });
            before > 0 && items.is_empty()
        }
        _ => false,
    }
}

/// Whether the child goes as a whole.
fn prune_child(schema: &Schema, value: &mut Value, dropped: &Set, owned: Option<&Set>) -> bool {
    match owned {
        None if dropped.member => true,
        None => prune(schema, value, dropped, &Set::default()),
        Some(owned) => prune(schema, value, dropped, owned) && !owned.member,
    }
}
