//! A runtime in memory, for the tests of whatever manages pods. It keeps state and the rules of CRI,
//! can be told to fail and to lose things, and has no clock and no randomness of its own: the same
//! calls at the same times give the same world.
//!
//! ```ignore
//! let clock = ManualClock::new(0);
//! let fake = FakeRuntime::new(clock.clone());
//! fake.behave("web", [Behaviour::exit_after(Duration::from_secs(3), 1), Behaviour::run_forever()]);
//! fake.inject("StartContainer", Fault::LoseAnswer, 1);
//! let (runtime, images): (Arc<dyn RuntimeService>, Arc<dyn ImageService>) = fake.services();
//! ```
//! Things that take time happen when the clock says so: a container ends when its time has come, and a
//! watcher hears of it then; whoever only asks sees it at the next call.

mod clock;
mod images;
mod runtime;
mod script;
mod state;
mod view;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tonic::{Code, Response, Status};

use self::clock::nanos;
pub use self::clock::{Clock, ManualClock, TokioClock};
pub use self::script::{Behaviour, Chooser, ExecReply, ExecScript, Fault, OnStop, Pull};
use self::script::{Script, call_named};
use self::state::{End, World};
use crate::v1::{ContainerEventResponse, ContainerStatus, Image, PodSandboxStatus};
use crate::{ImageService, RuntimeService};

/// Events that a watcher may be behind; its stream ends when it is more.
const BEHIND: usize = 4096;

/// The runtime. Clones are the same one.
#[derive(Clone)]
pub struct FakeRuntime(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    inside: Mutex<Inside>,
    /// Counts crashes; who waits inside a call waits on this too.
    crashes: watch::Sender<u64>,
    /// Touched when something may happen earlier than was thought.
    changes: watch::Sender<u64>,
}

struct Inside {
    world: World,
    /// What a crash falls back to, while records are held back.
    recorded: Option<World>,
    script: Script,
    watchers: Vec<mpsc::Sender<Result<ContainerEventResponse, Status>>>,
    calls: Vec<Call>,
    runtime_ready: bool,
    network_ready: bool,
}

/// A call that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it came in.
    pub at: i64,
    /// Its name in the protocol, such as `StartContainer`.
    pub name: &'static str,
    /// The sandbox, container or image it is about, if there is one.
    pub subject: String,
}

/// The world at one moment, in the order in which things were made.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// All sandboxes.
    pub sandboxes: Vec<PodSandboxStatus>,
    /// All containers, each with its sandbox's id.
    pub containers: Vec<(String, ContainerStatus)>,
    /// All images.
    pub images: Vec<Image>,
}

impl FakeRuntime {
    /// An empty world that lives by `clock`. Every image can be pulled, at once.
    pub fn new(clock: impl Clock) -> Self {
        let inside = Inside {
            world: World::default(),
            recorded: None,
            script: Script::default(),
            watchers: Vec::new(),
            calls: Vec::new(),
            runtime_ready: true,
            network_ready: true,
        };
        Self(Arc::new(Inner {
            clock: Arc::new(clock),
            inside: Mutex::new(inside),
            crashes: watch::Sender::new(0),
            changes: watch::Sender::new(0),
        }))
    }

    /// Both services, as the seam wants them.
    #[must_use]
    pub fn services(&self) -> (Arc<dyn RuntimeService>, Arc<dyn ImageService>) {
        (Arc::new(self.clone()), Arc::new(self.clone()))
    }

    // ---- How things behave ----

    /// Containers of this name behave like this: the first as the first says, later ones as the last.
    /// The name is `container`, or `namespace/pod/container`, which goes before.
    pub fn behave(&self, name: &str, behaviours: impl IntoIterator<Item = Behaviour>) {
        let behaviours = behaviours.into_iter().collect();
        self.script(|script| script.behaviours.insert(name.to_owned(), behaviours));
    }

    /// Pulls of this image go like this from now on.
    pub fn pull(&self, image: &str, pull: Pull) {
        self.script(|script| script.pulls.insert(images::full_name(image), pull));
    }

    /// The image is there.
    pub fn add_image(&self, name: &str) -> Image {
        let image = images::image(name);
        self.world(|world| world.images.insert(image.id.clone(), image.clone()));
        image
    }

