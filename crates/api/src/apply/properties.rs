//! Server-side apply as laws that hold for any configurations.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{POD, Who, apply, update};

/// What one manager has to say of a pod. Few names and values, so that managers meet.
#[derive(Debug, Clone)]
struct Said {
    labels: BTreeMap<u8, u8>,
    volumes: BTreeMap<u8, u8>,
    containers: BTreeMap<u8, Container>,
}

#[derive(Debug, Clone)]
struct Container {
    image: Option<u8>,
    env: BTreeMap<u8, u8>,
    /// Port and whether it is UDP, to the port's name; TCP is left unsaid every other time.
    ports: BTreeMap<(u8, bool), u8>,
    mounts: BTreeMap<u8, u8>,
}

/// A keyed list in an order of its own, and what identifies and what fills its items.
fn list<K: Copy + Ord, V: Copy>(items: &BTreeMap<K, V>, item: impl Fn(K, V) -> Value) -> Value {
    items.iter().rev().map(|(key, value)| item(*key, *value)).collect()
}

impl Container {
    fn config(&self, name: u8) -> Value {
        let mut container = json!({
            "name": format!("c{name}"),
            "env": list(&self.env, |name, value| json!({"name": format!("E{name}"), "value": value.to_string()})),
            "ports": list(&self.ports, |(port, udp), name| {
                let mut item = json!({"containerPort": port, "name": format!("p{name}")});
                if udp {
                    item["protocol"] = "UDP".into();
                } else if name % 2 == 0 {
                    item["protocol"] = "TCP".into();
                }
                item
            }),
            "volumeMounts": list(&self.mounts, |path, volume| {
                json!({"mountPath": format!("/{path}"), "name": format!("v{volume}")})
            }),
        });
        if let Some(image) = self.image {
            container["image"] = format!("i{image}").into();
        }
        container
    }
}

impl Said {
    fn config(&self) -> Value {
        let labels: Map<String, Value> =
            self.labels.iter().map(|(name, value)| (format!("l{name}"), value.to_string().into())).collect();
        let containers: Vec<Value> = self.containers.iter().map(|(name, container)| container.config(*name)).collect();
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": labels},
            "spec": {
                "containers": containers,
                "volumes": list(&self.volumes, |name, path| {
                    json!({"name": format!("v{name}"), "hostPath": {"path": format!("/{path}")}})
                }),
            },
        })
    }
}

fn pairs() -> impl Strategy<Value = BTreeMap<u8, u8>> {
    btree_map(0..4u8, 0..3u8, 0..4)
}

fn said() -> impl Strategy<Value = Said> {
    let ports = btree_map((0..3u8, any::<bool>()), 0..4u8, 0..4);
    let container = (proptest::option::of(0..3u8), pairs(), ports, pairs())
        .prop_map(|(image, env, ports, mounts)| Container { image, env, ports, mounts });
    (pairs(), pairs(), btree_map(0..3u8, container, 0..3)).prop_map(|(labels, volumes, containers)| Said {
        labels,
        volumes,
        containers,
    })
}

fn who(manager: &str, now: &str) -> Who {
    Who { manager: manager.into(), api_version: "v1".into(), subresource: "", now: now.into() }
}

const NOON: &str = "2026-11-26T12:00:00Z";
const LATER: &str = "2026-11-26T13:00:00Z";

fn forced(live: Option<&Value>, config: &Value, manager: &str) -> Value {
    apply(&POD, live, config, &who(manager, NOON), true).expect("force meets no conflict")
}

/// What several managers made of a pod, one after the other, by force; the last of them is `last`.
fn made_of(before: &[(u8, Said)], last: &Said) -> Value {
    let mut live: Option<Value> = None;
    for (manager, said) in before {
        live = Some(forced(live.as_ref(), &said.config(), &format!("m{manager}")));
    }
    forced(live.as_ref(), &last.config(), "last")
}

fn before() -> impl Strategy<Value = Vec<(u8, Said)>> {
    vec((0..3u8, said()), 0..4)
}

/// The leaves of an object by path, with the items of keyed lists by their keys: written here a second time, for pods as
/// they are made above.
fn leaves(object: &Value) -> BTreeMap<String, Value> {
    fn walk(path: String, value: &Value, leaves: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(fields) => {
                for (name, inner) in fields {
                    if !(path == ".metadata" && name == "managedFields") {
                        walk(format!("{path}.{name}"), inner, leaves);
                    }
                }
            }
            Value::Array(items) => {
                for item in items {
                    let key = match (&item["containerPort"], &item["mountPath"]) {
                        (Value::Number(port), _) => format!("{port}/{}", item["protocol"].as_str().unwrap_or("TCP")),
                        (_, Value::String(path)) => path.clone(),
                        _ => item["name"].to_string(),
                    };
                    walk(format!("{path}[{key}]"), item, leaves);
                }
            }
            scalar => drop(leaves.insert(path, scalar.clone())),
        }
    }
    let mut found = BTreeMap::new();
    walk(String::new(), object, &mut found);
    found
}

