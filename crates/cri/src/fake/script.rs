//! What a test tells the fake to do: how containers behave, how pulls go, what goes wrong.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tonic::Code;

use crate::calls::with_calls;

/// How a container behaves once it is started.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Ends by itself after so long with this code.
    pub ends: Option<(Duration, i32)>,
    /// That end is an OOM kill.
    pub oom: bool,
    /// What it does with its stop signal.
    pub on_stop: OnStop,
    /// Starting it fails with this message; it is then exited with 128 and `StartError`.
    pub start_error: Option<String>,
}

/// What a container does with its stop signal.
#[derive(Clone, Copy, Debug)]
pub enum OnStop {
    /// Ends.
    Exit {
        /// This long after the signal.
        after: Duration,
        /// With this code.
        code: i32,
    },
    /// Nothing; it takes a kill.
    Ignore,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self::run_forever()
    }
}

impl Behaviour {
    /// Runs until it is stopped, and then ends at once with 143.
    #[must_use]
    pub fn run_forever() -> Self {
        let on_stop = OnStop::Exit { after: Duration::ZERO, code: 143 };
        Self { ends: None, oom: false, on_stop, start_error: None }
    }

    /// Ends by itself.
    #[must_use]
    pub fn exit_after(after: Duration, code: i32) -> Self {
        Self { ends: Some((after, code)), ..Self::run_forever() }
    }

    /// Is killed for its memory after so long.
    #[must_use]
    pub fn oom_after(after: Duration) -> Self {
        Self { oom: true, ..Self::exit_after(after, 137) }
    }

    /// Cannot be started.
    #[must_use]
    pub fn start_error(message: &str) -> Self {
        Self { start_error: Some(message.to_owned()), ..Self::run_forever() }
    }

    /// The same with another answer to its stop signal.
    #[must_use]
    pub fn on_stop(self, on_stop: OnStop) -> Self {
        Self { on_stop, ..self }
    }
}

/// How the pull of an image goes.
#[derive(Clone, Debug, Default)]
pub struct Pull {
    /// How long it takes.
    pub after: Duration,
    /// How it fails, if it does.
    pub error: Option<(Code, String)>,
}

/// What goes wrong with one call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing happens, and the answer is this error.
    Refuse(Code, String),
    /// It happens, and the answer never comes: the caller gets `Unavailable`.
    LoseAnswer,
    /// It happens this much later.
    Delay(Duration),
    /// Nothing happens and no answer comes, until the runtime crashes.
    Hang,
}

/// What a command inside a container does.
#[derive(Clone, Debug, Default)]
pub struct ExecReply {
    /// Its output.
    pub stdout: Vec<u8>,
    /// Its output on stderr.
    pub stderr: Vec<u8>,
    /// Its exit code.
    pub exit_code: i32,
    /// How long it takes.
    pub after: Duration,
}

/// Chooses a fault for a call by its name, or none. A simulation hands in one with a seed.
pub type Chooser = Box<dyn FnMut(&'static str) -> Option<Fault> + Send>;
/// Answers a command, given the container's name and the command.
pub type ExecScript = Box<dyn FnMut(&str, &[String]) -> ExecReply + Send>;

macro_rules! list_names {
    (
        $service:ident, $of:ident, $client:ty;
        unary { $($kind:ident $name:ident $call:ident $request:ident $response:ident;)* }
        stream { $($sname:ident $scall:ident $srequest:ident $sresponse:ident;)* }
    ) => {
        mod $of {
            pub(super) const NAMES: &[&str] = &[$(stringify!($name),)* $(stringify!($sname),)*];
        }
    };
}

with_calls!(list_names);

/// The call of that name, as the protocol spells it.
///
/// # Panics
/// When there is none: the test has a typing error.
pub(super) fn call_named(name: &str) -> &'static str {
    let mut all = runtime::NAMES.iter().chain(image::NAMES);
    all.find(|known| **known == name).unwrap_or_else(|| panic!("CRI has no call {name}"))
}

/// All that was told.
#[derive(Default)]
pub(super) struct Script {
    pub(super) behaviours: BTreeMap<String, Vec<Behaviour>>,
    /// Containers made so far, by `namespace/pod/container`.
    made: BTreeMap<String, usize>,
    pub(super) pulls: BTreeMap<String, Pull>,
    pub(super) faults: BTreeMap<&'static str, VecDeque<Fault>>,
    pub(super) chooser: Option<Chooser>,
    pub(super) exec: Option<ExecScript>,
    /// Events that will be lost.
    pub(super) lose_events: usize,
    pub(super) streaming_url: Option<String>,
}

impl Script {
    /// What goes wrong with the next call of this name: what was asked for by name comes first.
    pub(super) fn next_fault(&mut self, call: &'static str) -> Option<Fault> {
        let queued = self.faults.get_mut(call).and_then(VecDeque::pop_front);
        queued.or_else(|| self.chooser.as_mut().and_then(|choose| choose(call)))
    }

    /// How the next container of this name behaves: the n-th as the n-th behaviour says, later ones as
    /// the last. The full name goes before the container's alone.
    pub(super) fn next_behaviour(&mut self, pod: &str, container: &str) -> Behaviour {
        let full = format!("{pod}/{container}");
        let made = self.made.entry(full.clone()).or_default();
        let nth = *made;
        *made += 1;
        let told = self.behaviours.get(&full).or_else(|| self.behaviours.get(container));
        let told = told.and_then(|list| list.get(nth).or_else(|| list.last()));
        told.cloned().unwrap_or_default()
    }

    pub(super) fn next_event_is_lost(&mut self) -> bool {
        let lost = self.lose_events > 0;
        self.lose_events = self.lose_events.saturating_sub(1);
        lost
    }
}
