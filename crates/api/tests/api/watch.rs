//! Watches: where they begin, what they tell of where they are, and how they end.

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher::{self, Event};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{MAPS, PATIENCE, Served, config_map, labelled, text, version};

fn told(what: &str, name: &str) -> (String, String) {
    (what.into(), name.into())
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark_that_says_so() {
    let served = Served::new().await;
    for name in ["a", "b"] {
        served.post(MAPS, &config_map(name)).await.ok(201);
    }
    let newest = served.version(MAPS).await;
    let path =
        format!("{MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    let mut events = served.watch(&path).await;
    assert_eq!(events.told().await, told("ADDED", "a"));
    assert_eq!(events.told().await, told("ADDED", "b"));
    let bookmark = events.soon().await.expect("a bookmark");
    assert_eq!((&bookmark["type"], &bookmark["object"]["kind"]), (&json!("BOOKMARK"), &json!("ConfigMap")));
    assert_eq!(bookmark["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    assert_eq!(version(&bookmark["object"]), newest);
    served.post(MAPS, &config_map("c")).await.ok(201);
    assert_eq!(events.told().await, told("ADDED", "c"));

    let without = path.replace("&resourceVersionMatch=NotOlderThan", "");
    assert_eq!(served.get(&without).await.refused(), (400, "BadRequest"));
    // Without initial events the watch begins now.
    let mut events = served.watch(&path.replace("Events=true", "Events=false")).await;
    served.post(MAPS, &config_map("d")).await.ok(201);
    assert_eq!(events.told().await, told("ADDED", "d"));
}

#[tokio::test]
async fn a_watch_begins_after_the_version_that_it_names_or_with_all_there_is() {
    let served = Served::new().await;
    let a = served.post(MAPS, &config_map("a")).await.ok(201);
    let b = served.post(MAPS, &config_map("b")).await.ok(201);
    served.delete(&format!("{MAPS}/a")).await.ok(200);
    let at = |object: &Value| format!("{MAPS}?watch=true&resourceVersion={}", version(object));
    let mut after_a = served.watch(&at(&a)).await;
    assert_eq!(after_a.told().await, told("ADDED", "b"));
    assert_eq!(after_a.told().await, told("DELETED", "a"));
    assert_eq!(served.watch(&at(&b)).await.told().await, told("DELETED", "a"));
    for all in ["", "&resourceVersion=0"] {
        assert_eq!(served.watch(&format!("{MAPS}?watch=true{all}")).await.told().await, told("ADDED", "b"));
    }
    // One that is not there yet is told so.
    let mut early = served.watch(&format!("{MAPS}?watch=1&resourceVersion=99999999")).await;
    let error = early.soon().await.expect("an event");
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(504)));
    assert!(early.soon().await.is_none());
    assert_eq!(served.get(&format!("{MAPS}?watch=true&resourceVersion=x")).await.refused(), (400, "BadRequest"));
}

#[tokio::test]
async fn through_a_selector_an_object_comes_and_goes_with_its_labels() {
    let served = Served::new().await;
    let start = served.version(MAPS).await;
    let path = format!("{MAPS}?watch=true&resourceVersion={start}&labelSelector=on%3Dyes");
    let mut selected = served.watch(&path).await;
    let path = format!("{MAPS}?watch=true&resourceVersion={start}&fieldSelector=metadata.name%3Db");
    let mut named = served.watch(&path).await;
    served.post(MAPS, &labelled(config_map("a"), json!({"on": "no"}))).await.ok(201);
    served.post(MAPS, &config_map("b")).await.ok(201);
    for on in ["yes", "no"] {
        served.merge(&format!("{MAPS}/a"), &json!({"metadata": {"labels": {"on": on}}})).await.ok(200);
    }
    assert_eq!(selected.told().await, told("ADDED", "a"));
    assert_eq!(selected.told().await, told("DELETED", "a"));
    assert_eq!(named.told().await, told("ADDED", "b"));
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_after_the_seconds_that_were_asked_for() {
    let served = Served::new().await;
    let start = Instant::now();
    let mut events = served.watch(&format!("{MAPS}?watch=true&timeoutSeconds=7")).await;
    assert_eq!(events.next().await, None);
    assert_eq!(start.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn bookmarks_come_once_a_minute_to_those_who_asked() {
    let served = Served::new().await;
    let made = served.post(MAPS, &config_map("a")).await.ok(201);
    // Another kind moves the version on, which the bookmark tells.
    let other = served.post("/api/v1/namespaces/default/secrets", &json!({"metadata": {"name": "s"}})).await.ok(201);
    let path = format!("{MAPS}?watch=true&resourceVersion={}&timeoutSeconds=150", version(&made));
    let mut silent = served.watch(&path).await;
    let mut marked = served.watch(&format!("{path}&allowWatchBookmarks=true")).await;
    for _ in 0..2 {
        let bookmark = marked.next().await.expect("a bookmark");
        assert_eq!(bookmark["type"], "BOOKMARK");
        assert_eq!(version(&bookmark["object"]), version(&other));
        assert!(bookmark["object"]["metadata"].get("annotations").is_none());
    }
    assert_eq!(marked.next().await, None);
    assert_eq!(silent.next().await, None);
}

#[tokio::test]
async fn a_watch_from_before_the_history_has_expired_and_so_has_one_that_falls_behind() {
    let served = Served::with(|config| config.history = 4).await;
    let start = served.version(MAPS).await;
    let path = format!("{MAPS}?watch=true&resourceVersion={start}");
    let mut slow = served.watch(&path).await;
    for n in 0..10 {
        served.post(MAPS, &config_map(&format!("m{n}"))).await.ok(201);
    }
    for events in [&mut slow, &mut served.watch(&path).await] {
        let error = events.soon().await.expect("an event");
        let status = &error["object"];
        assert_eq!((text(&error["type"]), text(&status["reason"])), ("ERROR".into(), "Expired".into()));
        assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(410)));
        assert!(text(&status["message"]).starts_with("too old resource version: "), "{status}");
        assert_eq!(events.soon().await, None);
    }
}

#[tokio::test]
async fn a_client_that_fell_behind_lists_again_and_misses_nothing() {
    let served = Served::with(|config| config.history = 4).await;
    let maps: kube::Api<ConfigMap> = kube::Api::default_namespaced(served.client());
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        served.delete(MAPS).await.ok(200);
        served.post(MAPS, &config_map("first")).await.ok(201);
        let mut events = watcher::watcher(maps.clone(), config).boxed();
        loop {
            let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("in time").expect("an event");
            if matches!(event.expect("no error"), Event::InitDone) {
                break;
            }
        }
        served.post(MAPS, &config_map("second")).await.ok(201);
        let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("in time").expect("an event");
        assert!(matches!(event.expect("no error"), Event::Apply(_)));
        // It doesn't read while more happens than the history holds.
        served.delete(&format!("{MAPS}/first")).await.ok(200);
        for n in 0..9 {
            served.post(MAPS, &config_map(&format!("m{n}"))).await.ok(201);
        }
        let (mut expired, mut listed) = (false, Vec::new());
        loop {
            let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("in time").expect("an event");
            match event {
                Err(watcher::Error::WatchError(status)) => expired = status.code == 410,
                Err(other) => panic!("{other}"),
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(map)) => listed.push(map.metadata.name.unwrap_or_default()),
                Ok(Event::InitDone) if expired => break,
                Ok(_) => {}
            }
        }
        listed.sort();
        assert_eq!(listed, ["m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "second"]);
    }
}

#[tokio::test]
async fn a_shutdown_ends_watches() {
    let served = Served::new().await;
    let mut events = served.watch(&format!("{MAPS}?watch=true")).await;
    served.api.shutdown().await.expect("an orderly end");
    assert_eq!(events.soon().await, None);
}
