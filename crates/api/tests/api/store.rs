//! The store behind the API: what it holds is what a plain map would hold, and what it has acknowledged survives a
//! killed process.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use podd_api::{Api, Config};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::harness::{JSON, MAPS, Served, config_map, event, text, version};

/// One step of the model test; the names are few, so that steps meet.
#[derive(Debug, Clone)]
enum Step {
    Create { name: u8, value: u8, dry: bool },
    Update { name: u8, value: u8, stale: bool, dry: bool },
    Patch { name: u8, value: u8 },
    Delete { name: u8, dry: bool },
    DeleteValue { value: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let (name, value, dry) = (|| 0..4u8, || 0..3u8, || proptest::bool::weighted(0.2));
    prop_oneof![
        4 => (name(), value(), dry()).prop_map(|(name, value, dry)| Step::Create { name, value, dry }),
        3 => (name(), value(), any::<bool>(), dry())
            .prop_map(|(name, value, stale, dry)| Step::Update { name, value, stale, dry }),
        3 => (name(), value()).prop_map(|(name, value)| Step::Patch { name, value }),
        2 => (name(), dry()).prop_map(|(name, dry)| Step::Delete { name, dry }),
        1 => value().prop_map(|value| Step::DeleteValue { value }),
    ]
}

/// What the map knows of an object.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    value: u8,
    version: u64,
}

/// The state of the model: objects by name, and the newest version that was seen.
#[derive(Debug, Default)]
struct Model {
    objects: BTreeMap<u8, Known>,
    newest: u64,
}

fn object(name: u8, value: u8) -> Value {
    let mut map = config_map(&format!("m{name}"));
    map["metadata"]["labels"] = json!({"value": value.to_string()});
    map
}

fn known(object: &Value) -> Known {
    let value = text(&object["metadata"]["labels"]["value"]).parse().expect("a value");
    Known { value, version: version(object) }
}

impl Model {
    /// Takes the outcome of a write: the version grows when something changed, and only then.
    fn write(&mut self, name: u8, value: u8, answer: &Value) {
        let now = known(answer);
        assert_eq!(now.value, value);
        match self.objects.get(&name) {
            Some(before) if before.value == value => assert_eq!(now.version, before.version, "nothing changed"),
            _ => assert!(now.version > self.newest, "{} after {}", now.version, self.newest),
        }
        self.newest = self.newest.max(now.version);
        self.objects.insert(name, now);
    }

    /// Does a step on the server and on the map, and compares codes.
    async fn step(&mut self, served: &Served, step: &Step) {
        let path = |name: u8, dry: bool| format!("{MAPS}/m{name}{}", if dry { "?dryRun=All" } else { "" });
        match *step {
            Step::Create { name, value, dry } => {
                let collection = format!("{MAPS}{}", if dry { "?dryRun=All" } else { "" });
                let reply = served.post(&collection, &object(name, value)).await;
                let there = self.objects.contains_key(&name);
                assert_eq!(reply.code, if there { 409 } else { 201 });
                if !there && !dry {
                    self.write(name, value, &reply.body);
                }
            }
            Step::Update { name, value, stale, dry } => {
                let mut sent = object(name, value);
                let before = self.objects.get(&name).cloned();
                if let Some(before) = &before {
                    let version = if stale { before.version - 1 } else { before.version };
                    sent["metadata"]["resourceVersion"] = version.to_string().into();
                }
                let reply = served.put(&path(name, dry), &sent).await;
                let code = if before.is_none() {
                    404
                } else if stale {
                    409
                } else {
                    200
                };
                assert_eq!(reply.code, code, "{}", reply.text);
                if code == 200 && !dry {
                    self.write(name, value, &reply.body);
                }
            }
            Step::Patch { name, value } => {
                let patch = json!({"metadata": {"labels": {"value": value.to_string()}}});
                let reply = served.merge(&path(name, false), &patch).await;
                assert_eq!(reply.code, if self.objects.contains_key(&name) { 200 } else { 404 });
                if reply.code == 200 {
                    self.write(name, value, &reply.body);
                }
            }
            Step::Delete { name, dry } => {
                let reply = served.delete(&path(name, dry)).await;
                assert_eq!(reply.code, if self.objects.contains_key(&name) { 200 } else { 404 });
                if !dry {
                    self.objects.remove(&name);
                }
            }
            Step::DeleteValue { value } => {
                let deleted = served.delete(&format!("{MAPS}?labelSelector=value%3D{value}")).await.ok(200);
                let count = deleted["items"].as_array().map_or(0, Vec::len);
                let before = self.objects.len();
                self.objects.retain(|_, known| known.value != value);
                assert_eq!(count, before - self.objects.len());
            }
        }
    }