/// How many items of keyed lists an object has, wherever they are.
fn items(value: &Value) -> usize {
    match value {
        Value::Object(fields) => {
            fields.iter().filter(|(name, _)| *name != "managedFields").map(|(_, v)| items(v)).sum()
        }
        Value::Array(list) => list.len() + list.iter().map(items).sum::<usize>(),
        _ => 0,
    }
}

/// How many items the leaves lie in.
fn items_of(leaves: &BTreeMap<String, Value>) -> usize {
    let mut seen = std::collections::BTreeSet::new();
    for path in leaves.keys() {
        seen.extend(path.match_indices(']').map(|(at, _)| &path[..at]));
    }
    seen.len()
}

proptest! {
    #[test]
    fn applying_twice_changes_nothing(before in before(), config in said()) {
        let once = made_of(&before, &config);
        let again = apply(&POD, Some(&once), &config.config(), &who("last", LATER), false);
        prop_assert_eq!(again, Ok(once));
    }

    #[test]
    fn what_was_applied_last_is_there_and_every_item_once(before in before(), config in said()) {
        let live = made_of(&before, &config);
        let found = leaves(&live);
        for (path, value) in leaves(&config.config()) {
            prop_assert_eq!(found.get(&path), Some(&value), "{}", path);
        }
        prop_assert_eq!(items(&live), items_of(&found), "an item stands twice: {}", live);
    }

    #[test]
    fn nothing_is_there_that_nobody_said(before in before(), config in said()) {
        let live = made_of(&before, &config);
        let mut said = leaves(&config.config());
        // What somebody said and later left out may only be what it is if another says it still.
        for (_, other) in latest(&before) {
            said.extend(leaves(&other.config()));
        }
        for path in leaves(&live).keys() {
            prop_assert!(said.contains_key(path), "{} is said by nobody: {}", path, live);
        }
    }

    #[test]
    fn a_sole_owner_that_leaves_everything_out_leaves_nothing(config in said(), other in said()) {
        let nothing = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}});
        let both = forced(Some(&forced(None, &config.config(), "one")), &other.config(), "two");
        let left = apply(&POD, Some(&both), &nothing, &who("one", LATER), false).expect("it says nothing");
        // What remains is what the other one said, value by value.
        let said = leaves(&other.config());
        prop_assert_eq!(leaves(&left), said);
    }

    #[test]
    fn who_says_otherwise_conflicts_and_who_says_the_same_shares(one in said(), two in said()) {
        let live = forced(None, &one.config(), "one");
        let (mine, theirs) = (leaves(&one.config()), leaves(&two.config()));
        let differ: Vec<&String> =
            theirs.iter().filter(|(path, value)| mine.get(*path).is_some_and(|own| own != *value)).map(|(p, _)| p).collect();
        match apply(&POD, Some(&live), &two.config(), &who("two", LATER), false) {
            Ok(_) => prop_assert!(differ.is_empty(), "no conflict for {:?}", differ),
            Err(conflicts) => {
                prop_assert_eq!(conflicts.len(), differ.len(), "{:?} for {:?}", conflicts, differ);
                for conflict in &conflicts {
                    prop_assert_eq!(&conflict.manager, "\"one\"");
                    let field = conflict.path.rsplit('.').next().unwrap_or_default();
                    prop_assert!(differ.iter().any(|path| path.ends_with(field)), "{:?} for {:?}", conflict, differ);
                }
            }
        }
        // By force it is the second one's: it can go on without force, the first cannot go back.
        let taken = forced(Some(&live), &two.config(), "two");
        prop_assert!(apply(&POD, Some(&taken), &two.config(), &who("two", LATER), false).is_ok());
        let back = apply(&POD, Some(&taken), &one.config(), &who("one", LATER), false);
        prop_assert_eq!(back.is_err(), !differ.is_empty());
    }

    #[test]
    fn an_update_takes_what_it_changes_and_nothing_else(config in said(), value in 10..20u8) {
        let live = forced(None, &config.config(), "one");
        let mut changed = live.clone();
        changed["metadata"]["labels"]["l0"] = value.to_string().into();
        update(&POD, Some(&live), &mut changed, &who("editor", LATER));
        let back = apply(&POD, Some(&changed), &config.config(), &who("one", LATER), false);
        match config.labels.contains_key(&0) {
            true => {
                let conflicts = back.expect_err("the label is the editor's");
                prop_assert_eq!(conflicts.iter().map(|c| c.path.as_str()).collect::<Vec<_>>(), [".metadata.labels.l0"]);
            }
            false => prop_assert_eq!(back, Ok(changed)),
        }
    }
}

/// What each manager said last.
fn latest(before: &[(u8, Said)]) -> BTreeMap<u8, &Said> {
    before.iter().map(|(manager, said)| (*manager, said)).collect()
}
