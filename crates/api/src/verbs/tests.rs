//! Verbs on a store, without HTTP.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::body;
use crate::kinds::{KINDS, NAMESPACE, POD};
use crate::query::DeleteOptions;
use crate::store::{Key, Store, Transaction, Weight};
use crate::target::Target;

/// A store with the namespace `ns`.
struct Stored {
    store: Store,
    _directory: tempfile::TempDir,
}

fn context() -> Context {
    Context { node_name: "node".into(), now: "2026-11-26T12:00:00Z".into() }
}

fn options() -> WriteOptions {
    WriteOptions {
        dry_run: false,
        validation: FieldValidation::Warn,
        manager: Some("test".into()),
        client: String::new(),
        force: false,
    }
}

fn row(plural: &str) -> &'static Kind {
    KINDS.iter().find(|kind| kind.plural == plural).unwrap()
}

fn make(transaction: &mut Transaction<'_>, kind: &'static Kind, namespace: &str, object: Value) {
    let namespace = kind.namespaced.then(|| namespace.to_owned());
    let target = Target { kind, namespace, name: None, subresource: None };
    create(transaction, &target, object, &options(), &context(), Vec::new()).unwrap();
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

impl Stored {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("db"), 10).unwrap();
        let stored = Self { store, _directory: directory };
        stored.add_namespace("ns").await;
        stored
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&mut Transaction<'_>) -> T + Send + 'static) -> T {
        self.store.write(Weight::Full, false, |transaction| Ok(work(transaction))).await.unwrap()
    }

    async fn add_namespace(&self, name: &'static str) {
        self.run(move |transaction| make(transaction, NAMESPACE, "", json!({"metadata": {"name": name}}))).await;
    }
}

fn namespace_is_there(transaction: &Transaction<'_>) -> bool {
    transaction.get(NAMESPACE, &Key::new("", "ns")).is_some()
}

fn delete_namespace(transaction: &mut Transaction<'_>) -> Deleted {
    delete(transaction, NAMESPACE, &Key::new("", "ns"), &DeleteOptions::default(), &context()).unwrap()
}

#[tokio::test]
async fn the_place_of_a_wrong_type_is_not_looked_for_on_the_stores_thread() {
    let stored = Stored::new().await;
    let failure = stored.run(|transaction| {
        let object = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
        make(transaction, POD, "ns", object);
        let document = body::json(br#"{"spec": {"hostname": 3}}"#).unwrap();
        let target = Target { kind: POD, namespace: Some("ns".into()), name: Some("a".into()), subresource: None };
        patch(transaction, &target, Patch::Merge(document), &options(), &context()).err().unwrap()
    });
    let failure = failure.await;
    assert!(failure.is_unlocated());
    let located = failure.located();
    assert!(!located.is_unlocated());
    assert!(located.message().contains("spec.hostname: invalid type: integer `3`"), "{}", located.message());
}

#[tokio::test]
async fn a_namespace_goes_with_the_last_of_its_content_whichever_way_that_goes() {
    let content = |name: &str, finalizers: Value| {
        let mut object = config_map(name);
        object["metadata"]["finalizers"] = finalizers;
        object
    };
    let stored = Stored::new().await;
    stored.run(|transaction| assert!(delete_namespace(transaction).gone)).await;

    stored.add_namespace("ns").await;
    let maps = row("configmaps");
    stored
        .run(move |transaction| {
            make(transaction, maps, "ns", content("a", Value::Null));
            make(transaction, maps, "ns", content("b", json!(["x/y"])));
            assert!(!delete_namespace(transaction).gone);
            assert!(transaction.get(maps, &Key::new("ns", "a")).is_none());
            assert!(namespace_is_there(transaction));
        })
        .await;
    stored
        .run(move |transaction| {
            let target = Target { kind: maps, namespace: Some("ns".into()), name: Some("b".into()), subresource: None };
            let document = body::json(br#"{"metadata": {"finalizers": null}}"#).unwrap();
            patch(transaction, &target, Patch::Merge(document), &options(), &context()).unwrap();
            assert!(!namespace_is_there(transaction));
        })
        .await;
}

#[tokio::test]
async fn a_namespace_waits_for_what_is_left_of_a_collection_and_for_events() {
    let stored = Stored::new().await;
    let events = row("events");
    let event = |name: &str| {
        let about = json!({"kind": "Pod", "namespace": "ns", "name": "p"});
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "finalizers": ["x/y"]}, "involvedObject": about})
    };
    stored
        .run(move |transaction| {
            make(transaction, events, "ns", event("a"));
            make(transaction, events, "ns", event("b"));
            assert!(!delete_namespace(transaction).gone);
            let one = crate::selector::Selector::parse(events, "", "metadata.name=a").unwrap();
            // What is left waits for its finalizers.
            delete_collection(transaction, events, Some("ns"), &one, &DeleteOptions::default(), &context()).unwrap();
            assert!(namespace_is_there(transaction));
            assert_eq!(expire(transaction, Timestamp::MAX, Duration::from_secs(60)), 2);
            assert!(!namespace_is_there(transaction));
        })
        .await;
}

#[tokio::test]
async fn emptying_a_namespace_that_goes_costs_no_more_than_emptying_one_that_stays() {
    const MANY: usize = 4000;
    let stored = Stored::new().await;
    let maps = row("configmaps");
    let all = crate::selector::Selector::parse(maps, "", "").unwrap();
    let fill = |transaction: &mut Transaction<'_>| {
        (0..MANY).for_each(|n| make(transaction, maps, "ns", config_map(&format!("m{n}"))));
    };
    stored.run(fill).await;
    let staying = stored.run(move |transaction| {
        let start = Instant::now();
        delete_collection(transaction, maps, Some("ns"), &all, &DeleteOptions::default(), &context()).unwrap();
        start.elapsed()
    });
    let staying = staying.await;
    stored.run(fill).await;
    let going = stored.run(|transaction| {
        let start = Instant::now();
        assert!(delete_namespace(transaction).gone);
        start.elapsed()
    });
    let going = going.await;
    // Looking through what is left after each deletion takes dozens of times as long.
    assert!(going < 8 * staying, "{going:?} for one that goes, {staying:?} for one that stays");
}
