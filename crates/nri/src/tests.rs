//! Plugins over socket pairs: the order that they are called in, and what becomes of those that fail.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use prost::Message as _;
use tokio::net::UnixStream;

use crate::connection::code;
use crate::message::*;
use crate::{Config, Connection, Host, NriError, Plugins, Service, Side, Status};

const SOON: Duration = Duration::from_secs(5);

struct Nobody;

#[async_trait::async_trait]
impl Host for Nobody {
    async fn inventory(&self) -> (Vec<PodSandbox>, Vec<Container>) {
        let pod = PodSandbox { id: "there".into(), ..PodSandbox::default() };
        (vec![pod], Vec::new())
    }

    async fn update(self: Arc<Self>, _: Vec<ContainerUpdate>, _: Vec<ContainerEviction>) -> Vec<ContainerUpdate> {
        Vec::new()
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