    async fn check(&self, served: &Served) {
        let list = served.get(MAPS).await.ok(200);
        assert_eq!(listed(&list), self.objects);
        assert!(version(&list) >= self.newest);
    }
}

fn number(name: &Value) -> u8 {
    text(name)[1..].parse().expect("a number")
}

fn listed(list: &Value) -> BTreeMap<u8, Known> {
    let items = list["items"].as_array().expect("items");
    items.iter().map(|item| (number(&item["metadata"]["name"]), known(item))).collect()
}

/// What a watcher that began with nothing holds after all events up to `end`.
async fn replayed(served: &Served, start: u64, end: u64) -> BTreeMap<u8, Known> {
    let mut events = served.watch(&format!("{MAPS}?watch=true&resourceVersion={start}")).await;
    let mut seen = BTreeMap::new();
    let mut reached = start;
    while reached < end {
        let event = events.soon().await.expect("an event");
        let object = &event["object"];
        assert!(version(object) > reached, "events are in order");
        reached = version(object);
        let name = number(&object["metadata"]["name"]);
        let before = match text(&event["type"]).as_str() {
            "DELETED" => seen.remove(&name).is_some(),
            "ADDED" => seen.insert(name, known(object)).is_none(),
            "MODIFIED" => seen.insert(name, known(object)).is_some(),
            other => panic!("{other}"),
        };
        assert!(before, "{event} does not follow from what was told before");
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_holds_what_a_map_would_hold(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let served = Served::new().await;
            let mut model = Model::default();
            let start = served.version(MAPS).await;
            model.newest = start;
            for step in &steps {
                model.step(&served, step).await;
                model.check(&served).await;
            }
            // A marker, so that the watcher knows that it has seen all.
            let last = served.post(MAPS, &object(9, 0)).await.ok(201);
            model.objects.insert(9, known(&last));
            assert_eq!(replayed(&served, start, version(&last)).await, model.objects);
            // From the file it is the same again, and no version is given out twice.
            let Served { api, directory, .. } = served;
            api.shutdown().await.expect("an orderly end");
            let database = directory.path().join("db");
            let again = Served::with(move |config| config.database = database).await;
            assert_eq!(listed(&again.get(MAPS).await.ok(200)), model.objects);
            let more = again.post(MAPS, &object(8, 0)).await.ok(201);
            assert!(version(&more) > version(&last));
            again.api.shutdown().await.expect("an orderly end");
        });
    }
}

/// The code that a step gets, and the map after it; `None` for a step that the caller does not send.
fn expected(objects: &mut BTreeMap<u8, u8>, step: &Step) -> Option<u16> {
    let (code, change) = match *step {
        Step::Create { name, .. } if objects.contains_key(&name) => (409, None),
        Step::Create { name, value, dry } => (201, (!dry).then_some((name, Some(value)))),
        Step::Patch { name, .. } if !objects.contains_key(&name) => (404, None),
        Step::Patch { name, value } => (200, Some((name, Some(value)))),
        Step::Delete { name, .. } if !objects.contains_key(&name) => (404, None),
        Step::Delete { name, dry } => (200, (!dry).then_some((name, None))),
        // These need answers of steps before.
        Step::Update { .. } | Step::DeleteValue { .. } => return None,
    };
    match change {
        Some((name, Some(value))) => drop(objects.insert(name, value)),
        Some((name, None)) => drop(objects.remove(&name)),
        None => {}
    }
    Some(code)
}