    /// `ExecSync` is answered by this, given the container's name and the command.
    pub fn on_exec(&self, exec: impl FnMut(&str, &[String]) -> ExecReply + Send + 'static) {
        self.script(|script| script.exec = Some(Box::new(exec)));
    }

    /// `Exec`, `Attach` and `PortForward` answer with this address.
    pub fn stream_at(&self, url: &str) {
        self.script(|script| script.streaming_url = Some(url.to_owned()));
    }

    /// What `Status` says.
    pub fn set_ready(&self, runtime: bool, network: bool) {
        let mut inside = self.inside();
        (inside.runtime_ready, inside.network_ready) = (runtime, network);
    }

    // ---- What goes wrong ----

    /// The next `times` calls of this name meet this fault. Faults of one call queue up.
    ///
    /// # Panics
    /// When the protocol has no such call.
    pub fn inject(&self, call: &str, fault: Fault, times: usize) {
        let name = call_named(call);
        let faults = std::iter::repeat_n(fault, times);
        self.script(|script| script.faults.entry(name).or_default().extend(faults));
    }

    /// The next `times` calls of this name are refused.
    ///
    /// # Panics
    /// When the protocol has no such call.
    pub fn fail(&self, call: &str, times: usize, code: Code) {
        self.inject(call, Fault::Refuse(code, format!("{call} was told to fail")), times);
    }

    /// Asked before each call for which no fault is queued.
    pub fn choose_faults(&self, chooser: impl FnMut(&'static str) -> Option<Fault> + Send + 'static) {
        self.script(|script| script.chooser = Some(Box::new(chooser)));
    }

    /// Nothing goes wrong any more: queued faults, lost events and the chooser are forgotten.
    pub fn heal(&self) {
        self.script(|script| {
            script.faults.clear();
            script.chooser = None;
            script.lose_events = 0;
        });
    }

    /// The next `count` events reach nobody.
    pub fn lose_events(&self, count: usize) {
        self.script(|script| script.lose_events = count);
    }

    /// From now on nothing is recorded: a crash falls back to what is there now.
    pub fn hold_records(&self) {
        self.settle();
        let mut inside = self.inside();
        inside.recorded = Some(inside.world.clone());
    }

    /// Records everything, and from now on all at once.
    pub fn record(&self) {
        self.inside().recorded = None;
    }

    /// The runtime dies and comes back: calls under way fail, event streams end, what was not recorded
    /// is forgotten. Containers go on, and ids are not used again.
    pub fn crash(&self) {
        self.settle();
        {
            let mut inside = self.inside();
            if let Some(recorded) = inside.recorded.take() {
                let made = inside.world.made;
                inside.world = World { made, ..recorded };
            }
            inside.watchers.clear();
        }
        self.0.crashes.send_modify(|count| *count += 1);
    }

    /// The machine starts anew: as a crash, and nothing runs any more.
    pub fn reboot(&self) {
        self.crash();
        let now = self.now();
        self.world(|world| {
            for sandbox in world.sandboxes.keys().cloned().collect::<Vec<_>>() {
                world.lose_sandbox(now, &sandbox, |now| End::exit(now, 255).because("Unknown"));
            }
        });
    }

    /// A container ends now by itself with this code.
    pub fn end_container(&self, id: &str, code: i32) {
        let now = self.now();
        self.world(|world| world.end(id, End::exit(now, code)));
    }

    /// A container is killed for its memory now.
    pub fn oom_kill(&self, id: &str) {
        let now = self.now();
        self.world(|world| world.end(id, End::exit(now, 137).because("OOMKilled")));
    }

    /// A sandbox's shim dies now: it is not ready any more, and nobody knows how its containers ended.
    pub fn lose_sandbox(&self, id: &str) {
        let now = self.now();
        let end = |now| End::exit(now, 137).because("ContainerStatusUnknown");
        self.world(|world| world.lose_sandbox(now, id, end));
    }

    // ---- What can be seen ----

    /// All there is now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.world(|world| Snapshot {
            sandboxes: world.sandboxes.values().map(state::Sandbox::status).collect(),
            containers: world
                .containers
                .values()
                .map(|container| (container.sandbox_id.clone(), world.status_of(container)))
                .collect(),
            images: world.images.values().cloned().collect(),
        })
    }

    /// The newest container of this name, in whatever pod.
    #[must_use]
    pub fn container_named(&self, name: &str) -> Option<ContainerStatus> {
        let named = |status: &ContainerStatus| status.metadata.as_ref().is_some_and(|metadata| metadata.name == name);
        let containers = self.snapshot().containers;
        containers.into_iter().map(|(_, status)| status).rfind(named)
    }

    /// The calls since the last time that this was asked.
    #[must_use]
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.inside().calls)
    }

    /// When the next thing happens by itself, if anything will: how far a simulation may move its clock.
    #[must_use]
    pub fn next_change(&self) -> Option<i64> {
        self.world(|world| world.next_change())
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> i64 {
        self.0.clock.now()
    }

    // ---- For the services ----

    fn inside(&self) -> std::sync::MutexGuard<'_, Inside> {
        self.0.inside.lock().expect("nothing panics while it holds this")
    }

    fn script<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut self.inside().script)
    }

    /// Lets happen what is due, then looks at or changes the world, then tells the watchers.
    fn world<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        self.world_and_script(|world, _| change(world))
    }

    fn world_and_script<T>(&self, change: impl FnOnce(&mut World, &mut Script) -> T) -> T {
        let now = self.now();
        let mut inside = self.inside();
        let inside = &mut *inside;
        let before = inside.world.next_change();
        inside.world.settle(now);
        let result = change(&mut inside.world, &mut inside.script);
        inside.world.settle(now);
        inside.tell_watchers();
        if inside.world.next_change() != before {
            self.0.changes.send_modify(|count| *count += 1);
        }
        result
    }

    fn settle(&self) {
        self.world(|_| ());
    }

    /// A call comes in: it is noted, and meets its fault.
    async fn enter(&self, name: &'static str, subject: &str) -> Result<Pass, Status> {
        self.settle();
        let at = self.now();
        let fault = {
            let mut inside = self.inside();
            inside.calls.push(Call { at, name, subject: subject.to_owned() });
            inside.script.next_fault(name)
        };
        let mut crashes = self.0.crashes.subscribe();
        crashes.mark_unchanged();
        let mut pass = Pass { clock: Arc::clone(&self.0.clock), crashes, lost: false };
        match fault {
            None => {}
            Some(Fault::Refuse(code, message)) => return Err(Status::new(code, message)),
            Some(Fault::LoseAnswer) => pass.lost = true,
            Some(Fault::Delay(by)) => {
                pass.wait_until(at.saturating_add(nanos(by))).await?;
                self.settle();
            }
            Some(Fault::Hang) => pass.crashed().await?,
        }
        Ok(pass)
    }
}

