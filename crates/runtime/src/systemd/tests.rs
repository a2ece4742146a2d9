//! Against a systemd that keeps units and can be told to fail.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use zbus::object_server::SignalEmitter;
use zbus::zvariant::OwnedValue;

use super::*;

type Properties = BTreeMap<String, OwnedValue>;

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    units: BTreeMap<String, Properties>,
    jobs: u32,
    /// What jobs end with, when not with "done".
    result: Option<&'static str>,
    /// Jobs never end.
    stuck: bool,
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum Refusal {
    UnitExists(String),
    NoSuchUnit(String),
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Fake {
    fn subscribe(&self) {}

    async fn start_transient_unit(
        &self,
        name: String,
        mode: String,
        properties: Vec<(String, OwnedValue)>,
        _auxiliary: Vec<(String, Vec<(String, OwnedValue)>)>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> std::result::Result<OwnedObjectPath, Refusal> {
        assert_eq!(mode, "replace");
        if self.state().units.contains_key(&name) {
            return Err(Refusal::UnitExists(name));
        }
        self.state().units.insert(name.clone(), properties.into_iter().collect());
        Ok(self.job(&name, &emitter).await)
    }

    async fn stop_unit(
        &self,
        name: String,
        _mode: String,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> std::result::Result<OwnedObjectPath, Refusal> {
        if self.state().units.remove(&name).is_none() {
            return Err(Refusal::NoSuchUnit(name));
        }
        Ok(self.job(&name, &emitter).await)
    }

    fn set_unit_properties(
        &self,
        name: String,
        runtime: bool,
        properties: Vec<(String, OwnedValue)>,
    ) -> std::result::Result<(), Refusal> {
        assert!(runtime, "a transient unit has nothing else");
        match self.state().units.get_mut(&name) {
            Some(unit) => unit.extend(properties),
            None => return Err(Refusal::NoSuchUnit(name)),
        }
        Ok(())
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

impl Fake {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    async fn job(&self, unit: &str, emitter: &SignalEmitter<'_>) -> OwnedObjectPath {
        let (id, result, stuck) = {
            let mut state = self.state();
            state.jobs += 1;
            (state.jobs, state.result.unwrap_or("done"), state.stuck)
        };
        let path = |id: u32| OwnedObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{id}")).unwrap();
        if !stuck {
            // Another one's comes first, and ours before the answer to the call.
            for (id, result) in [(id + 1000, "failed"), (id, result)] {
                Self::job_removed(emitter, id, path(id), unit.to_owned(), result.to_owned()).await.unwrap();
            }
        }
        path(id)
    }

    /// Serves one connection after the other.
    async fn serve(self, listener: tokio::net::UnixListener) {
        let mut open = Vec::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let guid = zbus::Guid::generate();
            let builder = zbus::connection::Builder::unix_stream(stream).server(guid).unwrap().p2p();
            open.push(builder.serve_at("/org/freedesktop/systemd1", self.clone()).unwrap().build().await.unwrap());
        }
    }
}

fn start(patience: Duration) -> (Fake, Systemd, tempfile::TempDir) {
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("private");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let fake = Fake::default();
    tokio::spawn(fake.clone().serve(listener));
    (fake, Systemd { peer: Some(socket), patience }, place)
}

fn number(unit: &Properties, name: &str) -> u64 {
    u64::try_from(&unit[name]).unwrap_or_else(|_| panic!("{name}: {:?}", unit[name]))
}

#[tokio::test]
async fn a_container_is_a_scope_with_its_limits_from_its_start_to_its_end() {
    let (fake, systemd, _place) = start(PATIENCE);
    let pod = Path::new("kubepods.slice/kubepods-pod1.slice");
    let path = leaf(pod, "abc");
    systemd.ensure_slice(pod).await.unwrap();
    systemd.ensure_slice(pod).await.expect("that it is there is fine");
    let limits = Limits {
        cpu_shares: Some(1024),
        cpu_quota: Some(12_345),
        cpu_period: Some(100_000),
        memory: Some(1 << 20),
        memory_swap: Some(1 << 20),
        pids: Some(7),
        ..Limits::default()
    };
    systemd.start_scope(&path, &limits, 42).await.unwrap();
    {
        let state = fake.state();
        let unit = &state.units["podd-abc.scope"];
        assert_eq!(<&str>::try_from(&unit["Slice"]).unwrap(), "kubepods-pod1.slice");
        assert_eq!(unit["PIDs"], OwnedValue::try_from(Value::from(vec![42_u32])).unwrap());
        assert!(bool::try_from(&unit["Delegate"]).unwrap());
        let expected = [
            ("CPUWeight", 100),
            // 12.345 % of a CPU, up to the next percent.
            ("CPUQuotaPerSecUSec", 130_000),
            ("CPUQuotaPeriodUSec", 100_000),
            ("MemoryMax", 1 << 20),
            ("MemorySwapMax", 0),
            ("TasksMax", 7),
        ];
        for (name, value) in expected {
            assert_eq!(number(unit, name), value, "{name}");
        }
    }
    let none = Limits { cpu_quota: Some(-1), memory: Some(-1), pids: Some(0), ..Limits::default() };
    systemd.update(&path, &none).await.unwrap();
    for name in ["CPUQuotaPerSecUSec", "MemoryMax", "TasksMax"] {
        assert_eq!(number(&fake.state().units["podd-abc.scope"], name), u64::MAX, "{name}");
    }
    systemd.stop(&path).await.unwrap();
    systemd.stop(&path).await.expect("what is gone is ended");
    assert_eq!(fake.state().units.keys().collect::<Vec<_>>(), ["kubepods-pod1.slice"]);
}

#[tokio::test]
async fn what_systemd_refuses_is_an_error_that_names_the_unit() {
    let (fake, systemd, _place) = start(PATIENCE);
    let path = leaf(Path::new("a.slice"), "x");
    fake.state().result = Some("failed");
    let error = systemd.start_scope(&path, &Limits::default(), 1).await.unwrap_err().chain();
    assert!(error.contains("podd-x.scope") && error.contains("failed"), "{error}");
    let error = systemd.start_scope(&path, &Limits::default(), 1).await.unwrap_err().chain();
    assert!(error.contains("UnitExists"), "a scope is not shared: {error}");
    let error = systemd.update(Path::new("a.slice/gone.scope"), &Limits::default()).await.unwrap_err().chain();
    assert!(error.contains("NoSuchUnit"), "{error}");
}

#[tokio::test]
async fn a_systemd_that_never_comes_to_an_end_is_not_waited_for() {
    let (fake, systemd, _place) = start(Duration::from_millis(300));
    fake.state().stuck = true;
    let error = systemd.ensure_slice(Path::new("a.slice")).await.unwrap_err().chain();
    assert!(error.contains("no answer within"), "{error}");
}
