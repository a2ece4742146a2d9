//! Plugins over socket pairs: the order that they are called in, and what becomes of those that fail.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use prost::Message as _;
use tokio::net::UnixStream;

use crate::connection::code;
use crate::message::*;
use crate::{CallError, Config, Connection, Host, NriError, Plugins, Service, Side, Status};

const SOON: Duration = Duration::from_secs(5);

struct Nobody;

#[async_trait::async_trait]
impl Host for Nobody {
    async fn inventory(&self) -> (Vec<PodSandbox>, Vec<Container>) {
        let pod = PodSandbox { id: "there".into(), ..PodSandbox::default() };
        (vec![pod], Vec::new())
    }

    async fn update(
        self: Arc<Self>,
        updates: Vec<ContainerUpdate>,
        evict: Vec<ContainerEviction>,
    ) -> Vec<ContainerUpdate> {
        assert_eq!(evict.len(), 1);
        updates.into_iter().filter(|update| update.container_id == "bad").collect()
    }
}

type Answer = Option<Result<Vec<u8>, Status>>;

/// A plugin that notes what it is called for, and answers as `answer` says; `None` never.
struct Stub {
    name: &'static str,
    log: Arc<Mutex<Vec<String>>>,
    answer: Box<dyn Fn(&str) -> Answer + Send + Sync>,
}