/// Requests that are under way at a time; few enough that the runtime lets each come to the queue in its turn.
const TOGETHER: usize = 25;

/// Sends a step without a look at what it does; its code.
async fn send(served: &Served, step: &Step) -> u16 {
    let dry_run = |dry: bool| if dry { "?dryRun=All" } else { "" };
    match *step {
        Step::Create { name, value, dry } => {
            served.post(&format!("{MAPS}{}", dry_run(dry)), &object(name, value)).await
        }
        Step::Patch { name, value } => {
            let patch = json!({"metadata": {"labels": {"value": value.to_string()}}});
            served.merge(&format!("{MAPS}/m{name}"), &patch).await
        }
        Step::Delete { name, dry } => served.delete(&format!("{MAPS}/m{name}{}", dry_run(dry))).await,
        Step::Update { .. } | Step::DeleteValue { .. } => unreachable!("it is not sent"),
    }
    .code
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// While the first is on its way to the disk the others queue up, and share one commit: each sees what those before it
    /// did, and nothing of those that were refused or only tried.
    #[test]
    fn requests_of_one_commit_follow_each_other(steps in proptest::collection::vec(step(), 1..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let served = Served::new().await;
            let start = served.version(MAPS).await;
            let mut objects = BTreeMap::new();
            let (sent, codes): (Vec<&Step>, Vec<u16>) =
                steps.iter().filter_map(|step| Some((step, expected(&mut objects, step)?))).unzip();
            let mut answers = Vec::new();
            for together in sent.chunks(TOGETHER) {
                answers.extend(futures::future::join_all(together.iter().map(|step| send(&served, step))).await);
            }
            assert_eq!(answers, codes, "{sent:?}");
            let found = listed(&served.get(MAPS).await.ok(200));
            assert_eq!(found.iter().map(|(name, known)| (*name, known.value)).collect::<BTreeMap<_, _>>(), objects);
            let last = served.post(MAPS, &object(9, 0)).await.ok(201);
            let mut replayed = replayed(&served, start, version(&last)).await;
            replayed.remove(&9);
            assert_eq!(replayed, found);
            served.api.shutdown().await.expect("an orderly end");
        });
    }
}

/// Where the process that is killed finds its database.
const DATABASE: &str = "PODD_API_TEST_DATABASE";
/// Writers in that process: some of config maps, some of events, which are visible before they are durable.
const WRITERS: u64 = 6;

/// The path of a writer's object.
fn path(writer: u64) -> String {
    let plural = if writer.is_multiple_of(2) { "configmaps" } else { "events" };
    format!("/api/v1/namespaces/default/{plural}/w{writer}")
}

/// What the object of a writer holds after its `n`th write: every fifth is a deletion.
fn state(n: u64) -> Option<String> {
    (!n.is_multiple_of(5)).then(|| n.to_string())
}

/// The `n`th write of a writer; returns the version that it got (0: a deletion told none).
async fn write(served: &Served, writer: u64, n: u64) -> u64 {
    let path = path(writer);
    let collection = path.rsplit_once('/').expect("a path").0;
    let noted = json!({"metadata": {"annotations": {"n": n.to_string()}}});
    match n % 5 {
        0 => {
            served.delete(&path).await.ok(200);
            0
        }
        1 => {
            let name = format!("w{writer}");
            let mut object = if writer.is_multiple_of(2) { config_map(&name) } else { event(&name) };
            object["metadata"]["annotations"] = noted["metadata"]["annotations"].clone();
            version(&served.post(collection, &object).await.ok(201))
        }
        _ => version(&served.ask("PATCH", &path, crate::harness::MERGE, noted.to_string()).await.ok(200)),
    }
}

/// The numbers of writes that a writer's object may be at, given what the database holds.
async fn found(served: &Served, writer: u64) -> Option<String> {
    let reply = served.get(&path(writer)).await;
    (reply.code == 200).then(|| text(&reply.body["metadata"]["annotations"]["n"]))
}