impl Inside {
    fn tell_watchers(&mut self) {
        for happened in std::mem::take(&mut self.world.happened) {
            if self.script.next_event_is_lost() {
                continue;
            }
            let status = self.world.sandboxes.get(&happened.sandbox_id).map(state::Sandbox::status);
            let event = ContainerEventResponse {
                container_id: happened.id,
                container_event_type: happened.kind as i32,
                created_at: happened.at,
                pod_sandbox_status: status,
                containers_statuses: self.world.statuses_of(&happened.sandbox_id),
            };
            self.watchers.retain(|watcher| watcher.try_send(Ok(event.clone())).is_ok());
        }
    }
}

/// A call under way.
struct Pass {
    clock: Arc<dyn Clock>,
    crashes: watch::Receiver<u64>,
    lost: bool,
}

impl Pass {
    async fn crashed(&mut self) -> Result<(), Status> {
        // The sender lives as long as the fake, which is being called.
        drop(self.crashes.changed().await);
        Err(Status::unavailable("the runtime crashed"))
    }

    async fn wait_until(&mut self, at: i64) -> Result<(), Status> {
        let sleep = self.clock.sleep_until(at);
        tokio::select! {
            biased;
            crashed = self.crashed() => crashed,
            () = sleep => Ok(()),
        }
    }

    /// The call's answer, if it gets through.
    fn leave<T>(self, answer: T) -> Result<Response<T>, Status> {
        if self.crashes.has_changed().unwrap_or(true) {
            return Err(Status::unavailable("the runtime crashed"));
        }
        if self.lost {
            return Err(Status::unavailable("the answer was lost"));
        }
        Ok(Response::new(answer))
    }
}

fn seconds(seconds: i64) -> i64 {
    nanos(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests;