#[async_trait::async_trait]
impl Service for Stub {
    async fn call(&self, service: &str, method: &str, _: &[u8]) -> Result<Vec<u8>, Status> {
        assert_eq!(service, PLUGIN_SERVICE);
        self.log.lock().unwrap().push(format!("{} {method}", self.name));
        match (self.answer)(method) {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

struct Bench {
    plugins: Arc<Plugins>,
    log: Arc<Mutex<Vec<String>>>,
    _host: Arc<Nobody>,
}

impl Bench {
    fn new() -> Self {
        let host = Arc::new(Nobody);
        let weak: Weak<dyn Host> = Arc::downgrade(&(host.clone() as Arc<dyn Host>));
        let config = Config { request_timeout: Duration::from_millis(200), ..Config::new("/nowhere") };
        Self { plugins: Arc::new(Plugins::new(config, weak)), log: Arc::default(), _host: host }
    }

    /// Connects a plugin, and waits until it has been told what there is.
    async fn connect(
        &self,
        index: &str,
        name: &'static str,
        answer: impl Fn(&str) -> Answer + Send + Sync + 'static,
    ) -> Connection {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let plugins = Arc::clone(&self.plugins);
        tokio::spawn(async move { plugins.attend(ours).await });
        let stub = Stub { name, log: Arc::clone(&self.log), answer: Box::new(answer) };
        let connection = Connection::start(theirs, Side::Plugin, Arc::new(stub));
        let request = RegisterPluginRequest {
            plugin_name: name.into(),
            plugin_idx: index.into(),
            ..RegisterPluginRequest::default()
        };
        let _registered: Empty = connection.call(RUNTIME_SERVICE, "RegisterPlugin", &request, SOON).await.unwrap();
        self.until(|log| log.contains(&format!("{name} Synchronize"))).await;
        // It is in the list from the moment that the gate is free again.
        drop(self.plugins.enter().await);
        connection
    }

    async fn until(&self, mut done: impl FnMut(&[String]) -> bool) {
        let wait = async {
            while !done(&self.log.lock().unwrap()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(SOON, wait).await.expect("it happens soon");
    }

    fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

fn well(_: &str) -> Answer {
    Some(Ok(Vec::new()))
}

fn pod() -> PodSandbox {
    PodSandbox { id: "p".into(), ..PodSandbox::default() }
}

#[tokio::test]
async fn plugins_are_called_by_index_and_may_refuse() {
    let bench = Bench::new();
    let _late = bench.connect("20", "late", well).await;
    let refuse = |method: &str| match method {
        "RunPodSandbox" => Some(Err(Status::new(code::UNKNOWN, "not today"))),
        _ => well(method),
    };
    let early = bench.connect("10", "early", refuse).await;
    bench.take_log();
    let refused = bench.plugins.tell(Event::RunPodSandbox, &pod(), None).await.unwrap_err();
    assert!(matches!(&refused, NriError::Call { plugin, .. } if plugin == "10-early"), "{refused}");
    assert!(refused.to_string().contains("not today"), "{refused}");
    assert_eq!(bench.take_log(), ["early RunPodSandbox"], "those after it are not told");
    early.close();
    tokio::time::timeout(SOON, async {
        while bench.plugins.tell(Event::RunPodSandbox, &pod(), None).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("one that has gone is asked no more");
}

#[tokio::test]
async fn a_plugin_that_does_not_answer_is_closed_and_holds_nobody_up() {
    let bench = Bench::new();
    let hang = |method: &str| if method == "StopPodSandbox" { None } else { well(method) };
    let hanging = bench.connect("10", "hanging", hang).await;
    let _other = bench.connect("20", "other", well).await;
    bench.plugins.tell(Event::StopPodSandbox, &pod(), None).await.unwrap();
    tokio::time::timeout(SOON, hanging.closed()).await.expect("it is closed");
    assert!(bench.take_log().contains(&"other StopPodSandbox".to_owned()));
}

#[tokio::test]
async fn only_what_a_plugin_asked_for_is_told() {
    let bench = Bench::new();
    let events = 1 << (Event::StopPodSandbox as i32 - 1);
    let configure = move |method: &str| match method {
        "Configure" => Some(Ok(ConfigureResponse { events }.encode_to_vec())),
        _ => well(method),
    };
    let _plugin = bench.connect("10", "choosy", configure).await;
    bench.take_log();
    bench.plugins.tell(Event::RunPodSandbox, &pod(), None).await.unwrap();
    bench.plugins.tell(Event::StopPodSandbox, &pod(), None).await.unwrap();
    assert_eq!(bench.take_log(), ["choosy StopPodSandbox"]);
}

#[tokio::test]
async fn what_several_plugins_want_is_one_adjustment_or_a_conflict() {
    let bench = Bench::new();
    let wants = |name: &'static str, value: &'static str| {
        move |method: &str| match method {
            "CreateContainer" => {
                let env = vec![KeyValue { key: name.into(), value: value.into() }];
                let adjust = Some(ContainerAdjustment { env, ..ContainerAdjustment::default() });
                Some(Ok(CreateContainerResponse { adjust, ..CreateContainerResponse::default() }.encode_to_vec()))
            }
            _ => well(method),
        }
    };
    let _one = bench.connect("10", "one", wants("A", "1")).await;
    let two = bench.connect("20", "two", wants("B", "2")).await;
    let created = bench.plugins.create(&pod(), Container::default()).await.unwrap();
    let names: Vec<&str> = created.adjust.env.iter().map(|variable| variable.key.as_str()).collect();
    assert_eq!(names, ["A", "B"]);
    two.close();
    let _three = bench.connect("30", "three", wants("A", "3")).await;
    let conflict = bench.plugins.create(&pod(), Container::default()).await.unwrap_err();
    assert!(matches!(conflict, NriError::Conflict(_)), "{conflict}");
}

#[tokio::test]
async fn a_new_plugin_waits_for_operations_under_way() {
    let bench = Bench::new();
    let gate = bench.plugins.enter().await;
    let connecting = bench.connect("10", "new", well);
    tokio::pin!(connecting);
    let early = tokio::time::timeout(Duration::from_millis(50), &mut connecting).await;
    assert!(early.is_err() && !bench.take_log().contains(&"new Synchronize".to_owned()));
    drop(gate);
    connecting.await;
    assert!(!bench.plugins.is_idle());
}

/// A plugin's end of a connection on which nobody has registered.
fn strange(plugins: &Arc<Plugins>) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let plugins = Arc::clone(plugins);
    tokio::spawn(async move { plugins.attend(ours).await });
    theirs
}

#[tokio::test]
async fn a_registration_that_makes_no_sense_is_refused() {
    let bench = Bench::new();
    let stub = || Arc::new(Stub { name: "a", log: Arc::default(), answer: Box::new(well) });
    for (index, name) in [("1", "a"), ("xx", "a"), ("001", "a"), ("00", "")] {
        let connection = Connection::start(strange(&bench.plugins), Side::Plugin, stub());
        let request =
            RegisterPluginRequest { plugin_name: name.into(), plugin_idx: index.into(), ..Default::default() };
        let answer: Result<Empty, _> = connection.call(RUNTIME_SERVICE, "RegisterPlugin", &request, SOON).await;
        assert!(
            matches!(answer, Err(CallError::Refused(status)) if status.code == code::INVALID_ARGUMENT),
            "{index:?} {name:?}"
        );
    }
    let connection = Connection::start(strange(&bench.plugins), Side::Plugin, stub());
    let request = UpdateContainersRequest::default();
    let early: Result<UpdateContainersResponse, _> =
        connection.call(RUNTIME_SERVICE, "UpdateContainers", &request, SOON).await;
    assert!(matches!(early, Err(CallError::Refused(status)) if status.code == code::FAILED_PRECONDITION));
}

#[tokio::test]
async fn an_older_plugin_is_told_by_state_change() {
    let bench = Bench::new();
    let _old = bench
        .connect("00", "old", |method| match method {
            "RunPodSandbox" => Some(Err(Status::new(code::UNIMPLEMENTED, "no such call"))),
            _ => Some(Ok(Vec::new())),
        })
        .await;
    bench.take_log();
    for _ in 0..2 {
        bench.plugins.tell(Event::RunPodSandbox, &pod(), None).await.unwrap();
    }
    // The call of its own is tried once.
    assert_eq!(bench.take_log(), ["old RunPodSandbox", "old StateChange", "old StateChange"]);
}

#[tokio::test]
async fn a_plugin_that_wants_unknown_events_is_turned_away() {
    let bench = Bench::new();
    let answer = |_: &str| Some(Ok(ConfigureResponse { events: 1 << 20 }.encode_to_vec()));
    let stub = Stub { name: "odd", log: Arc::default(), answer: Box::new(answer) };
    let connection = Connection::start(strange(&bench.plugins), Side::Plugin, Arc::new(stub));
    let request = RegisterPluginRequest { plugin_name: "odd".into(), plugin_idx: "00".into(), ..Default::default() };
    let _registered: Empty = connection.call(RUNTIME_SERVICE, "RegisterPlugin", &request, SOON).await.unwrap();
    tokio::time::timeout(SOON, connection.closed()).await.expect("it is closed");
    assert!(bench.plugins.is_idle());
}

#[tokio::test]
async fn a_validator_can_reject_what_the_others_want() {
    let bench = Bench::new();
    let _validator = bench
        .connect("00", "v", |method| {
            let rejected = ValidateContainerAdjustmentResponse { reject: true, reason: "no such thing".into() };
            Some(Ok(match method {
                "ValidateContainerAdjustment" => rejected.encode_to_vec(),
                _ => Vec::new(),
            }))
        })
        .await;
    let error = bench.plugins.create(&pod(), Container::default()).await.unwrap_err().to_string();
    assert_eq!(error, "NRI plugin \"00-v\" rejected the container: no such thing");
}

#[tokio::test]
async fn a_plugin_learns_which_of_its_updates_failed_and_is_told_of_the_end() {
    let bench = Bench::new();
    let connection = bench.connect("00", "a", well).await;
    let update = |id: &str| ContainerUpdate { container_id: id.into(), ..ContainerUpdate::default() };
    let evict = vec![ContainerEviction { container_id: "c".into(), reason: "a test".into() }];
    let request = UpdateContainersRequest { update: vec![update("good"), update("bad")], evict };
    let answer: UpdateContainersResponse =
        connection.call(RUNTIME_SERVICE, "UpdateContainers", &request, SOON).await.unwrap();
    assert_eq!(answer.failed, [update("bad")]);
    bench.take_log();
    bench.plugins.close().await;
    assert_eq!(bench.take_log(), ["a Shutdown"]);
    tokio::time::timeout(SOON, connection.closed()).await.expect("it is closed");
}

#[tokio::test]
async fn garbage_closes_the_connection_that_it_came_on() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let bench = Bench::new();
    let unknown_kind = [0, 0, 0, 2, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 1, 9, 0];
    for garbage in [&[0xff; 64][..], b"GET / HTTP/1.1\r\n\r\n", &unknown_kind] {
        let mut socket = strange(&bench.plugins);
        socket.write_all(garbage).await.unwrap();
        let mut end = Vec::new();
        tokio::time::timeout(SOON / 2, socket.read_to_end(&mut end)).await.expect("it is closed").unwrap();
    }
}