/// Not a test of its own: the process that the next test starts and kills.
#[test]
#[ignore = "started by a_killed_server_has_kept_what_it_acknowledged"]
fn the_server_that_is_killed() {
    let database = std::env::var_os(DATABASE).expect("a database: this is started by another test");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let served = Served::with(move |config| config.database = database.into()).await;
        let served: &'static Served = Box::leak(Box::new(served));
        static NEWEST: AtomicU64 = AtomicU64::new(0);
        let writers = (0..WRITERS).map(|writer| {
            tokio::spawn(async move {
                // It goes on where the last one was killed.
                let last = found(served, writer).await.map_or(0, |n| n.parse().expect("a number"));
                for n in last + 1.. {
                    let version = write(served, writer, n).await;
                    let newest = NEWEST.fetch_max(version, Ordering::SeqCst).max(version);
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "ack {writer} {n} {newest}").and_then(|()| out.flush()).expect("a listener");
                }
            })
        });
        futures::future::join_all(writers).await;
    });
}

/// Starts the server, kills it after so many acknowledgements; tells the last of each writer and the newest version.
fn killed_after(database: &Path, count: usize) -> (BTreeMap<u64, u64>, u64) {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "store::the_server_that_is_killed", "--ignored", "--nocapture"])
        .env(DATABASE, database)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a server");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let (mut last, mut newest, mut acknowledged) = (BTreeMap::new(), 0, 0);
    for line in lines.map_while(Result::ok) {
        let mut words = line.split_once("ack ").map_or("", |(_, rest)| rest).split(' ').map(str::parse::<u64>);
        let (Some(Ok(writer)), Some(Ok(n)), Some(Ok(version))) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        last.insert(writer, n);
        newest = newest.max(version);
        acknowledged += 1;
        if acknowledged == count {
            child.kill().expect("a kill");
        }
    }
    child.wait().expect("an end");
    assert!(acknowledged >= count, "it ended by itself after {acknowledged} writes");
    (last, newest)
}

#[test]
fn a_killed_server_has_kept_what_it_acknowledged() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for count in [1, 10, 60, 300] {
        let directory = tempfile::tempdir().expect("a directory");
        let database = directory.path().join("killed");
        let (last, newest) = killed_after(&database, count);
        runtime.block_on(async {
            let served = Served::with(|config| config.database = database.clone()).await;
            for (writer, n) in last {
                let found = found(&served, writer).await;
                // The write after the last acknowledged one was under way: it is there or it is not.
                let fits = [state(n), state(n + 1)];
                assert!(fits.contains(&found), "writer {writer}: {found:?} after the {n}th of {count} writes");
            }
            let more = served.post(MAPS, &config_map("more")).await.ok(201);
            assert!(version(&more) > newest, "a version was given out twice");
            served.api.shutdown().await.expect("an orderly end");
        });
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_told_and_left_as_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("db");
    std::fs::write(&path, "not a database").expect("a file");
    let Err(error) = Api::open(Config::new(&path, "node")).await else { panic!("it was opened") };
    assert_eq!(error.to_string(), format!("open database {}", path.display()));
    assert_eq!(std::fs::read(&path).expect("the file"), b"not a database");
    let missing = directory.path().join("missing/db");
    assert!(Api::open(Config::new(missing, "node")).await.is_err());
}

#[tokio::test]
async fn writes_after_a_shutdown_are_refused() {
    let served = Served::new().await;
    let router = served.api.router();
    let Served { api, .. } = served;
    api.shutdown().await.expect("an orderly end");
    use tower::ServiceExt as _;
    let request = http::Request::post(MAPS)
        .header("Content-Type", JSON)
        .body(axum::body::Body::from(config_map("a").to_string()));
    let response = router.oneshot(request.expect("a request")).await.expect("an answer");
    assert_eq!(crate::harness::Reply::of(response).await.refused(), (503, "ServiceUnavailable"));
}
